"""Simulated worlds with a seed: a school, a bank and a shop, whose true chances are known and kept apart."""

from katmatic.sources.simulator.bank import Bank
from katmatic.sources.simulator.school import Faults, School
from katmatic.sources.simulator.shop import Shop

__all__ = ["Bank", "Faults", "School", "Shop"]
