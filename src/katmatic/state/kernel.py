"""The compiled inner loop: one arena of words, one packed plan; the same for one event and for a hundred thousand.

All that is remembered lies in one arena of 8-byte words (`words`; `reals` is the same memory as floats):

* a **cell** per key and table: where its ring lies, and running aggregates as of the moment last asked about;
* a **ring** per cell: the key's recent events in the order of (time, position): time, position, values;
* an **anchor** per open label: its life so far, in a list per join key.

The plan (which windows, which labels) is data, so that one compiled kernel serves every declaration. It travels as
addresses: functions that took arrays would copy and count each at every call, which was nine tenths of the time.
The meaning is that of docs/reference/semantics.md; the naive oracle in the tests says the same.

Sums are kept as three floats whose exact sum is the sum of the window's values (error-free transformations: D. E.
Knuth, TAOCP vol. 2, 4.2.2, theorem B; J. R. Shewchuk, "Adaptive Precision Floating-Point Arithmetic", 1997), so that
values leave a window as exactly as they entered it, and a result is rounded once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


FOREVER = -1
NEVER = -(2**62)
LATEST = 2**62
NOTHING = -(2**63)

# Row kinds.
EVENT, HEARTBEAT, DECISION, PASSING = 0, 1, 2, 3  # passing: only time does, by a tick or a dead record
# Row outcomes.
APPLIED, LATE, DUPLICATE, NO_EVENT = 0, 1, 2, 3
# Ranks of what falls due at the same moment.
PROVISIONAL_DUE, FINAL_DUE, PREDICTION_DUE, EXPIRY_DUE = 0, 1, 2, 3
# Label states, as in records.LabelState.
OPEN, PROVISIONAL, FINAL, REVISED, CENSORED = 0, 1, 2, 3, 4
# Label operations.
L_ANY, L_NONE, L_COUNT, L_SUM, L_MEAN, L_LAST = 0, 1, 2, 3, 4, 5
# Window operations.
COUNT, SUM, MEAN, STD, MIN, MAX, DISTINCT, LAST, FIRST, SINCE, EWM, TOP = 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11
DIFFERENT = 12  # as DISTINCT, of values that have no number: those of labels
USUAL = 13  # any of COUNT, SUM, MEAN, STD, MIN and MAX of one window

# Words of a cell.
RING, CAP, START, LEN, ASOF, TAIL, CELL_WORDS = range(7)
# What is seldom looked at lies behind the accumulators: at T_TREE the address of its trees, and at T_BASE the newest
# event that was let go, and per column the last and the first value of such events.
BASE_TIME, BASE_POS, BASE_WORDS = 0, 1, 2
# Words of a queue.
Q_DUE, Q_ORDER, Q_RING, Q_CAP, Q_START, Q_LEN = 0, 1, 2, 3, 4, 5
# Words of an accumulator: index of the window's first event, time of that event, number of values; then its parts.
# A count of events in a window that ends has no more than the first two: the number is that of the events.
HEAD, EDGE, NUMBER, ACC_WORDS = 0, 1, 2, 3
EWM_WORDS = 3  # of decayed sums: those of what was let go, then those of all events
TALLY, TALLY_ROOM, DIFFER, TALLY_WORDS = 0, 1, 2, 3  # of a tally: where it lies, for how many values, how many it has
# Words of an anchor: those that every label needs, the keys of all spaces, and the others, if any label needs them.
AN_LABEL, AN_POS, AN_TIME, AN_STATE, AN_VERSION, AN_VALUE, AN_WAITS, AN_LATEST = range(8)
AN_NEXT, AN_PREV, AN_VOID, AN_EVIDENCE, AN_NUMBER, AN_KEYS = range(8, 14)
AN_LEFT_OUT, AN_LEADS, AN_SUM, AN_LAST_TIME, AN_LAST_POS, AN_LAST, AN_MORE = 0, 1, 2, 5, 6, 7, 8  # after the keys
PASTS_MOST = 63  # bits of AN_LEFT_OUT: the tables of a label whose condition its anchor does not meet
# Free lists: blocks of one size each; those of rings follow by stride.
CELLS, WAITING, ANCHORS, IDENTITIES, TREES, TALLIES = 0, 1, 2, 60, 61, 62
VALUES_MOST = 57  # so that a ring's stride, which is 2 more, stays below the free list of identities
SIZES = 48  # log2 of the largest ring
# The arena: address 0 is nobody's; then single words,
USED, HEAP_LEN, NEXT_DUE, NOW, ORDER = 1, 2, 3, 5, 6
N_PREDICTIONS, N_LABELS, N_HOLDS, N_DONE = 7, 8, 9, 10
FAILED, ASKED_FROM, BITS = 17, 18, 19
# a copy of an event's values, sums in lanes, room to calculate, the free lists,
SPARE, LANES_AT, SCRATCH, FREE_AT = 128, 192, 256, 512
# per stream (label): the moment it was last heard, the largest time seen, whether its silence was told, what it holds,
HEARD_AT, LATEST_AT, ALERTED_AT, HELD_AT = 4096, 4352, 4608, 4864
STREAMS_MOST, LABELS_MOST = 256, 256
# the event that is being applied,
ROW_KEYS_AT, ROW_VALUES_AT, ROW_MASKS_AT = 5376, 5632, 6144
SPACES_MOST, COLUMNS_MOST, CONDITIONS_MOST = 256, 120, 256
# per stream the tables of identities, the newer and the older: where they lie, their room, how many the newer has, and
# since when; the next one, and how much of it is ready; the one that the newer was, and how much of it has moved there,
IDENTITIES_AT = 6400
DUP_AT, DUP_CAP, DUP_LEN, DUP_SINCE, OLD_AT, OLD_CAP = range(6)
NEXT_AT, NEXT_CAP, NEXT_READY, LAST_AT, LAST_CAP, LAST_MOVED, DUP_WORDS = range(6, 13)
# the queues of what falls due: per label a provisional and a final one, then one per lead, then per label its expiries,
QUEUES_AT, QUEUE_WORDS, QUEUES_MOST = 9472, 8, 2048
# and all that is taken and given back; address space costs nothing until it is written.
WORDS_FIRST = QUEUES_AT + QUEUE_WORDS * QUEUES_MOST
CELLS_AT = 1 << 31  # per key and table: the address of its cell
HEAP_AT = CELLS_AT + (1 << 30)  # (n, 3): due, rank and anchor, address
WAITING_LIMIT = 1 << 26
ANSWERS_MOST = 1024
FRONT_AT = HEAP_AT + 3 * WAITING_LIMIT  # of a tally's entries: those that may come next in order
# What a step gives: labels (n, 8): order, label, anchor, time, version, state, now, evidence;
# questions (n, 8): order, predictor, anchor, time, at, now, lead, row (or -1); anchors whose last lead has passed.
OUTPUTS_LIMIT = 1 << 20
OUTPUTS_FULL = OUTPUTS_LIMIT >> 1  # then a step pauses, so that one event may still give as many again
OUT_LABELS_AT = FRONT_AT + 2 * ANSWERS_MOST
OUT_LABEL_VALUES_AT = OUT_LABELS_AT + 8 * OUTPUTS_LIMIT
OUT_LABEL_KEYS_AT = OUT_LABEL_VALUES_AT + OUTPUTS_LIMIT
OUT_ASKED_AT = OUT_LABEL_KEYS_AT + SPACES_MOST * OUTPUTS_LIMIT
OUT_ASKED_KEYS_AT = OUT_ASKED_AT + 8 * OUTPUTS_LIMIT
OUT_FEATURES_AT = OUT_ASKED_KEYS_AT + SPACES_MOST * OUTPUTS_LIMIT
OUT_HOLDS_AT = OUT_FEATURES_AT + ANSWERS_MOST * OUTPUTS_LIMIT
OUT_DONE_AT = OUT_HOLDS_AT + STREAMS_MOST * 4096
ANSWER_AT = OUT_DONE_AT + 2 * OUTPUTS_LIMIT  # keys, then answers, of a question from outside
ARENA_WORDS = ANSWER_AT + SPACES_MOST + ANSWERS_MOST

# Why a step failed.
STATE_FULL, WAITING_FULL, OUTPUTS_OVER = 1, 2, 3

DAY = 86_400_000_000.0
LINE_WORDS = 8  # of a cache line
BLOCK_BITS = 4  # of a tree, whose blocks are of 16, 256, ... events
TALLY_ROOM_FIRST = 4
ADDED_UP = 8  # events: more than these that enter or leave windows at once are added up first,
LANES, IN_LANES = 4, 16  # and from so many on in lanes
TREE_EVENTS = 64  # a ring gets its trees once an extreme is looked for among more than these
RING_CAPACITY_FIRST = 4
QUEUE_CAPACITY_FIRST = 64
EXPIRED_EVERY = 64  # rows
ROWS_AHEAD = 48  # of a batch are brought near,
OUTPUTS_AHEAD = 8  # and what will be written
ANCHORS_AHEAD, LISTS_AHEAD = 6, 2  # of a queue: the anchors, and of those that expire the lists that they leave
IDENTITIES_FIRST = 64
IDENTITIES_AT_ONCE = 16  # entries that are made ready, or moved, with one event: a table need never be halted for


# Words of a window's accumulator, of a question and of a table in a packed plan; their handles are their addresses.
(
    A_LENGTH,
    A_COLUMN,
    A_AT,
    A_SUM,
    A_SQUARE,
    A_MIN,
    A_MAX,
    A_TALLY,
    A_EWM,
    A_HALFLIFE,
    A_LEAST,
    A_LARGEST,
    A_ORDERED,
    A_KIND,
    ACC_FIELDS,
) = range(15)
# One question asks an accumulator for all of its usual aggregates: Q_OUT is the place of the number of its values,
# Q_EVENTS that of its events, Q_SUM that of its sum, and so on.
(
    Q_OP,
    Q_TABLE,
    Q_ACC,
    Q_COLUMN,
    Q_LENGTH,
    Q_SPACE,
    Q_OUT,
    Q_K,
    Q_SUM,
    Q_MEAN,
    Q_STD,
    Q_MIN,
    Q_MAX,
    Q_EVENTS,
    QUESTION_FIELDS,
) = range(15)
COUNTED, PLAIN, GENERAL = 0, 1, 2  # kinds of accumulators: nothing but events, sums and extremes, anything
N_SPACE, N_LOCAL, N_LINES, N_ROW, N_STRIDE, N_LO, N_HI, NEAR_FIELDS = range(8)
(
    T_STRIDE,
    T_KEEP,
    T_LAG,
    T_LOCAL,
    T_WORDS,
    T_BASE,
    T_TREE,
    T_DECAYS,
    T_ACC_LO,
    T_ACC_HI,
    T_COLUMNS_LO,
    T_COLUMNS_HI,
    T_EXTREMES_LO,
    T_EXTREMES_HI,
    TABLE_FIELDS,
) = range(15)
# Where its other lists begin: plan[plan[S_HORIZON] + stream] is a stream's horizon.
(
    S_HORIZON,
    S_LATENESS,
    S_SILENCE,
    S_DUPLICATES,
    S_FEEDS_LO,
    FEED_TABLE,
    FEED_SPACE,
    FEED_MASK,
    S_LABELS_LO,
    ANCHOR_LABEL,
    S_ASKS_LO,
    ASK_PREDICTOR,
    S_EVIDENCE_LO,
    EVIDENCE_LABEL,
    EVIDENCE_COLUMN,
    EVIDENCE_MASK,
    EVIDENCE_VOIDS,
    COLUMN,
    EXTREME,
    P_LO,
    L_OP,
    L_START,
    L_END,
    L_PROVISIONAL,
    L_LATENESS,
    L_EXPIRY,
    L_JOIN,
    L_LOCAL,
    L_LOOKBACK,
    L_LOOKBACK_VOID,
    L_SOURCES_LO,
    SOURCE,
    L_TABLES_LO,
    LABEL_TABLE,
    LABEL_SPACE,
    LABEL_MASK,
    L_LEADS_LO,
    LABEL_LEAD,
    LEAD_PREDICTOR,
    LEAD_OFFSET,
    S_NEAR_LO,
    HEADS,
) = range(42)
SPACES, CELLS_PER_KEY, LABELS, QUEUES, COLUMNS, CONDITIONS, ANSWERS, ANCHOR_MORE = range(42, 50)
PLAN_WORDS = 50


class Plan(NamedTuple):
    """The declaration as tables of numbers; built by engine/plan.py. `x_lo[i]:x_lo[i + 1]` are the entries of `i`."""

    # streams
    s_horizon: Ints
    s_lateness: Ints
    s_silence: Ints  # FOREVER: never silent
    s_duplicates: Ints
    s_feeds_lo: Ints  # tables that a stream feeds
    feed_table: Ints
    feed_space: Ints
    feed_mask: Ints  # column of the condition, -1: none
    s_labels_lo: Ints  # labels whose anchor a stream is
    anchor_label: Ints
    s_asks_lo: Ints  # predictors asked when an anchor of the stream arrives
    ask_predictor: Ints
    s_evidence_lo: Ints  # labels to which a stream is evidence (or voids them)
    evidence_label: Ints
    evidence_column: Ints  # of the value, -1: none
    evidence_mask: Ints
    evidence_voids: Ints
    # tables
    t_stride: Ints
    t_keep: Ints  # FOREVER: nothing is let go
    t_lag: Ints  # no question is ever older than now - lag
    t_local: Ints  # place in the key's row of cells
    t_words: Ints
    t_base: Ints  # where in the cell lies what is kept of events that were let go, 0: nowhere
    t_tree: Ints  # where in the cell the address of its trees lies, 0: nowhere
    t_decays: Ints  # 1: it has decayed sums
    t_acc_lo: Ints
    t_columns_lo: Ints
    column: Ints  # value column of the batch
    t_extremes_lo: Ints
    extreme: Ints  # column of the table, times 2, plus 1 for the largest: what is kept in a tree over long rings
    # accumulators
    a_length: Ints
    a_column: Ints
    a_at: Ints
    a_sum: Ints  # word within the accumulator, -1: not kept
    a_square: Ints
    a_min: Ints
    a_max: Ints
    a_tally: Ints
    a_ewm: Ints
    a_halflife: Ints
    a_least: Ints  # which of the table's trees, -1: none
    a_largest: Ints
    a_ordered: Ints  # 1: its tally has the most frequent value first
    a_kind: Ints
    # questions: the windows of predictors
    p_lo: Ints
    q_op: Ints
    q_table: Ints
    q_acc: Ints
    q_column: Ints
    q_length: Ints
    q_space: Ints
    q_out: Ints
    q_k: Ints
    q_sum: Ints  # of USUAL: answers' places, -1: not asked
    q_mean: Ints
    q_std: Ints
    q_min: Ints
    q_max: Ints
    q_events: Ints
    # labels
    l_op: Ints
    l_start: Ints
    l_end: Ints
    l_provisional: Ints  # FOREVER: none
    l_lateness: Ints
    l_expiry: Ints  # after the anchor's time
    l_join: Ints  # space
    l_local: Ints  # of the two words with the last of the key's anchors: those that evidence may change, the others
    l_lookback: Ints  # table of evidence that came before its anchor
    l_lookback_void: Ints
    l_sources_lo: Ints
    source: Ints
    l_tables_lo: Ints  # tables that a label feeds: the past of a label
    label_table: Ints
    label_space: Ints
    label_mask: Ints  # column of the condition on the anchor, -1: none
    l_leads_lo: Ints
    label_lead: Ints  # moments at which predictors of the label ask, in the order of (moment, predictor)
    lead_predictor: Ints
    lead_offset: Ints
    # what a row of a stream will touch, to be brought near in time:
    s_near_lo: Ints
    n_space: Ints
    n_local: Ints
    n_lines: Ints  # cache lines of the cell
    n_row: Ints  # 1: the first of its key's row of cells, in its cache line
    n_stride: Ints
    n_heads_lo: Ints
    heads: Ints  # words of the cell that say where in its ring a window begins


def table_at(plan: Plan) -> int:
    """The handle of the first table; the next follows TABLE_FIELDS words later."""
    lists = sum(len(values) for name, values in plan._asdict().items() if not name.startswith(_RECORDS))
    return PLAN_WORDS + lists + ACC_FIELDS * len(plan.a_length) + QUESTION_FIELDS * len(plan.q_op)


def pack(plan: Plan, *, spaces: int, cells_per_key: int, columns: int, conditions: int, answers: int) -> Ints:
    """The plan as one array: where each list begins, sizes, the lists, then accumulators, questions and tables."""
    lists = plan._asdict()
    a, q, t, n = ({name: lists.pop(name) for name in plan._fields if name.startswith(prefix)} for prefix in _RECORDS)
    tables, accs, questions, nears = len(plan.t_stride), len(plan.a_length), len(plan.q_op), len(plan.n_space)
    begins = PLAN_WORDS + np.cumsum([0, *(len(values) for values in lists.values())])
    acc_at = int(begins[-1])
    question_at = acc_at + ACC_FIELDS * accs
    table_at = question_at + QUESTION_FIELDS * questions
    near_at = table_at + TABLE_FIELDS * tables

    def address(index: Ints, at: int, fields: int) -> Ints:
        return np.where(index >= 0, at + fields * index, -1)

    for name in ("feed_table", "label_table", "l_lookback", "l_lookback_void"):
        lists[name] = address(lists[name], table_at, TABLE_FIELDS)
    lists["p_lo"] = address(plan.p_lo, question_at, QUESTION_FIELDS)
    lists["s_near_lo"] = address(plan.s_near_lo, near_at, NEAR_FIELDS)
    q["q_table"] = address(plan.q_table, table_at, TABLE_FIELDS)
    q["q_acc"] = address(plan.q_acc, acc_at, ACC_FIELDS)
    acc_lo = address(t.pop("t_acc_lo"), acc_at, ACC_FIELDS)
    columns_lo, extremes_lo = t.pop("t_columns_lo"), t.pop("t_extremes_lo")
    ends = [part for lo in (acc_lo, columns_lo, extremes_lo) for part in (lo[:-1], lo[1:])]
    labels, leads = len(plan.l_op), len(plan.lead_offset)
    simple = not leads and not len(plan.label_table) and not set(plan.l_op.tolist()) & {L_SUM, L_MEAN, L_LAST}
    more = -1 if simple else AN_KEYS + spaces
    sizes = [spaces, cells_per_key, labels, 2 * labels + leads, columns, conditions, answers, more]
    heads_lo = n.pop("n_heads_lo") + begins[list(lists).index("heads")]
    records = [*_records(a.values(), accs), *_records(q.values(), questions), *_records([*t.values(), *ends], tables)]
    records += _records([*n.values(), heads_lo[:-1], heads_lo[1:]], nears)
    return np.concatenate([begins[:-1], sizes, *lists.values(), records]).astype(np.int64)


_RECORDS = ("a_", "q_", "t_", "n_")


def _records(fields: Iterable[Ints], count: int) -> list[int]:
    return [int(values[i]) for fields in [list(fields)] for i in range(count) for values in fields]


class Rows(NamedTuple):
    """Records to apply, in order."""

    kind: Ints
    stream: Ints
    time: Ints
    now: Ints
    pos: Ints
    identity: Ints
    keys: Ints  # (n, spaces), -1: not of this stream
    values: Floats  # (n, columns)
    masks: NDArray[np.uint8]  # (n, conditions)
    fate: NDArray[np.uint8]  # what became of each; written

    def first(self, count: int) -> Rows:
        """The first of them, in the same memory."""
        return Rows(*[array[:count] for array in self])  # type: ignore[arg-type]


COMPILED: list[str] = []  # names of the functions that are compiled
INLINED: list[str] = []  # and of those that go into whoever calls them


def jit(function: Any) -> Any:
    """Mark a function for the compiler (state/compile.py); as Python it runs too, a thousand times slower."""
    COMPILED.append(function.__name__)
    return function


def hot(function: Any) -> Any:
    """As `jit`, for what nearly every event comes through: a call costs some thirty instructions."""
    INLINED.append(function.__name__)
    return jit(function)


def _prefetch(words, at):
    """Have the cache line of `words[at]` brought near while other work goes on; compiled to one instruction."""


def _slide(words, at, count, by):
    """`count` words from `words[at]` on move to `words[at + by]`; compiled to one call."""
    for i in range(count - 1, -1, -1) if by > 0 else range(count):
        words[at + by + i] = words[at + i]


def _add_lanes(reals, values, stride, count, to):
    """Each LANES-th of `count` values, which are whole rounds, to one lane; compiled to instructions for all lanes.

    From `to` on lie the number of each lane's values, three parts of their sum, the least and the largest.
    """
    for i in range(count):
        x, lane = reals[values + i * stride], to + i % LANES
        if x == x:
            reals[lane] += 1.0
            reals[lane + LANES], e = _two_sum(reals[lane + LANES], x)
            reals[lane + 2 * LANES], e = _two_sum(reals[lane + 2 * LANES], e)
            reals[lane + 3 * LANES] += e
            reals[lane + 4 * LANES] = min(reals[lane + 4 * LANES], x)
            reals[lane + 5 * LANES] = max(reals[lane + 5 * LANES], x)


# ---------------------------------------------------------------------------------------------------- exact arithmetic


@jit
def _add(reals, at, x):
    a = reals[at]
    s = a + x
    b = s - a
    e = (a - (s - b)) + (x - b)
    a = reals[at + 1]
    s2 = a + e
    b = s2 - a
    reals[at] = s
    reals[at + 1] = s2
    reals[at + 2] += (a - (s2 - b)) + (e - b)


@jit
def _two_sum(a, b):
    s = a + b
    v = s - a
    return s, (a - (s - v)) + (b - v)


@jit
def _two_product(a, b):
    # T. J. Dekker's splitting: exact while neither factor overflows when scaled by 2^27.
    p = a * b
    c = 134217729.0 * a
    ah = c - (c - a)
    al = a - ah
    c = 134217729.0 * b
    bh = c - (c - b)
    bl = b - bh
    return p, ((ah * bh - p) + ah * bl + al * bh) + al * bl


@jit
def _parted(reals, at):
    """The three parts as s + t + u, where s is nearly all: their sum is the same."""
    s, t = _two_sum(reals[at], reals[at + 1])
    t, u = _two_sum(t, reals[at + 2])
    s, t = _two_sum(s, t)
    return s, t, u


@jit
def _rounded(s, t, u):
    """The sum of three parts, rounded once (to even, as math.fsum does)."""
    t, u = _two_sum(t, u)
    s, t = _two_sum(s, t)
    if t != 0.0 and u != 0.0 and (t > 0.0) == (u > 0.0):
        y = 2.0 * t
        x = s + y
        if x - s == y:
            return x
    return s


@jit
def _total(reals, at):
    """The sum of the three parts, rounded once."""
    s, t, u = _parted(reals, at)
    return _rounded(s, t, u)


@jit
def _share(s, t, u, number):
    """(s + t + u) / number, rounded once in all but ties: the quotient of s, corrected by the exact remainder."""
    count = float(number)
    q = s / count
    p, e = _two_product(q, count)
    return q + (((s - p) - e) + (t + u)) / count  # s - p and what e leaves of it are exact: they have few bits


@jit
def _grow(reals, n, x):
    """Add `x` to an expansion of `n` parts; the new number of parts."""
    kept = 0
    for i in range(n):
        x, e = _two_sum(reals[SCRATCH + i], x)
        if e != 0.0:
            reals[SCRATCH + kept] = e
            kept += 1
    reals[SCRATCH + kept] = x
    return kept + 1


@jit
def _deviation(reals, sums, squares, number):
    """Sample standard deviation from exact sums: sqrt((n Q - S^2) / (n (n - 1))), the difference taken exactly."""
    n = 0
    for i in range(3):
        p, e = _two_product(float(number), reals[squares + i])
        n = _grow(reals, n, e)
        n = _grow(reals, n, p)
        for j in range(3):
            p, e = _two_product(-reals[sums + i], reals[sums + j])
            n = _grow(reals, n, e)
            n = _grow(reals, n, p)
    total = 0.0
    for i in range(n):
        total += reals[SCRATCH + i]
    return math.sqrt(max(total, 0.0) / (float(number) * (float(number) - 1.0)))


# ------------------------------------------------------------------------------------------------------------- memory


@jit
def _take(words, size, count):
    """An address of `count` words; `size` names the free list of blocks of just this many words."""
    at = words[FREE_AT + size]
    if at != 0:
        words[FREE_AT + size] = words[at]
        return at
    at = words[USED]
    if at + count > CELLS_AT:
        words[FAILED] = STATE_FULL
    words[USED] = at + count
    return at


@jit
def _take_lines(words, size, count):
    """As `_take`, at the start of a cache line."""
    if words[FREE_AT + size] == 0:
        words[USED] = (words[USED] + LINE_WORDS - 1) & -LINE_WORDS
    return _take(words, size, count)


@jit
def _take_ring(words, stride, cap):
    """A ring; at the start of a cache line, if it fills its lines."""
    size = stride * SIZES + _log2(cap)
    if stride * cap & (LINE_WORDS - 1) == 0:
        return _take_lines(words, size, stride * cap)
    return _take(words, size, stride * cap)


@jit
def _give_back(words, size, at):
    words[at] = words[FREE_AT + size]
    words[FREE_AT + size] = at


@jit
def _log2(n):
    k = 0
    while n > 1:
        n >>= 1
        k += 1
    return k


# --------------------------------------------------------------------------------------------------- rings and windows


@jit
def _put(plan, words, reals, a, at, x):
    """A value enters the window of accumulator `a` that lies at `at`."""
    if x != x or plan[a + A_KIND] == COUNTED:
        return
    words[at + NUMBER] += 1
    if plan[a + A_SUM] >= 0:
        _add(reals, at + plan[a + A_SUM], x)
    if plan[a + A_SQUARE] >= 0:
        p, e = _two_product(x, x)
        _add(reals, at + plan[a + A_SQUARE], p)
        _add(reals, at + plan[a + A_SQUARE], e)
    alone = words[at + NUMBER] == 1
    if plan[a + A_MIN] >= 0:
        i = at + plan[a + A_MIN]
        if alone or x < reals[i]:
            reals[i] = x
    if plan[a + A_MAX] >= 0:
        i = at + plan[a + A_MAX]
        if alone or x > reals[i]:
            reals[i] = x
    if plan[a + A_TALLY] >= 0:
        _count_up(plan, words, reals, a, at + plan[a + A_TALLY], x)


@jit
def _drop(plan, words, reals, a, at, x):
    """A value leaves the window. An extreme that leaves is NaN until it is looked for again."""
    if x != x or plan[a + A_KIND] == COUNTED:
        return
    words[at + NUMBER] -= 1
    if plan[a + A_TALLY] >= 0:
        _count_down(plan, words, reals, a, at + plan[a + A_TALLY], x)
    if words[at + NUMBER] == 0:
        for i in range(ACC_WORDS, ACC_WORDS + 6):
            if plan[a + A_SUM] == i or plan[a + A_SQUARE] == i:
                for j in range(3):
                    reals[at + i + j] = 0.0
        return
    if plan[a + A_SUM] >= 0:
        _add(reals, at + plan[a + A_SUM], -x)
    if plan[a + A_SQUARE] >= 0:
        p, e = _two_product(x, x)
        _add(reals, at + plan[a + A_SQUARE], -p)
        _add(reals, at + plan[a + A_SQUARE], -e)
    if plan[a + A_MIN] >= 0 and reals[at + plan[a + A_MIN]] == x:
        reals[at + plan[a + A_MIN]] = np.nan
    if plan[a + A_MAX] >= 0 and reals[at + plan[a + A_MAX]] == x:
        reals[at + plan[a + A_MAX]] = np.nan


@jit
def _value(reals, entry, column):
    return 1.0 if column < 0 else reals[entry + 2 + column]


@hot
def _move(plan, words, reals, table, cell, t):
    """Move the running aggregates of a cell, to be as of `t`: forward, or back if a question is older than the last."""
    ring, mask, start = words[cell + RING], words[cell + CAP] - 1, words[cell + START]
    tail, stride, back = words[cell + TAIL], plan[table + T_STRIDE], t < words[cell + ASOF]
    end = tail
    if back:
        while end > 0 and words[ring + ((start + end - 1) & mask) * stride] >= t:
            end -= 1
    else:
        length = words[cell + LEN]
        while end < length and words[ring + ((start + end) & mask) * stride] < t:
            end += 1
    words[cell + TAIL] = end
    words[cell + ASOF] = t
    if back or end - tail > ADDED_UP:
        _move_far(plan, words, reals, table, cell, t, tail, end, back)
    else:  # as usual: compiled for itself
        _windows(plan, words, reals, table, cell, t, tail, end, False, False)


@jit
def _move_far(plan, words, reals, table, cell, t, tail, end, back):
    """The windows of a cell go back, or over many events."""
    _windows(plan, words, reals, table, cell, t, tail, end, back, abs(end - tail) > ADDED_UP)


@hot
def _windows(plan, words, reals, table, cell, t, tail, end, back, are_many):
    """The windows of a cell that ended with its first `tail` events end with `end`, which is at `t`.

    What many events have in common is added up once for all windows that they enter, or leave.
    """
    ring, mask, start = words[cell + RING], words[cell + CAP] - 1, words[cell + START]
    stride, added = plan[table + T_STRIDE], -1  # which column is
    passed = 0, 0.0, 0.0, 0.0, np.nan, np.nan  # of the events between the ends, in this column
    following, last = plan[table + T_ACC_LO], plan[table + T_ACC_HI]
    while following < last:
        a = following
        following += ACC_FIELDS
        at, span, kind = cell + plan[a + A_AT], plan[a + A_LENGTH], plan[a + A_KIND]
        head, first = 0, 0  # the window's first event, so far and from now on
        if span != FOREVER:
            head, edge = words[at + HEAD], t - span
            first = head
            if back or head == tail or words[at + EDGE] < edge:
                if back:
                    while first > 0 and words[ring + ((start + first - 1) & mask) * stride] >= edge:
                        first -= 1
                earliest = LATEST
                while first < end:
                    earliest = words[ring + ((start + first) & mask) * stride]
                    if earliest >= edge:
                        break
                    earliest = LATEST
                    first += 1
                words[at + HEAD] = first
                words[at + EDGE] = earliest
            if kind == COUNTED:
                continue
        drop, drop_end, put, put_end = head, min(first, tail), max(first, tail), end
        if back:
            drop, drop_end, put, put_end = max(head, end), tail, first, min(head, end)
        column = plan[a + A_COLUMN]
        if kind == GENERAL:
            for i in range(drop, drop_end):
                _drop(plan, words, reals, a, at, _value(reals, ring + ((start + i) & mask) * stride, column))
            for i in range(put, put_end):
                _put(plan, words, reals, a, at, _value(reals, ring + ((start + i) & mask) * stride, column))
            continue
        number = words[at + NUMBER]
        if column < 0:
            words[at + NUMBER] = number + max(put_end - put, 0) - max(drop_end - drop, 0)
            continue
        # What `_drop` and `_put` do for each value, with the accumulator in registers.
        values = ring + 2 + column
        sums, lows, highs = at + plan[a + A_SUM], at + plan[a + A_MIN], at + plan[a + A_MAX]
        s, r, u, low, high = 0.0, 0.0, 0.0, np.nan, np.nan
        if sums >= at:
            s, r, u = reals[sums], reals[sums + 1], reals[sums + 2]
        if lows >= at:
            low = reals[lows]
        if highs >= at:
            high = reals[highs]
        if are_many:
            if added != column:
                added = column
                passed = _add_together(reals, values, stride, start, mask, min(end, tail), max(end, tail))
            if drop < drop_end:
                gone = passed
                if not back or drop != end:
                    gone = _add_together(reals, values, stride, start, mask, drop, drop_end)
                number, s, r, u, low, high = _without(number, s, r, u, low, high, gone)
            if put < put_end:
                come = passed
                if back or put != tail:
                    come = _add_together(reals, values, stride, start, mask, put, put_end)
                number, s, r, u, low, high = _joined(number, s, r, u, low, high, come)
            drop, put = drop_end, put_end
        for i in range(drop, drop_end):
            x = reals[values + ((start + i) & mask) * stride]
            if x == x:
                number -= 1
                s, e = _two_sum(s, -x)
                r, e = _two_sum(r, e)
                u += e
                if x == low:
                    low = np.nan
                if x == high:
                    high = np.nan
        if number == 0:
            s, r, u = 0.0, 0.0, 0.0
        for i in range(put, put_end):
            x = reals[values + ((start + i) & mask) * stride]
            if x == x:
                number += 1
                s, e = _two_sum(s, x)
                r, e = _two_sum(r, e)
                u += e
                if number == 1 or x < low:
                    low = x
                if number == 1 or x > high:
                    high = x
        words[at + NUMBER] = number
        if sums >= at:
            reals[sums], reals[sums + 1], reals[sums + 2] = s, r, u
        if lows >= at:
            reals[lows] = low
        if highs >= at:
            reals[highs] = high


@jit
def _add_together(reals, values, stride, start, mask, low, high):
    """Of the values of events `low` to `high`: their number, three parts of their sum, the least and the largest."""
    number, s, r, u, least, most = 0, 0.0, 0.0, 0.0, np.nan, np.nan
    in_lanes = high - low >= IN_LANES
    if in_lanes:
        for i in range(4 * LANES):
            reals[LANES_AT + i] = 0.0
        for i in range(4 * LANES, 5 * LANES):
            reals[LANES_AT + i], reals[LANES_AT + i + LANES] = np.inf, -np.inf
    while low < high:
        slot = (start + low) & mask
        count = min(high - low, mask + 1 - slot)  # up to the ring's last place
        low += count
        at = values + slot * stride
        if in_lanes:
            whole = count & -LANES
            _add_lanes(reals, at, stride, whole, LANES_AT)
            at += whole * stride
            count -= whole
        for i in range(count):
            x = reals[at + i * stride]
            if x == x:
                number += 1
                s, e = _two_sum(s, x)
                r, e = _two_sum(r, e)
                u += e
                least, most = _further(least, x, False), _further(most, x, True)
    if in_lanes:
        for lane in range(LANES_AT, LANES_AT + LANES):
            if reals[lane] > 0.0:
                number += int(reals[lane])
                s, r, u = _with(s, r, u, reals[lane + LANES], reals[lane + 2 * LANES], reals[lane + 3 * LANES])
                least = _further(least, reals[lane + 4 * LANES], False)
                most = _further(most, reals[lane + 5 * LANES], True)
    return number, s, r, u, least, most


@jit
def _without(number, s, r, u, low, high, gone):
    """An accumulator that values have left which were added together. An extreme that leaves is NaN, as in `_drop`."""
    n, a, b, c, least, most = gone
    if n == number:
        return 0, 0.0, 0.0, 0.0, np.nan, np.nan
    s, r, u = _with(s, r, u, -a, -b, -c)
    return number - n, s, r, u, np.nan if least == low else low, np.nan if most == high else high


@jit
def _joined(number, s, r, u, low, high, come):
    """An accumulator that values have entered which were added together."""
    n, a, b, c, least, most = come
    s, r, u = _with(s, r, u, a, b, c)
    if number == 0 or least < low:
        low = least
    if number == 0 or most > high:
        high = most
    return number + n, s, r, u, low, high


@jit
def _with(s, r, u, a, b, c):
    """Three parts of a sum, those of another added to them."""
    s, e = _two_sum(s, a)
    r, e = _two_sum(r, e)
    u += e
    s, e = _two_sum(s, b)
    r, e = _two_sum(r, e)
    u += e
    s, e = _two_sum(s, c)
    r, e = _two_sum(r, e)
    return s, r, u + e


@jit
def _bound(words, cell, stride, t, pos):
    """Index of the first event of a cell that does not lie before (`t`, `pos`)."""
    ring, mask, start = words[cell + RING], words[cell + CAP] - 1, words[cell + START]
    low, high = 0, words[cell + LEN]
    while low < high:
        mid = (low + high) >> 1
        entry = ring + ((start + mid) & mask) * stride
        if words[entry] < t or (words[entry] == t and words[entry + 1] < pos):
            low = mid + 1
        else:
            high = mid
    return low


@jit
def _cell(plan, words, reals, table, key):
    """The cell of a key, made if there is none."""
    place = key * plan[CELLS_PER_KEY] + plan[table + T_LOCAL]
    cell = words[CELLS_AT + place]
    if cell != 0:
        return cell
    cell = _take_lines(words, CELLS, plan[table + T_WORDS])
    _blank(plan, words, reals, table, cell)
    words[CELLS_AT + place] = cell
    return cell


@jit
def _blank(plan, words, reals, table, cell):
    """A cell that knows of no event."""
    for i in range(plan[table + T_WORDS]):
        words[cell + i] = 0
    stride = plan[table + T_STRIDE]
    words[cell + CAP] = RING_CAPACITY_FIRST
    words[cell + RING] = _take_ring(words, stride, RING_CAPACITY_FIRST)
    words[cell + ASOF] = NEVER
    base = plan[table + T_BASE]
    if base > 0:
        words[cell + base + BASE_TIME] = NEVER
        for i in range(2 * (plan[table + T_COLUMNS_HI] - plan[table + T_COLUMNS_LO])):
            reals[cell + base + BASE_WORDS + i] = np.nan
    for a in range(plan[table + T_ACC_LO], plan[table + T_ACC_HI], ACC_FIELDS):
        for part in (plan[a + A_MIN], plan[a + A_MAX]):
            if part >= 0:
                reals[cell + plan[a + A_AT] + part] = np.nan
                reals[cell + plan[a + A_AT] + part + 1] = np.nan


@jit
def _let_go(plan, words, reals, table, cell, now):
    """Forget events that no question can reach any more; what windows without an end need of them is kept."""
    edge = now - plan[table + T_KEEP]
    ring, mask, stride = words[cell + RING], words[cell + CAP] - 1, plan[table + T_STRIDE]
    if words[cell + LEN] == 0 or words[ring + words[cell + START] * stride] >= edge:
        return
    asof = now - plan[table + T_LAG]
    if words[cell + ASOF] < asof:
        _move(plan, words, reals, table, cell, asof)
    gone = 0
    while words[cell + LEN] > gone:
        entry = ring + ((words[cell + START] + gone) & mask) * stride
        if words[entry] >= edge:
            break
        _remember(plan, words, reals, table, cell, words[entry], words[entry + 1], entry + 2)
        gone += 1
    words[cell + START] = (words[cell + START] + gone) & mask
    words[cell + LEN] -= gone
    words[cell + TAIL] -= gone
    for a in range(plan[table + T_ACC_LO], plan[table + T_ACC_HI], ACC_FIELDS):
        if plan[a + A_LENGTH] != FOREVER:
            words[cell + plan[a + A_AT] + HEAD] -= gone


@jit
def _remember(plan, words, reals, table, cell, t, pos, values):
    """Keep of an event that is let go what windows without an end ask for: last, first, extremes, the decayed."""
    base = plan[table + T_BASE]
    if base == 0:
        return
    known, at_pos = words[cell + base + BASE_TIME], words[cell + base + BASE_POS]
    newest = t > known or (t == known and pos >= at_pos)
    columns = plan[table + T_COLUMNS_HI] - plan[table + T_COLUMNS_LO]
    for c in range(columns):
        x = reals[values + c]
        if x == x:
            last, first = cell + base + BASE_WORDS + 2 * c, cell + base + BASE_WORDS + 2 * c + 1
            if newest or reals[last] != reals[last]:
                reals[last] = x
            if reals[first] != reals[first]:
                reals[first] = x
    for a in range(plan[table + T_ACC_LO], plan[table + T_ACC_HI], ACC_FIELDS):
        at, column = cell + plan[a + A_AT], plan[a + A_COLUMN]
        x = 1.0 if column < 0 else reals[values + column]
        if plan[a + A_LENGTH] != FOREVER or x != x:
            continue
        if plan[a + A_MIN] >= 0:
            i = at + plan[a + A_MIN] + 1
            if not reals[i] <= x:
                reals[i] = x
        if plan[a + A_MAX] >= 0:
            i = at + plan[a + A_MAX] + 1
            if not reals[i] >= x:
                reals[i] = x
        if plan[a + A_EWM] >= 0:
            _decay(reals, words, at + plan[a + A_EWM], t, x, plan[a + A_HALFLIFE])
    if newest:
        words[cell + base + BASE_TIME] = t
        words[cell + base + BASE_POS] = pos


@jit
def _decay(reals, words, at, t, x, halflife):
    """Add a value to the decayed sums at `at`: numerator, denominator, and the moment they are as of."""
    if reals[at + 1] == 0.0:
        words[at + 2] = t
    if t >= words[at + 2]:
        fade = 2.0 ** (-float(t - words[at + 2]) / float(halflife))
        reals[at] = reals[at] * fade + x
        reals[at + 1] = reals[at + 1] * fade + 1.0
        words[at + 2] = t
    else:
        fade = 2.0 ** (-float(words[at + 2] - t) / float(halflife))
        reals[at] += x * fade
        reals[at + 1] += fade


@hot
def _insert(plan, words, reals, table, key, t, pos, values, now):
    """An event enters the past of a key. `values` is the address of one value per column of the table."""
    cell = _cell(plan, words, reals, table, key)
    stride = plan[table + T_STRIDE]
    columns, keep = stride - 2, plan[table + T_KEEP]
    if keep != FOREVER and t < now - keep:
        _let_go(plan, words, reals, table, cell, now)  # so that it is not older than what it comes after
        _insert_gone(plan, words, reals, table, cell, t, pos, values)
        return
    length = words[cell + LEN]
    if length == words[cell + CAP]:
        if keep != FOREVER:
            _let_go(plan, words, reals, table, cell, now)
        if words[cell + LEN] == length:
            _enlarge(plan, words, reals, table, cell)
        length = words[cell + LEN]
    ring, mask, start = words[cell + RING], words[cell + CAP] - 1, words[cell + START]
    index = length
    if length > 0:
        entry = ring + ((start + length - 1) & mask) * stride
        if t < words[entry] or (t == words[entry] and pos < words[entry + 1]):
            index = _bound(words, cell, stride, t, pos)
            _make_place(words, ring, mask, stride, (start + index) & mask, (start + length) & mask)
    entry = ring + ((start + index) & mask) * stride
    words[entry] = t
    words[entry + 1] = pos
    for c in range(columns):
        reals[entry + 2 + c] = reals[values + c]
    words[cell + LEN] = length + 1
    if plan[table + T_DECAYS] == 1:
        _weigh(plan, words, reals, table, cell, t, entry + 2)
    if _tree(plan, words, table, cell) != 0:
        if index == length:
            _into_tree(plan, words, reals, table, cell, index)
        else:
            _mend_tree(plan, words, reals, table, cell, index, True)
    asof = words[cell + ASOF]
    if t < asof:
        words[cell + TAIL] += 1
        for a in range(plan[table + T_ACC_LO], plan[table + T_ACC_HI], ACC_FIELDS):
            at, span = cell + plan[a + A_AT], plan[a + A_LENGTH]
            if span == FOREVER or t >= asof - span:
                _put(plan, words, reals, a, at, _value(reals, entry, plan[a + A_COLUMN]))
                words[at + EDGE] = min(words[at + EDGE], t)
            else:
                words[at + HEAD] += 1


@jit
def _make_place(words, ring, mask, stride, place, free):
    """The entries of a ring from `place` on move to the next, up to the one that is free."""
    if free < place:
        _slide(words, ring, free * stride, stride)
        _slide(words, ring + mask * stride, stride, -mask * stride)
        free = mask
    _slide(words, ring + place * stride, (free - place) * stride, stride)


@jit
def _insert_gone(plan, words, reals, table, cell, t, pos, values):
    """An event enters that is older than any question: only windows without an end take it."""
    for c in range(plan[table + T_STRIDE] - 2):
        reals[SPARE + c] = reals[values + c]
    for a in range(plan[table + T_ACC_LO], plan[table + T_ACC_HI], ACC_FIELDS):
        if plan[a + A_LENGTH] == FOREVER:
            column = plan[a + A_COLUMN]
            _put(plan, words, reals, a, cell + plan[a + A_AT], 1.0 if column < 0 else reals[SPARE + column])
    _remember(plan, words, reals, table, cell, t, pos, SPARE)
    _weigh(plan, words, reals, table, cell, t, SPARE)


@jit
def _weigh(plan, words, reals, table, cell, t, values):
    """An event enters the decayed sums of all events of a cell, which follow those of what was let go."""
    for a in range(plan[table + T_ACC_LO], plan[table + T_ACC_HI], ACC_FIELDS):
        if plan[a + A_EWM] >= 0:
            x = reals[values + plan[a + A_COLUMN]]
            if x == x:
                _decay(reals, words, cell + plan[a + A_AT] + plan[a + A_EWM] + EWM_WORDS, t, x, plan[a + A_HALFLIFE])


@jit
def _weigh_again(plan, words, reals, table, cell):
    """The decayed sums of all events of a cell, from nothing: one of them has changed."""
    if plan[table + T_DECAYS] == 0:
        return
    ring, mask, start = words[cell + RING], words[cell + CAP] - 1, words[cell + START]
    for a in range(plan[table + T_ACC_LO], plan[table + T_ACC_HI], ACC_FIELDS):
        if plan[a + A_EWM] >= 0:
            at = cell + plan[a + A_AT] + plan[a + A_EWM]
            for i in range(EWM_WORDS):
                words[at + EWM_WORDS + i] = words[at + i]
    for i in range(words[cell + LEN]):
        entry = ring + ((start + i) & mask) * plan[table + T_STRIDE]
        _weigh(plan, words, reals, table, cell, words[entry], entry + 2)


@jit
def _enlarge(plan, words, reals, table, cell):
    stride = plan[table + T_STRIDE]
    cap, ring, start = words[cell + CAP], words[cell + RING], words[cell + START]
    bigger = _take_ring(words, stride, 2 * cap)
    for i in range(words[cell + LEN]):
        to, of = bigger + i * stride, ring + ((start + i) & (cap - 1)) * stride
        for j in range(stride):
            words[to + j] = words[of + j]
    _give_back(words, stride * SIZES + _log2(cap), ring)
    tree = _tree(plan, words, table, cell)
    if tree != 0:
        _give_back(words, TREES * SIZES + _log2(_tree_words(plan, words, table, cell)), tree)
    words[cell + RING] = bigger
    words[cell + CAP] = 2 * cap
    words[cell + START] = 0
    if tree != 0:
        _plant(plan, words, reals, table, cell)


# A tree over a ring: the extremes of its blocks of 16 places, of 256, and so on, for each column and direction that is
# asked for. A block counts from the moment its first place is written, so that it speaks of all its places when these
# are all in use. It answers as looking at each event does, in a time that hardly grows with their number.


@jit
def _tree(plan, words, table, cell):
    """Address of a cell's trees, 0 if it has none."""
    if words[cell + CAP] <= TREE_EVENTS or plan[table + T_TREE] == 0:
        return 0
    return words[cell + plan[table + T_TREE]]


