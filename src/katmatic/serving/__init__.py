"""What the outside sees: REST, live streams and pages."""
