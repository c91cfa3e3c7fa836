"""A pipeline in memory with a school morning going on: for the tests of the web, and to look at the pages.

python -m tests.serving.fake --port 8000
"""

from __future__ import annotations

import argparse
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from datetime import date, datetime, timedelta
from typing import Any

import msgspec
import numpy as np

from katmatic import App, Event, Key, Time, duration, future, past
from katmatic.errors import InputError, ModelError
from katmatic.metrics import Metrics
from katmatic.moment import to_micros
from katmatic.monitoring.alerts import Facts, Rules, from_decision
from katmatic.monitoring.board import Board
from katmatic.monitoring.quality import Quality
from katmatic.monitoring.vitals import Pulse
from katmatic.records import (
    NOTHING,
    Alert,
    DeadLetter,
    Decision,
    Example,
    LabelBlock,
    LabelState,
    ModelVersion,
    Prediction,
    PredictionBlock,
    SkewReport,
)
from katmatic.serving import answers
from katmatic.serving.api import make_api
from katmatic.serving.base import ModelCard, QueueFull, Status
from katmatic.serving.server import Server
from katmatic.serving.stream import Hub, Listener

MINUTE = 60_000_000
COLUMNS = ("weekday", "absent_5d", "absent_60d", "class_missing")
GIVEN_NAMES = ("Asha", "Bibek", "Chandra", "Deepa", "Gita", "Hari", "Isha", "Kiran", "Laxmi", "Mina", "Nabin", "Puja")


class Expected(Event):
    """A student is expected at the first bell."""

    student_id: Key
    class_id: Key
    bell: Time


class CheckIn(Event, topic="attendance-topic"):
    """A student's card was read at a gate."""

    student_id: Key
    timestamp: Time
    status: str = "present"
    gate: str = ""


class Rule:
    """Stands where a model would stand."""

    def fit(self, rows: Any, labels: Any) -> Rule:
        return self

    def predict_proba(self, rows: Any) -> Any:
        return rows


def make_app() -> App:
    app = App("attendance", timezone="Asia/Kathmandu")
    app.source(CheckIn, lateness="10m", silence="2m")
    absent = future.none(CheckIn, per=Expected, within=("-2h", "15m"))
    absence = app.predict(
        "absence",
        absent,
        lead=("2h", "0m"),
        features={
            "weekday": lambda event: event.bell.weekday(),
            "absent_5d": past.mean(absent, "5d", by=Expected.student_id),
            "absent_60d": past.mean(absent, "60d", by=Expected.student_id),
            "class_missing": past.mean(absent, "5d", by=Expected.class_id),
        },
        model=Rule(),
    )

    @absence.when(above=0.8)
    def warn(likely: Any) -> None:
        """Tell the teacher."""

    return app


