"""What the engine remembers between events."""
