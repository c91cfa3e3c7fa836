"""What tests and benchmarks of crashes share: a careful sender, and a judge that compares with one undisturbed life."""

from __future__ import annotations

import json
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from http.client import HTTPException
from typing import Any

from katmatic import App
from katmatic.clock import ManualClock
from katmatic.log.codec import decode, decode_labels, decode_predictions, encode
from katmatic.log.follow import Followable, Followed
from katmatic.pipeline import Pipeline
from katmatic.records import DEAD, DECISIONS, LABELS, PREDICTIONS, LabelBlock, PredictionBlock

AGAIN_SECONDS = 0.05
ASKED_SECONDS = 10.0  # that an answer may take; it is sent again, then


class Sender(threading.Thread):
    """Posts events, some at once, again and again until they are acknowledged, as a careful card reader does."""

    def __init__(self, url: str, make: Callable[[int, str], tuple[str, Any]], *, each: int = 1) -> None:
        super().__init__(daemon=True)
        self._url, self._make, self._each = url, make, each
        self.acknowledged: list[tuple[str, Any]] = []  # topic, event
        self.refused = 0  # times that it was told to come again
        self.stop = threading.Event()

    def run(self) -> None:
        made = 0
        while not self.stop.is_set():
            topic, events = "", []
            for _ in range(self._each):
                late = timedelta(seconds=5 if made % 17 == 0 else 0)
                topic, event = self._make(made, (datetime.now(UTC) - late).isoformat())
                events.append(event)
                made += 1
            self._send(topic, events)

    def _send(self, topic: str, events: list[Any]) -> None:
        body = json.dumps(events if self._each > 1 else events[0]).encode()
        request = urllib.request.Request(f"{self._url}/v1/events/{topic}", body, {"content-type": "application/json"})
        while not self.stop.is_set():
            try:
                with urllib.request.urlopen(request, timeout=ASKED_SECONDS) as answer:
                    answer.read()
            except (OSError, HTTPException):  # also an answer that breaks off
                self.refused += 1
                time.sleep(AGAIN_SECONDS)
            else:
                self.acknowledged += [(topic, event) for event in events]
                return


def judged(app: App, history: Followable, sent: Iterable[tuple[str, Any]]) -> dict[str, int]:
    """What a log has of events that were acknowledged, and of what one undisturbed life makes of the same batches.

    `lost`: acknowledged events that are not in it; `duplicated`: events that counted more than once; `different`:
    predictions, label versions, dead letters and decisions that are not those of the undisturbed life.
    """
    there: set[tuple[str, str]] = set()
    decided: Counter[bytes] = Counter()
    for batch in history.batches():
        for piece in batch.slices:
            if piece.topic == DECISIONS:
                decided.update(piece.values)
            there.update((piece.topic, _content(value)) for value in piece.values)
    found = {
        PREDICTIONS: _counted(decode_predictions(value) for _, value in history.scan(PREDICTIONS)),
        LABELS: _counted(decode_labels(value) for _, value in history.scan(LABELS)),
        DEAD: Counter(value for _, value in history.scan(DEAD)),
        DECISIONS: decided + Counter(history.pending(DECISIONS)),
    }
    wanted, counts = _undisturbed(app, history)
    readable = sum(counts[fate] for fate in ("applied", "late"))
    letters = [decode(DEAD, value) for value in found[DEAD]]
    dead = {(letter.topic, _content(letter.payload)) for letter in letters}
    events = {(topic, content) for topic, content in there - dead if topic != DECISIONS and content}
    return {
        "events": counts["events"],
        "lost": sum((topic, _content(json.dumps(event).encode())) not in there for topic, event in sent),
        "duplicated": readable - len(events),
        "different": sum(
            sum(((found[topic] - wanted[topic]) + (wanted[topic] - found[topic])).values()) for topic in found
        ),
        "predictions": sum(found[PREDICTIONS].values()),
        "labels": sum(found[LABELS].values()),
        "decisions": sum(found[DECISIONS].values()),
    }


def _undisturbed(app: App, history: Followable) -> tuple[dict[str, Counter[Any]], Counter[str]]:
    """What one life makes of the batches of a log."""
    pipeline = Pipeline(app, Followed(history), ManualClock())
    wanted: dict[str, Counter[Any]] = {topic: Counter() for topic in (PREDICTIONS, LABELS, DEAD, DECISIONS)}
    counts: Counter[str] = Counter()
    while pipeline.log.wait(0.0):
        turn = pipeline.turn()
        wanted[PREDICTIONS] += _counted(turn.predictions)
        wanted[LABELS] += _counted(turn.labels)
        wanted[DEAD].update(encode(letter) for letter in turn.changes.dead)
        wanted[DECISIONS].update(encode(decision) for decision in turn.decisions)
        counts.update(turn.changes.counts)
    return wanted, counts


def _counted(blocks: Iterable[PredictionBlock | LabelBlock]) -> Counter[Any]:
    """Every row, whatever the edges of blocks."""
    return Counter(repr(block.row(i)) for block in blocks for i in range(len(block)))


def _content(value: bytes) -> str:
    """An event, however it is spelt."""
    try:
        return json.dumps(json.loads(value), sort_keys=True)
    except ValueError:
        return value.hex()
