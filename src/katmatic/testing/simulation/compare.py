"""What a disturbed life left in its log, beside what an undisturbed one makes of the same, and what the oracle says."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import asdict
from typing import Any

from katmatic.clock import ManualClock
from katmatic.live import Live
from katmatic.log.base import Batch, History, Slice
from katmatic.log.codec import decode, decode_labels, decode_predictions
from katmatic.records import DEAD, DECISIONS, LABELS, MODELS, PREDICTIONS, LabelVersion, Prediction
from katmatic.spec.app import App
from katmatic.spec.past import Past
from katmatic.testing.oracle import Oracle
from katmatic.testing.simulation.plants import NO_PLANT, Plant
from katmatic.testing.simulation.world import FATES, Different, check, flat
from katmatic.training.dataset import read

WRITTEN = (PREDICTIONS, LABELS, DEAD)  # alerts tell of the life of a process, and are no function of the log
ROUNDED = ("ewm", "std")  # sums of rounded terms: near to the oracle's; every other answer is equal in every bit


class Recorded:
    """A log that gives out once more what another gave out, in the same batches or in others, and keeps what is made.

    The order of records and the moment of each stay what they were.
    """

    def __init__(self, batches: Sequence[Batch], *, cut: bool) -> None:
        self.left = [*_cut(batches)] if cut else list(batches)
        self.left.reverse()
        self.written: dict[str, list[bytes]] = {}
        self.read_records: dict[str, list[tuple[int, bytes]]] = {}
        self._now = 0

    def read(self, now: int, *, limit: int) -> Batch:
        """The next batch as it was, or a tick after the last."""
        return self.left.pop() if self.left else Batch(0, now)

    def commit(
        self,
        batch: Batch,
        written: Mapping[str, Sequence[bytes]],
        fed: Mapping[str, Sequence[bytes]] = {},
        *,
        keep: bool = False,
    ) -> None:
        """Keep what was made of a batch; what was fed came with the batches already."""
        for piece in batch.slices:
            self.read_records.setdefault(piece.topic, []).extend(enumerate(piece.values, piece.first))
        for topic, values in (*written.items(), *fed.items()):
            self.written.setdefault(f"made {topic}" if topic in fed else topic, []).extend(values)

    def scan(self, topic: str, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, bytes]]:
        """The records of one topic."""
        return iter(self.read_records.get(topic) or [*enumerate(self.written.get(topic, ()))])

    @property
    def waiting(self) -> int:
        """Nothing, beside what is read anyway."""
        return 0

    def append(self, topic: str, values: Sequence[bytes]) -> Future[range]:
        """Not here: what was lived through is only read again."""
        raise NotImplementedError("a log that is replayed takes no records")

    def wait(self, timeout: float) -> bool:
        """Whether batches are left."""
        return bool(self.left)

    def sequence(self) -> int:
        """Not asked."""
        return 0

    def batches(self, after: int = 0) -> Iterator[Batch]:
        """Not asked."""
        return iter(())

    def end(self, topic: str) -> int:
        """How many records."""
        return len(list(self.scan(topic)))

    def pending(self, topic: str) -> list[bytes]:
        """Nothing waits."""
        return []

    def close(self) -> None:
        """Nothing to let go of."""


def live_through(app: App, batches: Sequence[Batch], plant: Plant = NO_PLANT, *, cut: bool) -> tuple[Recorded, Live]:
    """One undisturbed life of the same batches."""
    log = Recorded(batches, cut=cut)
    pipeline = plant.pipeline(app, log, ManualClock())
    live = Live(pipeline)
    pipeline.watchers.append(live)
    while log.left:
        pipeline.turn()
    return log, live


def compare_logs(found: History, undisturbed: History) -> None:
    """The log itself: every record with its position and moment, and all that was written, byte by byte."""
    _equal(flat(list(found.batches())), flat(list(undisturbed.batches())), "the log, record by record")
    for topic in WRITTEN:
        _equal(list(found.scan(topic)), list(undisturbed.scan(topic)), topic)


def compare_written(found: History, again: Recorded, *, cut: bool) -> None:
    """What was written, byte by byte; row by row if the batches were cut otherwise. And what was decided."""
    for topic in WRITTEN:
        mine, theirs = [value for _, value in found.scan(topic)], again.written.get(topic, [])
        if cut:
            _equal(_by_name(rows_of(topic, mine)), _by_name(rows_of(topic, theirs)), topic)
        else:
            _equal(mine, theirs, topic)
    decided = [value for _, value in found.scan(DECISIONS)]
    _equal(sorted(decided), sorted(again.written.get(f"made {DECISIONS}", [])), DECISIONS)


def compare_rows(app: App, found: History, again: History, now: int) -> None:
    """What a model would be trained on, predictor by predictor."""
    for name, predictor in app.predictors.items():
        mine, theirs = read(found, app, predictor, now), read(again, app, predictor, now)
        digests = [None if rows is None else rows.digest() for rows in (mine, theirs)]
        _equal(digests[0], digests[1], f"the training rows of {name}")


def compare_quality(found: Live, again: Live, now: int) -> None:
    """How good the live answers were."""
    for name, quality in found.quality.items():
        mine, theirs = (asdict(each.report(now)) for each in (quality, again.quality[name]))
        if not _near(mine, theirs):
            _equal(mine, theirs, f"the live quality of {name}")


def ask_oracle(app: App, found: History, counts: Mapping[str, int]) -> None:
    """The naive oracle lives through the log, and says the same."""
    oracle = Oracle(app)
    for batch in found.batches():
        oracle.apply(batch.now, [(piece.topic, value) for piece in batch.slices for value in piece.values])
    mine: dict[str, list[Any]] = {}
    for topic in (PREDICTIONS, LABELS):
        mine |= _by_name(rows_of(topic, [value for _, value in found.scan(topic)]))
    theirs = _by_name(oracle.outcomes)
    for name in sorted({*mine, *theirs}):
        rounded = _rounded(app, name)
        for i, (one, other) in enumerate(zip(mine.get(name, ()), theirs.get(name, ()), strict=False)):
            difference = _difference(one, other, rounded)
            check(difference is None, f"{name}, row {i}: {difference} says the oracle\n  {one}\n  {other}")
        _equal(len(mine.get(name, ())), len(theirs.get(name, ())), f"the number of rows of {name}")
    letters = [decode(DEAD, value) for _, value in found.scan(DEAD)]
    _equal([(d.position, d.topic, d.payload, d.now) for d in letters], oracle.dead, "the dead letters of the oracle")
    fates = ("events", *FATES, "heartbeats")
    _equal([counts.get(fate, 0) for fate in fates], [oracle.counts[fate] for fate in fates], f"the counts of {fates}")


def rows_of(topic: str, values: Iterable[bytes]) -> list[Any]:
    """What was written, row by row."""
    if topic == PREDICTIONS:
        return [block.row(i) for block in map(decode_predictions, values) for i in range(len(block))]
    if topic == LABELS:
        return [block.row(i) for block in map(decode_labels, values) for i in range(len(block))]
    return [decode(topic, value) for value in values]


def _by_name(rows: Iterable[Any]) -> dict[str, list[Any]]:
    """Rows by predictor, label or topic, in their order; a batch groups its rows by these."""
    found: dict[str, list[Any]] = {}
    for row in rows:
        name = (
            f"predictor {row.predictor}"
            if isinstance(row, Prediction)
            else f"label {row.label}"
            if isinstance(row, LabelVersion)
            else row.topic
        )
        found.setdefault(name, []).append(row)
    return found


def _cut(batches: Iterable[Batch]) -> Iterator[Batch]:
    """Each record by itself, but where a model comes with others: from the next batch on it answers."""
    for batch in batches:
        if any(piece.topic == MODELS for piece in batch.slices) or not batch.slices:
            yield batch
            continue
        for piece in batch.slices:
            for i, value in enumerate(piece.values):
                yield Batch(batch.sequence, batch.now, (Slice(piece.topic, piece.first + i, [value]),))


def _difference(found: Any, wanted: Any, rounded: set[str]) -> str | None:
    for name in found.__struct_fields__:
        one, other = getattr(found, name), getattr(wanted, name)
        if name in ("version", "score") and isinstance(found, Prediction):
            continue  # of the model, which the oracle does not know
        if name == "state" and isinstance(found, Prediction):
            if other == "error" != one:
                return f"{name}: {one}, not {other}"
        elif name == "features":
            for key in other:
                if not _same(one.get(key), other[key], near=key in rounded):
                    return f"{key}: {one.get(key)!r}, not {other[key]!r}"
        elif one != other:
            return f"{name}: {one!r}, not {other!r}"
    return None


def _rounded(app: App, name: str) -> set[str]:
    """The features whose values may differ from the oracle's in their last bits."""
    predictor = app.predictors.get(name.removeprefix("predictor "))
    if predictor is None:
        return set()
    found: set[str] = set()
    for _ in predictor.features:  # a function of one is one
        for key, feature in predictor.features.items():
            if isinstance(feature, Past):
                found |= {key} if feature.op in ROUNDED else set()
            elif callable(feature) and found & set(inspect.signature(feature).parameters):
                found.add(key)
    return found


