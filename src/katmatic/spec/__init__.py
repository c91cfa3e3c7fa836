"""The words: what a user declares. Pure data, checked when it is imported."""
