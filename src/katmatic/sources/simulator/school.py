"""A simulated school: who is absent and why, and what its card readers send.

The pupils are invented. Their absence follows published facts (docs/simulator.md names each with its source): by weekday,
by month, before holidays, from pupil to pupil, in spells, in classes and in the whole school at once. So do the reads: they
come in bursts, repeat themselves, and arrive late when a reader was cut off.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from katmatic.moment import to_micros
from katmatic.sources.base import Arrival

TOPIC = "attendance-topic"
MINUTE = 60_000_000
CLASS_SIZE = 25
GATES = ("north", "south", "main")
OPENS, CLOSES, BELL, HOME = (6, 0), (17, 0), (8, 15), (15, 30)
NAMES = (
    "Aarav", "Anjali", "Asha", "Bibek", "Bina", "Chandra", "Deepa", "Gita", "Hari", "Isha", "Kiran", "Laxmi",
    "Manish", "Maya", "Mina", "Nabin", "Nima", "Pasang", "Puja", "Rajan", "Rina", "Sagar", "Sita", "Suman", "Tara",
)  # fmt: skip

# Log-odds against the yearly mean; Monday is 0 as in datetime. From the shares of absent pupils in New York's schools.
WEEKDAY = (0.02, -0.15, -0.08, -0.02, 0.12, 0.0, 0.10)
MONTH = (0.05, 0.02, 0.0, -0.02, 0.08, 0.45, 0.30, 0.0, -0.20, -0.28, -0.05, 0.12)
BEFORE_HOLIDAY = 0.16
STAYS_AWAY = 0.47  # of those who were absent the school day before
COMES_BACK = -3.8  # log-odds of absence of a usual pupil who was there the day before
SPREAD = 0.95  # standard deviation of these from pupil to pupil
SHOCK, SHOCK_MEMORY = 0.22, 0.30  # of the whole school: size, and correlation from day to day
OUTBREAK_CHANCE, OUTBREAK_DAYS, OUTBREAK = 0.012, 6, 1.3  # of a class, per day
EXAMS = ((35, 45, -0.9), (150, 162, -0.9))  # school days from, to: log-odds against usual
HOLIDAYS = ((5, 1), (5, 12), (5, 29), (9, 19), *((9, d) for d in range(28, 31)), *((10, d) for d in range(1, 7)),
            (10, 20), (10, 21), (10, 22), (10, 23), (12, 25), (1, 11), (1, 15), (3, 8), (4, 14))  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Faults:
    """How often things go wrong; each a share of reads or of days."""

    repeated: float = 0.45  # reads sent twice, the same to the last byte
    read_again: float = 0.10  # badges read once more some seconds later
    late_upload: float = 0.01  # reads that arrive minutes to hours late
    dead_reader: float = 0.08  # days on which one gate stores its reads for a while
    outage: float = 0.04  # days on which nothing comes for a while, no heartbeat either
    corrected: float = 0.05  # absences that a later entry turns into presence
    corrupt: float = 0.0005  # messages that are no check-in


@dataclass(frozen=True)
class _Day:
    day: date
    chance: NDArray[np.float64]  # of being absent, given all that came before
    absent: NDArray[np.bool_]
    number: int  # of the school day


class School:
    """A school of `pupils`; the same seed is the same school, day by day. Days lie on or after `start`.

    `roster`, `first_bell` and `message` are what the module `school` of the example offers. `true_probability` and
    `absent` are for tests alone: no event carries them.
    """

    def __init__(
        self,
        seed: int = 0,
        *,
        start: date = date(2025, 4, 20),
        pupils: int = 600,
        timezone: str = "Asia/Kathmandu",
        faults: Faults | None = None,
    ) -> None:
        self.zone = ZoneInfo(timezone)
        self.faults = faults or Faults()
        self.messages: deque[tuple[str, str]] = deque(maxlen=1_000)
        self.pupils = [f"P{i + 1:04d}" for i in range(pupils)]
        self._classes = [f"{1 + c // 3}{'abc'[c % 3]}" for c in range((pupils + CLASS_SIZE - 1) // CLASS_SIZE)]
        self._class = np.arange(pupils) // CLASS_SIZE
        self._seed, self._start = seed, start
        random = self._random(0)
        self._own = random.normal(COMES_BACK, SPREAD, pupils)
        self._comes = random.normal(-13.0, 4.0, pupils)  # minutes before the bell
        self._dawdles = np.minimum(0.5, random.gamma(0.5, 0.05, pupils))  # chance of being late
        self._gate = random.integers(0, len(GATES), pupils)
        self._names = random.integers(0, len(NAMES), pupils)
        self._index = {pupil: i for i, pupil in enumerate(self.pupils)}
        self._days: dict[date, _Day] = {}
        self._last: _Day | None = None
        self._outbreak = np.zeros(len(self._classes), np.int64)  # days left
        self._shock = 0.0
        self._next = start

    # ------------------------------------------------------------------------------------- what a school would know

    def roster(self, day: datetime) -> Iterator[tuple[str, str]]:
        """Class and pupil of everyone who is expected that day; nobody on Saturdays and holidays."""
        if self.is_school_day(day.date()):
            for pupil, group in zip(self.pupils, self._class.tolist(), strict=True):
                yield self._classes[group], pupil

    def first_bell(self, day: datetime) -> datetime:
        """When the first lesson of that day begins."""
        return day.replace(hour=BELL[0], minute=BELL[1], second=0, microsecond=0)

    def message(self, class_id: str, text: str) -> None:
        """Tell the teacher of a class; the newest are kept in `messages`."""
        self.messages.append((class_id, text))

    def name(self, pupil: str) -> str | None:
        """A given name to show; None for who is not of this school."""
        i = self._index.get(pupil)
        return None if i is None else NAMES[int(self._names[i])]

    def is_school_day(self, day: date) -> bool:
        """Whether there is school: every day but Saturdays and holidays."""
        return day.weekday() != 5 and (day.month, day.day) not in HOLIDAYS

    # ------------------------------------------------------------------------------------------------ the truth

    def true_probability(self, pupil: str, day: date) -> float:
        """The chance that the pupil is absent that day, given all days before."""
        return float(self._known(day).chance[self._index[pupil]])

    def absent(self, pupil: str, day: date) -> bool:
        """Whether the pupil stays away that day."""
        return bool(self._known(day).absent[self._index[pupil]])

    def _known(self, day: date) -> _Day:
        while day not in self._days and self._next <= day:
            self._live(self._next)
            self._next += timedelta(days=1)
        return self._days[day]

    def _live(self, day: date) -> None:
        """One more day passes."""
        if not self.is_school_day(day):
            return
        random = self._random(day.toordinal())
        self._shock = SHOCK_MEMORY * self._shock + SHOCK * float(random.normal()) * (1 - SHOCK_MEMORY**2) ** 0.5
        breaks_out = random.random(len(self._classes)) < OUTBREAK_CHANCE
        self._outbreak = np.where(breaks_out, OUTBREAK_DAYS, np.maximum(0, self._outbreak - 1))
        number = self._last.number + 1 if self._last else 0
        odds = self._own + WEEKDAY[day.weekday()] + MONTH[day.month - 1] + self._shock
        odds = odds + np.where(self._outbreak > 0, OUTBREAK, 0.0)[self._class]
        if not self.is_school_day(day + timedelta(days=1)) and day.weekday() != 4:
            odds = odds + BEFORE_HOLIDAY
        for first, last, change in EXAMS:
            if first <= number < last:
                odds = odds + change
        chance = 1 / (1 + np.exp(-odds))
        if self._last is not None:
            chance = np.where(self._last.absent, STAYS_AWAY + (1 - STAYS_AWAY) * chance, chance)
        self._last = _Day(day, chance, random.random(len(chance)) < chance, number)
        self._days[day] = self._last

    def _random(self, number: int) -> np.random.Generator:
        return np.random.default_rng([self._seed, number])

    # ------------------------------------------------------------------------------------------------- what is sent

    def arrivals(self, first: date, days: int) -> Iterator[Arrival]:
        """What the readers send on `days` days from `first` on, in the order of arrival."""
        for offset in range(days):
            day = first + timedelta(days=offset)
            if self.is_school_day(day):
                yield from self._sent(self._known(day))

    def _sent(self, known: _Day) -> list[Arrival]:
        random = self._random(1_000_000_000 + known.day.toordinal())
        faults, bell = self.faults, self._moment(known.day, *BELL)
        reads: list[tuple[int, int, bytes]] = []  # arrival, the read's own time, value
        dead = self._pause(random, faults.dead_reader, known.day)
        dead_gate = int(random.integers(0, len(GATES)))
        outage = self._pause(random, faults.outage, known.day)

        def send(pupil: int, moment: int, gate: int) -> None:
            now = moment + int(random.gamma(2.0, 150_000))
            if gate == dead_gate and dead[0] <= moment < dead[1]:
                now = dead[1] + int(random.integers(0, 30_000_000))
            if outage[0] <= now < outage[1]:
                now = outage[1] + int(random.integers(0, 60_000_000))
            if random.random() < faults.late_upload:
                now += int(random.exponential(20 * MINUTE))
            value = self._value(pupil, moment, gate)
            reads.append((now, moment, value))
            if random.random() < faults.repeated:
                reads.append((now + int(random.integers(0, 2_000_000)), moment, value))
            if random.random() < faults.corrupt:
                reads.append((now + 1, moment, value[: int(random.integers(1, len(value)))]))

        for pupil in range(len(self.pupils)):
            if known.absent[pupil]:
                if random.random() < faults.corrected:
                    now = bell + int(random.uniform(2, 6) * 60) * MINUTE
                    reads.append(
                        (now, bell, self._value(pupil, bell - 5 * MINUTE, int(self._gate[pupil]), "corrected"))
                    )
                continue
            offset = self._comes[pupil] + random.normal(0, 2.5)
            if random.random() < self._dawdles[pupil]:
                offset = random.exponential(9.0)
            gate = int(self._gate[pupil]) if random.random() < 0.9 else int(random.integers(0, len(GATES)))
            came = bell + int(offset * MINUTE)
            send(pupil, came, gate)
            if random.random() < faults.read_again:
                send(pupil, came + int(random.integers(2, 40)) * 1_000_000, gate)
            send(pupil, self._moment(known.day, *HOME) + int(random.gamma(2.0, 4.0) * MINUTE), gate)
        minutes = range(self._moment(known.day, *OPENS), self._moment(known.day, *CLOSES), MINUTE)
        beats = [(moment, moment, b"") for moment in minutes if not outage[0] <= moment < outage[1]]
        return [Arrival(now, TOPIC, value) for now, _, value in sorted(reads + beats)]

    def _pause(self, random: np.random.Generator, share: float, day: date) -> tuple[int, int]:
        """From when to when something is cut off that morning; (0, 0) on most days."""
        start, minutes, falls = random.uniform(-50, 20), random.uniform(10, 45), random.random() < share
        begin = self._moment(day, *BELL) + int(start * MINUTE)
        return (begin, begin + int(minutes * MINUTE)) if falls else (0, 0)

    def _value(self, pupil: int, moment: int, gate: int, status: str = "present") -> bytes:
        shown = datetime.fromtimestamp(moment // 1_000_000, self.zone).strftime("%Y-%m-%d %H:%M:%S")
        text = f'{{"student_id": "{self.pupils[pupil]}", "timestamp": "{shown}", "status": "{status}", "gate": "{GATES[gate]}"}}'
        return text.encode()

    def _moment(self, day: date, hour: int, minute: int) -> int:
        return to_micros(datetime(day.year, day.month, day.day, hour, minute, tzinfo=self.zone))


def facts(school: School, first: date, days: int) -> dict[str, Any]:
    """What can be counted of a simulated school, to hold against what is published."""
    absent, chances, repeated, again, fresh = [], [], [], [0, 0], [0, 0]
    by_weekday: dict[int, list[bool]] = {}
    before: dict[str, bool] = {}
    for offset in range(days):
        day = first + timedelta(days=offset)
        if not school.is_school_day(day):
            continue
        for pupil in school.pupils:
            is_absent = school.absent(pupil, day)
            absent.append(is_absent)
            chances.append(school.true_probability(pupil, day))
            by_weekday.setdefault(day.weekday(), []).append(is_absent)
            counter = again if before.get(pupil) else fresh
            counter[0] += is_absent
            counter[1] += 1
            before[pupil] = is_absent
        values = [arrival.value for arrival in school.arrivals(day, 1) if arrival.value]
        repeated.append(1 - len(set(values)) / len(values))
    return {
        "absent": float(np.mean(absent)),
        "absent_by_weekday": {day: float(np.mean(found)) for day, found in sorted(by_weekday.items())},
        "absent_after_absent": again[0] / max(1, again[1]),
        "absent_after_present": fresh[0] / max(1, fresh[1]),
        "repeated_reads": float(np.mean(repeated)),
        "mean_true_probability": float(np.mean(chances)),
    }