@jit
def _tree_words(plan, words, table, cell):
    """The size of a cell's trees, a power of 2."""
    wanted = (plan[table + T_EXTREMES_HI] - plan[table + T_EXTREMES_LO]) * (words[cell + CAP] >> 3)
    size = 1
    while size < wanted:
        size *= 2
    return size


@jit
def _plant(plan, words, reals, table, cell):
    """A cell gets its trees."""
    size = _tree_words(plan, words, table, cell)
    tree = _take(words, TREES * SIZES + _log2(size), size)
    words[cell + plan[table + T_TREE]] = tree
    for i in range(size):
        reals[tree + i] = np.nan
    for i in range(words[cell + LEN]):
        _into_tree(plan, words, reals, table, cell, i)


@jit
def _into_tree(plan, words, reals, table, cell, index):
    """The last event of a cell is taken into its blocks."""
    cap = words[cell + CAP]
    slot = (words[cell + START] + index) & (cap - 1)
    entry, at = words[cell + RING] + slot * plan[table + T_STRIDE], words[cell + plan[table + T_TREE]]
    for e in range(plan[table + T_EXTREMES_LO], plan[table + T_EXTREMES_HI]):
        which = plan[plan[EXTREME] + e]
        x = reals[entry + 2 + (which >> 1)]
        level, bits = at, BLOCK_BITS
        while cap >> bits > 0:
            block = level + (slot >> bits)
            if slot & ((1 << bits) - 1) == 0:
                reals[block] = x
            else:
                reals[block] = _further(reals[block], x, which & 1 == 1)
            level += cap >> bits
            bits += BLOCK_BITS
        at += cap >> 3