def _same(found: Any, wanted: Any, *, near: bool) -> bool:
    if near and isinstance(found, float) and isinstance(wanted, float):
        return math.isclose(found, wanted, rel_tol=1e-9, abs_tol=1e-9)
    return bool(found == wanted)


def _near(found: Any, wanted: Any) -> bool:
    """Equal, but for the last bits of sums over the same rows in another order."""
    if isinstance(found, float) and isinstance(wanted, float):
        return math.isclose(found, wanted, rel_tol=1e-9, abs_tol=1e-9)
    if isinstance(found, dict):
        return found.keys() == wanted.keys() and all(_near(found[name], wanted[name]) for name in found)
    if isinstance(found, list | tuple):
        return len(found) == len(wanted) and all(map(_near, found, wanted))
    return bool(found == wanted)


def _equal(found: Any, wanted: Any, what: str) -> None:
    if found == wanted:
        return
    if isinstance(found, list) and isinstance(wanted, list):
        for i, (one, other) in enumerate(zip(found, wanted, strict=False)):
            if one != other:
                raise Different(f"{what}: at {i} of {len(found)} and {len(wanted)}\n  {one!r:.600}\n  {other!r:.600}")
        raise Different(f"{what}: {len(found)} of them, not {len(wanted)}")
    raise Different(f"{what}:\n  {found!r:.600}\n  {wanted!r:.600}")
