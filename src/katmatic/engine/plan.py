"""compile(app) -> Plan: every declaration looked at once, turned into the tables of numbers that the kernel reads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np

from katmatic import duration
from katmatic.engine.derive import only_calculates
from katmatic.errors import DeclarationError
from katmatic.spec.app import App, Predictor, SourcePolicy, windows
from katmatic.spec.check import derived_order
from katmatic.spec.event import Schema, field_ref, schema
from katmatic.spec.function import arguments
from katmatic.spec.future import Label
from katmatic.spec.past import Past
from katmatic.state import kernel

_OPS = {
    "count": kernel.COUNT,
    "sum": kernel.SUM,
    "mean": kernel.MEAN,
    "std": kernel.STD,
    "min": kernel.MIN,
    "max": kernel.MAX,
    "distinct": kernel.DISTINCT,
    "last": kernel.LAST,
    "first": kernel.FIRST,
    "since": kernel.SINCE,
    "ewm": kernel.EWM,
    "top": kernel.TOP,
}
_LABEL_OPS = {
    "any": kernel.L_ANY,
    "none": kernel.L_NONE,
    "count": kernel.L_COUNT,
    "sum": kernel.L_SUM,
    "mean": kernel.L_MEAN,
    "last": kernel.L_LAST,
}
_ACCUMULATED = {"count", "sum", "mean", "std", "min", "max", "distinct", "top"}
_CODED = {"distinct", "top"}
# Aggregates that one question asks an accumulator for, and which of its words says where each goes.
_USUAL = (kernel.COUNT, kernel.SUM, kernel.MEAN, kernel.STD, kernel.MIN, kernel.MAX)
_OUTS = (kernel.Q_OUT, kernel.Q_SUM, kernel.Q_MEAN, kernel.Q_STD, kernel.Q_MIN, kernel.Q_MAX)
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True)
class Column:
    """A field of a stream as a column of numbers; `coded`: its values are numbered in the order of their appearance."""

    stream: int
    field: str
    coded: bool


@dataclass
class Stream:
    """One type of event: how it is read, and what the kernel is given of it."""

    schema: Schema
    policy: SourcePolicy
    columns: list[Column] = field(default_factory=list)  # value columns, in kernel order
    masks: list[Callable[[Any], Any]] = field(default_factory=list)  # conditions (`where=`), in kernel order
    spaces: list[int] = field(default_factory=list)  # key spaces that it has all fields of


@dataclass(frozen=True)
class Output:
    """One feature of a predictor: where its value comes from."""

    name: str
    kind: str  # window | field | derived
    at: int = -1  # window: column of the kernel's answers
    width: int = 1  # top: how many
    codes: Column | None = None  # window: the values are codes of this column
    field: str = ""  # field: of the anchor
    function: Callable[..., Any] | None = None
    takes: tuple[str, ...] = ()
    calculates: bool = False  # the function does nothing else, with features alone: see derive.py


@dataclass(frozen=True)
class Questions:
    """One predictor as the engine sees it."""

    predictor: Predictor
    name: str
    label: int
    stream: int  # of the anchors
    outputs: tuple[Output, ...]  # in the order in which they can be computed
    columns: tuple[str, ...]  # names in the order of declaration
    texts: tuple[str, ...]  # those of them that are no numbers
    candidates: tuple[Output, ...] = ()  # windows that a ranking draws its candidates from
    ranking: int = -1  # the kernel's question about these

    @cached_property
    def places(self) -> dict[str, int]:
        """Where each column is."""
        return {name: i for i, name in enumerate(self.columns)}

    @cached_property
    def blocks(self) -> list[tuple[slice, slice]]:
        """The windows that are numbers: which columns they are, and of which answers, side by side."""
        found: list[tuple[slice, slice]] = []
        for output in self.outputs:
            if not self._is_number(output):
                continue
            to, of = self.places[output.name], output.at
            if found and (found[-1][0].stop, found[-1][1].stop) == (to, of):
                to, of = found[-1][0].start, found.pop()[1].start
            found.append((slice(to, self.places[output.name] + 1), slice(of, output.at + 1)))
        return found

    @cached_property
    def others(self) -> list[Output]:
        """The outputs that are no such windows."""
        return [output for output in self.outputs if not self._is_number(output)]

    def _is_number(self, output: Output) -> bool:
        """Whether it is a window whose answer is a number, and no text."""
        return output.kind == "window" and (output.codes is None or output.name not in self.texts)


@dataclass(frozen=True)
class Kept:
    """What is kept of each key for some windows, or (`of_label`) for evidence that may come before its anchor."""

    space: int
    streams: tuple[int, ...]
    label: int  # whose versions it holds; -1: it holds events
    table: int  # its handle in the kernel's plan
    local: int  # place of its cell among those of the key
    words: int  # of a cell
    stride: int  # words of an event
    keep: int  # microseconds that an event stays; kernel.FOREVER
    for_ever: bool  # the cell itself stays: it holds something of all events that ever were
    trees: int  # extremes that long rings keep trees of
    of_label: bool = False


@dataclass(frozen=True)
class Plan:
    """An application, compiled. `tables` is what the kernel reads; the rest is for the columns around it."""

    app: App
    zone: ZoneInfo
    streams: tuple[Stream, ...]
    by_topic: dict[str, int]
    spaces: tuple[tuple[str, ...], ...]
    labels: tuple[tuple[str, Label], ...]
    label_keys: tuple[tuple[int, ...], ...]  # per label: the spaces of the anchor's single keys
    questions: tuple[Questions, ...]
    tables: kernel.Ints
    widths: tuple[int, int, int]  # value columns, conditions, answers
    kept: tuple[Kept, ...] = ()
    label_places: tuple[tuple[int, int], ...] = ()  # per label: its space, and where a key's list of open ones lies
    anchor_life: int = 0  # microseconds after its arrival in which an anchor that nothing holds is forgotten for sure


def compile(app: App) -> Plan:
    """The plan of an application.

    Raises DeclarationError for what can only be seen as a whole, such as a label whose value is no number.
    """
    return _Compiler(app).plan()


def micros(length: timedelta) -> int:
    """A length of time in the kernel's unit."""
    return length // _MICROSECOND