@jit
def _mend_tree(plan, words, reals, table, cell, index, has_come):
    """The blocks from that of the event at `index` to the last are mended: it has come, or more has changed."""
    cap, start, length, ring = words[cell + CAP], words[cell + START], words[cell + LEN], words[cell + RING]
    mask, at = cap - 1, words[cell + plan[table + T_TREE]]
    for e in range(plan[table + T_EXTREMES_LO], plan[table + T_EXTREMES_HI]):
        which = plan[plan[EXTREME] + e]
        largest = which & 1 == 1
        below, stride = ring + 2 + (which >> 1), plan[table + T_STRIDE]  # the level below; that of places is the ring
        level, bits = at, BLOCK_BITS
        while cap >> bits > 0:
            first = ((start + index) & mask) >> bits
            count = min((((start + index) & ((1 << bits) - 1)) + length - index >> bits) + 1, cap >> bits)
            for i in range(count):
                block = (first + i) & ((cap >> bits) - 1)
                begins = ((block << bits) - start) & mask  # which event lies in its first place
                if i == 0 or bits > BLOCK_BITS or not has_come:
                    reals[level + block] = _best(reals, below, stride, block, begins, bits, length, largest)
                    continue
                # All but one of its events were here before.
                best, come = reals[level + block], reals[below + (block << bits) * stride]
                follows = begins + (1 << bits)  # now in the first place of the next block, if there is one
                left = reals[below + ((start + follows) & mask) * stride] if follows < length else np.nan
                if begins + 1 == length:
                    reals[level + block] = come
                elif best != best or best == left:
                    reals[level + block] = _best(reals, below, stride, block, begins, bits, length, largest)
                else:
                    reals[level + block] = _further(best, come, largest)
            below, stride = level, 1
            level += cap >> bits
            bits += BLOCK_BITS
        at += cap >> 3


