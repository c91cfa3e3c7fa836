"""From labelled rows to a model, and whether it is better."""
