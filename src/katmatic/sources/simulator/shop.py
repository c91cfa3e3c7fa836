"""A simulated shop: items with prices, shoppers with tastes, impressions and clicks."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta

import msgspec
import numpy as np

from katmatic.moment import to_datetime, to_micros
from katmatic.sources.base import Arrival

DAY = 86_400_000_000
CATEGORIES = ("shoes", "books", "tea", "tools")


class Shop:
    """Shoppers see items and click what they like; `chance` is how likely a click is, for tests alone."""

    def __init__(self, seed: int = 0, *, shoppers: int = 200, items: int = 60, impressions_a_day: int = 3_000) -> None:
        self._seed, self._rate = seed, impressions_a_day
        random = np.random.default_rng([seed, 0])
        self._taste = random.normal(0, 1.2, (shoppers, len(CATEGORIES)))
        self._category = random.integers(0, len(CATEGORIES), items)
        self._appeal = random.normal(-2.5, 0.8, items)
        self._price = np.round(random.lognormal(3, 0.5, items), 2)

    def chance(self, shopper: int, item: int) -> float:
        """How likely it is that this shopper clicks this item when it is shown."""
        odds = self._appeal[item] + self._taste[shopper, self._category[item]]
        return float(1 / (1 + np.exp(-odds)))

    def arrivals(self, first: date, days: int) -> Iterator[Arrival]:
        """Prices, impressions and clicks of `days` days, in the order of arrival."""
        start = to_micros(datetime(first.year, first.month, first.day, tzinfo=UTC))
        for offset in range(days):
            day = first + timedelta(days=offset)
            random = np.random.default_rng([self._seed, day.toordinal()])
            begin = start + offset * DAY
            found: list[tuple[int, int, str, dict[str, object]]] = []
            for item in range(len(self._price)):
                if offset == 0 or random.random() < 0.1:
                    self._price[item] = round(float(self._price[item] * random.uniform(0.9, 1.1)), 2)
                    found.append((begin, len(found), "item", {"item": f"i{item}", "price": float(self._price[item])}))
            for _ in range(int(random.poisson(self._rate))):
                shopper = int(random.integers(0, len(self._taste)))
                item = int(random.integers(0, len(self._price)))
                moment = begin + 1_000_000 + int(random.integers(0, DAY - 2_000_000))
                facts: dict[str, object] = {
                    "shopper": f"s{shopper}", "item": f"i{item}", "category": CATEGORIES[self._category[item]],
                }  # fmt: skip
                found.append((moment, len(found), "impression", facts))
                if random.random() < self.chance(shopper, item):
                    clicked = moment + int(random.exponential(60_000_000)) + 1_000_000
                    found.append((clicked, len(found), "click", facts))
            for moment, _, topic, facts in sorted(found, key=lambda each: each[:2]):
                yield Arrival(moment, topic, msgspec.json.encode({**facts, "at": to_datetime(moment).isoformat()}))
