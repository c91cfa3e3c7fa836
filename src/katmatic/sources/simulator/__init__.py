"""A seeded school, shop and bank: events as producers would send them, and the truth behind them kept apart."""

from katmatic.sources.simulator.bank import Bank
from katmatic.sources.simulator.base import Truth, World
from katmatic.sources.simulator.faults import Faults
from katmatic.sources.simulator.school import School
from katmatic.sources.simulator.shop import Shop

__all__ = ["Bank", "Faults", "School", "Shop", "Truth", "World"]
