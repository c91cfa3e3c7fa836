"""A simulated bank: cards that pay, cards that are stolen, and the disputes that come weeks later."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta

import msgspec
import numpy as np

from katmatic.moment import to_datetime, to_micros
from katmatic.sources.base import Arrival

DAY = 86_400_000_000
COUNTRIES = ("NP", "IN", "DE", "US", "FR")
THEFTS_A_DAY = 0.0015  # per card
STOLEN_HOURS = 12
DISPUTED, CONFIRMED = 0.7, 0.2  # of frauds, after 5 to 45 days; of frauds, after hours


class Bank:
    """Payments of `cards` by a Zipf law at `merchants`; a stolen card pays often, much and abroad.

    `frauds` names the payments that are frauds, for tests alone; events only carry what a bank would see.
    """

    def __init__(self, seed: int = 0, *, cards: int = 500, merchants: int = 100, payments_a_day: int = 1_500) -> None:
        self._seed, self._cards, self._merchants, self._rate = seed, cards, merchants, payments_a_day
        weight = 1 / np.arange(1, cards + 1) ** 0.7
        self._weight = weight / weight.sum()
        random = np.random.default_rng([seed, 0])
        self._mean = random.lognormal(3.5, 0.6, cards)
        self._home = random.choice(len(COUNTRIES), cards, p=[0.6, 0.2, 0.1, 0.05, 0.05])
        self.frauds: set[str] = set()

    def arrivals(self, first: date, days: int) -> Iterator[Arrival]:
        """Payments, disputes and confirmations of `days` days, in the order of arrival; what is later is left out."""
        start = to_micros(datetime(first.year, first.month, first.day, tzinfo=UTC))
        later: list[tuple[int, int, str, bytes]] = []
        for offset in range(days):
            day = first + timedelta(days=offset)
            random = np.random.default_rng([self._seed, day.toordinal()])
            found = []
            number = int(random.poisson(self._rate))
            cards = random.choice(self._cards, number, p=self._weight)
            for i, card in enumerate(cards.tolist()):
                moment = start + offset * DAY + int(random.beta(4, 3) * DAY)
                found.append(
                    (moment, card, float(random.lognormal(np.log(self._mean[card]), 0.5)), self._home[card], i, False)
                )
            for card in np.flatnonzero(random.random(self._cards) < THEFTS_A_DAY).tolist():
                begin = start + offset * DAY + int(random.integers(0, DAY))
                for j in range(int(random.integers(3, 9))):
                    moment = begin + int(random.uniform(0, STOLEN_HOURS) * 3_600_000_000)
                    abroad = int(random.integers(0, len(COUNTRIES)))
                    amount = float(self._mean[card] * random.uniform(2, 8))
                    found.append((moment, card, amount, abroad, number + 100 * card + j, True))
            for moment, card, amount, country, i, is_fraud in sorted(found):
                payment = f"{day:%Y%m%d}-{i}"
                while later and later[0][0] <= moment:
                    now, _, topic, value = heapq.heappop(later)
                    yield Arrival(now, topic, value)
                if is_fraud:
                    self.frauds.add(payment)
                    self._tell(later, random, payment, moment)
                yield Arrival(moment + 100_000, "payment", msgspec.json.encode({
                    "payment": payment, "card": f"c{card}", "merchant": f"m{int(random.integers(0, self._merchants))}",
                    "country": COUNTRIES[country], "amount": round(amount, 2), "at": to_datetime(moment).isoformat(),
                }))  # fmt: skip
        end = start + days * DAY
        for now, _, topic, value in sorted(later):
            if now < end:
                yield Arrival(now, topic, value)

    @staticmethod
    def _tell(later: list[tuple[int, int, str, bytes]], random: np.random.Generator, payment: str, moment: int) -> None:
        for topic, share, least, most in (
            ("chargeback", DISPUTED, 5 * DAY, 45 * DAY),
            ("confirmed", CONFIRMED, DAY // 12, DAY),
        ):
            if random.random() < share:
                now = moment + int(random.integers(least, most))
                value = msgspec.json.encode({"payment": payment, "at": to_datetime(now).isoformat()})
                heapq.heappush(later, (now, len(later), topic, value))
