"""The engine behind one door: `changes = step(plan, state, batch)`. No clock, no chance, no I/O, no threads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property, partial
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from katmatic.engine import validate
from katmatic.engine.features import Anchors, assemble, moments
from katmatic.engine.outputs import FEW, Outputs
from katmatic.engine.plan import Plan, Questions
from katmatic.engine.rows import Given, Intake
from katmatic.engine.validate import Columns, Reader
from katmatic.log.base import Batch
from katmatic.records import DeadLetter, LabelBlock, PredictionBlock
from katmatic.spec.event import Event, Schema
from katmatic.state import kernel
from katmatic.state.columns import Store
from katmatic.state.forget import Forgetting, Layout

COUNTS = ("events", "applied", "duplicate", "late", "dead", "heartbeats")


class Changes(msgspec.Struct):
    """All that followed from some batches, in order. `orders` number predictions and label versions together."""

    predictions: list[tuple[PredictionBlock, NDArray[np.int64]]]
    labels: list[tuple[LabelBlock, NDArray[np.int64]]]
    dead: list[DeadLetter]
    holds: list[str]  # topics whose silence holds labels, told once until they are heard
    counts: dict[str, int]
    earlier: Earlier
    errors: dict[str, int]  # how often functions of the user raised, by predictor (or `where`)
    said: dict[str, str] = {}  # and what the last of them said, by predictor.feature
    held: bool = False  # labels were held, or let go: it was the moment that decided
    anchors: list[_Asked] = []  # that are in the batch
    taken: list[tuple[Schema, Columns]] = []  # events that were applied, also the late ones

    def event(self, position: int) -> Event:
        """The anchor event of a prediction of this step."""
        for asked in self.anchors:
            found = asked.event(position)
            if found is not None:
                return found
        (event,) = self.earlier.events([position])
        return event


class Earlier:
    """Anchors of batches before, that are asked at a later moment than their arrival: read again if they are wanted."""

    def __init__(self, readers: Sequence[Reader]) -> None:
        self._readers = readers
        self._payloads: dict[int, tuple[int, bytes]] = {}  # by position, with the stream
        self._events: dict[int, Event] = {}

    def __len__(self) -> int:
        return len(self._payloads)

    def know(self, payloads: Iterable[tuple[int, tuple[int, bytes]]]) -> None:
        """Some more of them."""
        self._payloads.update(payloads)

    def events(self, positions: Sequence[int]) -> list[Event]:
        """The events at some positions."""
        missing: dict[int, list[int]] = {}
        for position in dict.fromkeys(positions):
            if position not in self._events:
                missing.setdefault(self._payloads[position][0], []).append(position)
        for stream, wanted in missing.items():
            reader = self._readers[stream]
            columns = reader.read([self._payloads[position][1] for position in wanted])
            self._events.update(zip(wanted, reader.events(columns), strict=True))
        return [self._events[position] for position in positions]


class State:
    """What the engine remembers of an application; `dump` and `load` make it a checkpoint."""

    def __init__(self, plan: Plan) -> None:
        codes = [column for stream in plan.streams for column in stream.columns if column.coded]
        self.store = Store(cells=int(plan.tables[kernel.CELLS_PER_KEY]), codes=codes)
        self.forgetting = Forgetting(
            self.store,
            plan.tables,
            [_layout(plan, space) for space in range(len(plan.spaces))],
            anchor_life=plan.anchor_life,
        )
        self.intake = Intake(plan, self.store, notes=self.forgetting.can)
        self.readers = self.intake.readers
        self.outputs = Outputs(plan, self.store, self.intake)

    @property
    def next_due(self) -> int:
        """The moment at which something happens by time passing; far in the future if nothing waits."""
        return int(self.store.words[kernel.NEXT_DUE])

    @property
    def now(self) -> int:
        """The moment up to which time has passed; far in the past at first."""
        return int(self.store.words[kernel.NOW])

    def silent(self, plan: Plan) -> set[str]:
        """Topics whose silence was told (`Changes.holds`), and that were not heard since."""
        told = self.store.words[kernel.ALERTED_AT : kernel.ALERTED_AT + len(plan.streams)]
        return {stream.schema.topic for stream, flag in zip(plan.streams, told.tolist(), strict=True) if flag}

    def kept(self) -> dict[str, Any]:
        """The state before it is made bytes: a view of its memory."""
        return self.store.kept()

    def dump(self) -> bytes:
        """The state as bytes."""
        return self.store.dump()

    def load(self, data: bytes | msgspec.Raw) -> None:
        """Become the state that was dumped."""
        self.store.load(data)
        self.forgetting.restart()


def _layout(plan: Plan, space: int) -> Layout:
    mine = [kept for kept in plan.kept if kept.space == space]
    lists = [place for joined, local in plan.label_places if joined == space for place in (local, local + 1)]
    tables = np.array([kept.table for kept in mine], np.int64)
    return Layout(tables, np.array(lists, np.int64), for_ever=any(kept.for_ever for kept in mine))


def step(plan: Plan, state: State, *batches: Batch) -> Changes:
    """Apply batches, and let all happen that their moments let happen. The same for one by one and for all at once."""
    rows, given = state.intake.rows(batches)
    words = state.store.words
    now = batches[-1].now if batches else int(words[kernel.NOW])
    words[kernel.ORDER] = 0
    changes = _counted(plan, state, given)
    held = state.forgetting.held()
    following = 0
    while following >= 0:
        following = state.intake.run(len(rows.kind), following, now)
        _collect(plan, state, rows, given, changes)
    _account(plan, state, rows, given, changes)
    state.forgetting.work(now, held=bool(changes.holds))
    changes.held = state.forgetting.held() != held
    return changes


# -------------------------------------------------------------------------------------------------------- changes out


def _counted(plan: Plan, state: State, given: Given) -> Changes:
    return Changes(
        predictions=[],
        labels=[],
        dead=sorted(given.dead, key=lambda dead: dead.position),
        holds=[],
        counts={},
        earlier=Earlier(state.readers),
        errors={"where": given.raised} if given.raised else {},
        said=dict(given.said),
    )


def _collect(plan: Plan, state: State, rows: kernel.Rows, given: Given, changes: Changes) -> None:
    """Take away what the kernel has written."""
    words = state.store.words
    predictions, labels, holds, done = state.outputs.counts()
    if labels:
        changes.labels.extend(_label_blocks(plan, state, labels))
    if predictions:
        _predictions(plan, state, predictions, given, changes)
    if not holds and not done:
        return
    silent = words[kernel.OUT_HOLDS_AT : kernel.OUT_HOLDS_AT + holds].tolist()
    changes.holds.extend(plan.streams[s].schema.topic for s in silent)
    pending = state.store.pending
    for position in words[kernel.OUT_DONE_AT : kernel.OUT_DONE_AT + done].tolist():
        stream, payload, labels = pending.pop(position)
        if labels > 1:
            pending[position] = (stream, payload, labels - 1)


def _account(plan: Plan, state: State, rows: kernel.Rows, given: Given, changes: Changes) -> None:
    """Every event has one fate: applied, duplicate, late or dead."""
    fates = rows.fate.tobytes()
    duplicates = fates.count(kernel.DUPLICATE)
    for stream, columns, places in given.columns:
        if duplicates:
            columns = validate.take(columns, np.flatnonzero(rows.fate[places] != kernel.DUPLICATE))
        changes.taken.append((plan.streams[stream].schema, columns))
    changes.counts.update(
        events=given.records - given.heartbeats,
        applied=fates.count(kernel.APPLIED),
        duplicate=duplicates,
        late=fates.count(kernel.LATE),
        dead=len(given.dead),
        heartbeats=given.heartbeats,
    )
    for name, number in changes.counts.items():
        state.store.counts[name] = state.store.counts.get(name, 0) + number
    if duplicates and state.store.pending:
        for position in rows.pos[rows.fate == kernel.DUPLICATE].tolist():
            state.store.pending.pop(position, None)


def _label_blocks(plan: Plan, state: State, n: int) -> list[tuple[LabelBlock, NDArray[np.int64]]]:
    found = state.outputs.labels() if n <= FEW else None
    if found is not None:
        return found
    words, reals = state.store.words, state.store.reals
    found = []
    table = words[kernel.OUT_LABELS_AT : kernel.OUT_LABELS_AT + 8 * n].reshape(n, 8)
    keys = words[kernel.OUT_LABEL_KEYS_AT : kernel.OUT_LABEL_KEYS_AT + n * len(plan.spaces)].reshape(n, -1)
    values = reals[kernel.OUT_LABEL_VALUES_AT : kernel.OUT_LABEL_VALUES_AT + n]
    for i, (name, _) in enumerate(plan.labels):
        mine = _chosen(table[:, 1], i, len(plan.labels))
        if mine is None:
            continue
        orders, _, anchor, time, version, state_of, now, evidence = _columns(table[mine])
        block = LabelBlock(
            label=name,
            anchor=anchor,
            key=state.store.keys.rows(keys[mine].take(plan.label_keys[i], 1)),
            time=time,
            version=version,
            state=state_of.astype(np.uint8),
            value=values[mine].copy(),
            now=now,
            evidence=evidence,
        )
        found.append((block, orders))
    return found


def _chosen(owners: NDArray[np.int64], mine: int, many: int) -> slice | NDArray[np.int64] | None:
    """Which rows are of one owner of so many, for an index: None for none, a slice for all."""
    if many == 1:
        return slice(None)
    (rows,) = (owners == mine).nonzero()
    if not len(rows):
        return None
    return slice(None) if len(rows) == len(owners) else rows


def _columns(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """A copy, column by column: what the arena holds is written over."""
    return rows.T.copy()


def _predictions(plan: Plan, state: State, n: int, given: Given, changes: Changes) -> None:
    words, reals = state.store.words, state.store.reals
    table = words[kernel.OUT_ASKED_AT : kernel.OUT_ASKED_AT + 8 * n].reshape(n, 8)
    keys = words[kernel.OUT_ASKED_KEYS_AT : kernel.OUT_ASKED_KEYS_AT + n * len(plan.spaces)].reshape(n, -1)
    answers = reals[kernel.OUT_FEATURES_AT : kernel.OUT_FEATURES_AT + n * plan.widths[2]].reshape(n, -1)
    for p, questions in enumerate(plan.questions):
        if n <= FEW and state.outputs.plain[p]:
            taken = state.outputs.predictions(p, given)
            if taken is not None:
                for few, few_orders in taken:
                    _asked(state, questions, _anchor(few), few.rows, given, changes, is_here=True)
                    changes.predictions.append((few, few_orders))
                continue
        mine = _chosen(table[:, 1], p, len(plan.questions))
        if mine is None:
            continue
        orders, _, anchor, time, at, now, lead, rows = _columns(table[mine])
        is_here = not questions.predictor.lead or int(rows.min()) >= 0
        asked = _asked(state, questions, _same(anchor), _same(rows), given, changes, is_here=is_here)
        anchors = Anchors(asked.field, asked.events, partial(moments, at, plan.zone))
        made = assemble(questions, answers[mine], anchors, state.store.codes)
        if made.raised:
            changes.errors[questions.name] = changes.errors.get(questions.name, 0) + made.raised
            changes.said.update({f"{questions.name}.{name}": text for name, text in made.said.items()})
        block = PredictionBlock(
            predictor=questions.name,
            columns=questions.columns,
            anchor=anchor,
            key=state.store.keys.rows(keys[mine].take(plan.label_keys[questions.label], 1)),
            time=time,
            at=at,
            now=now,
            lead=lead,
            values=made.values,
            texts=made.texts,
            failed=made.failed,
        )
        changes.predictions.append((block, orders))


def _same(column: NDArray[np.int64]) -> Callable[[], NDArray[np.int64]]:
    return lambda: column


def _anchor(block: PredictionBlock) -> Callable[[], NDArray[np.int64]]:
    return lambda: block.anchor


def _asked(
    state: State,
    questions: Questions,
    positions: Callable[[], NDArray[np.int64]],
    rows: Callable[[], NDArray[np.int64]],
    given: Given,
    changes: Changes,
    *,
    is_here: bool,
) -> _Asked:
    """The anchors of some questions, which `changes` know from now on."""
    reader = state.readers[questions.stream]
    for stream, columns, places in given.columns if is_here else ():
        if stream == questions.stream:
            asked = _Asked(reader, positions, rows, changes.earlier, columns, places)
            changes.anchors.append(asked)
            return asked
    pending = state.store.pending
    changes.earlier.know((position, pending[position][:2]) for position in positions().tolist())
    return _Asked(reader, positions, rows, changes.earlier)


class _Asked:
    """The anchors of some questions: in the batch, with `columns`, or from before.

    It does not know the changes, which know it: what refers to itself waits for the collector of cycles.
    """

    def __init__(
        self,
        reader: Reader,
        positions: Callable[[], NDArray[np.int64]],
        rows: Callable[[], NDArray[np.int64]],
        earlier: Earlier,
        columns: Columns | None = None,
        places: Any = None,
    ) -> None:
        self._reader, self._positions, self._rows, self._earlier = reader, positions, rows, earlier
        self._columns, self._places = columns, places

    @cached_property
    def _here(self) -> Columns | None:
        """The columns of the anchors, if all are in the batch."""
        rows = self._rows()
        if self._columns is None or len(self._columns) == len(rows):
            return self._columns
        return validate.take(self._columns, np.searchsorted(self._places, rows))

    def field(self, name: str) -> Any:
        """A field of the anchors: a list, or floats."""
        here = self._here
        if not here:
            return [getattr(event, name) for event in self.events()]
        numbers = here.numbers(name)
        return here.fields[name] if numbers is None else numbers

    def events(self) -> list[Any]:
        """The anchors as the user's event objects."""
        here = self._here
        if here:
            return self._reader.events(here)
        return self._earlier.events(self._positions().tolist())

    def event(self, position: int) -> Event | None:
        """The anchor at a position, if it is one of these, which are all in the batch."""
        (found,) = (self._positions() == position).nonzero()
        assert self._here is not None
        return self._reader.events(validate.take(self._here, found[:1]))[0] if len(found) else None