@jit
def _best(reals, below, stride, block, begins, bits, length, largest):
    """The extreme of a block, from the level below; only events before `length` count."""
    best = np.nan
    for j in range(1 << BLOCK_BITS):
        if begins + (j << (bits - BLOCK_BITS)) < length:
            best = _further(best, reals[below + ((block << BLOCK_BITS) + j) * stride], largest)
    return best


@jit
def _amend(plan, words, reals, table, key, t, pos, old, new, now):
    """A label in the past of a key changes its value; NaN is no value: it enters, or leaves."""
    if old != old:
        reals[SCRATCH] = new
        _insert(plan, words, reals, table, key, t, pos, SCRATCH, now)
        return
    cell = _cell(plan, words, reals, table, key)
    stride = plan[table + T_STRIDE]
    ring, mask, start, length = words[cell + RING], words[cell + CAP] - 1, words[cell + START], words[cell + LEN]
    index = _bound(words, cell, stride, t, pos)
    entry = ring + ((start + index) & mask) * stride
    found = index < length and words[entry] == t and words[entry + 1] == pos
    for a in range(plan[table + T_ACC_LO], plan[table + T_ACC_HI], ACC_FIELDS):
        at, span = cell + plan[a + A_AT], plan[a + A_LENGTH]
        column = plan[a + A_COLUMN]
        running = t < words[cell + ASOF] and (span == FOREVER or t >= words[cell + ASOF] - span)
        if running and (found or span == FOREVER):
            _drop(plan, words, reals, a, at, 1.0 if column < 0 else old)
            if new == new:
                _put(plan, words, reals, a, at, 1.0 if column < 0 else new)
        elif found and new != new and span != FOREVER and index < words[at + HEAD]:
            words[at + HEAD] -= 1
    if not found:
        return
    if new == new:
        for c in range(stride - 2):
            reals[entry + 2 + c] = new
        if _tree(plan, words, table, cell) != 0:
            _mend_tree(plan, words, reals, table, cell, index, False)
        _weigh_again(plan, words, reals, table, cell)
        return
    for i in range(index, length - 1):
        to, of = ring + ((start + i) & mask) * stride, ring + ((start + i + 1) & mask) * stride
        for j in range(stride):
            words[to + j] = words[of + j]
    words[cell + LEN] = length - 1
    if _tree(plan, words, table, cell) != 0:
        _mend_tree(plan, words, reals, table, cell, index, False)
    _weigh_again(plan, words, reals, table, cell)
    if index < words[cell + TAIL]:
        words[cell + TAIL] -= 1
    for a in range(plan[table + T_ACC_LO], plan[table + T_ACC_HI], ACC_FIELDS):
        at = cell + plan[a + A_AT]
        head = words[at + HEAD]
        words[at + EDGE] = words[ring + ((start + head) & mask) * stride] if head < words[cell + TAIL] else LATEST


# A tally: how often each value is there. Its entries (value, times) lie side by side; a table of twice their number
# says where each one is. One that is asked for the most frequent values has its entries in the order of a heap: the
# most frequent first, of equal ones the one that appeared first.


@jit
def _count_up(plan, words, reals, a, tally, x):
    """A value is there once more."""
    if words[tally + DIFFER] == words[tally + TALLY_ROOM]:
        _rehash(words, tally, max(2 * words[tally + TALLY_ROOM], TALLY_ROOM_FIRST))
    at, room, value = words[tally + TALLY], words[tally + TALLY_ROOM], _bits(words, reals, x)
    slot = _slot(words, at, room, value)
    i = words[slot] - 1
    if i < 0:
        i = words[tally + DIFFER]
        words[tally + DIFFER] = i + 1
        words[slot] = i + 1
        words[at + 2 * i] = value
        words[at + 2 * i + 1] = 0
    words[at + 2 * i + 1] += 1
    if plan[a + A_ORDERED] == 1:
        _rise(words, at, room, i)


@jit
def _count_down(plan, words, reals, a, tally, x):
    """A value is there once less."""
    at, room, last = words[tally + TALLY], words[tally + TALLY_ROOM], words[tally + DIFFER] - 1
    value = _bits(words, reals, x)
    i = words[_slot(words, at, room, value)] - 1
    words[at + 2 * i + 1] -= 1
    gone = words[at + 2 * i + 1] == 0
    if gone:
        _exchange(words, at, room, i, last)
        _clear(words, at, room, _slot(words, at, room, value))
        words[tally + DIFFER] = last
    if plan[a + A_ORDERED] == 1 and i < words[tally + DIFFER]:
        _rise(words, at, room, i)
        _sink(words, at, room, words[tally + DIFFER], i)
    if gone and 8 * last <= room and room > TALLY_ROOM_FIRST:
        _rehash(words, tally, room >> 1)


@jit
def _bits(words, reals, x):
    """A float as it is written, that of equal ones being equal."""
    reals[BITS] = x + 0.0  # -0.0 is 0.0
    return words[BITS]


@jit
def _slot(words, at, room, value):
    """Where a tally's table has the number of a value's entry, plus 1; or 0, where it would have it."""
    table, mask = at + 2 * room, 2 * room - 1
    i = _mix(value) & mask
    while words[table + i] != 0 and words[at + 2 * (words[table + i] - 1)] != value:
        i = (i + 1) & mask
    return table + i


@jit
def _clear(words, at, room, slot):
    """A slot of a tally's table is free again; what went further because of it comes nearer."""
    table, mask = at + 2 * room, 2 * room - 1
    free = slot - table
    i = free
    while True:
        i = (i + 1) & mask
        entry = words[table + i]
        if entry == 0:
            break
        if (i - _mix(words[at + 2 * (entry - 1)])) & mask >= (i - free) & mask:
            words[table + free] = entry
            free = i
    words[table + free] = 0


