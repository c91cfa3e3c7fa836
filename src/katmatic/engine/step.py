"""The engine behind one door: `changes = step(plan, state, batch)`. No clock, no chance, no I/O, no threads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from katmatic.engine import validate
from katmatic.engine.features import Anchors, assemble, moments
from katmatic.engine.plan import Column, Plan, Questions, Stream, micros
from katmatic.engine.validate import Columns, Reader
from katmatic.log.base import Batch
from katmatic.log.codec import decode
from katmatic.records import DECISIONS, DeadLetter, Keys, LabelBlock, PredictionBlock
from katmatic.spec.event import Event, Schema
from katmatic.state import kernel, loop
from katmatic.state.columns import Store
from katmatic.state.forget import Forgetting, Layout
from katmatic.state.keys import KeyNumbers

COUNTS = ("events", "applied", "duplicate", "late", "dead", "heartbeats")


@dataclass(frozen=True)
class Changes:
    """All that followed from some batches, in order. `orders` number predictions and label versions together."""

    predictions: list[tuple[PredictionBlock, NDArray[np.int64]]]
    labels: list[tuple[LabelBlock, NDArray[np.int64]]]
    dead: list[DeadLetter]
    holds: list[str]  # topics whose silence holds labels, told once until they are heard
    counts: dict[str, int]
    errors: dict[str, int]  # how often functions of the user raised, by predictor (or `where`)
    said: dict[str, str] = field(default_factory=dict)  # and what the last of them said, by predictor.feature
    held: bool = False  # labels were held, or let go: it was the moment that decided
    anchors: list[tuple[NDArray[np.int64], int, Columns, NDArray[np.int64]]] = field(default_factory=list)
    again: dict[int, tuple[int, bytes]] = field(default_factory=dict)  # anchors from before: stream, payload
    kept: dict[int, Event] = field(default_factory=dict)
    readers: Sequence[Reader] = ()
    taken: list[tuple[Schema, Columns]] = field(default_factory=list)  # events that were applied, also the late ones

    def event(self, position: int) -> Event:
        """The anchor event of a prediction of this step."""
        if position not in self.kept and position in self.again:
            self.restore([position])
        elif position not in self.kept:
            for positions, stream, columns, rows in self.anchors:
                for i in np.flatnonzero(positions == position).tolist():
                    self.kept[position] = self.readers[stream].events(validate.take(columns, rows[i : i + 1]))[0]
        return self.kept[position]

    def restore(self, positions: Sequence[int]) -> None:
        """Read again the anchors that are asked at a later moment than their arrival."""
        missing: dict[int, list[int]] = {}
        for position in dict.fromkeys(positions):
            if position not in self.kept:
                missing.setdefault(self.again[position][0], []).append(position)
        for stream, wanted in missing.items():
            reader = self.readers[stream]
            columns = reader.read([self.again[position][1] for position in wanted])
            self.kept.update(zip(wanted, reader.events(columns), strict=True))


class State:
    """What the engine remembers of an application; `dump` and `load` make it a checkpoint."""

    def __init__(self, plan: Plan) -> None:
        codes = [column for stream in plan.streams for column in stream.columns if column.coded]
        self.store = Store(cells=int(plan.tables[kernel.CELLS_PER_KEY]), codes=codes)
        self.readers = [Reader(stream.schema, plan.zone) for stream in plan.streams]
        self.forgetting = Forgetting(
            self.store,
            plan.tables,
            [_layout(plan, space) for space in range(len(plan.spaces))],
            anchor_life=plan.anchor_life,
        )

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
    rows, given = _rows(plan, state, batches)
    words, reals = state.store.words, state.store.reals
    now = batches[-1].now if batches else int(words[kernel.NOW])
    words[kernel.ORDER] = 0
    changes = _counted(plan, state, given)
    held = words[kernel.HELD_AT : kernel.HELD_AT + 2 * len(plan.labels)].copy()  # first and last of each list
    following = 0
    while following >= 0:
        following = loop.run(plan.tables, words, reals, rows, following, now)
        _collect(plan, state, rows, given, changes)
    _account(plan, state, rows, given, changes)
    state.forgetting.work(now, held=bool(changes.holds))
    if (held != words[kernel.HELD_AT : kernel.HELD_AT + len(held)]).any():
        return replace(changes, held=True)
    return changes


# ------------------------------------------------------------------------------------------------------------ rows in


@dataclass
class _Given:
    """What was read of the batches, by stream, and what could not be."""

    columns: list[tuple[int, Columns, NDArray[np.int64]]]  # stream, its records, their rows
    dead: list[DeadLetter]
    records: int
    heartbeats: int
    raised: int
    said: dict[str, str] = field(default_factory=dict)


def _rows(plan: Plan, state: State, batches: Sequence[Batch]) -> tuple[kernel.Rows, _Given]:
    by_stream: dict[int, tuple[list[bytes], list[NDArray[np.int64]]]] = {}
    decisions: list[tuple[int, bytes]] = []
    now_parts, pos_parts, count, records = [], [], 0, 0
    for batch in batches:
        for piece in batch.slices:
            n = len(piece.values)
            stream = plan.by_topic.get(piece.topic)
            if stream is not None:
                values, places = by_stream.setdefault(stream, ([], []))
                values.extend(piece.values)
                places.append(np.arange(count, count + n))
                records += n
            elif piece.topic == DECISIONS:
                decisions += [(count + i, value) for i, value in enumerate(piece.values)]
            now_parts.append(np.full(n, batch.now, np.int64))
            pos_parts.append(np.arange(piece.first, piece.first + n, dtype=np.int64))
            count += n
        now_parts.append(np.array([batch.now], np.int64))
        pos_parts.append(np.array([0], np.int64))
        count += 1
    rows = kernel.Rows(
        kind=np.full(count, kernel.PASSING, np.int64),
        stream=np.zeros(count, np.int64),
        time=np.zeros(count, np.int64),
        now=np.concatenate(now_parts) if now_parts else np.zeros(0, np.int64),
        pos=np.concatenate(pos_parts) if pos_parts else np.zeros(0, np.int64),
        identity=np.zeros(count, np.int64),
        keys=np.full((count, max(len(plan.spaces), 1)), -1, np.int64),
        values=np.full((count, plan.widths[0]), np.nan),
        masks=np.ones((count, plan.widths[1]), np.uint8),
        fate=np.full(count, kernel.NO_EVENT, np.uint8),
    )
    given = _Given([], [], records, 0, 0)
    for stream, (values, parts) in by_stream.items():
        _fill(plan, state, rows, given, stream, values, np.concatenate(parts))
    for row, value in decisions:
        _fill_decision(plan, state, rows, row, value)
    state.store.check()
    return rows, given


def _fill(
    plan: Plan,
    state: State,
    rows: kernel.Rows,
    given: _Given,
    stream: int,
    values: list[bytes],
    places: NDArray[np.int64],
) -> None:
    """Read the records of one stream into their rows."""
    reader, facts = state.readers[stream], plan.streams[stream]
    columns = reader.read(values)
    beats = places[columns.heartbeats]
    rows.kind[beats] = kernel.HEARTBEAT
    rows.stream[beats] = stream
    given.heartbeats += len(beats)
    horizon, ahead = micros(facts.policy.horizon), micros(facts.policy.ahead)
    strays = validate.in_range(columns, rows.now[places[columns.index]], horizon, ahead, facts.schema)
    for dead in (*columns.dead, *strays):
        row = int(places[dead.index])
        e = dead.error
        given.dead.append(
            DeadLetter(
                topic=facts.schema.topic,
                position=int(rows.pos[row]),
                payload=values[dead.index],
                where=e.where,
                found=e.found,
                expected=e.expected,
                do=e.do,
                now=int(rows.now[row]),
            )
        )
    if strays:
        gone = {dead.index for dead in strays}
        kept = np.array([i for i, index in enumerate(columns.index.tolist()) if index not in gone], np.int64)
        columns = validate.take(columns, kept)
    if not len(columns):
        return
    at = places[columns.index]
    lies_together = int(at[-1]) - int(at[0]) + 1 == len(at)
    mine: slice | NDArray[np.int64] = slice(int(at[0]), int(at[-1]) + 1) if lies_together else at
    rows.kind[mine] = kernel.EVENT
    rows.stream[mine] = stream
    rows.time[mine] = columns.time
    rows.identity[mine] = reader.identities(columns, stream).view(np.int64)
    for space in facts.spaces:
        rows.keys[mine, space] = named = numbers(state.store.keys, space, plan.spaces[space], columns, adds=True)
        state.forgetting.used(named, np.maximum(rows.time[mine], rows.now[mine]))
    for j, column in enumerate(facts.columns):
        rows.values[mine, j] = _values(state, column, columns)
    if facts.masks:
        masks, raised, said = validate.conditions(facts.masks, reader.events(columns))
        rows.masks[at, : len(facts.masks)] = masks[:, : len(facts.masks)]
        given.raised += raised
        if said:
            given.said[f"where of {facts.schema.topic}"] = said
    given.columns.append((stream, columns, at))
    labels = _asked_again(plan, facts)
    if labels:
        for i, row in zip(columns.index.tolist(), at.tolist(), strict=True):
            state.store.pending[int(rows.pos[row])] = (stream, values[i], labels)


def _asked_again(plan: Plan, stream: Stream) -> int:
    """Of how many labels an anchor is asked at other moments than its arrival."""
    return len({q.label for q in plan.questions if q.predictor.lead and q.predictor.anchor is stream.schema.event})


def numbers(keys: KeyNumbers, space: int, names: tuple[str, ...], columns: Columns, *, adds: bool) -> NDArray[np.int64]:
    """The numbers of the keys of some records; new ones get the next numbers, or (not `adds`) -1."""
    layout, count = columns.layout, len(columns)
    at = columns.address, columns.address + 8 * len(layout.names) * count, layout.parts(names), len(names)
    size = len(columns.text) + count * len(layout.defaults)  # a default may be in every record
    return keys.number(space, columns.text, at, count=count, size=size, adds=adds)


def _values(state: State, column: Column, columns: Columns) -> Any:
    numbers = None if column.coded else columns.numbers(column.field)
    if numbers is not None:
        return numbers
    numbering = state.store.codes[column]
    return [np.nan if value is None else numbering[value] for value in columns.fields[column.field]]


def _fill_decision(plan: Plan, state: State, rows: kernel.Rows, row: int, value: bytes) -> None:
    decision = decode(DECISIONS, value)
    if not decision.censored:
        return
    for i, (_, label) in enumerate(plan.labels):
        question = next((q for q in plan.questions if q.name == decision.predictor), None)
        if question is None or question.label != i:
            continue
        rows.kind[row] = kernel.DECISION
        rows.stream[row] = i
        rows.time[row] = decision.anchor
        join = plan.spaces.index(label.join)
        names = question.predictor.anchor
        anchor_keys = dict(zip(_schema_keys(plan, names), decision.key, strict=True))
        wanted = tuple(anchor_keys[name] for name in label.join)
        rows.keys[row, join] = state.store.keys.find(join, wanted[0] if len(wanted) == 1 else wanted)


def _schema_keys(plan: Plan, event: type[Event]) -> tuple[str, ...]:
    return next(stream.schema.keys for stream in plan.streams if stream.schema.event is event)


# -------------------------------------------------------------------------------------------------------- changes out


def _counted(plan: Plan, state: State, given: _Given) -> Changes:
    return Changes(
        predictions=[],
        labels=[],
        dead=sorted(given.dead, key=lambda dead: dead.position),
        holds=[],
        counts={},
        errors={"where": given.raised} if given.raised else {},
        said=dict(given.said),
        readers=state.readers,
    )


def _collect(plan: Plan, state: State, rows: kernel.Rows, given: _Given, changes: Changes) -> None:
    """Take away what the kernel has written."""
    words = state.store.words
    changes.labels.extend(_label_blocks(plan, state))
    for p, questions in enumerate(plan.questions):
        _predictions(plan, state, p, questions, given, changes)
    holds, done = int(words[kernel.N_HOLDS]), int(words[kernel.N_DONE])
    silent = words[kernel.OUT_HOLDS_AT : kernel.OUT_HOLDS_AT + holds].tolist()
    changes.holds.extend(plan.streams[s].schema.topic for s in silent)
    pending = state.store.pending
    for position in words[kernel.OUT_DONE_AT : kernel.OUT_DONE_AT + done].tolist():
        stream, payload, labels = pending.pop(position)
        if labels > 1:
            pending[position] = (stream, payload, labels - 1)


def _account(plan: Plan, state: State, rows: kernel.Rows, given: _Given, changes: Changes) -> None:
    """Every event has one fate: applied, duplicate, late or dead."""
    for stream, columns, places in given.columns:
        fate = rows.fate[places]
        kept = np.flatnonzero((fate == kernel.APPLIED) | (fate == kernel.LATE))
        schema = plan.streams[stream].schema
        changes.taken.append((schema, columns if len(kept) == len(columns) else validate.take(columns, kept)))
    fates = np.bincount(rows.fate, minlength=4)
    changes.counts.update(
        events=given.records - given.heartbeats,
        applied=int(fates[kernel.APPLIED]),
        duplicate=int(fates[kernel.DUPLICATE]),
        late=int(fates[kernel.LATE]),
        dead=len(given.dead),
        heartbeats=given.heartbeats,
    )
    for name, number in changes.counts.items():
        state.store.counts[name] = state.store.counts.get(name, 0) + number
    if state.store.pending:
        for position in rows.pos[rows.fate == kernel.DUPLICATE].tolist():
            state.store.pending.pop(position, None)


def _keys(state: State, spaces: Sequence[int], keys: NDArray[np.int64]) -> Keys:
    return state.store.keys.rows(keys[:, list(spaces)])


def _table(words: NDArray[np.int64], at: int, rows: int, width: int) -> NDArray[np.int64]:
    return words[at : at + rows * width].reshape(rows, width)


def _label_blocks(plan: Plan, state: State) -> list[tuple[LabelBlock, NDArray[np.int64]]]:
    words, reals = state.store.words, state.store.reals
    n = int(words[kernel.N_LABELS])
    if not n:
        return []
    found = []
    table = _table(words, kernel.OUT_LABELS_AT, n, 8)
    keys = _table(words, kernel.OUT_LABEL_KEYS_AT, n, len(plan.spaces))
    values = reals[kernel.OUT_LABEL_VALUES_AT : kernel.OUT_LABEL_VALUES_AT + n]
    for i, (name, _) in enumerate(plan.labels):
        mine = _chosen(table[:, 1] == i)
        if mine is None:
            continue
        orders, _, anchor, time, version, state_of, now, evidence = _columns(table[mine])
        block = LabelBlock(
            label=name,
            anchor=anchor,
            key=_keys(state, plan.label_keys[i], keys[mine]),
            time=time,
            version=version,
            state=state_of.astype(np.uint8),
            value=values[mine].copy(),
            now=now,
            evidence=evidence,
        )
        found.append((block, orders))
    return found


def _chosen(is_mine: NDArray[np.bool_]) -> slice | NDArray[np.int64] | None:
    """Which rows these are, for an index: None for none, a slice for all."""
    (rows,) = is_mine.nonzero()
    if not len(rows):
        return None
    return slice(None) if len(rows) == len(is_mine) else rows


def _columns(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """A copy, column by column: what the arena holds is written over."""
    return rows.T.copy()


def _predictions(plan: Plan, state: State, p: int, questions: Questions, given: _Given, changes: Changes) -> None:
    words, reals = state.store.words, state.store.reals
    n = int(words[kernel.N_PREDICTIONS])
    table = _table(words, kernel.OUT_ASKED_AT, n, 8)
    mine = _chosen(table[:, 1] == p)
    if mine is None:
        return
    keys = _table(words, kernel.OUT_ASKED_KEYS_AT, n, len(plan.spaces))[mine]
    answers = reals[kernel.OUT_FEATURES_AT : kernel.OUT_FEATURES_AT + n * plan.widths[2]].reshape(n, plan.widths[2])
    orders, _, anchor, time, at, now, lead, rows = _columns(table[mine])
    asked = _Asked(plan, state, questions, anchor, rows, given, changes)
    anchors = Anchors(asked.fields, asked.events, lambda: moments(at, plan.zone))
    made = assemble(questions, answers[mine], anchors, state.store.codes)
    if made.raised:
        changes.errors[questions.name] = changes.errors.get(questions.name, 0) + made.raised
        changes.said.update({f"{questions.name}.{name}": text for name, text in made.said.items()})
    block = PredictionBlock(
        predictor=questions.name,
        columns=questions.columns,
        anchor=anchor,
        key=_keys(state, plan.label_keys[questions.label], keys),
        time=time,
        at=at,
        now=now,
        lead=lead,
        values=made.values,
        texts=made.texts,
        failed=made.failed,
    )
    changes.predictions.append((block, orders))


class _Asked:
    """The anchors of some questions: in the batch, or from before."""

    def __init__(
        self,
        plan: Plan,
        state: State,
        questions: Questions,
        positions: NDArray[np.int64],
        rows: NDArray[np.int64],
        given: _Given,
        changes: Changes,
    ) -> None:
        stream = next(s for s, known in enumerate(plan.streams) if known.schema.event is questions.predictor.anchor)
        self._state, self._stream, self._changes = state, stream, changes
        self._positions, self._rows = positions, rows
        self._columns: Columns | None = None
        for s, columns, places in given.columns:
            if s == stream and bool((self._rows >= 0).all()):
                self._columns = columns
                self._index = np.searchsorted(places, self._rows)
                changes.anchors.append((self._positions, stream, columns, self._index))
        if self._columns is None:
            pending = state.store.pending
            changes.again.update((position, pending[position][:2]) for position in self._positions.tolist())

    def _here(self) -> Columns | None:
        """The columns of the anchors, if all are in the batch."""
        if self._columns is None or len(self._columns) == len(self._rows):
            return self._columns
        return validate.take(self._columns, self._index)

    def fields(self, name: str) -> Any:
        here = self._here()
        if not here:
            return [getattr(event, name) for event in self.events()]
        numbers = here.numbers(name)
        return here.fields[name] if numbers is None else numbers

    def events(self) -> list[Any]:
        here = self._here()
        if here:
            return self._state.readers[self._stream].events(here)
        self._changes.restore(self._positions.tolist())
        return [self._changes.kept[position] for position in self._positions.tolist()]
