"""Which model versions there are, and who answers."""