class _Rows:
    """Entries of several owners, gathered in any order and laid out owner by owner (`lo[i]:lo[i + 1]`)."""

    def __init__(self, owners: int) -> None:
        self.entries: list[list[tuple[int, ...]]] = [[] for _ in range(owners)]

    def add(self, owner: int, *entry: int) -> None:
        """One more entry of an owner."""
        self.entries[owner].append(entry)

    def lo(self) -> kernel.Ints:
        """Where the entries of each owner begin."""
        return _ints([0, *np.cumsum([len(e) for e in self.entries])])

    def part(self, i: int) -> kernel.Ints:
        """The `i`-th number of every entry."""
        return _ints([entry[i] for entries in self.entries for entry in entries])


def _ints(values: Iterable[int]) -> kernel.Ints:
    return np.array(list(values), dtype=np.int64)


@dataclass
class _Acc:
    length: int
    column: int
    parts: set[str]
    halflife: int = 0


@dataclass
class _Table:
    streams: tuple[int, ...]
    label: int  # -1: of events
    space: int
    where: Callable[[Any], Any] | None
    columns: list[tuple[str, bool]] = field(default_factory=list)
    accs: list[_Acc] = field(default_factory=list)
    reach: int = 0  # the longest window
    forever: bool = False
    never_lets_go: bool = False
    extra_keep: int = 0