@jit
def _rehash(words, tally, room):
    """A tally has room for more values, or for fewer."""
    old, old_room = words[tally + TALLY], words[tally + TALLY_ROOM]
    at = _take(words, TALLIES * SIZES + _log2(room), 4 * room)
    for i in range(2 * room):
        words[at + 2 * room + i] = 0
    for i in range(words[tally + DIFFER]):
        words[at + 2 * i] = words[old + 2 * i]
        words[at + 2 * i + 1] = words[old + 2 * i + 1]
        words[_slot(words, at, room, words[old + 2 * i])] = i + 1
    if old_room > 0:
        _give_back(words, TALLIES * SIZES + _log2(old_room), old)
    words[tally + TALLY] = at
    words[tally + TALLY_ROOM] = room


@jit
def _exchange(words, at, room, i, j):
    """Two entries of a tally change places."""
    if i == j:
        return
    a, b = _slot(words, at, room, words[at + 2 * i]), _slot(words, at, room, words[at + 2 * j])
    words[a], words[b] = j + 1, i + 1
    for k in range(2):
        x = words[at + 2 * i + k]
        words[at + 2 * i + k] = words[at + 2 * j + k]
        words[at + 2 * j + k] = x


@jit
def _precedes(words, at, i, j):
    """Whether entry `i` of a tally comes before `j`: it is more frequent, or appeared first."""
    a, b = at + 2 * i, at + 2 * j
    return words[a + 1] > words[b + 1] or (words[a + 1] == words[b + 1] and words[a] < words[b])


@jit
def _rise(words, at, room, i):
    """An entry of a heap goes up to its place."""
    while i > 0 and _precedes(words, at, i, (i - 1) >> 1):
        _exchange(words, at, room, i, (i - 1) >> 1)
        i = (i - 1) >> 1


@jit
def _sink(words, at, room, count, i):
    """An entry of a heap goes down to its place."""
    while True:
        best = i
        for child in (2 * i + 1, 2 * i + 2):
            if child < count and _precedes(words, at, child, best):
                best = child
        if best == i:
            return
        _exchange(words, at, room, i, best)
        i = best


@jit
def _most(words, reals, tally, k, place):
    """The `k` most frequent values, to `place`: each is the first of a heap, or below one that was taken."""
    at, count, waiting = words[tally + TALLY], words[tally + DIFFER], 0
    if count > 0:
        words[FRONT_AT] = 0
        waiting = 1
    for rank in range(min(k, count)):
        best = 0
        for i in range(1, waiting):
            if _precedes(words, at, words[FRONT_AT + i], words[FRONT_AT + best]):
                best = i
        entry = words[FRONT_AT + best]
        reals[place + rank] = reals[at + 2 * entry]
        waiting -= 1
        words[FRONT_AT + best] = words[FRONT_AT + waiting]
        for child in (2 * entry + 1, 2 * entry + 2):
            if child < count:
                words[FRONT_AT + waiting] = child
                waiting += 1


# ----------------------------------------------------------------------------------------------------------- questions


@jit
def _extreme(plan, words, reals, table, a, cell, low, high, largest):
    """The extreme of events `low` to `high` of a cell: by looking at each, or at blocks of them."""
    if high - low > TREE_EVENTS and _tree(plan, words, table, cell) == 0:
        _plant(plan, words, reals, table, cell)
    ring, cap, start, column = words[cell + RING], words[cell + CAP], words[cell + START], plan[a + A_COLUMN]
    stride, tree = plan[table + T_STRIDE], _tree(plan, words, table, cell)
    tree += (cap >> 3) * plan[a + (A_LARGEST if largest else A_LEAST)] if tree != 0 else 0
    best = np.nan
    i = low
    while i < high:
        slot = (start + i) & (cap - 1)
        level, bits = 0, 0
        if tree != 0:
            more = BLOCK_BITS
            while slot & ((1 << more) - 1) == 0 and i + (1 << more) <= high and cap >> more > 0:
                level = level + (cap >> bits) if bits > 0 else tree
                bits = more
                more += BLOCK_BITS
        x = reals[level + (slot >> bits)] if bits > 0 else reals[ring + slot * stride + 2 + column]
        best = _further(best, x, largest)
        i += 1 << bits
    return best


@jit
def _found(plan, words, reals, table, a, cell, largest):
    """The extreme of an accumulator; looked for, if it has left the window."""
    at, span = cell + plan[a + A_AT], plan[a + A_LENGTH]
    i = at + (plan[a + A_MAX] if largest else plan[a + A_MIN])
    if reals[i] != reals[i]:
        low, high = 0 if span == FOREVER else words[at + HEAD], words[cell + TAIL]
        reals[i] = _extreme(plan, words, reals, table, a, cell, low, high, largest)
        if span == FOREVER:
            reals[i] = _further(reals[i], reals[i + 1], largest)
    return reals[i]


@jit
def _finite(x):
    """`x`, or NaN for what is beyond the range of floats."""
    return x if x - x == 0.0 else np.nan


@jit
def _add_up(plan, words, reals, table, a, cell):
    """The sums of an accumulator from nothing: an overflow stays in what is only carried on."""
    at, column = cell + plan[a + A_AT], plan[a + A_COLUMN]
    if plan[a + A_LENGTH] == FOREVER:
        return
    ring, mask, start = words[cell + RING], words[cell + CAP] - 1, words[cell + START]
    sums, squares = at + plan[a + A_SUM], at + plan[a + A_SQUARE]
    for i in range(3):
        reals[sums + i] = 0.0
        if squares >= at:
            reals[squares + i] = 0.0
    for i in range(words[at + HEAD], words[cell + TAIL]):
        x = _value(reals, ring + ((start + i) & mask) * plan[table + T_STRIDE], column)
        if x == x:
            _add(reals, sums, x)
            if squares >= at:
                p, e = _two_product(x, x)
                _add(reals, squares, p)
                _add(reals, squares, e)


@jit
def _further(x, y, largest):
    if x != x:
        return y
    if y != y:
        return x
    return max(x, y) if largest else min(x, y)


@jit
def _mean(reals, sums, number):
    """The exact sum over the number."""
    s, t, u = _parted(reals, sums)
    return _share(s, t, u, number)


@hot
def _read(plan, words, reals, question, cell, t, answers):
    """The answers that are no running aggregates: last, first, since, distinct, decayed means, the most frequent."""
    table, op, column, span = (
        plan[question + Q_TABLE],
        plan[question + Q_OP],
        plan[question + Q_COLUMN],
        plan[question + Q_LENGTH],
    )
    stride = plan[table + T_STRIDE]
    ring, mask, start = words[cell + RING], words[cell + CAP] - 1, words[cell + START]
    high = words[cell + TAIL]
    edge = NEVER if span == FOREVER or op == EWM else t - span
    base = cell + plan[table + T_BASE] + BASE_WORDS
    forever = span == FOREVER and plan[table + T_BASE] > 0
    place = plan[question + Q_OUT]
    if op == SINCE:
        if high > 0:
            latest = words[ring + ((start + high - 1) & mask) * stride]
            if latest >= edge:
                reals[answers + place] = float(t - latest) / DAY
        elif forever and words[cell + plan[table + T_BASE] + BASE_TIME] != NEVER:
            reals[answers + place] = float(t - words[cell + plan[table + T_BASE] + BASE_TIME]) / DAY
    elif op == LAST:
        for i in range(high - 1, -1, -1):
            entry = ring + ((start + i) & mask) * stride
            x = reals[entry + 2 + column]
            if words[entry] < edge:
                return
            if x == x:
                reals[answers + place] = x
                return
        if forever:
            reals[answers + place] = reals[base + 2 * column]
    elif op == FIRST:
        if forever and reals[base + 2 * column + 1] == reals[base + 2 * column + 1]:
            reals[answers + place] = reals[base + 2 * column + 1]
            return
        low = 0 if span == FOREVER else _bound(words, cell, stride, edge, NOTHING)
        for i in range(low, high):
            x = reals[ring + ((start + i) & mask) * stride + 2 + column]
            if x == x:
                reals[answers + place] = x
                return
    elif op == EWM:
        reals[answers + place] = _decayed(plan, words, reals, table, plan[question + Q_ACC], cell, column, high)
    else:
        a = plan[question + Q_ACC]
        tally = cell + plan[a + A_AT] + plan[a + A_TALLY]
        if op == TOP:
            _most(words, reals, tally, plan[question + Q_K], answers + place)
        else:
            reals[answers + place] = float(words[tally + DIFFER])


@jit
def _decayed(plan, words, reals, table, a, cell, column, high):
    """The decayed mean of all events below `high`: weights relative to the newest, so that they cannot all vanish."""
    if high == words[cell + LEN]:
        all_ = cell + plan[a + A_AT] + plan[a + A_EWM] + EWM_WORDS
        return reals[all_] / reals[all_ + 1] if reals[all_ + 1] > 0.0 else np.nan
    ring, mask, start, stride = (
        words[cell + RING],
        words[cell + CAP] - 1,
        words[cell + START],
        plan[table + T_STRIDE],
    )
    halflife, at = float(plan[a + A_HALFLIFE]), cell + plan[a + A_AT] + plan[a + A_EWM]
    newest, above, below = NEVER, 0.0, 0.0
    for i in range(high - 1, -1, -1):
        entry = ring + ((start + i) & mask) * stride
        x = reals[entry + 2 + column]
        if x == x:
            if newest == NEVER:
                newest = words[entry]
            fade = 2.0 ** (-float(newest - words[entry]) / halflife)
            above += x * fade
            below += fade
    if reals[at + 1] != 0.0:
        fade = 1.0 if newest == NEVER else 2.0 ** (-float(newest - words[at + 2]) / halflife)
        above += reals[at] * fade
        below += reals[at + 1] * fade
    return above / below if below > 0.0 else np.nan


@hot
def answer(plan, words, reals, predictor, keys, t, answers):
    """All windows of a predictor at moment `t`, of the keys that lie at `keys`, to `answers`; NaN is unknown."""
    previous, cell = -1, 0
    following, last = plan[plan[P_LO] + predictor], plan[plan[P_LO] + predictor + 1]
    while following < last:
        q = following
        following += QUESTION_FIELDS
        table, op = plan[q + Q_TABLE], plan[q + Q_OP]
        if table != previous:
            previous = table
            key = words[keys + plan[q + Q_SPACE]]
            cell = words[CELLS_AT + key * plan[CELLS_PER_KEY] + plan[table + T_LOCAL]] if key >= 0 else 0
            if cell != 0:
                _move(plan, words, reals, table, cell, t)
        if op == USUAL:
            _usual(plan, words, reals, q, table, cell, answers)
            continue
        place = answers + plan[q + Q_OUT]
        for i in range(max(1, plan[q + Q_K])):
            reals[place + i] = 0.0 if op in (DISTINCT, DIFFERENT) else np.nan
        if cell != 0:
            _read(plan, words, reals, q, cell, t, answers)


@hot
def _usual(plan, words, reals, q, table, cell, answers):
    """What is asked of one accumulator: its number, sum, mean, deviation and extremes."""
    a, number, events = plan[q + Q_ACC], 0, 0
    at = cell + plan[a + A_AT]
    if cell != 0:
        events = words[cell + TAIL] - words[at + HEAD]
        number = words[at + NUMBER]
    if plan[q + Q_EVENTS] >= 0:
        reals[answers + plan[q + Q_EVENTS]] = float(events)
    if plan[a + A_KIND] == COUNTED:
        return
    if plan[q + Q_OUT] >= 0:
        reals[answers + plan[q + Q_OUT]] = float(number)
    sum_, mean = plan[q + Q_SUM], plan[q + Q_MEAN]
    if number == 0:
        if sum_ >= 0:
            reals[answers + sum_] = 0.0
        for i in range(Q_MEAN, Q_EVENTS):
            if plan[q + i] >= 0:
                reals[answers + plan[q + i]] = np.nan
        return
    if sum_ >= 0 or mean >= 0:
        s, r, u = _parted(reals, at + plan[a + A_SUM])
        if s - s != 0.0:
            _add_up(plan, words, reals, table, a, cell)
            s, r, u = _parted(reals, at + plan[a + A_SUM])
        if sum_ >= 0:
            reals[answers + sum_] = _finite(_rounded(s, r, u))
        if mean >= 0:
            reals[answers + mean] = _finite(_share(s, r, u, number))
    if plan[q + Q_STD] >= 0:
        x = np.nan
        if number > 1:
            x = _deviation(reals, at + plan[a + A_SUM], at + plan[a + A_SQUARE], number)
            if x - x != 0.0:
                _add_up(plan, words, reals, table, a, cell)
                x = _deviation(reals, at + plan[a + A_SUM], at + plan[a + A_SQUARE], number)
        reals[answers + plan[q + Q_STD]] = _finite(x)
    if plan[q + Q_MIN] >= 0:
        x = reals[at + plan[a + A_MIN]]
        reals[answers + plan[q + Q_MIN]] = x if x == x else _found(plan, words, reals, table, a, cell, False)
    if plan[q + Q_MAX] >= 0:
        x = reals[at + plan[a + A_MAX]]
        reals[answers + plan[q + Q_MAX]] = x if x == x else _found(plan, words, reals, table, a, cell, True)


# --------------------------------------------------------------------------------------------------- what falls due


@jit
def _before(words, a, b):
    """Whether the waiting thing at address `a` comes before that at `b`."""
    return words[a] < words[b] or (words[a] == words[b] and words[a + 1] < words[b + 1])


