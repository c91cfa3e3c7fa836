"""The map: the rows that stages hand to each other through the log. A moment is microseconds since 1970 UTC."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from itertools import chain
from typing import Any, ClassVar, Final, NamedTuple, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

NOTHING = -(2**63)  # in a column of moments: there is none

PREDICTIONS: Final = "katmatic.predictions"
LABELS: Final = "katmatic.labels"
DECISIONS: Final = "katmatic.decisions"
MODELS: Final = "katmatic.models"
ALERTS: Final = "katmatic.alerts"
DEAD: Final = "katmatic.dead"
SYSTEM_TOPICS = (PREDICTIONS, LABELS, DECISIONS, MODELS, ALERTS, DEAD)


class LabelState(IntEnum):
    """Where a label is in its life: open -> provisional -> final; revised by later evidence; censored when void."""

    OPEN = 0
    PROVISIONAL = 1
    FINAL = 2
    REVISED = 3
    CENSORED = 4


class Prediction(msgspec.Struct, frozen=True, kw_only=True):
    """One answer, with all that it was made from. `score` None: no model yet (`state` is "learning")."""

    predictor: str
    anchor: int  # position of the anchor event in the log: with the predictor, the identity of the row
    key: tuple[str, ...]  # the anchor's key fields, in the order of their declaration
    time: int  # the anchor's own time
    at: int  # the moment the prediction is about: features are windows that end here
    now: int  # the moment it was made
    lead: int | None  # microseconds before the anchor's time; None: on arrival
    features: dict[str, Any]  # by name; None is unknown
    version: int  # of the model; 0 before the first
    score: float | None  # a probability for a yes/no label, else a value
    state: str = "ok"  # ok | learning | error (a function of the user's or the model raised)


class LabelVersion(msgspec.Struct, frozen=True, kw_only=True):
    """What was known about an anchor's label, from `now` on."""

    label: str
    anchor: int
    key: tuple[str, ...]  # the anchor's key fields
    time: int  # the anchor's own time
    version: int  # 0 is the opening; each change of mind adds one
    state: LabelState
    value: float | None
    now: int
    evidence: int | None = None  # time of the event that settled it


class Example(NamedTuple):
    """A prediction that met its truth, or met another one: what figures are made from."""

    anchor: int
    key: tuple[str, ...]  # the anchor's key fields
    time: int  # the anchor's own time
    at: int  # the moment the prediction is about
    label: float  # NaN: the label is void after all, forget the row
    label_now: int  # when the label became known
    score: float  # NaN: none
    weight: float  # how much the row counts; 0: censored


class ModelVersion(msgspec.Struct, frozen=True, kw_only=True):
    """A change of who answers. `action`: "trained" (a challenger), "promoted", "refused", "rolled-back", "failed".

    `not_before`: no earlier can another training come to more.
    """

    predictor: str
    version: int
    action: str
    reason: str
    now: int
    artifact: str = ""  # folder of the exported model
    metrics: dict[str, float] = {}
    baselines: dict[str, float] = {}
    rows: int = 0
    not_before: int = 0

    @property
    def is_failure(self) -> bool:
        """Whether it failed for another reason than that labelled rows were too few."""
        return self.action == "failed" and not self.rows


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """An action taken on a prediction. `censored`: its truth will not be seen; `propensity`: odds of being let by."""

    predictor: str
    anchor: int
    key: tuple[str, ...]
    action: str
    score: float
    now: int
    censored: bool = False
    propensity: float = 1.0
    error: str | None = None


class Alert(msgspec.Struct, frozen=True, kw_only=True):
    """Something that a person should know. `name` is stable; `text` is for reading; `resolved` ends it."""

    name: str
    severity: str  # info | warning | critical
    text: str
    now: int
    key: tuple[str, ...] = ()
    predictor: str | None = None
    score: float | None = None
    resolved: bool = False


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """An event that could not be applied, whole, with the reason."""

    topic: str
    position: int
    payload: bytes
    where: str
    found: str
    expected: str
    do: str
    now: int


class Skew(msgspec.Struct, frozen=True, kw_only=True):
    """How one predictor's served features compare with a naive replay of the log, since the process began."""

    predictor: str
    rows: int = 0  # computed again, all of their values but those that are unprovable
    values: int = 0  # of these rows, equal
    mismatches: int = 0  # values that are not what they should be
    unprovable: int = 0  # values that would need events that are kept no longer
    skipped: int = 0  # rows that were passed over for want of time


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """A served value that is not what the log says it should be."""

    predictor: str
    anchor: int
    key: tuple[str, ...]
    at: int
    feature: str
    served: str
    found: str


