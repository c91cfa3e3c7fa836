"""From a feature row to a logged prediction."""