class FakePipeline:
    """Knows `classes` of `size` pupils, `days` past school days, and a morning that begins at 07:30."""

    def __init__(
        self, *, classes: int = 24, size: int = 25, days: int = 40, learning: bool = False, seed: int = 7
    ) -> None:
        self.app = make_app()
        self.metrics = Metrics()
        self.hub = Hub(self.metrics)
        self.full = False
        self._is_live = False
        self._wave = 0.0
        self.ready = True
        self._rng = np.random.default_rng(seed)
        self._board = Board(self.app)
        self._quality = Quality(self.app, self.app.predictors["absence"])
        self._pulse = Pulse(self.metrics, ("attendance-topic", "expected"))
        self._rules = Rules()
        self.skew: SkewReport | None = None
        self._alerts: deque[Alert] = deque(maxlen=500)
        self._dead: deque[DeadLetter] = deque(maxlen=500)
        self._lock = threading.RLock()
        self._position = 0
        self._seen: set[bytes] = set()
        self._version = 0 if learning else 3
        self._history: list[ModelVersion] = []
        self.reviewed: list[str] = []
        self.pupils = {
            f"P{c * size + i + 1:04d}": f"{c // 3 + 1}{'abc'[c % 3]}" for c in range(classes) for i in range(size)
        }
        self._rate = {
            pupil: float(r) for pupil, r in zip(self.pupils, self._rng.beta(0.8, 9, len(self.pupils)), strict=True)
        }
        self._anchors: dict[str, int] = {}
        self._done: set[str] = set()
        self._acted: set[str] = set()
        self.bell = 0
        self.now = 0
        if not learning:
            self._promote(days)
        for back in range(days, 0, -1):
            self._day(date(2025, 4, 21) - timedelta(days=back))
        self._is_live = True
        self.begin(date(2025, 4, 21))

    # ----------------------------------------------------------------------------------------------- what happens

    def begin(self, day: date) -> None:
        """A school day begins: everyone is expected, and asked about."""
        with self._lock:
            self.bell = to_micros(datetime(day.year, day.month, day.day, 8, 15, tzinfo=self.app.timezone))
            self.now = self.bell - 45 * MINUTE
            self._anchors = {pupil: self._next() for pupil in self.pupils}
            self._done.clear()
            self._acted.clear()
            self._label(list(self.pupils), LabelState.OPEN, None, None)
            self._count("expected", applied=len(self.pupils))
            self._ask(list(self.pupils))

    def move_to(self, moment: int) -> None:
        """Time passes: at the bell those who are missing are asked about again; later they are absent."""
        with self._lock:
            before, self.now = self.now, max(self.now, moment)
            missing = [pupil for pupil in self.pupils if pupil not in self._done]
            if before < self.bell <= self.now and missing:
                self._ask(missing)
            settled = self.bell + 25 * MINUTE
            if before < settled <= self.now and missing:
                self._label(missing, LabelState.FINAL, 1.0, None)
                self._done.update(missing)
            self._publish("status", {"now": answers.iso(self.now, self.app.timezone)})

    def raise_alert(self, alert: Alert) -> None:
        """Something that a person should know."""
        self._alerts.appendleft(alert)
        self._publish("alert", answers.alert(self.app, alert))

    def likely_to_come(self) -> list[str]:
        """Pupils that have not come and are rather not ill today."""
        with self._lock:
            return [p for p in self.pupils if p not in self._done and self._rng.random() > self._rate[p]]

    # -------------------------------------------------------------------------------------------- the Pipeline

    def submit(self, topic: str, values: list[bytes]) -> Future[range]:
        if self.full:
            raise QueueFull("log", found="1,000 waiting events", expected="fewer")
        with self._lock:
            first = self._position
            for value in values:
                self._take_in(topic, value, self._next())
            found: Future[range] = Future()
            found.set_result(range(first, first + len(values)))
            return found

    def latest(self, predictor: str, key: tuple[str, ...]) -> Prediction | None:
        return self._board.latest(predictor, key)

    def predict(self, predictor: str, anchors: list[dict[str, Any]]) -> list[Prediction]:
        for i, anchor in enumerate(anchors):
            if anchor["student_id"] not in self.pupils:
                raise InputError(f"$[{i}].student_id", found="a stranger", expected="a pupil", do="enrol first")
        return [self._block([anchor["student_id"]]).row(0) for anchor in anchors]

    def reasons(self, predictor: str, key: tuple[str, ...]) -> list[tuple[str, float]]:
        found = self._board.latest(predictor, key)
        if found is None or found.score is None:
            return []
        middle = {"weekday": 0.02, "absent_5d": 0.08, "absent_60d": 0.08, "class_missing": 0.5}
        effects = [(name, float((found.features[name] or 0.0) - middle[name])) for name in COLUMNS]
        return sorted(effects, key=lambda one: -abs(one[1]))

    def status(self) -> Status:
        with self._lock:
            waiting = "it needs 100 labelled rows" if self._version == 0 else ""
            since = next((m.now for m in self._history if m.version == self._version), None)
            card = ModelCard("absence", self._version, since, tuple(self._history), waiting)
            quality = {"absence": self._quality.report(self.now)} if self._version else {}
            return Status(
                self.now,
                self.ready,
                "",
                self._pulse.vitals(),
                {"absence": card},
                quality,
                (),
                self._rules.open,
                self.skew,
            )

    def board(self) -> Board:
        return self._board

    def models(self, predictor: str) -> list[ModelVersion]:
        return list(self._history)

    def rollback(self, predictor: str, version: int | None) -> ModelVersion:
        answered = {m.version for m in self._history if m.action == "promoted"}
        version = version or max((v for v in answered if v < self._version), default=0)
        if version not in answered:
            raise ModelError(
                "absence", found=f"version {version}", expected=f"one of {sorted(answered)}", do="choose one"
            )
        with self._lock:
            self._version = version
            change = self._change("rolled-back", "asked for by hand", version)
        self._publish("status", {"rolled back": version})
        return change

    def review(self, predictor: str, why: str) -> str:
        if predictor != "absence":
            return f"there is no predictor {predictor!r}"
        if self.reviewed:
            return "it is being reviewed already"
        self.reviewed.append(why)
        return ""

    def alerts(self, limit: int) -> list[Alert]:
        return list(self._alerts)[:limit]

    def dead(self, limit: int) -> list[DeadLetter]:
        return list(self._dead)[:limit]

    def subscribe(self) -> Listener:
        return self.hub.subscribe()

    # ------------------------------------------------------------------------------------------------- inside

    def _take_in(self, topic: str, value: bytes, position: int) -> None:
        kind = CheckIn if topic == "attendance-topic" else Expected
        try:
            event = msgspec.json.decode(value, type=dict[str, Any])
            pupil, moment = event["student_id"], event["timestamp" if kind is CheckIn else "bell"]
            time = to_micros(datetime.fromisoformat(moment).replace(tzinfo=self.app.timezone))
        except (msgspec.DecodeError, UnicodeDecodeError, KeyError, TypeError, ValueError) as error:
            letter = DeadLetter(
                topic=topic, position=position, payload=value, where=f"{topic}[{position}] $", found=str(error),
                expected=f"a {kind.__name__}", do="correct it and send it again", now=self.now,
            )  # fmt: skip
            self._dead.appendleft(letter)
            self._count(topic, dead=1)
            return
        if value in self._seen:
            self._count(topic, duplicate=1)
            return
        self._seen.add(value)
        self._count(topic, applied=1)
        if kind is CheckIn and pupil in self._anchors and pupil not in self._done:
            self._done.add(pupil)
            self.now = max(self.now, time)
            self._label([pupil], LabelState.FINAL, 0.0, time)
            mates = [p for p, c in self.pupils.items() if c == self.pupils[pupil] and p not in self._done]
            if mates:
                self._ask(mates)

    def _ask(self, pupils: list[str]) -> None:
        if not pupils:
            return
        block = self._block(pupils)
        self._board.predictions(block)
        self._pulse.predicted("absence", len(block))
        self._pulse.answered(float(self._rng.gamma(2, 0.0006)), len(block))
        if self.hub.listeners:
            for i in range(len(block)):
                self._publish("prediction", answers.prediction(self.app, block.row(i)))
        if block.score is None:
            return
        for i, pupil in enumerate(pupils):
            if block.score[i] >= 0.8 and pupil not in self._acted:
                self._acted.add(pupil)
                decision = Decision(
                    predictor="absence", anchor=int(block.anchor[i]), key=block.key[i], action="warn",
                    score=float(block.score[i]), now=self.now,
                )  # fmt: skip
                self._board.decisions([decision])
                self._pulse.acted("absence")
                if self._is_live:
                    self.raise_alert(from_decision(self.app, decision))

    def _block(self, pupils: list[str]) -> PredictionBlock:
        members: dict[str, list[str]] = {}
        for pupil, group in self.pupils.items():
            members.setdefault(group, []).append(pupil)
        rows = []
        for pupil in pupils:
            mates = members[self.pupils[pupil]]
            missing = sum(mate not in self._done for mate in mates) / len(mates)
            rows.append([0.0, min(1.0, self._rate[pupil] * 1.4), self._rate[pupil], missing])
        values = np.array(rows)
        late = max(0.0, (self.now - (self.bell - 20 * MINUTE)) / (20 * MINUTE))
        odds = 6.5 * values[:, 2] - 3.2 + self._wave + 1.6 * late + 1.2 * (1 - values[:, 3])
        n = len(pupils)
        return PredictionBlock(
            predictor="absence",
            columns=COLUMNS,
            anchor=np.array([self._anchors[pupil] for pupil in pupils], np.int64),
            key=[(pupil, self.pupils[pupil]) for pupil in pupils],
            time=np.full(n, self.bell),
            at=np.full(n, self.now),
            now=np.full(n, self.now),
            lead=np.full(n, self.bell - self.now),
            values=values,
            texts={},
            failed=np.zeros(n, np.bool_),
            version=self._version,
            score=None if self._version == 0 else 1 / (1 + np.exp(-odds)),
        )

    def _label(self, pupils: list[str], state: LabelState, value: float | None, evidence: int | None) -> None:
        n = len(pupils)
        block = LabelBlock(
            label="absence",
            anchor=np.array([self._anchors[pupil] for pupil in pupils], np.int64),
            key=[(pupil, self.pupils[pupil]) for pupil in pupils],
            time=np.full(n, self.bell),
            version=np.full(n, 0 if state is LabelState.OPEN else 1),
            state=np.full(n, state, np.uint8),
            value=np.full(n, np.nan if value is None else value),
            now=np.full(n, self.now),
            evidence=np.full(n, NOTHING if evidence is None else evidence),
        )
        self._board.labels(block)
        self._pulse.labelled("absence", n)
        if self.hub.listeners:
            for i in range(n):
                self._publish("label", answers.label(self.app, block.row(i)))
        if value is not None:
            self._measure(pupils, value)

    def _measure(self, pupils: list[str], value: float) -> None:
        found = [(pupil, self._board.latest("absence", (pupil, self.pupils[pupil]))) for pupil in pupils]
        rows = [row for _, row in found if row is not None]
        self._quality.examples(
            Example(
                row.anchor, row.key, row.time, row.at, value, self.now, np.nan if row.score is None else row.score, 1.0
            )
            for row in rows
        )

    def _day(self, day: date) -> None:
        """A day that is over: asked early, then known."""
        if day.isoweekday() == 6:
            return
        self.bell = to_micros(datetime(day.year, day.month, day.day, 8, 15, tzinfo=self.app.timezone))
        self.now = self.bell - 45 * MINUTE
        self._anchors = {pupil: self._next() for pupil in self.pupils}
        self._done.clear()
        self._acted.clear()
        self._wave = 0.5 * np.sin(day.toordinal() / 6) ** 2 + self._rng.normal(0, 0.08)
        self._ask(list(self.pupils))
        wave = 0.7 + 0.6 * np.sin(day.toordinal() / 6) ** 2 + 0.15 * (day.isoweekday() == 5)
        ill = [p for p in self.pupils if self._rng.random() < self._rate[p] * wave]
        came = [p for p in self.pupils if p not in set(ill)]
        self._done.update(came)
        self._label(came, LabelState.FINAL, 0.0, self.bell - 5 * MINUTE)
        self.now = self.bell + 25 * MINUTE
        self._label(ill, LabelState.FINAL, 1.0, None)
        self._count("attendance-topic", applied=len(came) - 9, duplicate=len(came) // 12, late=9)
        self._count("expected", applied=len(self.pupils))

    def _promote(self, days: int) -> None:
        start = to_micros(datetime(2025, 4, 21, tzinfo=self.app.timezone)) - days * 1440 * MINUTE
        for version, action, at, reason, auc in (
            (1, "promoted", 0, "the first: better than the base rate and the own past rate", 0.771),
            (2, "promoted", 7, "log loss 0.231 against 0.244", 0.803),
            (3, "promoted", 21, "log loss 0.224 against 0.231", 0.815),
            (4, "refused", 35, "log loss 0.226 against 0.224", 0.812),
        ):
            self._history.insert(
                0,
                ModelVersion(
                    predictor="absence", version=version, action=action, reason=reason,
                    now=start + at * 1440 * MINUTE, metrics={"roc_auc": auc}, rows=600 * (at + 10),
                ),
            )  # fmt: skip

    def _change(self, action: str, reason: str, version: int) -> ModelVersion:
        change = ModelVersion(predictor="absence", version=version, action=action, reason=reason, now=self.now)
        self._history.insert(0, change)
        return change

    def _count(self, topic: str, **outcomes: int) -> None:
        events = sum(outcomes.values())
        self._pulse.counted({"events": events, **outcomes})
        self._pulse.heard(topic, events, self.now, dead=outcomes.get("dead", 0))
        for alert in self._rules.check(Facts(vitals=self._pulse.vitals()), self.now):
            self.raise_alert(alert)

    def _publish(self, kind: str, data: dict[str, Any]) -> None:
        self.hub.publish(kind, data)

    def _next(self) -> int:
        self._position += 1
        return self._position - 1


def name(student_id: str) -> str | None:
    """An invented given name."""
    return GIVEN_NAMES[int(student_id[1:]) % len(GIVEN_NAMES)] if student_id[1:].isdecimal() else None


def morning(pipeline: FakePipeline, *, step: str = "20s", share: float = 0.02) -> Iterator[None]:
    """A school morning in steps: pupils come, most of them around the bell."""
    rng = np.random.default_rng(1)
    end = pipeline.bell + 40 * MINUTE
    while pipeline.now < end:
        pipeline.move_to(pipeline.now + duration.micros(duration.parse(step)))
        rush = np.exp(-(((pipeline.bell - 6 * MINUTE - pipeline.now) / (12 * MINUTE)) ** 2))
        for pupil in pipeline.likely_to_come():
            if rng.random() < share * rush:
                arrive(pipeline, pupil)
        yield


def arrive(pipeline: FakePipeline, pupil: str) -> None:
    """A pupil's card is read now."""
    there = datetime.fromtimestamp(pipeline.now / 1e6, tz=pipeline.app.timezone).replace(tzinfo=None, microsecond=0)
    value = msgspec.json.encode({"student_id": pupil, "timestamp": str(there), "status": "present"})
    pipeline.submit("attendance-topic", [value])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--until", default="", help="play at once up to this time of day, e.g. 08:20, then stand still")
    parser.add_argument("--learning", action="store_true")
    given = parser.parse_args()
    pipeline = FakePipeline(learning=given.learning)
    server = Server(make_api(pipeline, names=name), port=given.port, closing=pipeline.hub.close)
    server.start()
    print(server.url, flush=True)
    pipeline.submit("attendance-topic", [b'{"student_id": 7}', b"\xff\xfe not JSON", b'{"student_id": "P0001"}'])
    waiting = threading.Event()
    try:
        for _ in morning(pipeline):
            now = datetime.fromtimestamp(pipeline.now / 1e6, tz=pipeline.app.timezone)
            if not given.until:
                waiting.wait(0.5)
            elif now.strftime("%H:%M") >= given.until:
                break
        waiting.wait()
    except KeyboardInterrupt:
        server.stop()


if __name__ == "__main__":
    main()