class SkewReport(msgspec.Struct, frozen=True, kw_only=True):
    """What the proof has come to: `differences` are the newest, newest first."""

    now: int
    skews: tuple[Skew, ...] = ()
    differences: tuple[Difference, ...] = ()
    lag_seconds: float = 0.0  # how long ago what it looks at now was committed
    cpu_seconds: float = 0.0  # used so far, without its start
    seconds: float = 0.0  # passed so far
    keys_share: float = 1.0  # of the keys that is looked at, as there is room

    def behind(self, now: int) -> float:
        """How many seconds before `now` was committed what it had come to: the more, the longer it says nothing."""
        return self.lag_seconds + max(0, now - self.now) / 1e6

    @property
    def mismatches(self) -> int:
        """Values that are not what they should be, of all predictors."""
        return sum(skew.mismatches for skew in self.skews)

    @property
    def rows(self) -> int:
        """Rows that were computed again, of all predictors."""
        return sum(skew.rows for skew in self.skews)

    @property
    def unprovable(self) -> int:
        """Values that would need events that are kept no longer, of all predictors."""
        return sum(skew.unprovable for skew in self.skews)

    @property
    def skipped(self) -> int:
        """Rows that were passed over for want of time, of all predictors."""
        return sum(skew.skipped for skew in self.skews)