@hot
def _await(words, queue, due, rank, pos, extra, anchor):
    """Remember that something falls due; in the order of (due, rank, anchor's position, extra).

    Most things of a kind fall due in the order in which they are remembered: they stand in a queue, and what does not
    fit its order lies in a heap.
    """
    order = (rank << 60) | (pos << 12) | extra
    words[anchor + AN_WAITS] += 1
    if rank != EXPIRY_DUE:
        words[NEXT_DUE] = min(words[NEXT_DUE], due)
    q = QUEUES_AT + QUEUE_WORDS * queue
    length, cap = words[q + Q_LEN], words[q + Q_CAP]
    if length > 0:
        last = words[q + Q_RING] + 3 * ((words[q + Q_START] + length - 1) & (cap - 1))
        if due < words[last] or (due == words[last] and order < words[last + 1]):
            _push(words, due, order, anchor)
            return
    if length == cap:
        _lengthen(words, q)
    entry = words[q + Q_RING] + 3 * ((words[q + Q_START] + length) & (words[q + Q_CAP] - 1))
    words[entry] = due
    words[entry + 1] = order
    words[entry + 2] = anchor
    words[q + Q_LEN] = length + 1
    if length == 0:
        words[q + Q_DUE] = due
        words[q + Q_ORDER] = order


@jit
def _lengthen(words, q):
    cap, ring, start = words[q + Q_CAP], words[q + Q_RING], words[q + Q_START]
    more = max(2 * cap, QUEUE_CAPACITY_FIRST)
    bigger = _take(words, 3 * SIZES + _log2(more), 3 * more)
    for i in range(words[q + Q_LEN]):
        of = ring + 3 * ((start + i) & (cap - 1))
        for j in range(3):
            words[bigger + 3 * i + j] = words[of + j]
    if cap > 0:
        _give_back(words, 3 * SIZES + _log2(cap), ring)
    words[q + Q_RING] = bigger
    words[q + Q_CAP] = more
    words[q + Q_START] = 0


@jit
def _later(words, q, ahead):
    """The anchor that is so far behind the first of a queue; any word where there are fewer."""
    return words[words[q + Q_RING] + 3 * ((words[q + Q_START] + ahead) & (words[q + Q_CAP] - 1)) + 2]


@jit
def _shift(words, q):
    """The first of a queue leaves it."""
    words[q + Q_START] = (words[q + Q_START] + 1) & (words[q + Q_CAP] - 1)
    words[q + Q_LEN] -= 1
    if words[q + Q_LEN] > 0:
        entry = words[q + Q_RING] + 3 * words[q + Q_START]
        words[q + Q_DUE] = words[entry]
        words[q + Q_ORDER] = words[entry + 1]
        later = _later(words, q, ANCHORS_AHEAD)
        _prefetch(words, later)
        _prefetch(words, later + LINE_WORDS)


@jit
def _push(words, due, order, anchor):
    i = words[HEAP_LEN]
    if i >= WAITING_LIMIT:
        words[FAILED] = WAITING_FULL
        return
    words[HEAP_AT + 3 * i] = due
    words[HEAP_AT + 3 * i + 1] = order
    words[HEAP_AT + 3 * i + 2] = anchor
    words[HEAP_LEN] = i + 1
    words[NEXT_DUE] = min(words[NEXT_DUE], due)
    while i > 0:
        parent = (i - 1) >> 1
        if not _before(words, HEAP_AT + 3 * i, HEAP_AT + 3 * parent):
            break
        _swap(words, HEAP_AT + 3 * i, HEAP_AT + 3 * parent)
        i = parent


@jit
def _swap(words, a, b):
    for j in range(3):
        x = words[a + j]
        words[a + j] = words[b + j]
        words[b + j] = x


@jit
def _pop(words):
    n = words[HEAP_LEN] - 1
    words[HEAP_LEN] = n
    for j in range(3):
        words[HEAP_AT + j] = words[HEAP_AT + 3 * n + j]
    i = 0
    while True:
        least = i
        for child in (2 * i + 1, 2 * i + 2):
            if child < n and _before(words, HEAP_AT + 3 * child, HEAP_AT + 3 * least):
                least = child
        if least == i:
            return
        _swap(words, HEAP_AT + 3 * i, HEAP_AT + 3 * least)
        i = least


@hot
def _next(plan, words):
    """Address of the queue whose first falls due next, HEAP_AT for the heap, 0 for nothing; NEXT_DUE says when."""
    best = HEAP_AT if words[HEAP_LEN] > 0 else 0
    for queue in range(plan[QUEUES]):
        q = QUEUES_AT + QUEUE_WORDS * queue
        if words[q + Q_LEN] > 0 and (best == 0 or _before(words, q, best)):
            best = q
    words[NEXT_DUE] = words[best] if best != 0 else LATEST
    return best


@jit
def _is_full(words):
    """Whether what was written has to be taken away before more is."""
    return (
        words[N_PREDICTIONS] > OUTPUTS_FULL
        or words[N_LABELS] > OUTPUTS_FULL
        or words[N_HOLDS] + words[N_DONE] > OUTPUTS_FULL
    )


@hot
def _fire(plan, words, reals, now):
    """All that is due at or before `now`, in its order; whether there was room for all of it."""
    while words[NEXT_DUE] <= now:
        q = _next(plan, words)
        if words[NEXT_DUE] > now:
            break
        if _is_full(words):
            return False
        if q == HEAP_AT:
            due, order, anchor = words[HEAP_AT], words[HEAP_AT + 1], words[HEAP_AT + 2]
            _pop(words)
        else:
            due, order = words[q + Q_DUE], words[q + Q_ORDER]
            anchor = words[words[q + Q_RING] + 3 * words[q + Q_START] + 2]
            _shift(words, q)
        rank, extra = order >> 60, order & 4095
        words[ASKED_FROM] = due  # not now: after a gap in the log, questions about moments in it are still to come
        words[anchor + AN_WAITS] -= 1
        if rank == PREDICTION_DUE:
            _ask_lead(plan, words, reals, anchor, extra, due, now)
        elif rank != EXPIRY_DUE:
            _settle(plan, words, reals, anchor, rank, now)
        _bury(plan, words, anchor)
    return True


@hot
def _expire(plan, words, now):
    """Anchors that nothing can change any more are forgotten; nobody can tell when, so that it is done for many."""
    for label in range(plan[LABELS]):
        q = QUEUES_AT + QUEUE_WORDS * (plan[QUEUES] + label)
        while words[q + Q_LEN] > 0 and words[q + Q_DUE] <= now:
            anchor = words[words[q + Q_RING] + 3 * words[q + Q_START] + 2]
            _shift(words, q)
            if words[q + Q_LEN] > LISTS_AHEAD:
                later = _later(words, q, LISTS_AHEAD)
                _prefetch(words, _lasts(plan, label, words[later + AN_KEYS + plan[plan[L_JOIN] + label]]))
            words[anchor + AN_WAITS] -= 1
            _bury(plan, words, anchor)


# ------------------------------------------------------------------------------------------------------------- labels


@jit
def _truth(plan, words, reals, anchor):
    """The value that the evidence so far gives; NaN: none."""
    op, number = plan[plan[L_OP] + words[anchor + AN_LABEL]], words[anchor + AN_NUMBER]
    more = anchor + plan[ANCHOR_MORE]
    if op == L_ANY:
        return 1.0 if number > 0 else 0.0
    if op == L_NONE:
        return 0.0 if number > 0 else 1.0
    if op == L_COUNT:
        return float(number)
    if op == L_SUM:
        return _total(reals, more + AN_SUM) if number > 0 else 0.0
    if number == 0:
        return np.nan
    if op == L_MEAN:
        return _mean(reals, more + AN_SUM, number)
    return reals[more + AN_LAST]


@hot
def _become(plan, words, reals, anchor, state, value, now):
    """A new version of a label: written, and made known to the pasts that read it."""
    label = words[anchor + AN_LABEL]
    old, lo = reals[anchor + AN_VALUE], plan[plan[L_TABLES_LO] + label]
    words[anchor + AN_STATE] = state
    words[anchor + AN_VERSION] += 1
    reals[anchor + AN_VALUE] = value
    _tell(plan, words, reals, anchor, now)
    if (old != old and value != value) or old == value:
        return
    for i in range(lo, plan[plan[L_TABLES_LO] + label + 1]):
        if (words[anchor + plan[ANCHOR_MORE] + AN_LEFT_OUT] >> (i - lo)) & 1:
            continue
        key = words[anchor + AN_KEYS + plan[plan[LABEL_SPACE] + i]]
        _amend(
            plan,
            words,
            reals,
            plan[plan[LABEL_TABLE] + i],
            key,
            words[anchor + AN_TIME],
            words[anchor + AN_POS],
            old,
            value,
            words[ASKED_FROM],
        )


@hot
def _tell(plan, words, reals, anchor, now):
    n = words[N_LABELS]
    if n >= OUTPUTS_LIMIT:
        words[FAILED] = OUTPUTS_OVER
        return
    at = OUT_LABELS_AT + 8 * n
    _prefetch(words, at + 8 * OUTPUTS_AHEAD)
    words[at] = words[ORDER]
    words[at + 1] = words[anchor + AN_LABEL]
    words[at + 2] = words[anchor + AN_POS]
    words[at + 3] = words[anchor + AN_TIME]
    words[at + 4] = words[anchor + AN_VERSION]
    words[at + 5] = words[anchor + AN_STATE]
    words[at + 6] = now
    words[at + 7] = words[anchor + AN_EVIDENCE]
    for i in range(plan[SPACES]):
        words[OUT_LABEL_KEYS_AT + plan[SPACES] * n + i] = words[anchor + AN_KEYS + i]
    reals[OUT_LABEL_VALUES_AT + n] = reals[anchor + AN_VALUE]
    words[N_LABELS] = n + 1
    words[ORDER] += 1


@hot
def _silent(plan, words, label, now):
    """The sources of a label that were not heard for too long, as bits."""
    bits = 0
    for i in range(plan[plan[L_SOURCES_LO] + label], plan[plan[L_SOURCES_LO] + label + 1]):
        s = plan[plan[SOURCE] + i]
        if plan[plan[S_SILENCE] + s] != FOREVER and (
            words[HEARD_AT + s] == NEVER or now - words[HEARD_AT + s] > plan[plan[S_SILENCE] + s]
        ):
            bits |= 1 << (i - plan[plan[L_SOURCES_LO] + label])
    return bits


@hot
def _settle(plan, words, reals, anchor, rank, now):
    state, label = words[anchor + AN_STATE], words[anchor + AN_LABEL]
    if state != OPEN and not (rank == FINAL_DUE and state == PROVISIONAL):
        return
    bits = _silent(plan, words, label, now)
    if bits != 0:
        _hold(plan, words, anchor, rank, bits)
        return
    value = _truth(plan, words, reals, anchor)
    if value != value:
        _become(plan, words, reals, anchor, CENSORED, value, now)
    else:
        _become(plan, words, reals, anchor, PROVISIONAL if rank == PROVISIONAL_DUE else FINAL, value, now)


@jit
def _hold(plan, words, anchor, rank, bits):
    """What is due waits for silent sources: a block of (next, anchor, rank, bits) at the end of the label's list."""
    label = words[anchor + AN_LABEL]
    at = _take(words, WAITING, 4)
    words[at] = 0
    words[at + 1] = anchor
    words[at + 2] = rank
    words[at + 3] = bits
    if words[HELD_AT + 2 * label] == 0:
        words[HELD_AT + 2 * label] = at
    else:
        words[words[HELD_AT + 2 * label + 1]] = at
    words[HELD_AT + 2 * label + 1] = at
    words[anchor + AN_WAITS] += 1
    for i in range(plan[plan[L_SOURCES_LO] + label], plan[plan[L_SOURCES_LO] + label + 1]):
        s = plan[plan[SOURCE] + i]
        if (bits >> (i - plan[plan[L_SOURCES_LO] + label])) & 1 and words[ALERTED_AT + s] == 0:
            words[ALERTED_AT + s] = 1
            words[OUT_HOLDS_AT + words[N_HOLDS]] = s
            words[N_HOLDS] += 1


@hot
def _hear(plan, words, stream, now):
    """A source is heard: what was held only because of it falls due again after the lateness."""
    words[HEARD_AT + stream] = now
    if words[ALERTED_AT + stream] == 0:
        return
    words[ALERTED_AT + stream] = 0
    for label in range(plan[LABELS]):
        bit = -1
        for i in range(plan[plan[L_SOURCES_LO] + label], plan[plan[L_SOURCES_LO] + label + 1]):
            if plan[plan[SOURCE] + i] == stream:
                bit = i - plan[plan[L_SOURCES_LO] + label]
        if bit < 0:
            continue
        at, before = words[HELD_AT + 2 * label], 0
        while at != 0:
            following, anchor = words[at], words[at + 1]
            words[at + 3] &= ~(1 << bit)
            if words[at + 3] == 0:
                due, rank = now + plan[plan[L_LATENESS] + label], words[at + 2]
                _await(words, 2 * label + rank, due, rank, words[anchor + AN_POS], label, anchor)
                words[anchor + AN_WAITS] -= 1
                if before == 0:
                    words[HELD_AT + 2 * label] = following
                else:
                    words[before] = following
                if following == 0:
                    words[HELD_AT + 2 * label + 1] = before
                _give_back(words, WAITING, at)
            else:
                before = at
            at = following


@jit
def _bury(plan, words, anchor):
    """Forget an anchor once nothing waits for it any more, not even that it expires."""
    if words[anchor + AN_STATE] <= PROVISIONAL or words[anchor + AN_WAITS] > 0:
        return
    label = words[anchor + AN_LABEL]
    lasts = _lasts(plan, label, words[anchor + AN_KEYS + plan[plan[L_JOIN] + label]])
    _unlink(words, lasts + 1 if _is_told(plan, words, anchor) else lasts, anchor)
    _give_back(words, ANCHORS, anchor)


@jit
def _is_told(plan, words, anchor):
    """Whether no evidence can change a label any more: a yes/no label that has some, and one that was voided."""
    if words[anchor + AN_VOID] != 0:
        return True
    return words[anchor + AN_NUMBER] > 0 and plan[plan[L_OP] + words[anchor + AN_LABEL]] in (L_ANY, L_NONE)


@jit
def _set_aside(plan, words, anchor):
    """An anchor goes from the list of those that evidence may change to that of the others."""
    label = words[anchor + AN_LABEL]
    lasts = _lasts(plan, label, words[anchor + AN_KEYS + plan[plan[L_JOIN] + label]])
    _unlink(words, lasts, anchor)
    _link(words, lasts + 1, anchor)


