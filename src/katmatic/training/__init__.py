"""Examples in, versions of models out."""
