"""Rows in: the records of some batches are read, checked and numbered, and lie ready for the kernel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from katmatic.engine import validate
from katmatic.engine.plan import Column, Plan, micros
from katmatic.engine.validate import Columns, Dead, Reader
from katmatic.log.base import Batch
from katmatic.log.codec import decode
from katmatic.records import DECISIONS, DeadLetter
from katmatic.spec.event import Event
from katmatic.state import kernel, loop, scan
from katmatic.state.columns import Store
from katmatic.state.keys import Destination, KeyNumbers

ROOM_FIRST = 64  # rows that there is room for at first
FEW, FEW_BYTES = 31, 16_384  # so many records, and bytes of a stream, are read in one compiled call


@dataclass
class Given:
    """What was read of the batches, by stream, and what could not be."""

    columns: list[tuple[int, Columns, NDArray[np.int64]]]  # stream, its records, their rows
    dead: list[DeadLetter]
    records: int
    few: dict[int, int] = field(default_factory=dict)  # how many, of streams read at once
    heartbeats: int = 0
    raised: int = 0
    said: dict[str, str] = field(default_factory=dict)


class Intake:
    """Makes rows of batches, in memory that the next ones take again, and lets the kernel run over them."""

    def __init__(self, plan: Plan, store: Store, *, notes: bool) -> None:
        self._plan, self._store, self._notes = plan, store, notes
        self.readers = [Reader(stream.schema, plan.zone) for stream in plan.streams]
        self._rows = np.zeros(scan.ROWS_WORDS, np.int64)
        given = int(self._rows.ctypes.data), store.keys.about_at
        self.streams = [_Stream(plan, s, reader, given) for s, reader in enumerate(self.readers)]
        self._numbers = np.arange(FEW + 1)
        self._arena = tuple(array.ctypes.data for array in (plan.tables, store.words, store.reals))
        self._make(ROOM_FIRST)

    def _make(self, room: int) -> None:
        columns, conditions, _ = self._plan.widths
        spaces = len(self._plan.spaces)
        self._room = kernel.Rows(
            kind=np.empty(room, np.int64),
            stream=np.zeros(room, np.int64),
            time=np.zeros(room, np.int64),
            now=np.empty(room, np.int64),
            pos=np.empty(room, np.int64),
            identity=np.zeros(room, np.int64),
            keys=np.empty((room, max(spaces, 1)), np.int64),
            values=np.empty((room, columns)),
            masks=np.empty((room, conditions), np.uint8),
            fate=np.empty(room, np.uint8),
        )
        self._places = np.empty(room, np.int64)
        at = {name: int(array.ctypes.data) for name, array in self._room._asdict().items()}  # where these lie
        self._run_at = (*self._arena, *at.values())
        self._places_at = int(self._places.ctypes.data)
        self._positions = self._room.pos.data
        self._rows[:] = *at.values(), max(spaces, 1), columns, conditions, self._notes
        self._first: dict[int, kernel.Rows] = {}  # views of so many of the rows
        names = "now", "kind", "stream", "time", "identity", "values"
        self._settled_at = (self._places_at, *(at[name] for name in names))
        self._keys_at = [
            Destination(at["keys"] + 8 * space, max(spaces, 1), self._places_at, self._notes, at["time"], at["now"])
            for space in range(spaces)
        ]

    def rows(self, batches: Sequence[Batch]) -> tuple[kernel.Rows, Given]:
        """The rows of some batches: a record each, and one for the moment at which a batch was read."""
        if len(batches) == 1:
            found = self._few(batches[0])
            if found is not None:
                return found
        count = sum(len(batch) for batch in batches) + len(batches)
        if count > len(self._room.kind):
            self._make(max(count, 2 * len(self._room.kind)))
        rows = self._room.first(count)
        rows.kind.fill(kernel.PASSING)
        rows.keys.fill(-1)
        rows.values.fill(np.nan)
        rows.masks.fill(1)
        rows.fate.fill(kernel.NO_EVENT)
        runs = _Runs()
        by_stream: dict[int, tuple[list[bytes], _Runs]] = {}
        decisions: list[tuple[int, bytes]] = []
        lengths: list[int] = []
        row = records = 0
        for batch in batches:
            first = row
            for piece in batch.slices:
                values = piece.values
                size = len(values)
                runs.add(row, size, piece.first)
                stream = self._plan.by_topic.get(piece.topic)
                if stream is not None:
                    if stream not in by_stream:
                        by_stream[stream] = [], _Runs()
                    mine = by_stream[stream]
                    mine[0].extend(values)
                    mine[1].add(row, size, piece.first)
                    records += size
                elif piece.topic == DECISIONS:
                    decisions += zip(range(row, row + size), values, strict=True)
                row += size
            row += 1
            lengths.append(row - first)
        rows.pos.fill(0)
        places, positions = runs.places()
        rows.pos[places] = positions
        rows.now[:] = np.repeat([batch.now for batch in batches], lengths)
        given = Given([], [], records)
        for stream, (texts, its_runs) in by_stream.items():
            self._fill(rows, given, stream, texts, its_runs.places()[0])
        for row, value in decisions:
            self._decide(rows, row, value)
        self._store.check()
        return rows, given

    def _few(self, batch: Batch) -> tuple[kernel.Rows, Given] | None:
        """The rows of a batch of few plain records; None if it is none."""
        by_stream: dict[int, tuple[list[bytes], list[int]]] = {}
        row = 0
        for piece in batch.slices:
            stream, stop = self._plan.by_topic.get(piece.topic, -1), row + len(piece.values)
            if stream < 0 or stop > FEW:
                return None
            if stop == row:
                continue
            values, places = by_stream.setdefault(stream, ([], []))
            values += piece.values
            places += range(row, stop)
            for place in range(row, stop):
                self._positions[place] = piece.first + place - row
            row = stop
        given = Given([], [], row)
        read = []
        for stream, (values, places) in by_stream.items():
            its = self.streams[stream]
            columns = its.take_in(values, [*places, row], batch.now)
            if columns is None:
                return None
            self._store.keys.taken(its.facts.spaces)
            given.few[stream] = count = len(values)
            is_run = places[-1] - places[0] < count
            read.append((its, columns, values, self._numbers[places[0] :][:count] if is_run else np.array(places)))
        if not read:
            self.streams[0].take_in([], [row], batch.now)
        rows = self._first.get(row + 1)
        if rows is None:
            rows = self._first[row + 1] = self._room.first(row + 1)
        for its, columns, values, at in read:
            self._filled(its, rows, given, columns, values, at)
        self._store.check()
        return rows, given

    def run(self, count: int, first: int, until: int) -> int:
        """Let the kernel go on over so many rows, from `first` on: `kernel.run`. Raises MemoryError if it failed."""
        found = loop.go_on(self._run_at, count, first, until)
        if found == -2:
            raise loop.failure(self._store.words)
        return found

    # ------------------------------------------------------------------------------------------------------ one stream

    def _fill(
        self, rows: kernel.Rows, given: Given, stream: int, values: list[bytes], places: NDArray[np.int64]
    ) -> None:
        """Read the records of one stream into their rows."""
        its, store = self.streams[stream], self._store
        columns = its.reader.read(values)
        if len(columns.heartbeats):
            beats = places[columns.heartbeats]
            rows.kind[beats] = kernel.HEARTBEAT
            rows.stream[beats] = stream
            given.heartbeats += len(beats)
        at = places if len(columns) == len(values) else places[columns.index]
        dead: list[Dead] = list(columns.dead)
        if self._settle(its, columns, at):
            strays = validate.in_range(columns, rows.now[at], its.horizon, its.ahead, its.facts.schema)
            dead += strays
            kept = np.flatnonzero(~np.isin(columns.index, [stray.index for stray in strays]))
            columns, at = validate.take(columns, kept), at[kept]
            self._settle(its, columns, at)
        given.dead += [_letter(its, rows, int(places[each.index]), values[each.index], each) for each in dead]
        if not len(columns):
            return
        for space in its.facts.spaces:
            numbers(store.keys, space, self._plan.spaces[space], columns, rows=self._keys_at[space])
        self._filled(its, rows, given, columns, values, at)

    def _filled(
        self,
        its: _Stream,
        rows: kernel.Rows,
        given: Given,
        columns: Columns,
        values: list[bytes],
        at: NDArray[np.int64],
    ) -> None:
        """What compiled code leaves to do for records that lie in their rows."""
        store = self._store
        for j, column in its.others:
            rows.values[at, j] = _values(store, column, columns)
        if its.facts.masks:
            masks, raised, said = validate.conditions(its.facts.masks, its.reader.events(columns))
            rows.masks[at, : len(its.facts.masks)] = masks[:, : len(its.facts.masks)]
            given.raised += raised
            if said:
                given.said[f"where of {its.facts.schema.topic}"] = said
        given.columns.append((its.stream, columns, at))
        if its.asked_again:
            for i, row in zip(columns.index.tolist(), at.tolist(), strict=True):
                store.pending[int(rows.pos[row])] = (its.stream, values[i], its.asked_again)

    def _settle(self, its: _Stream, columns: Columns, at: NDArray[np.int64]) -> int:
        """Put records into the rows `at`, unless some are out of range; how many are."""
        self._places[: len(at)] = at
        about = columns.layout.fields, columns.address, its.about, its.columns
        return loop.settle(columns.text, *about, self._settled_at, count=len(columns))

    def _decide(self, rows: kernel.Rows, row: int, value: bytes) -> None:
        """An action of the user's keeps the truth from being seen: the kernel lets its label go."""
        plan, decision = self._plan, decode(DECISIONS, value)
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
            keys = next(s.schema.keys for s in plan.streams if s.schema.event is question.predictor.anchor)
            anchor_keys = dict(zip(keys, decision.key, strict=True))
            wanted = tuple(anchor_keys[name] for name in label.join)
            rows.keys[row, join] = self._store.keys.find(join, wanted[0] if len(wanted) == 1 else wanted)