@jit
def _void(plan, words, anchor):
    """The truth of an anchor will not be known."""
    if not _is_told(plan, words, anchor):
        _set_aside(plan, words, anchor)
    words[anchor + AN_VOID] = 1


@jit
def _link(words, at, anchor):
    """An anchor joins a list, in the order of positions; the last one, whose address lies at `at`, knows the first.

    AN_LATEST of each is no earlier than its own time and those of all before it: who looks for anchors after a moment
    need not look at what only has earlier ones.
    """
    last, pos = words[at], words[anchor + AN_POS]
    before = last
    while before != 0 and words[before + AN_POS] > pos:
        before = words[before + AN_PREV]
    words[anchor + AN_PREV] = before
    latest = words[anchor + AN_TIME]
    if before != 0:
        latest = max(latest, words[before + AN_LATEST])
    words[anchor + AN_LATEST] = latest
    if last == 0:
        words[anchor + AN_NEXT] = anchor
    else:
        previous = before if before != 0 else last
        following = words[previous + AN_NEXT]
        words[anchor + AN_NEXT] = following
        words[previous + AN_NEXT] = anchor
        if before != last:
            words[following + AN_PREV] = anchor
    if before == last:
        words[at] = anchor
        return
    while words[following + AN_LATEST] < latest:
        words[following + AN_LATEST] = latest
        if following == last:
            break
        following = words[following + AN_NEXT]


@jit
def _unlink(words, at, anchor):
    """An anchor leaves its list."""
    following, previous, last = words[anchor + AN_NEXT], words[anchor + AN_PREV], words[at]
    if anchor == last:
        words[at] = previous
    else:
        words[following + AN_PREV] = previous
    if previous != 0:
        words[previous + AN_NEXT] = following
    elif anchor != last:
        words[last + AN_NEXT] = following


@jit
def _first_after(words, at, t):
    """The first anchor of a list that is later than `t`, or has some before it which are; 0 if there is none."""
    anchor, found = words[at], 0
    while anchor != 0 and words[anchor + AN_LATEST] > t:
        anchor, found = words[anchor + AN_PREV], anchor
    return found


@jit
def _witness(plan, words, reals, anchor, t, pos, x):
    """Evidence for an anchor is counted; whether it can change the label."""
    op = plan[plan[L_OP] + words[anchor + AN_LABEL]]
    if op in (L_ANY, L_NONE):
        if words[anchor + AN_NUMBER] > 0:
            return False
        words[anchor + AN_NUMBER] = 1
        words[anchor + AN_EVIDENCE] = t
        _set_aside(plan, words, anchor)
        return True
    if op != L_COUNT and x != x:
        return False
    words[anchor + AN_NUMBER] += 1
    more = anchor + plan[ANCHOR_MORE]
    if op in (L_SUM, L_MEAN):
        _add(reals, more + AN_SUM, x)
    if op == L_LAST:
        last = words[more + AN_LAST_TIME]
        if t < last or (t == last and pos < words[more + AN_LAST_POS]):
            return False
        words[more + AN_LAST_TIME] = t
        words[more + AN_LAST_POS] = pos
        reals[more + AN_LAST] = x
    words[anchor + AN_EVIDENCE] = t
    return True


@jit
def _conclude(plan, words, reals, anchor, now):
    """A new version, if the evidence that was counted makes one."""
    op, state = plan[plan[L_OP] + words[anchor + AN_LABEL]], words[anchor + AN_STATE]
    value = _truth(plan, words, reals, anchor)
    if op in (L_ANY, L_NONE):
        _become(plan, words, reals, anchor, FINAL if state == OPEN else REVISED, value, now)
    elif state != OPEN and value != reals[anchor + AN_VALUE]:
        _become(plan, words, reals, anchor, REVISED, value, now)


@jit
def _empty(plan, words, reals, table, cell):
    """Give back what a cell has taken, and make it as a new one is."""
    tree = _tree(plan, words, table, cell)
    if tree != 0:
        _give_back(words, TREES * SIZES + _log2(_tree_words(plan, words, table, cell)), tree)
    for a in range(plan[table + T_ACC_LO], plan[table + T_ACC_HI], ACC_FIELDS):
        if plan[a + A_TALLY] >= 0:
            tally = cell + plan[a + A_AT] + plan[a + A_TALLY]
            if words[tally + TALLY_ROOM] > 0:
                _give_back(words, TALLIES * SIZES + _log2(words[tally + TALLY_ROOM]), words[tally + TALLY])
    _give_back(words, plan[table + T_STRIDE] * SIZES + _log2(words[cell + CAP]), words[cell + RING])
    _blank(plan, words, reals, table, cell)


@jit
def _matters(plan, words, tables, table_count, lists, list_count, cells, now):
    """Whether a key has an open label, or an event that a question can reach at `now` or later."""
    for i in range(list_count):
        if words[cells + lists[i]] != 0:
            return True
    for i in range(table_count):
        table = tables[i]
        cell = words[cells + plan[table + T_LOCAL]]
        if cell != 0 and words[cell + LEN] > 0:
            last = (words[cell + START] + words[cell + LEN] - 1) & (words[cell + CAP] - 1)
            if words[words[cell + RING] + last * plan[table + T_STRIDE]] >= now - plan[table + T_KEEP]:
                return True
    return False


def release(plan, words, reals, keys, count, tables, table_count, lists, list_count, now, gone):
    """Make all cells of the keys as new ones are that cannot matter any more at `now`; how many, and which (`gone`).

    `tables` are those of the keys' space, `lists` where a key's lists of open labels lie among its cells.
    """
    total = 0
    for i in range(count):
        cells = CELLS_AT + keys[i] * plan[CELLS_PER_KEY]
        if _matters(plan, words, tables, table_count, lists, list_count, cells, now):
            continue
        for j in range(table_count):
            cell = words[cells + plan[tables[j] + T_LOCAL]]
            if cell != 0:
                _empty(plan, words, reals, tables[j], cell)
        gone[total] = keys[i]
        total += 1
    return total


@jit
def _lasts(plan, label, key):
    """Where the last anchor of a label and a key is written, among its cells; then the last that evidence is past."""
    return CELLS_AT + key * plan[CELLS_PER_KEY] + plan[plan[L_LOCAL] + label]


@jit
def _open_more(plan, words, label, more):
    """The words of an anchor that not every label needs."""
    for i in range(AN_MORE):
        words[more + i] = 0
    words[more + AN_LAST_TIME] = NOTHING
    lo = plan[plan[L_TABLES_LO] + label]
    for i in range(lo, plan[plan[L_TABLES_LO] + label + 1]):
        mask = plan[plan[LABEL_MASK] + i]
        if mask >= 0 and words[ROW_MASKS_AT + mask] == 0:
            words[more + AN_LEFT_OUT] |= 1 << (i - lo)


@hot
def _open(plan, words, reals, label, t, pos, now):
    """The label of an anchor opens, and takes in what came before it."""
    spaces, more = plan[SPACES], plan[ANCHOR_MORE]
    anchor = _take_lines(words, ANCHORS, AN_KEYS + spaces + (AN_MORE if more >= 0 else 0))
    words[anchor + AN_LABEL] = label
    words[anchor + AN_POS] = pos
    words[anchor + AN_TIME] = t
    words[anchor + AN_STATE] = OPEN
    words[anchor + AN_VERSION] = 0
    reals[anchor + AN_VALUE] = np.nan
    words[anchor + AN_WAITS] = 0
    words[anchor + AN_VOID] = 0
    words[anchor + AN_EVIDENCE] = NOTHING
    words[anchor + AN_NUMBER] = 0
    for s in range(spaces):
        words[anchor + AN_KEYS + s] = words[ROW_KEYS_AT + s]
    if more >= 0:
        _open_more(plan, words, label, anchor + more)
    key = words[ROW_KEYS_AT + plan[plan[L_JOIN] + label]]
    _link(words, _lasts(plan, label, key), anchor)
    _tell(plan, words, reals, anchor, now)
    _look_back(plan, words, reals, anchor, key, now)
    if plan[plan[L_PROVISIONAL] + label] != FOREVER:
        _await(words, 2 * label, t + plan[plan[L_PROVISIONAL] + label], PROVISIONAL_DUE, pos, label, anchor)
    _await(
        words,
        2 * label + 1,
        t + plan[plan[L_END] + label] + plan[plan[L_LATENESS] + label],
        FINAL_DUE,
        pos,
        label,
        anchor,
    )
    _await(words, plan[QUEUES] + label, t + plan[plan[L_EXPIRY] + label], EXPIRY_DUE, pos, label, anchor)
    lo, hi = plan[plan[L_LEADS_LO] + label], plan[plan[L_LEADS_LO] + label + 1]
    if lo == hi:
        return
    words[anchor + more + AN_LEADS] = hi - lo
    for j in range(lo, hi):
        q = plan[plan[LABEL_LEAD] + j]
        moment = t + plan[plan[LEAD_OFFSET] + q]
        if moment > now:
            _await(words, 2 * plan[LABELS] + q, moment, PREDICTION_DUE, pos, q, anchor)
        else:
            _ask_lead(plan, words, reals, anchor, q, moment, now)


@hot
def _look_back(plan, words, reals, anchor, key, now):
    """Evidence that came before its anchor counts at once."""
    label, t = words[anchor + AN_LABEL], words[anchor + AN_TIME]
    changed = False
    for table in (plan[plan[L_LOOKBACK] + label], plan[plan[L_LOOKBACK_VOID] + label]):
        if table < 0:
            continue
        cell = words[CELLS_AT + key * plan[CELLS_PER_KEY] + plan[table + T_LOCAL]]
        if cell == 0:
            continue
        stride = plan[table + T_STRIDE]
        ring, mask, start = words[cell + RING], words[cell + CAP] - 1, words[cell + START]
        low = _bound(words, cell, stride, t + plan[plan[L_START] + label], NOTHING)
        high = _bound(words, cell, stride, t + plan[plan[L_END] + label], NOTHING)
        if table == plan[plan[L_LOOKBACK_VOID] + label]:
            if high > low:
                _void(plan, words, anchor)
                words[anchor + AN_EVIDENCE] = words[ring + ((start + low) & mask) * stride]
            continue
        for i in range(low, high):
            entry = ring + ((start + i) & mask) * stride
            x = reals[entry + 2] if stride > 2 else 1.0
            if _witness(plan, words, reals, anchor, words[entry], words[entry + 1], x):
                changed = True
    if words[anchor + AN_VOID] == 1:
        _become(plan, words, reals, anchor, CENSORED, np.nan, now)
    elif changed:
        _conclude(plan, words, reals, anchor, now)


@jit
def _evidence(plan, words, reals, e, t, pos, now):
    """An event speaks to every anchor of its key in whose window it lies."""
    label = plan[plan[EVIDENCE_LABEL] + e]
    mask = plan[plan[EVIDENCE_MASK] + e]
    if mask >= 0 and words[ROW_MASKS_AT + mask] == 0:
        return
    key = words[ROW_KEYS_AT + plan[plan[L_JOIN] + label]]
    column = plan[plan[EVIDENCE_COLUMN] + e]
    x = reals[ROW_VALUES_AT + column] if column >= 0 else 1.0
    voids = plan[plan[EVIDENCE_VOIDS] + e] == 1
    lasts = _lasts(plan, label, key)
    last, last_told = words[lasts], words[lasts + 1]
    ended = t - plan[plan[L_END] + label]  # those of this moment, and before
    following, following_told = _first_after(words, lasts, ended), 0
    if voids:
        following_told = _first_after(words, lasts + 1, ended)
    while following != 0 or following_told != 0:
        if following_told == 0 or (following != 0 and words[following + AN_POS] < words[following_told + AN_POS]):
            anchor = following
            following = words[anchor + AN_NEXT] if anchor != last else 0
        else:
            anchor = following_told
            following_told = words[anchor + AN_NEXT] if anchor != last_told else 0
        a = words[anchor + AN_TIME]
        inside = a + plan[plan[L_START] + label] <= t < a + plan[plan[L_END] + label] and words[anchor + AN_POS] != pos
        if inside and words[anchor + AN_VOID] == 0:
            if voids:
                _void(plan, words, anchor)
                if words[anchor + AN_STATE] != CENSORED:
                    words[anchor + AN_EVIDENCE] = t
                    _become(plan, words, reals, anchor, CENSORED, np.nan, now)
                    _bury(plan, words, anchor)
            elif _witness(plan, words, reals, anchor, t, pos, x):
                _conclude(plan, words, reals, anchor, now)
                _bury(plan, words, anchor)
    table = plan[plan[L_LOOKBACK_VOID] + label] if voids else plan[plan[L_LOOKBACK] + label]
    reals[SCRATCH] = x
    _insert(plan, words, reals, table, key, t, pos, SCRATCH, now)


@jit
def _decide(plan, words, reals, label, decided, now):
    """A decision that keeps the truth of the anchor at position `decided` from being seen."""
    key = words[ROW_KEYS_AT + plan[plan[L_JOIN] + label]]
    if key < 0:
        return
    lasts = _lasts(plan, label, key)
    for at in (lasts, lasts + 1):
        anchor = words[at]
        while anchor != 0 and words[anchor + AN_POS] > decided:
            anchor = words[anchor + AN_PREV]
        if anchor == 0 or words[anchor + AN_POS] < decided or words[anchor + AN_VOID] != 0:
            continue
        expired = words[anchor + AN_TIME] + plan[plan[L_EXPIRY] + label] <= now
        if expired and words[anchor + AN_STATE] > PROVISIONAL:
            continue
        _void(plan, words, anchor)
        if words[anchor + AN_STATE] != CENSORED:
            _become(plan, words, reals, anchor, CENSORED, np.nan, now)
        _bury(plan, words, anchor)


# -------------------------------------------------------------------------------------------------------- predictions


