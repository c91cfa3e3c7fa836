"""Seeded simulation: a whole application on a disk, a clock and sources that go wrong, as one seed draws it."""
