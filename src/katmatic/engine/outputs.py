"""Few rows out: what a run of the kernel gave, as blocks that know how they are logged, each in one compiled call."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from katmatic.engine.plan import Plan, Questions
from katmatic.engine.rows import Given, Intake
from katmatic.records import Keys, LabelBlock, PredictionBlock, made
from katmatic.state import kernel, loop, scan
from katmatic.state.columns import Store
from katmatic.state.keys import KeyNumbers

Ints = NDArray[np.int64]

FEW = 64  # so many rows of one run
KEY_BYTES = 256  # there is room for such keys; blocks with longer ones are made as large ones are


class Outputs:
    """Takes away what a run gave, if it is little."""

    def __init__(self, plan: Plan, store: Store, intake: Intake) -> None:
        self._plan, self._store = plan, store
        self._counts = store.words.data[kernel.N_PREDICTIONS : kernel.N_DONE + 1]
        self._labels = [_Room(store, plan, i, plan.label_keys[i]) for i in range(len(plan.labels))]
        self._questions = [
            _Room(store, plan, p, plan.label_keys[q.label], q, intake) for p, q in enumerate(plan.questions)
        ]
        self.plain = [room.is_plain for room in self._questions]  # predictors with no other features than numbers

    def counts(self) -> list[int]:
        """How many predictions, label versions, silent sources and closed anchors a run gave."""
        return self._counts.tolist()

    def labels(self) -> list[tuple[LabelBlock, Any]] | None:
        """The versions of each label, and their orders; None if they are too many."""
        found: list[tuple[LabelBlock, Any]] = []
        for (name, _), room in zip(self._plan.labels, self._labels, strict=True):
            n, size = loop.labels(room.about_at)
            if n < 0:
                return None
            if n:
                few = _Few(room.words(n), n, room.keys, 1, self._store.keys)
                block = made(FewLabels, label=name, packed=bytes(room.letters[:size]), few=few)
                found.append((block, few.whole_numbers(0)))
        return found

    def predictions(self, p: int, given: Given) -> list[tuple[FewPredictions, Any]] | None:
        """What a plain predictor was asked, if it was, and the orders; None if it is much, or anchors are not here."""
        questions, room = self._plan.questions[p], self._questions[p]
        n, size = loop.predictions(room.about_at, given.few.get(questions.stream, 0))
        if n <= 0:
            return [] if n == 0 else None
        few = _Few(room.words(n), n, room.keys, 8 * room.width, self._store.keys)
        block = made(
            FewPredictions,
            predictor=questions.name,
            columns=questions.columns,
            values=few.values(),
            texts={},
            packed=bytes(room.letters[:size]),
            few=few,
        )
        return [(block, few.whole_numbers(0))]


class _Few:
    """The columns of few rows, as compiled code left them: seven, the keys of each row, and so many bytes of each."""

    def __init__(self, words: bytearray, n: int, keys: int, rest: int, numbers: KeyNumbers) -> None:
        self._words, self.n, self._keys, self._rest, self._numbers = words, n, keys, rest, numbers

    def whole_numbers(self, column: int) -> memoryview:
        """One of the seven."""
        return memoryview(self._words).cast("q")[column * self.n : (column + 1) * self.n]

    def columns(self) -> Ints:
        """The seven."""
        return np.frombuffer(self._words, np.int64, 7 * self.n).reshape(7, self.n)

    def key(self) -> Keys:
        """The keys."""
        n, width = self.n, self._keys
        return self._numbers.rows(np.frombuffer(self._words, np.int64, n * width, 56 * n).reshape(n, width))

    def values(self) -> NDArray[np.float64]:
        """The rest, as floats."""
        n, width = self.n, self._rest // 8
        return np.frombuffer(self._words, np.float64, n * width, 8 * (7 + self._keys) * n).reshape(n, width)

    def states(self) -> NDArray[np.uint8]:
        """The rest, as bytes."""
        return np.frombuffer(self._words, np.uint8, self.n * self._rest, 8 * (7 + self._keys) * self.n)

    def followed_by(self, others: Sequence[_Few]) -> _Few:
        """These rows, then those of others of the same columns."""
        ends = [*range(8, 64, 8), 56 + 8 * self._keys, 56 + 8 * self._keys + self._rest]  # of each, in bytes of a row
        fews, spans = (self, *others), list(pairwise([0, *ends]))
        words = bytearray().join(few._words[start * few.n : stop * few.n] for start, stop in spans for few in fews)
        words += bytes(-len(words) % 8)
        return _Few(words, sum(few.n for few in fews), self._keys, self._rest, self._numbers)


class _Late:
    """A block whose columns are made once somebody looks at one of them."""

    def __len__(self) -> int:
        few = vars(self).get("few")
        return few.n if few is not None else len(vars(self)["anchor"])

    def anchors(self) -> list[int]:
        """The anchor of each row."""
        few = vars(self).get("few")
        found: list[int] = (few.whole_numbers(1) if few is not None else vars(self)["anchor"]).tolist()
        return found

    def __getattr__(self, name: str) -> Any:
        few = vars(self).get("few")
        if few is None or name not in type(self).__dataclass_fields__:  # type: ignore[attr-defined]
            raise AttributeError(f"{type(self).__name__} has no {name}")
        vars(self).update(self._made(few))
        return vars(self)[name]

    def _made(self, few: _Few) -> dict[str, Any]:
        """The columns by name."""
        raise AttributeError(type(self).__name__)


class FewLabels(_Late, LabelBlock):
    """Versions of a label."""

    few: _Few

    def _made(self, few: _Few) -> dict[str, Any]:
        names = "anchor", "time", "version", "now", "evidence"
        *columns, value = few.columns()[1:]
        made = dict(zip(names, columns, strict=True))
        return {**made, "key": few.key(), "value": value.view(np.float64), "state": few.states()}

    def followed_by(self, others: Sequence[LabelBlock]) -> LabelBlock:
        """These rows, then those of others of the same label."""
        few = _all_few((self, *others))
        return super().followed_by(others) if few is None else made(FewLabels, label=self.label, few=few)


class FewPredictions(_Late, PredictionBlock):
    """Predictions."""

    few: _Few

    def _made(self, few: _Few) -> dict[str, Any]:
        made = dict(zip(("anchor", "time", "at", "now", "lead"), few.columns()[1:6], strict=True))
        return {**made, "key": few.key(), "failed": np.zeros(few.n, np.bool_)}

    def followed_by(self, others: Sequence[PredictionBlock]) -> PredictionBlock:
        """These rows, then those of others of the same predictor, version and columns; all scored, or none."""
        blocks = (self, *others)
        few = _all_few(blocks)
        if few is None:
            return super().followed_by(others)
        scores = [block.score for block in blocks if block.score is not None]
        return made(
            FewPredictions,
            predictor=self.predictor,
            columns=self.columns,
            values=few.values(),
            texts={},
            version=self.version,
            score=np.concatenate(scores) if scores else None,
            few=few,
        )

    def rows(self) -> Ints:
        """The rows of the anchors."""
        found: Ints = self.few.columns()[6]
        return found


def _all_few(blocks: Sequence[PredictionBlock | LabelBlock]) -> _Few | None:
    """The rows of all, if each is as compiled code left it."""
    first, *others = (vars(block).get("few") for block in blocks)
    return None if first is None or None in others else first.followed_by(others)


class _Room:
    """Memory for the rows of one label or predictor, and what compiled code is told about it."""

    def __init__(
        self,
        store: Store,
        plan: Plan,
        owner: int,
        spaces: Sequence[int],
        questions: Questions | None = None,
        intake: Intake | None = None,
    ) -> None:
        self.keys = len(spaces)
        self.is_plain, self.width, sources, table, places = False, 0, np.zeros(0, np.int64), 0, 0
        fields: tuple[int, int] = (0, 0)
        if questions is not None and intake is not None:
            its = intake.streams[questions.stream]
            found = _sources(questions, its.reader.layout.numbers)
            fields, table = its.reader.layout.fields[:2], its.table_at
            places = its.places_at
            self.is_plain, self.width = found is not None, len(questions.columns)
            sources = np.array(found or [], np.int64)
        width = self.width if self.is_plain else 0
        self._out = np.empty(FEW * (8 + self.keys + width), np.int64)
        self._letters = np.empty((FEW + 1) * (KEY_BYTES + 64 + 8 * width), np.uint8)
        self._made = self._out.data
        self.letters = self._letters.data
        parts = np.array(spaces, np.int64)
        self._held = parts, sources
        self._about = np.zeros(scan.GIVEN_WORDS, np.int64)
        self._about[:] = (
            *(owner, store.words.ctypes.data, len(plan.spaces), parts.ctypes.data, len(parts), store.keys.about_at),
            *(self._out.ctypes.data, FEW, self._letters.ctypes.data, len(self._letters)),
            *(sources.ctypes.data, width, plan.widths[2], *fields, table, places),
        )
        self.about_at: int = self._about.ctypes.data
        self._words_per_row, self._is_label = 7 + self.keys + width, questions is None

    def words(self, n: int) -> bytearray:
        """A copy of what was put there: the next run takes the memory again."""
        return bytearray(self._made[: self._words_per_row * n + (n + 7 >> 3 if self._is_label else 0)])


def _sources(questions: Questions, numbers: dict[str, int]) -> list[int] | None:
    """Where each feature comes from: its place among the answers, or -1 - its field; None if one is no number."""
    found = [0] * len(questions.columns)
    for to, of in questions.blocks:
        found[to] = range(of.start, of.stop)
    for output in questions.others:
        if output.kind != "field" or output.field not in numbers:
            return None
        found[questions.places[output.name]] = -1 - numbers[output.field]
    return found
