"""Questions from outside: a predictor's features for anchors that are not in the log; later answers stay the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from katmatic.engine.features import Anchors, assemble, moments
from katmatic.engine.plan import Output, Plan, Questions, micros
from katmatic.engine.rows import numbers
from katmatic.engine.step import State
from katmatic.engine.validate import Columns, in_range, take
from katmatic.errors import InputError
from katmatic.moment import to_datetime
from katmatic.records import NOTHING, PredictionBlock
from katmatic.spec.event import schema
from katmatic.state import kernel, loop

OUTSIDE = -1  # position of an anchor that is not in the log


def ask(
    plan: Plan, state: State, questions: Questions, anchors: Sequence[Mapping[str, Any]], now: int
) -> PredictionBlock:
    """Features of `questions` for each anchor, given by its fields; an anchor without a time is one of `now`.

    Windows end now, or at the anchor's own time if that is earlier. Raises InputError for what would be a dead letter
    if it came now: what is no such event, and one behind the horizon, since not all is kept that it would be about.
    """
    columns = _read(plan, state, questions, anchors, now)
    at = np.minimum(columns.time, now)
    index = next(i for i, known in enumerate(plan.questions) if known is questions)
    answers = _answers(plan, state, index, columns, at)
    events = state.readers[questions.stream].events
    given = Anchors(columns.fields.__getitem__, lambda: events(columns), lambda: moments(at, plan.zone))
    made = assemble(questions, answers, given, state.store.codes)
    keys = [columns.fields[name] for name in schema(questions.predictor.anchor).keys]
    n = len(columns)
    lead = columns.time - now if questions.predictor.lead else np.full(n, NOTHING, np.int64)
    return PredictionBlock(
        predictor=questions.name,
        columns=questions.columns,
        anchor=np.full(n, OUTSIDE, np.int64),
        key=list(zip(*keys, strict=True)) if keys else [()] * n,
        time=columns.time,
        at=at,
        now=np.full(n, now, np.int64),
        lead=lead,
        values=made.values,
        texts=made.texts,
        failed=made.failed,
    )


def candidates(plan: Plan, state: State, questions: Questions, anchor: Mapping[str, Any], now: int) -> list[Any]:
    """What a ranking chooses from for this anchor: the values of its windows, each once, in their order."""
    return candidates_of(plan, state, questions, [anchor], now)[0]


def candidates_of(
    plan: Plan, state: State, questions: Questions, anchors: Sequence[Mapping[str, Any]], now: int
) -> list[list[Any]]:
    """What a ranking chooses from, for each of these anchors."""
    columns = _read(plan, state, questions, anchors, now)
    answers = _answers(plan, state, questions.ranking, columns, np.minimum(columns.time, now))
    return [list(dict.fromkeys(n for o in questions.candidates for n in _names(state, o, row))) for row in answers]


def _names(state: State, output: Output, row: Any) -> list[Any]:
    assert output.codes is not None
    names = state.store.codes[output.codes].names
    return [names[int(code)] for code in row[output.at : output.at + output.width].tolist() if code == code]


def _read(plan: Plan, state: State, questions: Questions, anchors: Sequence[Mapping[str, Any]], now: int) -> Columns:
    reader = state.readers[questions.stream]
    time = schema(questions.predictor.anchor).time
    moment = to_datetime(now).isoformat()
    columns = reader.read([msgspec.json.encode({time: moment, **anchor}) for anchor in anchors])
    facts = plan.streams[questions.stream]
    horizon, ahead = micros(facts.policy.horizon), micros(facts.policy.ahead)
    strays = in_range(columns, np.full(len(columns), now), horizon, ahead, facts.schema)
    for dead in [*columns.dead, *strays]:
        e = dead.error
        raise InputError(f"[{dead.index}] {e.where}", found=e.found, expected=e.expected, do=e.do)
    return take(columns, np.arange(len(columns)))


def _answers(plan: Plan, state: State, question: int, columns: Columns, at: Any) -> Any:
    store = state.store
    answers = np.empty((len(columns), plan.widths[2]))
    keys = np.full((len(columns), len(plan.spaces)), -1, np.int64)
    for s, space in enumerate(plan.spaces):
        if all(name in columns.fields for name in space):
            keys[:, s] = numbers(store.keys, s, space, columns, adds=False)
    for i in range(len(columns)):
        store.words[kernel.ANSWER_AT : kernel.ANSWER_AT + len(plan.spaces)] = keys[i]
        loop.ask(plan.tables, store.words, store.reals, question, int(at[i]))
        first = kernel.ANSWER_AT + kernel.SPACES_MOST
        answers[i] = store.reals[first : first + plan.widths[2]]
    return answers