class Keys(Sequence[tuple[str, ...]]):
    """The keys of a block's rows, equal to a list of them; their texts are made once somebody looks at them."""

    @abstractmethod
    def take(self, rows: NDArray[np.int64]) -> Keys:
        """Some of the rows, by their index."""

    @abstractmethod
    def followed_by(self, others: Sequence[Any]) -> Keys:
        """These, then others of their kind."""

    @abstractmethod
    def packed(self) -> memoryview:
        """As MessagePack has a list of lists of texts."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return repr(list(self))


def made(kind: type[Block], **columns: Any) -> Block:
    """A block of all its columns, in half the time that its own constructor takes."""
    block = object.__new__(kind)
    object.__setattr__(block, "__dict__", columns)
    return block


def _taken(key: Sequence[tuple[str, ...]], rows: NDArray[np.int64]) -> Sequence[tuple[str, ...]]:
    return key.take(rows) if isinstance(key, Keys) else [key[i] for i in rows.tolist()]


def _joined(blocks: Sequence[Any], *names: str) -> NDArray[np.int64]:
    """Columns of integers, each in parts, as rows of one array: one call for all costs half of one for each."""
    return np.concatenate([getattr(block, name) for name in names for block in blocks]).reshape(len(names), -1)


def _keys(keys: Sequence[Sequence[tuple[str, ...]]]) -> Sequence[tuple[str, ...]]:
    """All of them; as their texts are made for all at once, that costs less than to look at each."""
    first, *others = keys
    return first.followed_by(others) if isinstance(first, Keys) else list(chain.from_iterable(keys))


@dataclass(frozen=True)
class PredictionBlock:
    """Predictions of one predictor, as columns: how they travel and how they are logged. n rows, F features."""

    predictor: str
    columns: tuple[str, ...]  # names of the F features, in the order in which the model takes them
    anchor: NDArray[np.int64]
    key: Sequence[tuple[str, ...]]
    time: NDArray[np.int64]
    at: NDArray[np.int64]
    now: NDArray[np.int64]
    lead: NDArray[np.int64]  # NOTHING: on arrival
    values: NDArray[np.float64]  # (n, F); NaN is unknown, or a text
    texts: dict[str, list[Any]]  # the features that are no numbers, by name; None is unknown, or a number
    failed: NDArray[np.bool_]  # a function of the user's raised: the row is marked, its feature unknown
    version: int = 0
    score: NDArray[np.float64] | None = None  # NaN: the model raised; None: no model yet
    packed: ClassVar[bytes | None] = None  # all but predictor, columns, version and score, as they are logged, if known

    def __len__(self) -> int:
        return len(self.anchor)

    def anchors(self) -> list[int]:
        """The anchor of each row."""
        found: list[int] = self.anchor.tolist()
        return found

    def take(self, rows: NDArray[np.int64]) -> PredictionBlock:
        """Some of the rows, by their index."""
        index = rows.tolist()
        return replace(
            self,
            **{name: getattr(self, name)[rows] for name in ("anchor", "time", "at", "now", "lead", "values", "failed")},
            key=_taken(self.key, rows),
            texts={name: [column[i] for i in index] for name, column in self.texts.items()},
            score=None if self.score is None else self.score[rows],
        )

    def followed_by(self, others: Sequence[PredictionBlock]) -> PredictionBlock:
        """These rows, then those of others of the same predictor, version and columns; all scored, or none."""
        blocks = (self, *others)
        scores = [block.score for block in blocks if block.score is not None]
        anchor, time, at, now, lead = _joined(blocks, "anchor", "time", "at", "now", "lead")
        return PredictionBlock(
            predictor=self.predictor,
            columns=self.columns,
            anchor=anchor,
            key=_keys([block.key for block in blocks]),
            time=time,
            at=at,
            now=now,
            lead=lead,
            values=np.concatenate([block.values for block in blocks]),
            texts={name: list(chain.from_iterable(block.texts[name] for block in blocks)) for name in self.texts},
            failed=np.concatenate([block.failed for block in blocks]),
            version=self.version,
            score=np.concatenate(scores) if scores else None,
        )

    def answered(self, version: int, score: NDArray[np.float64]) -> PredictionBlock:
        """The block with the scores that a version gave it."""
        return made(type(self), **{**vars(self), "version": version, "score": score})

    def row(self, i: int) -> Prediction:
        """Row `i` by itself."""
        features = {
            name: _known(self.values[i, j])
            if name not in self.texts or self.texts[name][i] is None
            else self.texts[name][i]
            for j, name in enumerate(self.columns)
        }
        score = None if self.score is None else _known(self.score[i])
        learning = self.score is None
        failed = bool(self.failed[i]) or (score is None and not learning)
        return Prediction(
            predictor=self.predictor,
            anchor=int(self.anchor[i]),
            key=self.key[i],
            time=int(self.time[i]),
            at=int(self.at[i]),
            now=int(self.now[i]),
            lead=None if self.lead[i] == NOTHING else int(self.lead[i]),
            features=features,
            version=self.version,
            score=score,
            state="error" if failed else "learning" if learning else "ok",
        )


@dataclass(frozen=True)
class LabelBlock:
    """Versions of one label, as columns, in the order in which they came about."""

    label: str
    anchor: NDArray[np.int64]
    key: Sequence[tuple[str, ...]]
    time: NDArray[np.int64]
    version: NDArray[np.int64]
    state: NDArray[np.uint8]
    value: NDArray[np.float64]  # NaN: none
    now: NDArray[np.int64]
    evidence: NDArray[np.int64]  # NOTHING: none
    packed: ClassVar[bytes | None] = None  # all but the label, as it is logged, if that is known

    def __len__(self) -> int:
        return len(self.anchor)

    def take(self, rows: NDArray[np.int64]) -> LabelBlock:
        """Some of the rows, by their index."""
        columns = ("anchor", "time", "version", "state", "value", "now", "evidence")
        taken = {name: getattr(self, name)[rows] for name in columns}
        return replace(self, **taken, key=_taken(self.key, rows))

    def anchors(self) -> list[int]:
        """The anchor of each row."""
        found: list[int] = self.anchor.tolist()
        return found

    def followed_by(self, others: Sequence[LabelBlock]) -> LabelBlock:
        """These rows, then those of others of the same label."""
        blocks = (self, *others)
        anchor, time, version, now, evidence = _joined(blocks, "anchor", "time", "version", "now", "evidence")
        return LabelBlock(
            label=self.label,
            anchor=anchor,
            key=_keys([block.key for block in blocks]),
            time=time,
            version=version,
            state=np.concatenate([block.state for block in blocks]),
            value=np.concatenate([block.value for block in blocks]),
            now=now,
            evidence=evidence,
        )

    def row(self, i: int) -> LabelVersion:
        """Row `i` by itself."""
        return LabelVersion(
            label=self.label,
            anchor=int(self.anchor[i]),
            key=self.key[i],
            time=int(self.time[i]),
            version=int(self.version[i]),
            state=LabelState(int(self.state[i])),
            value=_known(self.value[i]),
            now=int(self.now[i]),
            evidence=None if self.evidence[i] == NOTHING else int(self.evidence[i]),
        )


Block = TypeVar("Block", bound=PredictionBlock | LabelBlock)


def _known(number: np.float64) -> float | None:
    return None if np.isnan(number) else float(number)
