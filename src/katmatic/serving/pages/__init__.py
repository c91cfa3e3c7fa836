"""The live pages: rendered here, kept fresh over server-sent events."""
