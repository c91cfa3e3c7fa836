"""Everything that happened, in one order per partition."""
