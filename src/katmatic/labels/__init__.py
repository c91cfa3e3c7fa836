"""A prediction meets its truth."""