class _Runs:
    """Records that follow each other, run by run: from which row on, how many, and the position of the first."""

    def __init__(self) -> None:
        self._rows: list[int] = []
        self._sizes: list[int] = []
        self._firsts: list[int] = []

    def add(self, row: int, size: int, first: int) -> None:
        """One run more."""
        self._rows.append(row)
        self._sizes.append(size)
        self._firsts.append(first)

    def places(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The row of each record, and its position."""
        rows, sizes, firsts = (np.array(each, np.int64) for each in (self._rows, self._sizes, self._firsts))
        before = np.cumsum(sizes) - sizes
        within = np.arange(int(sizes.sum())) - np.repeat(before, sizes)
        return np.repeat(rows, sizes) + within, np.repeat(firsts, sizes) + within


class _Stream:
    """How the records of a stream become rows."""

    def __init__(self, plan: Plan, stream: int, reader: Reader, given: tuple[int, int]) -> None:
        self.stream, self.facts, self.reader = stream, plan.streams[stream], reader
        self.horizon, self.ahead = micros(self.facts.policy.horizon), micros(self.facts.policy.ahead)
        layout = reader.layout
        fields = [-1 if each.coded else layout.places[each.field] for each in self.facts.columns]
        self._fields = np.array(fields, np.int64)
        self.columns = self._fields.ctypes.data, len(fields), plan.widths[0]
        self.about = layout.identity, stream, self.horizon, self.ahead
        self.others = [(j, each) for j, each in enumerate(self.facts.columns) if fields[j] < 0]
        # Of how many labels an anchor is asked at other moments than its arrival:
        mine: type[Event] = self.facts.schema.event
        self.asked_again = len({q.label for q in plan.questions if q.predictor.lead and q.predictor.anchor is mine})
        # For few records: where they are read to, and what `scan.intake` is told, of arrays that these lists hold.
        self._size = 2 * len(layout.names) + 2
        self._table = np.empty(FEW * self._size, np.int64)
        self.table_at: int = self._table.ctypes.data
        self._made = self._table.data
        self._places = np.zeros(FEW + 1, np.int64)
        self.places_at: int = self._places.ctypes.data
        self._rows = self._places.data
        parts = [np.array([layout.places[name] for name in plan.spaces[s]], np.int64) for s in self.facts.spaces]
        each = [(s, int(p.ctypes.data), len(p)) for s, p in zip(self.facts.spaces, parts, strict=True)]
        spaces, names = np.array(each, np.int64), np.frombuffer(layout.letters + bytes(scan.PADDING), np.uint8)
        self._held = parts, spaces, names
        self._about = np.zeros(scan.INTAKE_WORDS, np.int64)
        self._about[:] = (
            *(layout.fields[0], layout.fields[1], names.ctypes.data, loop.powers(), self.table_at, *self.about),
            *(*self.columns[:2], spaces.ctypes.data, len(each), self.places_at, *given),
        )
        self._about_at: int = self._about.ctypes.data

    def take_in(self, values: list[bytes], places: list[int], moment: int) -> Columns | None:
        """Have few records in these rows, and time pass in the last one; None if they are not plain, or do not fit."""
        layout, count = self.reader.layout, len(values)
        text, first = layout.packed(values)
        if len(text) + count * len(layout.defaults) > FEW_BYTES or not layout.is_plain:
            return None
        for i, place in enumerate(places):
            self._rows[i] = place
        if loop.intake(text, first, count, moment, self._about_at) != scan.TAKEN:
            return None
        return Columns.plain(layout, text, bytearray(self._made[: count * self._size]), count)


def numbers(
    keys: KeyNumbers,
    space: int,
    names: tuple[str, ...],
    columns: Columns,
    *,
    adds: bool = True,
    rows: Destination | None = None,
) -> NDArray[np.int64]:
    """The numbers of the keys of some records, or (`rows`) put there; new ones get the next, or (not `adds`) -1."""
    layout, count = columns.layout, len(columns)
    at = columns.address, columns.address + 8 * len(layout.names) * count, layout.parts(names), len(names)
    size = len(columns.text) + count * len(layout.defaults)  # a default may be in every record
    return keys.number(space, columns.text, at, count=count, size=size, adds=adds, rows=rows)


def _values(store: Store, column: Column, columns: Columns) -> list[float]:
    numbering = store.codes[column]
    return [np.nan if value is None else numbering[value] for value in columns.fields[column.field]]


def _letter(its: _Stream, rows: kernel.Rows, row: int, payload: bytes, dead: Dead) -> DeadLetter:
    e = dead.error
    return DeadLetter(
        topic=its.facts.schema.topic,
        position=int(rows.pos[row]),
        payload=payload,
        where=e.where,
        found=e.found,
        expected=e.expected,
        do=e.do,
        now=int(rows.now[row]),
    )
