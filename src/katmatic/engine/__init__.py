"""Events in; features, predictions to make and label versions out. Same input, same output."""
