"""A simulated school: who is absent and why, and what the card readers at its gates make of it.

No pupil is real. The shares come from public data about schools; docs/simulator.md names them and shows how near it is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from katmatic.errors import InputError
from katmatic.sources.base import Arrival
from katmatic.sources.simulator.base import DAY_SECONDS, SECOND, Truth, expit, generator, in_order, midnight
from katmatic.sources.simulator.faults import Faults

TOPIC = "attendance-topic"
BELL = timedelta(hours=8, minutes=15)
ROLL_CALL = timedelta(minutes=15)  # after the bell: who has not come by then is absent
OPENS, CLOSES = timedelta(hours=6), timedelta(hours=17)  # between them a gate that lives is heard each minute
GATES = ("north", "south", "east")
PUPILS_PER_CLASS = 30
MESSAGES_KEPT = 1000

# Shares of pupils absent, from the daily attendance of 1,583 schools in New York, 2018-19.
RATE = 0.085
WEEKDAY = {
    0: 0.083,
    1: 0.074,
    2: 0.080,
    3: 0.084,
    4: 0.095,
    6: 0.083,
}  # Sunday is the first school day, like Monday there
MONTH = {1: 0.102, 2: 0.083, 3: 0.081, 4: 0.078, 5: 0.086, 9: 0.072, 10: 0.065, 11: 0.081, 12: 0.083}
WEEKDAY_MEAN = sum(WEEKDAY.values()) / len(WEEKDAY)
BEFORE_BREAK, AFTER_BREAK = 0.013, 0.006  # added
GRADE = ((5, 0.067), (8, 0.060), (12, 0.124))  # up to and with this grade
SCHOOLS_MEDIAN, SCHOOLS_SPREAD = 0.080, 0.53  # log-normal: 5% of the schools below 3.4%, 5% above 19%

# The rest of the model, chosen so that the figures of bench/school.py come near the published ones.
ILL = 0.5  # share of absences by illness
SPELL_DAYS = 2.6  # mean length of an illness, in school days; geometric
CONCENTRATION = 12.0  # of the beta distribution of pupils' propensities: the lower, the more they differ
FRAILTY = 0.45  # spread of pupils' proneness to illness (log)
FLU_MEMORY, FLU_SPREAD = 0.93, 0.65  # of a class's level of illness (log), from one school day to the next
SHOCK_SPREAD = 0.12  # of a day's shared log odds
STORMS, STORM_LEAST, STORM_MOST = 0.015, 0.5, 1.6  # share of days, and what they add to the log odds
EXAM_ODDS_SENIOR, EXAM_ODDS_JUNIOR = 5.0, 2.8  # in exam weeks, the older ones on study leave
EXAM_ILLNESS = 0.7  # who can comes though ill
SENIOR_FROM = 9  # grade
LATE = 0.045  # of those present: after the bell
HALF_DAY = 0.05  # of those absent at roll call: they come later in the morning

# Days off, every year alike: near those of Nepal in 2025. (month, day) of the first and the last.
BREAKS = (
    ((1, 1), (1, 8)), ((1, 11), (1, 11)), ((1, 30), (1, 30)), ((2, 19), (2, 19)), ((2, 26), (2, 26)),
    ((3, 14), (3, 14)), ((3, 25), (4, 14)), ((5, 1), (5, 1)), ((5, 12), (5, 12)), ((5, 29), (5, 29)),
    ((8, 9), (8, 10)), ((9, 19), (9, 19)), ((9, 28), (10, 7)), ((10, 20), (10, 24)), ((11, 5), (11, 5)),
    ((12, 25), (12, 25)),
)  # fmt: skip
EXAMS = (((6, 3), (6, 26)), ((12, 7), (12, 19)))
SATURDAY = 5

_GIVEN = (
    "Asha", "Bima", "Chara", "Devi", "Esha", "Firu", "Gita", "Hema", "Isha", "Jaya", "Kiro", "Lila", "Mira", "Nilo",
    "Omi", "Piya", "Rani", "Suro", "Tara", "Uma", "Vani", "Yami", "Arun", "Bela", "Dipu", "Kamu", "Manu", "Ravi",
)  # fmt: skip
_FOREIGN = (
    b'{"student_id": "P0001", "timestamp": "20',  # cut off
    b'{"device": "reader-2", "firmware": "4.1.7", "uptime": 86400}',
    b'{"timestamp": "2000-01-01 00:00:07", "student_id": "P0002", "status": "present"}',  # a clock that was reset
    b'{"student_id": "P0003", "timestamp": "soon"}',
    b'{"student_id": "", "timestamp": "2025-04-21 08:00:00"}',
    b'{"student_id": ["P0004", "P0005"], "timestamp": "2025-04-21 08:00:00"}',
    b"\xff\xfe\x00C\x00A\x00R\x00D",
    b"PING",
)

# What chance is drawn for: each purpose and day has its own.
_PUPILS, _SCHOOL, _TRUTH, _READS = range(4)

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class _Day:
    """What really happened on a school day, per pupil; and what the next day depends on."""

    probability: Numbers
    absent: NDArray[np.bool_]
    is_ill: NDArray[np.bool_]
    flu: Numbers  # per class


@dataclass(frozen=True)
class _Reads:
    """Messages of a day: when they reach the system, in microseconds, and their bytes."""

    now: NDArray[np.int64]
    values: list[bytes]


class School:
    """A school of `pupils`, from `start` on. Its `rate` of absence, or None: one drawn as schools differ.

    It stands in for the module `school` of examples/attendance.py: `roster`, `first_bell` and `message` are the same.

    >>> school = School(seed=1, start=date(2025, 4, 21), pupils=60)
    >>> next(a.value for a in school.arrivals(days=1) if a.value)[-37:]
    b'"status": "present", "gate": "south"}'
    >>> school.true_probability("P0001", date(2025, 4, 21)) < 0.5
    True
    """

    def __init__(
        self,
        seed: int = 0,
        start: date = date(2025, 4, 21),
        pupils: int = 600,
        days: int = 180,
        timezone: str = "Asia/Kathmandu",
        faults: Faults | None = None,
        rate: float | None = RATE,
    ) -> None:
        if pupils < 1 or days < 0 or not (rate is None or 0 < rate < 0.5):
            raise InputError(
                "School",
                found=f"pupils={pupils}, days={days}, rate={rate}",
                expected="at least one pupil, no negative days and a rate between 0 and 0.5",
                do="correct it",
            )
        self.seed, self.start, self.days = seed, start, days
        self.timezone, self.faults = ZoneInfo(timezone), Faults() if faults is None else faults
        self.messages: deque[tuple[str, str]] = deque(maxlen=MESSAGES_KEPT)
        self.students = tuple(f"P{number:04}" for number in range(1, pupils + 1))
        self._number = {student: i for i, student in enumerate(self.students)}
        classes = max(1, round(pupils / PUPILS_PER_CLASS))
        self._class = np.arange(pupils) * classes // pupils
        self.classes, self._grade = _classes(classes)
        self._draw_pupils(rate)
        self._days: list[_Day] = []  # of the school days from `start` on
        self._dates: list[date] = []

    def roster(self, day: date) -> Iterator[tuple[str, str]]:
        """Class and student of everyone who is expected that day; nobody on days off."""
        if is_school_day(_date(day)):
            for i, student in enumerate(self.students):
                yield self.classes[self._class[i]], student

    def first_bell(self, day: datetime) -> datetime:
        """When the first lesson of that day begins."""
        return day.replace(hour=0, minute=0, second=0, microsecond=0) + BELL

    def message(self, class_id: str, text: str) -> None:
        """Tell the teacher of a class: it is kept in `messages`, the newest last."""
        self.messages.append((class_id, text))

    def name(self, student_id: str) -> str:
        """An invented name for the page."""
        i = self._index(student_id)
        return f"{_GIVEN[int(self._name[i]) % len(_GIVEN)]} {chr(65 + int(self._name[i]) // len(_GIVEN))}."

    def true_probability(self, student_id: str, day: date) -> float:
        """The chance, in the night before and knowing the day's weather, of being absent at the roll call."""
        return float(self._day(_date(day)).probability[self._index(student_id)])

    def absent(self, student_id: str, day: date) -> bool:
        """Whether the student really was absent at the roll call."""
        return bool(self._day(_date(day)).absent[self._index(student_id)])

    def truth(self, start: date | None = None, days: int | None = None) -> Truth:
        """Chance and outcome per pupil and school day, by day and pupil; `time` is the first bell."""
        dates = [day for day in self._span(start, days) if is_school_day(day)]
        found = [self._day(day) for day in dates]
        bells = [midnight(day, self.timezone) + BELL // timedelta(microseconds=1) for day in dates]
        return Truth(
            list(self.students) * len(dates),
            np.repeat(np.array(bells, np.int64), len(self.students)),
            np.concatenate([day.probability for day in found]) if found else np.zeros(0),
            np.concatenate([day.absent for day in found]) if found else np.zeros(0, np.bool_),
        )

    def arrivals(self, start: date | None = None, days: int | None = None) -> Iterator[Arrival]:
        """What reaches the system in `days` days from `start` (by default all), in the order of its arrival."""
        waiting = [self._reads(day) for day in self._before(start)]
        for day in self._span(start, days):
            if is_school_day(day):
                waiting.append(self._reads(day))
            begin, end = midnight(day, self.timezone), midnight(day + timedelta(days=1), self.timezone)
            now = np.concatenate([reads.now for reads in waiting]) if waiting else np.zeros(0, np.int64)
            values = [value for reads in waiting for value in reads.values]
            due = np.flatnonzero((now >= begin) & (now < end))
            yield from in_order(now[due], [TOPIC] * len(due), [values[i] for i in due.tolist()])
            waiting = [reads for reads in waiting if len(reads.now) and reads.now.max() >= end]

    def _draw_pupils(self, rate: float | None) -> None:
        rng, pupils = generator(self.seed, _PUPILS), len(self.students)
        drawn = min(0.45, SCHOOLS_MEDIAN * float(np.exp(SCHOOLS_SPREAD * rng.standard_normal())))
        grade_rate = np.array([next(rate for upto, rate in GRADE if grade <= upto) for grade in self._grade])
        level = grade_rate[self._class] / grade_rate[self._class].mean() * (drawn if rate is None else rate)
        truancy = np.clip(level * (1 - ILL), 1e-4, 0.6)
        self._propensity = np.clip(rng.beta(truancy * CONCENTRATION, (1 - truancy) * CONCENTRATION), 1e-4, 0.97)
        frailty = np.exp(FRAILTY * rng.standard_normal(pupils) - FRAILTY**2 / 2)
        self._onset = frailty * level * ILL / SPELL_DAYS
        self._name = rng.integers(0, 26 * len(_GIVEN), pupils)
        self._gate = rng.integers(0, len(GATES), pupils)
        # Four in ten come by one of three buses; the others walk, each at a time of their own.
        self._bus = np.where(rng.random(pupils) < 0.4, rng.integers(0, 3, pupils), -1)
        self._habit = rng.gamma(4.0, 2.3, pupils)  # minutes before the bell

    def _index(self, student_id: str) -> int:
        try:
            return self._number[student_id]
        except KeyError as error:
            last = self.students[-1]
            raise InputError(
                "School", found=repr(student_id), expected=f"a student from P0001 to {last}", do="ask for one"
            ) from error

    def _span(self, start: date | None, days: int | None) -> list[date]:
        first = self.start if start is None else _date(start)
        if first < self.start:
            raise InputError(
                "School", found=f"start={first}", expected=f"a day from {self.start} on", do="make the school earlier"
            )
        return [first + timedelta(days=n) for n in range(self.days if days is None else days)]

    def _before(self, start: date | None) -> list[date]:
        """The school days whose corrections may still be under way when `start` begins."""
        found: list[date] = []
        day = self.start if start is None else _date(start)
        while day > self.start and len(found) < 3:
            day -= timedelta(days=1)
            if is_school_day(day):
                found.append(day)
        return found[::-1]

    def _day(self, day: date) -> _Day:
        """What happened on a school day; the days before it are drawn first, each from its own chance."""
        if day < self.start or not is_school_day(day):
            raise InputError(
                "School", found=str(day), expected=f"a school day from {self.start} on", do="ask for another day"
            )
        following = self._dates[-1] + timedelta(days=1) if self._dates else self.start
        while following <= day:
            if is_school_day(following):
                self._days.append(self._draw_day(following, self._days[-1] if self._days else None))
                self._dates.append(following)
            following += timedelta(days=1)
        return self._days[self._ordinal(day)]

    def _ordinal(self, day: date) -> int:
        low, high = 0, len(self._dates)
        while low < high:
            middle = (low + high) // 2
            low, high = (middle + 1, high) if self._dates[middle] < day else (low, middle)
        return low

    def _draw_day(self, day: date, before: _Day | None) -> _Day:
        rng, pupils = generator(self.seed, _TRUTH, day.toordinal()), len(self.students)
        noise = rng.standard_normal(len(self.classes)) * FLU_SPREAD
        storm = rng.random() < STORMS
        shock = SHOCK_SPREAD * rng.standard_normal() + storm * rng.uniform(STORM_LEAST, STORM_MOST)
        onset, fall, first = rng.random((3, pupils))
        if before is None:
            flu = noise
            was_ill = first < self._onset * SPELL_DAYS
        else:
            flu = FLU_MEMORY * before.flu + np.sqrt(1 - FLU_MEMORY**2) * noise
            was_ill = before.is_ill
        odds, illness = self._season(day)
        away = expit(np.log(self._propensity / (1 - self._propensity)) + np.log(odds) + shock)
        level = np.exp(flu - FLU_SPREAD**2 / 2)[self._class]
        falls_ill = np.clip(self._onset * level * illness * np.exp(0.5 * shock), 0, 0.6)
        stays_ill = 1 - 1 / SPELL_DAYS
        ill = np.where(was_ill, stays_ill, falls_ill)
        probability = ill + (1 - ill) * away
        is_ill = np.where(was_ill, onset < stays_ill, onset < falls_ill)
        return _Day(probability, is_ill | (fall < away), is_ill, flu)

    def _season(self, day: date) -> tuple[Numbers, float]:
        """What the calendar does: to the odds of staying away, per pupil, and to the risk of falling ill."""
        month = MONTH.get(day.month, RATE) / RATE
        added = BEFORE_BREAK * is_before_break(day) + AFTER_BREAK * is_after_break(day)
        if is_exam(day):  # the week has no rhythm then, and the older pupils learn at home
            senior = self._grade[self._class] >= SENIOR_FROM
            return np.where(senior, EXAM_ODDS_SENIOR, EXAM_ODDS_JUNIOR), EXAM_ILLNESS
        week = WEEKDAY[day.weekday()] / WEEKDAY_MEAN
        # Illness knows no weekday, so the other absences carry its whole swing.
        factor = 1 + (week * (1 + added / RATE) - 1) / (1 - ILL)
        return np.full(len(self.students), factor * month), month

    def _reads(self, day: date) -> _Reads:
        """All that the day gives rise to, also what arrives on later days."""
        rng, faults = generator(self.seed, _READS, day.toordinal()), self.faults
        what = self._day(day)
        arrival = self._arrival_seconds(rng, what.absent)
        forgotten = ~what.absent & (rng.random(len(arrival)) < faults.forgotten_cards)
        comes = np.flatnonzero(~np.isnan(arrival) & ~forgotten)
        gate = np.where(rng.random(len(arrival)) < 0.9, self._gate, rng.integers(0, len(GATES), len(arrival)))
        pupil, time = comes, np.floor(arrival[comes]).astype(np.int64)
        again = rng.geometric(1 - faults.repeats, len(pupil)) - 1
        pupil, time = np.repeat(pupil, 1 + again), np.repeat(time, 1 + again)
        step = np.cumsum(rng.integers(2, 21, len(pupil)))
        first = np.cumsum(1 + again) - (1 + again)
        time += step - np.repeat(step[first], 1 + again)
        copies = rng.geometric(1 - faults.exact_repeats, len(pupil))
        pupil, time = np.repeat(pupil, copies), np.repeat(time, copies)
        sent = time + rng.gamma(2.0, 0.3, len(pupil))
        sent += np.where(rng.random(len(sent)) < faults.late_uploads, rng.uniform(300, 5400, len(sent)), 0)
        network = self._outages(rng, gate[pupil], sent)
        values = _check_ins(day, self.students, pupil, time, gate[pupil])
        parts = [
            (sent, values),
            self._registers(rng, day, arrival, np.flatnonzero(forgotten)),
            self._heartbeats(rng, network),
            _foreign(rng, len(values), faults.foreign),
        ]
        seconds = np.concatenate([part[0] for part in parts])
        now = midnight(day, self.timezone) + np.round(seconds * SECOND).astype(np.int64)
        return _Reads(now, [value for part in parts for value in part[1]])

    def _arrival_seconds(self, rng: np.random.Generator, absent: NDArray[np.bool_]) -> Numbers:
        """When each pupil passes a gate, in seconds of the day; NaN: not at all."""
        pupils, bell = len(absent), BELL.total_seconds()
        bus = bell - np.array([27, 17, 10]) * 60.0 + 90 * rng.standard_normal(3)
        by_bus = bus[self._bus] + rng.gamma(2.0, 25.0, pupils)
        walking = bell - 60 * np.maximum(0.2, self._habit * np.exp(0.25 * rng.standard_normal(pupils)))
        time = np.where(self._bus >= 0, by_bus, walking)
        late = rng.random(pupils) < LATE
        window = ROLL_CALL.total_seconds() - 5
        time = np.where(late, bell + rng.exponential(300, pupils) % window, np.minimum(time, bell - 1))
        half_day = rng.random(pupils) < HALF_DAY
        late_morning = bell + rng.uniform(45 * 60, 180 * 60, pupils)
        return np.where(absent, np.where(half_day, late_morning, np.nan), time)

    def _outages(self, rng: np.random.Generator, gate: NDArray[np.int64], sent: Numbers) -> list[tuple[float, float]]:
        """Hold back what is sent while a reader or the network is dead, until it is up; and when no heartbeat came."""
        faults, spans = self.faults, []
        begins = BELL.total_seconds() - rng.uniform(-30 * 60, 40 * 60, len(GATES) + 2)
        lengths = rng.uniform((3 * 60,) * 5, (*(20 * 60,) * len(GATES), 12 * 60, 8 * 60))
        happens = rng.random(len(GATES) + 2)
        for i in range(len(GATES)):
            if happens[i] < faults.reader_outages:
                _hold(sent, gate == i, begins[i], begins[i] + lengths[i])
        if happens[-2] < faults.network_outages:
            spans.append((begins[-2], begins[-2] + lengths[-2]))
            _hold(sent, np.ones(len(sent), np.bool_), *spans[-1])
        if happens[-1] < faults.heartbeat_gaps:
            spans.append((begins[-1], begins[-1] + lengths[-1]))
        return spans

    def _registers(
        self, rng: np.random.Generator, day: date, arrival: Numbers, forgotten: NDArray[np.int64]
    ) -> tuple[Numbers, list[bytes]]:
        """Corrections of the register for those whose card was not read: sent later, with the time of the arrival."""
        fate, hour = rng.random((2, len(forgotten)))
        school_days = np.where(fate < self.faults.corrected_same_day, 0, rng.integers(1, 4, len(forgotten)))
        days = np.array([(_school_day_after(day, count) - day).days for count in school_days.tolist()])
        sent = days * DAY_SECONDS + np.where(days == 0, 8.75 + 5 * hour, 9 + 6 * hour) * 3600
        kept = fate < 1 - self.faults.never_corrected
        time = np.floor(arrival[forgotten] / 60).astype(np.int64) * 60
        values = _check_ins(day, self.students, forgotten, time, np.full(len(forgotten), -1))
        return sent[kept], [value for value, is_kept in zip(values, kept, strict=True) if is_kept]

    def _heartbeats(self, rng: np.random.Generator, gaps: list[tuple[float, float]]) -> tuple[Numbers, list[bytes]]:
        """One empty message a minute while a gate can be heard."""
        minutes = np.arange(OPENS.total_seconds(), CLOSES.total_seconds(), 60.0)
        alive = rng.random(len(minutes)) >= self.faults.lost_heartbeats
        for begin, end in gaps:
            alive &= (minutes < begin) | (minutes >= end)
        return minutes[alive], [b""] * int(alive.sum())


def _hold(sent: Numbers, own: NDArray[np.bool_], begin: float, end: float) -> None:
    held = np.flatnonzero(own & (sent >= begin) & (sent < end))
    sent[held[np.argsort(sent[held], kind="stable")]] = end + 0.02 * np.arange(len(held))


def _check_ins(
    day: date, students: tuple[str, ...], pupil: NDArray[np.int64], time: NDArray[np.int64], gate: NDArray[np.int64]
) -> list[bytes]:
    bell, names = BELL.total_seconds(), (*GATES, "register")
    return [
        f'{{"student_id": "{students[i]}", "timestamp": "{day} {t // 3600:02}:{t // 60 % 60:02}:{t % 60:02}", '
        f'"status": "{"present" if t < bell else "late"}", "gate": "{names[g]}"}}'.encode()
        for i, t, g in zip(pupil.tolist(), time.tolist(), gate.tolist(), strict=True)
    ]


def _foreign(rng: np.random.Generator, reads: int, share: float) -> tuple[Numbers, list[bytes]]:
    count = int(rng.poisson(reads * share))
    times = rng.uniform(OPENS.total_seconds(), CLOSES.total_seconds(), count)
    return times, [_FOREIGN[i] for i in rng.integers(0, len(_FOREIGN), count)]


def _classes(count: int) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Names such as "1a", and their grades: the classes spread over grades 1 to 10."""
    grades = 1 + np.arange(count) * 10 // count
    letters = [chr(97 + int(np.sum(grades[:i] == grade)) % 26) for i, grade in enumerate(grades)]
    return tuple(f"{grade}{letter}" for grade, letter in zip(grades, letters, strict=True)), grades


def _date(day: date) -> date:
    return day.date() if isinstance(day, datetime) else day


def _within(day: date, spans: tuple[tuple[tuple[int, int], tuple[int, int]], ...]) -> bool:
    return any(first <= (day.month, day.day) <= last for first, last in spans)


@lru_cache(maxsize=16_384)
def is_school_day(day: date) -> bool:
    """Every day but Saturdays and days off."""
    return day.weekday() != SATURDAY and not _within(day, BREAKS)


def is_exam(day: date) -> bool:
    """Whether the day lies in the weeks of examinations."""
    return _within(day, EXAMS)


def is_before_break(day: date) -> bool:
    """The last school day before more than the free Saturday."""
    return not is_school_day(day + timedelta(days=1)) and _gap(day, 1)


def is_after_break(day: date) -> bool:
    """The first school day after more than the free Saturday."""
    return not is_school_day(day - timedelta(days=1)) and _gap(day, -1)


def _gap(day: date, step: int) -> bool:
    free = []
    day += timedelta(days=step)
    while not is_school_day(day):
        free.append(day)
        day += timedelta(days=step)
    return any(other.weekday() != SATURDAY for other in free)


@lru_cache(maxsize=4096)
def _school_day_after(day: date, count: int) -> date:
    while count:
        day += timedelta(days=1)
        count -= is_school_day(day)
    return day
