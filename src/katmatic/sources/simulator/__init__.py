"""A seeded school, shop and bank: events as producers would send them, and the truth behind them kept apart."""

from katmatic.sources.simulator.base import Arrival, Truth, World
from katmatic.sources.simulator.faults import Faults
from katmatic.sources.simulator.school import School

__all__ = ["Arrival", "Faults", "School", "Truth", "World"]