class _Compiler:
    """Gathers tables, accumulators and questions; used once."""

    def __init__(self, app: App) -> None:
        self.app = app
        self.streams = [Stream(schema(event), app.sources.get(event, SourcePolicy())) for event in app.events]
        self.index = {stream.schema.event: i for i, stream in enumerate(self.streams)}
        self.labels = tuple(app.labels.items())
        self.spaces: list[tuple[str, ...]] = []
        self.tables: list[_Table] = []
        self.rankings: list[list[tuple[int, ...]]] = []
        self._kept: tuple[tuple[Kept, ...], tuple[tuple[int, int], ...], int] = ((), (), 0)
        self._topics()
        for _, label in self.labels:
            for name in schema(label.anchor).keys:
                self._space((name,))

    def plan(self) -> Plan:
        questions = [self._questions(predictor) for predictor in self.app.predictors.values()]
        lookbacks = [self._lookbacks(i, label) for i, (_, label) in enumerate(self.labels)]
        for stream in self.streams:
            names = set(stream.schema.keys)
            stream.spaces = [i for i, space in enumerate(self.spaces) if set(space) <= names]
        tables, widths = self._lay_out(questions, lookbacks)
        return Plan(
            self.app,
            self.app.timezone,
            tuple(self.streams),
            {stream.schema.topic: i for i, stream in enumerate(self.streams)},
            tuple(self.spaces),
            self.labels,
            tuple(tuple(self._space((name,)) for name in schema(label.anchor).keys) for _, label in self.labels),
            tuple(found for found, _ in questions),
            tables,
            widths,
            *self._kept,
        )

    def _topics(self) -> None:
        seen: dict[str, Schema] = {}
        for stream in self.streams:
            other = seen.setdefault(stream.schema.topic, stream.schema)
            if other is not stream.schema:
                raise DeclarationError(
                    f"App({self.app.name!r})",
                    found=f"the topic {other.topic!r} for both {other.name} and {stream.schema.name}",
                    expected="one event type per topic",
                    do="give one of them another topic=",
                )

    def _space(self, names: tuple[str, ...]) -> int:
        if names not in self.spaces:
            self.spaces.append(names)
        return self.spaces.index(names)

    # ------------------------------------------------------------------------------------------------------- windows

    def _questions(self, predictor: Predictor) -> tuple[Questions, list[tuple[int, ...]]]:
        """A predictor's outputs, and its rows of the kernel's table."""
        asked: list[tuple[int, ...]] = []
        width = 0
        outputs: dict[str, Output] = {}
        anchor = schema(predictor.anchor)
        texts: list[str] = []
        place = f"App.predict({predictor.name!r})"
        order = derived_order(place, dict(predictor.features))
        for name, feature in predictor.features.items():
            ref = field_ref(feature)
            if isinstance(feature, Past):
                output, row = self._window(name, feature, predictor, width)
                asked.append(row)
                width += output.width
                if output.codes is not None and feature.op != "distinct":
                    texts.append(name)
                outputs[name] = output
            elif ref is not None:
                if anchor.field(ref.name).kind is str:
                    texts.append(name)
                outputs[name] = Output(name, "field", field=ref.name)
        for name in order:
            function = predictor.features[name]
            takes = arguments(f"{place} features[{name!r}]", function)
            calculates = bool(takes) and not {"event", "now"} & {*takes} and only_calculates(function)
            outputs[name] = Output(name, "derived", function=function, takes=takes, calculates=calculates)
        candidates: list[Output] = []
        drawn: list[tuple[int, ...]] = []
        for i, window in enumerate(predictor.rank.candidates if predictor.rank else ()):
            output, row = self._window(
                f"candidates[{i}]", window, predictor, sum(candidate.width for candidate in candidates)
            )
            drawn.append(row)
            candidates.append(output)
        ranking = -1
        if candidates:
            ranking = len(self.app.predictors) + len(self.rankings)
            self.rankings.append(drawn)
        label = next(i for i, (_, known) in enumerate(self.labels) if known is predictor.label)
        return (
            Questions(
                predictor,
                predictor.name,
                label,
                self.index[predictor.anchor],
                tuple(outputs.values()),
                tuple(predictor.features),
                tuple(texts),
                tuple(candidates),
                ranking,
            ),
            asked,
        )

    def _window(self, name: str, past: Past, predictor: Predictor, out: int) -> tuple[Output, tuple[int, ...]]:
        table = self._table_of(past)
        t = self.tables[table]
        coded = past.op in _CODED
        column, codes = -1, None
        if past.field is not None:
            kind = schema(past.events[0]).field(past.field).kind
            coded = coded or kind is str
            if coded and past.op not in ("distinct", "top", "last", "first"):
                raise DeclarationError(
                    f"App.predict({predictor.name!r}) features[{name!r}]",
                    found=f"{past}, of a field of type {kind.__name__}",
                    expected="a field that is a number",
                    do="use past.distinct, past.last, past.first or past.top",
                )
            column = self._column(t, past.field, coded)
            codes = Column(t.streams[0], past.field, True) if coded else None
        elif past.label is not None and past.op != "since":
            column = self._column(t, "value", False)
        length = kernel.FOREVER if past.window is None else micros(past.window)
        if past.op == "ewm":
            t.forever = True
        elif length == kernel.FOREVER:
            t.forever = True
            additive = past.op in ("count", "sum", "mean", "std", "distinct")
            t.never_lets_go |= past.label is not None and not additive
        else:
            t.reach = max(t.reach, length)
        t.never_lets_go |= past.op == "ewm" and past.label is not None
        acc = -1
        if past.op in _ACCUMULATED or past.op == "ewm":
            acc = self._accumulator(t, past, length, column)
        k = past.k or 0
        space = t.space
        width = max(1, k)
        op = kernel.DIFFERENT if past.op == "distinct" and past.label is not None else _OPS[past.op]
        row = (table, op, acc, column, length, space, out, k)
        return Output(name, "window", at=out, width=width, codes=codes), row

    def _accumulator(self, t: _Table, past: Past, length: int, column: int) -> int:
        parts = {
            "mean": {"sum"},
            "sum": {"sum"},
            "std": {"sum", "square"},
            "min": {"min"},
            "max": {"max"},
            "distinct": {"tally"},
            "top": {"tally", "order"},
        }
        if past.op == "ewm":
            t.accs.append(_Acc(kernel.FOREVER, column, {"ewm"}, length))
            return len(t.accs) - 1
        for i, acc in enumerate(t.accs):
            if acc.length != length or acc.halflife:
                continue
            counts = length != kernel.FOREVER and -1 in (acc.column, column)  # a count of events goes with any column
            if acc.column == column or counts:
                acc.column = max(acc.column, column)
                acc.parts |= parts.get(past.op, set())
                return i
        t.accs.append(_Acc(length, column, set(parts.get(past.op, set()))))
        return len(t.accs) - 1

    def _table_of(self, past: Past) -> int:
        streams = tuple(self.index[event] for event in past.events)
        label = -1
        if past.label is not None:
            label = next(i for i, (_, known) in enumerate(self.labels) if known is past.label)
        return self._table(streams, label, tuple(ref.name for ref in past.by), past.where)

    def _table(
        self, streams: tuple[int, ...], label: int, by: tuple[str, ...], where: Callable[[Any], Any] | None
    ) -> int:
        space = self._space(by)
        for i, t in enumerate(self.tables):
            if (t.streams, t.label, t.space, t.where) == (streams, label, space, where):
                return i
        self.tables.append(_Table(streams, label, space, where))
        return len(self.tables) - 1

    @staticmethod
    def _column(t: _Table, name: str, coded: bool) -> int:
        if (name, coded) not in t.columns:
            t.columns.append((name, coded))
        return t.columns.index((name, coded))

    # -------------------------------------------------------------------------------------------------------- labels

    def _lookbacks(self, i: int, label: Label) -> tuple[int, int]:
        """The tables in which evidence (and what voids) waits for anchors that come after it."""
        span = micros(label.end - label.start) + max(0, -micros(label.start))
        found = []
        for events, where, name in ((label.evidence, label.where, label.field), (label.unless, None, None)):
            if not events:
                found.append(-1)
                continue
            streams = tuple(self.index[event] for event in events)
            # A table of its own: how long it is kept depends on the label.
            self.tables.append(_Table(streams, -1, self._space(label.join), where))
            t = self.tables[-1]
            t.extra_keep = span + micros(self.streams[self.index[label.anchor]].policy.horizon)
            if name is not None:
                kind = schema(events[0]).field(name).kind
                if kind is str:
                    raise DeclarationError(
                        str(label),
                        found=f"a field of type {kind.__name__}",
                        expected="a field that is a number",
                        do="declare the class as an int",
                    )
                self._column(t, name, False)
            found.append(len(self.tables) - 1)
        return found[0], found[1]

    def _sources(self, label: Label) -> tuple[int, ...]:
        return tuple(dict.fromkeys(self.index[event] for event in (*label.evidence, *label.unless)))

    # -------------------------------------------------------------------------------------------------------- layout

    def _mask(self, stream: int, where: Callable[[Any], Any] | None) -> int:
        if where is None:
            return -1
        masks = self.streams[stream].masks
        if where not in masks:
            masks.append(where)
        return masks.index(where)

    def _value_column(self, stream: int, name: str, coded: bool) -> int:
        columns = self.streams[stream].columns
        column = Column(stream, name, coded)
        if column not in columns:
            columns.append(column)
        return columns.index(column)

    def _lay_out(
        self,
        questions: Sequence[tuple[Questions, list[tuple[int, ...]]]],
        lookbacks: Sequence[tuple[int, int]],
    ) -> tuple[kernel.Ints, tuple[int, int, int]]:
        streams, tables, labels = self.streams, self.tables, self.labels
        lookback_tables = {table for pair in lookbacks for table in pair if table >= 0}
        lag = max((micros(s.policy.horizon) for s in streams), default=0)
        lag += max((max(0, micros(moment)) for p in self.app.predictors.values() for moment in p.lead), default=0)

        locals_: dict[int, int] = {}
        t_local = []
        for t in tables:
            t_local.append(locals_.get(t.space, 0))
            locals_[t.space] = t_local[-1] + 1
        joins = [self._space(label.join) for _, label in labels]
        l_local = []
        for join in joins:
            l_local.append(locals_.get(join, 0))
            locals_[join] = l_local[-1] + 2

        feeds, anchors, asks, evidence = (_Rows(len(streams)) for _ in range(4))
        columns, accs, extremes = (_Rows(len(tables)) for _ in range(3))
        l_tables, l_sources, l_leads = (_Rows(len(labels)) for _ in range(3))
        t_words, t_hot, t_tree, t_base, t_keep = [], [], [], [], []
        for i, t in enumerate(tables):
            for s in t.streams:
                if i not in lookback_tables:
                    feeds.add(s, i, t.space, self._mask(s, t.where))
            if t.label >= 0:
                anchor = self.index[labels[t.label][1].anchor]
                l_tables.add(t.label, i, t.space, self._mask(anchor, t.where))
            for name, coded in t.columns:
                columns.add(i, self._value_column(t.streams[0], name, coded) if t.label < 0 else 0)
            words = kernel.CELL_WORDS
            for acc in t.accs:
                general = acc.parts & {"square", "tally", "ewm"}
                kind = kernel.GENERAL if general else kernel.PLAIN
                if acc.column < 0 and acc.length != kernel.FOREVER:
                    kind = kernel.COUNTED
                at, width = words, kernel.NUMBER if kind == kernel.COUNTED else kernel.ACC_WORDS
                offsets = {"sum": -1, "square": -1, "min": -1, "max": -1, "tally": -1, "ewm": -1}
                sizes = (3, 3, 2, 2, kernel.TALLY_WORDS, 2 * kernel.EWM_WORDS)
                for part, size in zip(offsets, sizes, strict=True):
                    if part in acc.parts:
                        offsets[part] = width
                        width += size
                words += width
                trees = [-1, -1]
                for largest, part in enumerate(("min", "max")):
                    if part in acc.parts:
                        tree = 2 * acc.column + largest
                        if (tree,) not in extremes.entries[i]:
                            extremes.add(i, tree)
                        trees[largest] = extremes.entries[i].index((tree,))
                ordered = int("order" in acc.parts)
                accs.add(i, acc.length, acc.column, at, *offsets.values(), acc.halflife, *trees, ordered, kind)
            t_hot.append(words)
            t_tree.append(words if extremes.entries[i] else 0)
            words += 1 if extremes.entries[i] else 0
            t_base.append(words if t.forever else 0)
            words += kernel.BASE_WORDS + 2 * len(t.columns) if t.forever else 0
            t_words.append(words)
            t_keep.append(kernel.FOREVER if t.never_lets_go else t.reach + lag + t.extra_keep)

        acc_lo = accs.lo()
        p_lo, unasked = [0], [-1] * (kernel.QUESTION_FIELDS - kernel.Q_SUM)
        q_rows: list[list[int]] = []
        for asked in (*(rows for _, rows in questions), *self.rankings):
            usual: dict[int, list[list[int]]] = {}
            for table, op, part_of, column, length, space, out, k in sorted(asked, key=lambda row: row[0]):
                absolute = int(acc_lo[table]) + part_of if part_of >= 0 else -1
                if op not in _USUAL:
                    q_rows.append([op, table, absolute, column, length, space, out, k, *unasked])
                    continue
                place = _OUTS[_USUAL.index(op)]
                if op == kernel.COUNT and column < 0 and length != kernel.FOREVER:
                    place = kernel.Q_EVENTS
                rows = usual.setdefault(absolute, [])
                row = next((row for row in rows if row[place] < 0), None)
                if row is None:
                    row = [kernel.USUAL, table, absolute, column, length, space, -1, 0, *unasked]
                    rows.append(row)
                    q_rows.append(row)
                row[place] = out
            p_lo.append(len(q_rows))

        leads = []
        for p, (found, _) in enumerate(questions):
            predictor = found.predictor
            if not predictor.lead:
                asks.add(self.index[predictor.anchor], p)
            leads += [(-micros(moment), p, found.label) for moment in predictor.lead]
        leads.sort()
        for i, (_, _, owner) in enumerate(leads):
            l_leads.add(owner, i)

        expiries = []
        for i, (_, label) in enumerate(labels):
            anchors.add(self.index[label.anchor], i)
            for s in self._sources(label):
                l_sources.add(i, s)
            for events, voids in ((label.evidence, 0), (label.unless, 1)):
                for event in events:
                    s = self.index[event]
                    column = self._value_column(s, label.field, False) if label.field and not voids else -1
                    evidence.add(s, i, column, -1 if voids else self._mask(s, label.where), voids)
            latest = max((offset for offset, _, owner in leads if owner == i), default=0)
            waits = [micros(streams[s].policy.lateness) for s in self._sources(label)]
            horizons = [micros(streams[s].policy.horizon) for s in self._sources(label)]
            expiries.append(max(micros(label.end) + max(*waits, *horizons, 0), latest + 1))

        def per_label(number: Callable[[Label], int]) -> kernel.Ints:
            return _ints(number(label) for _, label in labels)

        def q_part(i: int) -> kernel.Ints:
            return _ints(row[i] for row in q_rows)

        # What a row of a stream touches: the tables that it feeds or that its predictors read.
        nears = _Rows(len(streams))
        heads: list[list[int]] = []
        for s in range(len(streams)):
            touched = [table for table, *_ in feeds.entries[s]]
            touched += [row[0] for (p,) in asks.entries[s] for row in questions[p][1]]
            witnessed = [label for label, *_ in (*anchors.entries[s], *evidence.entries[s])]
            touched += [table for label in witnessed for table in lookbacks[label] if table >= 0]
            firsts: dict[int, int] = {}
            for i in dict.fromkeys(touched):
                t, words = tables[i], t_hot[i]
                is_first = firsts.get(t.space, -kernel.LINE_WORDS) + kernel.LINE_WORDS <= t_local[i]
                firsts[t.space] = t_local[i] if is_first else firsts[t.space]
                nears.add(s, t.space, t_local[i], -(-words // kernel.LINE_WORDS), int(is_first), 2 + len(t.columns))
                heads.append([at + kernel.HEAD for length, _, at, *_ in accs.entries[i] if length != kernel.FOREVER])

        plan = kernel.Plan(
            s_horizon=_ints(micros(s.policy.horizon) for s in streams),
            s_lateness=_ints(micros(s.policy.lateness) for s in streams),
            s_silence=_ints(kernel.FOREVER if s.policy.silence is None else micros(s.policy.silence) for s in streams),
            s_duplicates=_ints(micros(s.policy.duplicates) for s in streams),
            s_feeds_lo=feeds.lo(),
            feed_table=feeds.part(0),
            feed_space=feeds.part(1),
            feed_mask=feeds.part(2),
            s_labels_lo=anchors.lo(),
            anchor_label=anchors.part(0),
            s_asks_lo=asks.lo(),
            ask_predictor=asks.part(0),
            s_evidence_lo=evidence.lo(),
            evidence_label=evidence.part(0),
            evidence_column=evidence.part(1),
            evidence_mask=evidence.part(2),
            evidence_voids=evidence.part(3),
            t_stride=_ints(2 + len(t.columns) for t in tables),
            t_keep=_ints(t_keep),
            t_lag=_ints(lag for _ in tables),
            t_local=_ints(t_local),
            t_words=_ints(t_words),
            t_base=_ints(t_base),
            t_tree=_ints(t_tree),
            t_decays=_ints(any(acc.halflife for acc in t.accs) for t in tables),
            t_acc_lo=acc_lo,
            t_columns_lo=columns.lo(),
            column=columns.part(0),
            t_extremes_lo=extremes.lo(),
            extreme=extremes.part(0),
            a_length=accs.part(0),
            a_column=accs.part(1),
            a_at=accs.part(2),
            a_sum=accs.part(3),
            a_square=accs.part(4),
            a_min=accs.part(5),
            a_max=accs.part(6),
            a_tally=accs.part(7),
            a_ewm=accs.part(8),
            a_halflife=accs.part(9),
            a_least=accs.part(10),
            a_largest=accs.part(11),
            a_ordered=accs.part(12),
            a_kind=accs.part(13),
            p_lo=_ints(p_lo),
            q_op=q_part(0),
            q_table=q_part(1),
            q_acc=q_part(2),
            q_column=q_part(3),
            q_length=q_part(4),
            q_space=q_part(5),
            q_out=q_part(6),
            q_k=q_part(7),
            q_sum=q_part(8),
            q_mean=q_part(9),
            q_std=q_part(10),
            q_min=q_part(11),
            q_max=q_part(12),
            q_events=q_part(13),
            l_op=per_label(lambda label: _LABEL_OPS[label.op]),
            l_start=per_label(lambda label: micros(label.start)),
            l_end=per_label(lambda label: micros(label.end)),
            l_provisional=per_label(
                lambda label: kernel.FOREVER if label.provisional is None else micros(label.provisional)
            ),
            l_lateness=per_label(
                lambda label: max((micros(streams[s].policy.lateness) for s in self._sources(label)), default=0)
            ),
            l_expiry=_ints(expiries),
            l_join=_ints(joins),
            l_local=_ints(l_local),
            l_lookback=_ints(pair[0] for pair in lookbacks),
            l_lookback_void=_ints(pair[1] for pair in lookbacks),
            l_sources_lo=l_sources.lo(),
            source=l_sources.part(0),
            l_tables_lo=l_tables.lo(),
            label_table=l_tables.part(0),
            label_space=l_tables.part(1),
            label_mask=l_tables.part(2),
            l_leads_lo=l_leads.lo(),
            label_lead=l_leads.part(0),
            lead_predictor=_ints(p for _, p, _ in leads),
            lead_offset=_ints(offset for offset, _, _ in leads),
            s_near_lo=nears.lo(),
            n_space=nears.part(0),
            n_local=nears.part(1),
            n_lines=nears.part(2),
            n_row=nears.part(3),
            n_stride=nears.part(4),
            n_heads_lo=_ints([0, *np.cumsum([len(words) for words in heads])]),
            heads=_ints(word for words in heads for word in words),
        )
        groups = [[o for o in found.outputs if o.kind == "window"] for found, _ in questions]
        groups += [list(found.candidates) for found, _ in questions]
        widths = (
            max([1, *(len(s.columns) for s in streams)]),
            max([1, *(len(s.masks) for s in streams)]),
            max([1, *(sum(output.width for output in group) for group in groups)]),
        )
        self._limits(widths, len(leads), max(map(len, l_tables.entries), default=0))
        self._kept = (
            tuple(
                Kept(
                    space=t.space,
                    streams=t.streams,
                    label=t.label,
                    table=kernel.table_at(plan) + kernel.TABLE_FIELDS * i,
                    local=t_local[i],
                    words=t_words[i],
                    stride=2 + len(t.columns),
                    keep=t_keep[i],
                    for_ever=t.forever or t.never_lets_go,
                    trees=len(extremes.entries[i]),
                    of_label=i in lookback_tables,
                )
                for i, t in enumerate(tables)
            ),
            tuple(zip(joins, l_local, strict=True)),
            max(expiries, default=0),
        )
        packed = kernel.pack(
            plan,
            spaces=len(self.spaces),
            cells_per_key=max(locals_.values(), default=1),
            columns=widths[0],
            conditions=widths[1],
            answers=widths[2],
        )
        return packed, widths

    def _limits(self, widths: tuple[int, int, int], leads: int, pasts: int) -> None:
        for what, number, most in (
            ("event classes", len(self.streams), kernel.STREAMS_MOST),
            ("labels", len(self.labels), kernel.LABELS_MOST),
            ("combinations of keys", len(self.spaces), kernel.SPACES_MOST),
            ("label moments and leads", 3 * len(self.labels) + leads, kernel.QUEUES_MOST),
            ("values per event", widths[0], kernel.COLUMNS_MOST),
            ("conditions per event", widths[1], kernel.CONDITIONS_MOST),
            ("window values per prediction", widths[2], kernel.ANSWERS_MOST),
            ("keys and conditions of windows over one label", pasts, kernel.PASTS_MOST),
            ("fields in windows of one key", max((len(t.columns) for t in self.tables), default=0), kernel.VALUES_MOST),
        ):
            if number > most:
                raise DeclarationError(
                    f"App({self.app.name!r})", found=f"{number} {what}", expected=f"at most {most}", do="split the app"
                )


def spell_plan(plan: Plan) -> str:
    """The plan in words, for `katmatic doctor`: streams, tables and windows."""
    lines = [f"{plan.app.name}: {len(plan.streams)} streams, {len(plan.questions)} predictors"]
    lines += [
        f"  {stream.schema.name} <- {stream.schema.topic}, waits {duration.spell(stream.policy.lateness)}"
        for stream in plan.streams
    ]
    for question in plan.questions:
        reads = [str(window) for window in windows(question.predictor)]
        lines.append(f"  {question.name}: {question.predictor.label}; reads {', '.join(reads) or 'no window'}")
    return "\n".join(lines)