@hot
def _ask(plan, words, reals, predictor, keys, pos, time, at, now, lead, row):
    """Write down a question to a model, with its features."""
    n = words[N_PREDICTIONS]
    if n >= OUTPUTS_LIMIT:
        words[FAILED] = OUTPUTS_OVER
        return
    to = OUT_ASKED_AT + 8 * n
    _prefetch(words, to + 8 * OUTPUTS_AHEAD)
    features = OUT_FEATURES_AT + plan[ANSWERS] * (n + OUTPUTS_AHEAD)
    for line in range(0, plan[ANSWERS], LINE_WORDS):
        _prefetch(words, features + line)
    words[to] = words[ORDER]
    words[to + 1] = predictor
    words[to + 2] = pos
    words[to + 3] = time
    words[to + 4] = at
    words[to + 5] = now
    words[to + 6] = lead
    words[to + 7] = row
    for i in range(plan[SPACES]):
        words[OUT_ASKED_KEYS_AT + plan[SPACES] * n + i] = words[keys + i]
    answer(plan, words, reals, predictor, keys, at, OUT_FEATURES_AT + plan[ANSWERS] * n)
    words[N_PREDICTIONS] = n + 1
    words[ORDER] += 1


@jit
def _ask_lead(plan, words, reals, anchor, q, moment, now):
    """One of the moments before (or after) an anchor has come; what is known already is not asked."""
    if words[anchor + AN_STATE] <= PROVISIONAL:
        keys = anchor + AN_KEYS
        t = words[anchor + AN_TIME]
        _ask(
            plan,
            words,
            reals,
            plan[plan[LEAD_PREDICTOR] + q],
            keys,
            words[anchor + AN_POS],
            t,
            moment,
            now,
            t - moment,
            -1,
        )
    leads = anchor + plan[ANCHOR_MORE] + AN_LEADS
    words[leads] -= 1
    if words[leads] == 0:
        words[OUT_DONE_AT + words[N_DONE]] = words[anchor + AN_POS]
        words[N_DONE] += 1


# --------------------------------------------------------------------------------------------------------- duplicates


@jit
def _mix(h):
    h ^= h >> 31
    h *= 0x7FB5D329728EA185
    h ^= (h >> 27) & 0x1FFFFFFFFF
    return h


@hot
def _seen(plan, words, identity, stream, now):
    """Whether an event of this identity was applied within the declared time; if not, it is from now on.

    Two tables: the older holds what was seen before DUP_SINCE, and goes when that is longer ago than the declared time.
    None is made, or moved into a larger one, all at once: with each event a few entries are.
    """
    at, span = IDENTITIES_AT + DUP_WORDS * stream, plan[plan[S_DUPLICATES] + stream]
    _make_room(words, at, now, now - words[at + DUP_SINCE] > span)
    entry = _place(words, words[at + DUP_AT], words[at + DUP_CAP], identity)
    if words[entry] != 0:
        if now - words[entry + 1] <= span:
            return True
    else:
        for table in (at + OLD_AT, at + LAST_AT):
            if words[table + 1] > 0:
                other = _place(words, words[table], words[table + 1], identity)
                if words[other] != 0 and now - words[other + 1] <= span:
                    return True
        words[entry] = identity
        words[at + DUP_LEN] += 1
    words[entry + 1] = now
    return False


@jit
def _place(words, at, cap, identity):
    """The entry of an identity, or the free one where it would be; an entry: identity (0: free), moment."""
    i = _mix(identity) & (cap - 1)
    while True:
        entry = at + 2 * i
        if words[entry] == 0 or words[entry] == identity:
            return entry
        i = (i + 1) & (cap - 1)


@hot
def _make_room(words, at, now, is_over):
    """Go on with a stream's next table: for what comes, if the newer one's time `is_over`, or to have more room.

    It is begun when the newer one is filled to 3/8, and is ready when that is half full: each is at most half full.
    """
    if words[at + DUP_CAP] == 0:
        words[at + DUP_AT], words[at + DUP_CAP] = _table(words, IDENTITIES_FIRST), IDENTITIES_FIRST
        _free(words, words[at + DUP_AT], 0, IDENTITIES_FIRST)
        words[at + DUP_SINCE] = now
    elif words[at + LAST_CAP] > 0:
        _move_some(words, at)
    elif words[at + NEXT_CAP] == 0:
        if is_over:
            _forget_older(words, at)
            cap = IDENTITIES_FIRST
            while cap < 3 * words[at + DUP_LEN]:
                cap *= 2
            words[at + NEXT_AT], words[at + NEXT_CAP] = _table(words, cap), cap
        elif 8 * words[at + DUP_LEN] >= 3 * words[at + DUP_CAP]:
            cap = 2 * words[at + DUP_CAP]
            words[at + NEXT_AT], words[at + NEXT_CAP] = _table(words, cap), cap
    elif words[at + NEXT_READY] < words[at + NEXT_CAP]:
        _free(words, words[at + NEXT_AT], words[at + NEXT_READY], IDENTITIES_AT_ONCE)
        words[at + NEXT_READY] += IDENTITIES_AT_ONCE
    elif is_over:
        _forget_older(words, at)
        words[at + OLD_AT], words[at + OLD_CAP] = words[at + DUP_AT], words[at + DUP_CAP]
        words[at + DUP_LEN], words[at + DUP_SINCE] = 0, now
        _take_next(words, at)
    elif 2 * words[at + DUP_LEN] >= words[at + DUP_CAP]:
        words[at + LAST_AT], words[at + LAST_CAP] = words[at + DUP_AT], words[at + DUP_CAP]
        words[at + LAST_MOVED] = 0
        _take_next(words, at)


@jit
def _table(words, cap):
    """A table that is not cleared."""
    return _take(words, IDENTITIES * SIZES + _log2(cap), 2 * cap)


@jit
def _free(words, table, first, count):
    """Make some entries free."""
    for i in range(first, first + count):
        words[table + 2 * i] = 0


@jit
def _take_next(words, at):
    words[at + DUP_AT], words[at + DUP_CAP] = words[at + NEXT_AT], words[at + NEXT_CAP]
    words[at + NEXT_CAP] = words[at + NEXT_READY] = 0


@jit
def _forget_older(words, at):
    """All that it holds was seen longer ago than the declared time."""
    if words[at + OLD_CAP] > 0:
        _give_back(words, IDENTITIES * SIZES + _log2(words[at + OLD_CAP]), words[at + OLD_AT])
        words[at + OLD_CAP] = 0


@jit
def _move_some(words, at):
    """Some entries of the table that the newer one was move into it, unless they came again meanwhile."""
    first = words[at + LAST_MOVED]
    for i in range(first, first + IDENTITIES_AT_ONCE):
        of = words[at + LAST_AT] + 2 * i
        if words[of] != 0:
            to = _place(words, words[at + DUP_AT], words[at + DUP_CAP], words[of])
            if words[to] == 0:
                words[to] = words[of]
                words[to + 1] = words[of + 1]
            else:
                words[at + DUP_LEN] -= 1  # it was counted twice
    words[at + LAST_MOVED] += IDENTITIES_AT_ONCE
    if words[at + LAST_MOVED] >= words[at + LAST_CAP]:
        _give_back(words, IDENTITIES * SIZES + _log2(words[at + LAST_CAP]), words[at + LAST_AT])
        words[at + LAST_CAP] = 0


# ------------------------------------------------------------------------------------------------------------ the loop


@hot
def _apply(plan, words, reals, stream, t, pos, now, identity, row):
    """An event happens; its fate."""
    if plan[plan[S_DUPLICATES] + stream] >= 0 and _seen(plan, words, identity, stream, now):
        return DUPLICATE
    latest = words[LATEST_AT + stream]
    fate = LATE if latest != NEVER and t < latest - plan[plan[S_LATENESS] + stream] else APPLIED
    if t <= now and t > latest:
        words[LATEST_AT + stream] = t
    _hear(plan, words, stream, now)
    for j in range(plan[plan[S_LABELS_LO] + stream], plan[plan[S_LABELS_LO] + stream + 1]):
        _open(plan, words, reals, plan[plan[ANCHOR_LABEL] + j], t, pos, now)
    for j in range(plan[plan[S_ASKS_LO] + stream], plan[plan[S_ASKS_LO] + stream + 1]):
        _ask(plan, words, reals, plan[plan[ASK_PREDICTOR] + j], ROW_KEYS_AT, pos, t, t, now, NOTHING, row)
    for j in range(plan[plan[S_EVIDENCE_LO] + stream], plan[plan[S_EVIDENCE_LO] + stream + 1]):
        _evidence(plan, words, reals, j, t, pos, now)
    for j in range(plan[plan[S_FEEDS_LO] + stream], plan[plan[S_FEEDS_LO] + stream + 1]):
        mask = plan[plan[FEED_MASK] + j]
        if mask >= 0 and words[ROW_MASKS_AT + mask] == 0:
            continue
        table = plan[plan[FEED_TABLE] + j]
        low = plan[table + T_COLUMNS_LO]
        for c in range(low, plan[table + T_COLUMNS_HI]):
            reals[SCRATCH + c - low] = reals[ROW_VALUES_AT + plan[plan[COLUMN] + c]]
        _insert(plan, words, reals, table, words[ROW_KEYS_AT + plan[plan[FEED_SPACE] + j]], t, pos, SCRATCH, now)
    return fate


@hot
def _fetch(plan, words, kind, stream, identity, keys, n, i):
    """Bring near what the rows after `i` will touch: waiting for memory is much of an event's time."""
    per_key, spaces, lo = plan[CELLS_PER_KEY], plan[SPACES], plan[S_NEAR_LO]
    far, near, next_ = i + 9, i + 6, i + 3
    if far < n and kind[far] == EVENT:
        row = far * spaces
        j, last = plan[lo + stream[far]] - NEAR_FIELDS, plan[lo + stream[far] + 1] - NEAR_FIELDS
        while j < last:
            j += NEAR_FIELDS
            if plan[j + N_ROW] == 1:
                _prefetch(words, CELLS_AT + keys[row + plan[j + N_SPACE]] * per_key + plan[j + N_LOCAL])
        mixed, at = _mix(identity[far]), IDENTITIES_AT + DUP_WORDS * stream[far]
        _prefetch(words, words[at + DUP_AT] + 2 * (mixed & (words[at + DUP_CAP] - 1)))
        if words[at + OLD_CAP] > 0:
            _prefetch(words, words[at + OLD_AT] + 2 * (mixed & (words[at + OLD_CAP] - 1)))
    if near < n and kind[near] == EVENT:
        row = near * spaces
        j, last = plan[lo + stream[near]] - NEAR_FIELDS, plan[lo + stream[near] + 1] - NEAR_FIELDS
        while j < last:
            j += NEAR_FIELDS
            cell = words[CELLS_AT + keys[row + plan[j + N_SPACE]] * per_key + plan[j + N_LOCAL]]
            if cell != 0:
                for line in range(plan[j + N_LINES]):
                    _prefetch(words, cell + LINE_WORDS * line)
    if next_ < n and kind[next_] == EVENT:
        row = next_ * spaces
        j, last = plan[lo + stream[next_]] - NEAR_FIELDS, plan[lo + stream[next_] + 1] - NEAR_FIELDS
        while j < last:
            j += NEAR_FIELDS
            cell = words[CELLS_AT + keys[row + plan[j + N_SPACE]] * per_key + plan[j + N_LOCAL]]
            if cell != 0:
                ring, start, mask = words[cell + RING], words[cell + START], words[cell + CAP] - 1
                stride = plan[j + N_STRIDE]
                newest = ring + ((start + words[cell + LEN] - 1) & mask) * stride
                _prefetch(words, newest)
                _prefetch(words, newest + 2 * stride - 1)
                for index in range(plan[j + N_LO], plan[j + N_HI]):
                    head = ring + ((start + words[cell + plan[index]]) & mask) * stride
                    _prefetch(words, head)
                    _prefetch(words, head + LINE_WORDS)


@jit
def run(plan, words, reals, kind, stream, time, now, pos, identity, keys, values, masks, fate, count, first, until):
    """Apply the rows from `first` on (of `count`), and let all happen that is due up to `until`.

    Gives back the row to go on with, once the outputs have been taken away; -1: all is done; -2: FAILED says why not.
    """
    words[N_PREDICTIONS] = words[N_LABELS] = words[N_HOLDS] = words[N_DONE] = 0
    for i in range(first, count):
        if not _fire(plan, words, reals, now[i]) or _is_full(words):
            return i
        if i & (EXPIRED_EVERY - 1) == 0:
            _expire(plan, words, now[i])
        if i & (LINE_WORDS - 1) == 0 and i + ROWS_AHEAD + LINE_WORDS < count:
            ahead = i + ROWS_AHEAD
            for column in (kind, stream, time, now, pos, identity):
                _prefetch(column, ahead)
            for j in range(0, LINE_WORDS * plan[SPACES], LINE_WORDS):
                _prefetch(keys, ahead * plan[SPACES] + j)
            for j in range(0, LINE_WORDS * plan[COLUMNS], LINE_WORDS):
                _prefetch(values, ahead * plan[COLUMNS] + j)
        _fetch(plan, words, kind, stream, identity, keys, count, i)
        if kind[i] == PASSING:
            continue
        words[ASKED_FROM] = now[i]
        for s in range(plan[SPACES]):
            words[ROW_KEYS_AT + s] = keys[i * plan[SPACES] + s]
        if kind[i] == EVENT:
            for c in range(plan[COLUMNS]):
                reals[ROW_VALUES_AT + c] = values[i * plan[COLUMNS] + c]
            for c in range(plan[CONDITIONS]):
                words[ROW_MASKS_AT + c] = masks[i * plan[CONDITIONS] + c]
            fate[i] = _apply(plan, words, reals, stream[i], time[i], pos[i], now[i], identity[i], i)
        elif kind[i] == DECISION:
            _decide(plan, words, reals, stream[i], time[i], now[i])
        else:
            _hear(plan, words, stream[i], now[i])
        if words[FAILED] != 0:
            return -2
    if not _fire(plan, words, reals, until):
        return count
    _expire(plan, words, until)
    words[NOW] = until
    return -1 if words[FAILED] == 0 else -2


@jit
def ask(plan, words, reals, predictor, t):
    """Answer a question from outside: keys lie at ANSWER_AT, and the answers are put after them."""
    answer(plan, words, reals, predictor, ANSWER_AT, t, ANSWER_AT + SPACES_MOST)
