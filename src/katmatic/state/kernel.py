"""The compiled inner loop: one arena of words, one table of windows, the same for one event and for a hundred thousand.

All that is remembered lies in one arena of 8-byte words (`Store.words`, and the same memory as floats in `Store.reals`):

* a **cell** per key and table: where its ring lies, and running aggregates as of the moment `T` it was last asked about;
* a **ring** per cell: the key's recent events in the order of (time, position): time, position, values;
* an **anchor** per open label: its life so far, in a list per join key.

The plan (which windows, which labels) is data, so that one compiled kernel serves every declaration. The meaning is that
of docs/reference/semantics.md; the naive oracle in the tests says the same.

Sums are kept as three floats whose exact sum is the sum of the window's values (error-free transformations: D. E. Knuth,
TAOCP vol. 2, 4.2.2, theorem B; J. R. Shewchuk, "Adaptive Precision Floating-Point Arithmetic", 1997), so that values leave
a window as exactly as they entered it, and a result is rounded once.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

jit = njit(cache=True, nogil=True, error_model="numpy")

FOREVER = -1
NEVER = -(2**62)
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

# Words of a cell.
RING, CAP, START, LEN, ASOF, TAIL, BASE_TIME, BASE_POS, CELL_WORDS = 0, 1, 2, 3, 4, 5, 6, 7, 8
# Words of an accumulator: the index of the window's first event, the number of its values; then what its flags ask for.
HEAD, NUMBER, ACC_WORDS, ACC_WORDS_MOST = 0, 1, 2, 16
# Words of an anchor.
AN_LABEL, AN_POS, AN_TIME, AN_STATE, AN_VERSION, AN_VALUE, AN_NEXT, AN_PREV, AN_VOID, AN_EVIDENCE = (
    0,
    1,
    2,
    3,
    4,
    5,
    6,
    7,
    8,
    9,
)
AN_NUMBER, AN_SUM, AN_LAST_TIME, AN_LAST_POS, AN_LAST, AN_LEADS, AN_WAITS, AN_DEAD, AN_KEYS = (
    10,
    11,
    14,
    15,
    16,
    17,
    18,
    19,
    20,
)
# The first words of the arena: address 0 is nobody's; a copy of an accumulator; a copy of an event's values.
COPY, SPARE, WORDS_FIRST = 64, 128, 256
# Free lists: blocks of one size each; those of rings follow by stride.
CELLS, WAITING, ANCHORS, ENDS, IDENTITIES, STRIDES_MOST = 0, 1, 2, 3, 60, 64
# Scalars of a store.
USED, HEAP_LEN, DUP_AT, DUP_CAP, DUP_LEN, STAMP, SEQUENCE, NOW, SCALARS = 0, 1, 2, 3, 4, 5, 6, 7, 16
# Scalars of an outcome.
N_PREDICTIONS, N_LABELS, N_HOLDS, N_DONE, ORDER = 0, 1, 2, 3, 4

DAY = 86_400_000_000.0
RING_CAPACITY_FIRST = 4
SIZES = 48  # log2 of the largest ring


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
    t_base: Ints  # where the values of what was let go lie in the cell, per column 2 words
    t_acc_lo: Ints
    t_columns_lo: Ints
    column: Ints  # value column of the batch
    # accumulators
    a_length: Ints
    a_column: Ints
    a_at: Ints
    a_sum: Ints  # word within the accumulator, -1: not kept
    a_square: Ints
    a_min: Ints
    a_max: Ints
    a_ewm: Ints
    a_halflife: Ints
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
    # labels
    l_op: Ints
    l_start: Ints
    l_end: Ints
    l_provisional: Ints  # FOREVER: none
    l_lateness: Ints
    l_expiry: Ints  # after the anchor's time
    l_join: Ints  # space
    l_local: Ints
    l_lookback: Ints  # table of evidence that came before its anchor
    l_lookback_void: Ints
    l_sources_lo: Ints
    source: Ints
    l_tables_lo: Ints  # tables that a label feeds: the past of a label
    label_table: Ints
    label_space: Ints
    l_leads_lo: Ints
    label_lead: Ints  # moments at which predictors of the label ask, in the order of (moment, predictor)
    lead_predictor: Ints
    lead_offset: Ints
    spaces: Ints  # [number of spaces, cells per key]


class Store(NamedTuple):
    """All that is remembered."""

    words: Ints
    reals: Floats
    cells: Ints
    heap: Ints  # (n, 3): due, rank and anchor, address
    scalars: Ints
    free: Ints
    heard: Ints  # per stream: the moment it was last heard
    latest: Ints  # per stream: the largest time seen, the future left out
    held: Ints  # per label: addresses of waiting things
    alerted: Ints  # per stream: whether its silence was told
    stamps: Ints  # per value code
    tallies: Ints
    scratch: Floats


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


class Outcome(NamedTuple):
    """What came of it, in order."""

    fate: NDArray[np.uint8]  # per row
    scalars: Ints
    asked: Ints  # (n, 8): order, predictor, anchor, time, at, now, lead, row (or -1)
    asked_keys: Ints
    features: Floats
    labels: Ints  # (n, 8): order, label, anchor, time, version, state, now, evidence
    label_keys: Ints
    label_values: Floats
    holds: Ints
    done: Ints  # anchors whose last lead has passed


# ---------------------------------------------------------------------------------------------------- exact arithmetic


@jit
def _add(reals, at, x):  # type: ignore[no-untyped-def]
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
def _two_sum(a, b):  # type: ignore[no-untyped-def]
    s = a + b
    v = s - a
    return s, (a - (s - v)) + (b - v)


@jit
def _two_product(a, b):  # type: ignore[no-untyped-def]
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
def _total(reals, at):  # type: ignore[no-untyped-def]
    """The sum of the three parts, rounded once (to even, as math.fsum does)."""
    s, t = _two_sum(reals[at], reals[at + 1])
    t, u = _two_sum(t, reals[at + 2])
    s, t = _two_sum(s, t)
    t, u = _two_sum(t, u)
    s, t = _two_sum(s, t)
    if t != 0.0 and u != 0.0 and (t > 0.0) == (u > 0.0):
        y = 2.0 * t
        x = s + y
        if x - s == y:
            return x
    return s


@jit
def _grow(parts, n, x):  # type: ignore[no-untyped-def]
    """Add `x` to an expansion of `n` parts; the new number of parts."""
    kept = 0
    for i in range(n):
        x, e = _two_sum(parts[i], x)
        if e != 0.0:
            parts[kept] = e
            kept += 1
    parts[kept] = x
    return kept + 1


@jit
def _deviation(reals, sums, squares, number, parts):  # type: ignore[no-untyped-def]
    """Sample standard deviation from exact sums: sqrt((n Q - S^2) / (n (n - 1))), the difference taken exactly."""
    n = 0
    for i in range(3):
        p, e = _two_product(float(number), reals[squares + i])
        n = _grow(parts, n, e)
        n = _grow(parts, n, p)
        for j in range(3):
            p, e = _two_product(-reals[sums + i], reals[sums + j])
            n = _grow(parts, n, e)
            n = _grow(parts, n, p)
    total = 0.0
    for i in range(n):
        total += parts[i]
    return math.sqrt(max(total, 0.0) / (float(number) * (float(number) - 1.0)))


# ------------------------------------------------------------------------------------------------------------- memory


@jit
def _take(store, size, words):  # type: ignore[no-untyped-def]
    """An address of `words` words; `size` names the free list of blocks of just this many words."""
    at = store.free[size]
    if at != 0:
        store.free[size] = store.words[at]
        return at
    at = store.scalars[USED]
    if at + words > len(store.words):
        raise MemoryError("the state has reached its limit (state_bytes_limit)")
    store.scalars[USED] = at + words
    return at


@jit
def _give_back(store, size, at):  # type: ignore[no-untyped-def]
    store.words[at] = store.free[size]
    store.free[size] = at


@jit
def _log2(n):  # type: ignore[no-untyped-def]
    k = 0
    while n > 1:
        n >>= 1
        k += 1
    return k


# --------------------------------------------------------------------------------------------------- rings and windows


@jit
def _put(plan, store, a, at, x):  # type: ignore[no-untyped-def]
    """A value enters the window of accumulator `a` that lies at `at`."""
    if x != x:
        return
    words, reals = store.words, store.reals
    words[at + NUMBER] += 1
    if plan.a_sum[a] >= 0:
        _add(reals, at + plan.a_sum[a], x)
    if plan.a_square[a] >= 0:
        p, e = _two_product(x, x)
        _add(reals, at + plan.a_square[a], p)
        _add(reals, at + plan.a_square[a], e)
    alone = words[at + NUMBER] == 1
    if plan.a_min[a] >= 0:
        i = at + plan.a_min[a]
        if alone or x < reals[i]:
            reals[i] = x
    if plan.a_max[a] >= 0:
        i = at + plan.a_max[a]
        if alone or x > reals[i]:
            reals[i] = x


@jit
def _drop(plan, store, a, at, x):  # type: ignore[no-untyped-def]
    """A value leaves the window. An extreme that leaves is NaN until it is looked for again."""
    if x != x:
        return
    words, reals = store.words, store.reals
    words[at + NUMBER] -= 1
    if words[at + NUMBER] == 0:
        for i in range(ACC_WORDS, ACC_WORDS + 6):
            if plan.a_sum[a] == i or plan.a_square[a] == i:
                for j in range(3):
                    reals[at + i + j] = 0.0
        return
    if plan.a_sum[a] >= 0:
        _add(reals, at + plan.a_sum[a], -x)
    if plan.a_square[a] >= 0:
        p, e = _two_product(x, x)
        _add(reals, at + plan.a_square[a], -p)
        _add(reals, at + plan.a_square[a], -e)
    if plan.a_min[a] >= 0 and reals[at + plan.a_min[a]] == x:
        reals[at + plan.a_min[a]] = np.nan
    if plan.a_max[a] >= 0 and reals[at + plan.a_max[a]] == x:
        reals[at + plan.a_max[a]] = np.nan


@jit
def _value(store, entry, column):  # type: ignore[no-untyped-def]
    return 1.0 if column < 0 else store.reals[entry + 2 + column]


@jit
def _advance(plan, store, table, cell, t):  # type: ignore[no-untyped-def]
    """Move the running aggregates of a cell forward, to be as of `t`."""
    words = store.words
    ring, mask, start = words[cell + RING], words[cell + CAP] - 1, words[cell + START]
    length, tail, stride = words[cell + LEN], words[cell + TAIL], plan.t_stride[table]
    end = tail
    while end < length and words[ring + ((start + end) & mask) * stride] < t:
        end += 1
    for a in range(plan.t_acc_lo[table], plan.t_acc_lo[table + 1]):
        at, column, span = cell + plan.a_at[a], plan.a_column[a], plan.a_length[a]
        head = words[at + HEAD]
        if span == FOREVER:
            for i in range(tail, end):
                _put(plan, store, a, at, _value(store, ring + ((start + i) & mask) * stride, column))
            continue
        edge = t - span
        while head < end:
            entry = ring + ((start + head) & mask) * stride
            if words[entry] >= edge:
                break
            if head < tail:
                _drop(plan, store, a, at, _value(store, entry, column))
            head += 1
        for i in range(max(head, tail), end):
            _put(plan, store, a, at, _value(store, ring + ((start + i) & mask) * stride, column))
        words[at + HEAD] = head
    words[cell + TAIL] = end
    words[cell + ASOF] = t


@jit
def _bound(store, cell, stride, t, pos):  # type: ignore[no-untyped-def]
    """Index of the first event of a cell that does not lie before (`t`, `pos`)."""
    words = store.words
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
def _cell(plan, store, table, key):  # type: ignore[no-untyped-def]
    """The cell of a key, made if there is none."""
    place = key * plan.spaces[1] + plan.t_local[table]
    cell = store.cells[place]
    if cell != 0:
        return cell
    words, reals = store.words, store.reals
    size = plan.t_words[table]
    cell = _take(store, CELLS, size)
    words[cell : cell + size] = 0
    stride = plan.t_stride[table]
    words[cell + CAP] = RING_CAPACITY_FIRST
    words[cell + RING] = _take(store, stride * SIZES + _log2(RING_CAPACITY_FIRST), stride * RING_CAPACITY_FIRST)
    words[cell + ASOF] = NEVER
    words[cell + BASE_TIME] = NEVER
    if plan.t_base[table] > 0:
        for i in range(2 * (plan.t_columns_lo[table + 1] - plan.t_columns_lo[table])):
            reals[cell + plan.t_base[table] + i] = np.nan
    for a in range(plan.t_acc_lo[table], plan.t_acc_lo[table + 1]):
        for part in (plan.a_min[a], plan.a_max[a]):
            if part >= 0:
                reals[cell + plan.a_at[a] + part] = np.nan
                reals[cell + plan.a_at[a] + part + 1] = np.nan
    store.cells[place] = cell
    return cell


@jit
def _let_go(plan, store, table, cell, now):  # type: ignore[no-untyped-def]
    """Forget events that no question can reach any more; what windows without an end need of them is kept."""
    words, reals = store.words, store.reals
    edge = now - plan.t_keep[table]
    ring, mask, stride = words[cell + RING], words[cell + CAP] - 1, plan.t_stride[table]
    if words[cell + LEN] == 0 or words[ring + (words[cell + START] & mask) * stride] >= edge:
        return
    asof = now - plan.t_lag[table]
    if words[cell + ASOF] < asof:
        _advance(plan, store, table, cell, asof)
    gone = 0
    while words[cell + LEN] > gone:
        entry = ring + ((words[cell + START] + gone) & mask) * stride
        if words[entry] >= edge:
            break
        _remember(plan, store, table, cell, words[entry], words[entry + 1], entry + 2)
        gone += 1
    words[cell + START] = (words[cell + START] + gone) & mask
    words[cell + LEN] -= gone
    words[cell + TAIL] -= gone
    for a in range(plan.t_acc_lo[table], plan.t_acc_lo[table + 1]):
        if plan.a_length[a] != FOREVER:
            words[cell + plan.a_at[a] + HEAD] -= gone


@jit
def _remember(plan, store, table, cell, t, pos, values):  # type: ignore[no-untyped-def]
    """Keep of an event that is let go what windows without an end ask for: the last, the first, the extremes, the decayed."""
    words, reals = store.words, store.reals
    base = plan.t_base[table]
    if base == 0:
        return
    newest = t > words[cell + BASE_TIME] or (t == words[cell + BASE_TIME] and pos >= words[cell + BASE_POS])
    columns = plan.t_columns_lo[table + 1] - plan.t_columns_lo[table]
    for c in range(columns):
        x = reals[values + c]
        if x == x:
            last, first = cell + base + 2 * c, cell + base + 2 * c + 1
            if newest or reals[last] != reals[last]:
                reals[last] = x
            if reals[first] != reals[first]:
                reals[first] = x
    for a in range(plan.t_acc_lo[table], plan.t_acc_lo[table + 1]):
        at, column = cell + plan.a_at[a], plan.a_column[a]
        x = 1.0 if column < 0 else reals[values + column]
        if plan.a_length[a] != FOREVER or x != x:
            continue
        if plan.a_min[a] >= 0:
            i = at + plan.a_min[a] + 1
            if not reals[i] <= x:
                reals[i] = x
        if plan.a_max[a] >= 0:
            i = at + plan.a_max[a] + 1
            if not reals[i] >= x:
                reals[i] = x
        if plan.a_ewm[a] >= 0:
            _decay(reals, words, at + plan.a_ewm[a], t, x, plan.a_halflife[a])
    if newest:
        words[cell + BASE_TIME] = t
        words[cell + BASE_POS] = pos


@jit
def _decay(reals, words, at, t, x, halflife):  # type: ignore[no-untyped-def]
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


@jit
def _insert(plan, store, table, key, t, pos, values, now):  # type: ignore[no-untyped-def]
    """An event enters the past of a key. `values` is an array, one value per column of the table."""
    words, reals = store.words, store.reals
    cell = _cell(plan, store, table, key)
    stride = plan.t_stride[table]
    columns = stride - 2
    if plan.t_keep[table] != FOREVER:
        _let_go(plan, store, table, cell, now)
        if t < now - plan.t_keep[table]:
            _insert_gone(plan, store, table, cell, t, pos, values)
            return
    length = words[cell + LEN]
    if length == words[cell + CAP]:
        _enlarge(store, cell, stride)
    ring, mask, start = words[cell + RING], words[cell + CAP] - 1, words[cell + START]
    index = length
    if length > 0:
        entry = ring + ((start + length - 1) & mask) * stride
        if t < words[entry] or (t == words[entry] and pos < words[entry + 1]):
            index = _bound(store, cell, stride, t, pos)
            for i in range(length, index, -1):
                to, of = ring + ((start + i) & mask) * stride, ring + ((start + i - 1) & mask) * stride
                for j in range(stride):
                    words[to + j] = words[of + j]
    entry = ring + ((start + index) & mask) * stride
    words[entry] = t
    words[entry + 1] = pos
    for c in range(columns):
        reals[entry + 2 + c] = values[c]
    words[cell + LEN] = length + 1
    asof = words[cell + ASOF]
    if t < asof:
        words[cell + TAIL] += 1
        for a in range(plan.t_acc_lo[table], plan.t_acc_lo[table + 1]):
            at, span = cell + plan.a_at[a], plan.a_length[a]
            if span == FOREVER or t >= asof - span:
                _put(plan, store, a, at, _value(store, entry, plan.a_column[a]))
            else:
                words[at + HEAD] += 1


@jit
def _insert_gone(plan, store, table, cell, t, pos, values):  # type: ignore[no-untyped-def]
    """An event enters that is older than any question: only windows without an end take it."""
    reals = store.reals
    for c in range(plan.t_stride[table] - 2):
        reals[SPARE + c] = values[c]
    for a in range(plan.t_acc_lo[table], plan.t_acc_lo[table + 1]):
        if plan.a_length[a] == FOREVER:
            column = plan.a_column[a]
            _put(plan, store, a, cell + plan.a_at[a], 1.0 if column < 0 else reals[SPARE + column])
    _remember(plan, store, table, cell, t, pos, SPARE)


@jit
def _enlarge(store, cell, stride):  # type: ignore[no-untyped-def]
    words = store.words
    cap, ring, start = words[cell + CAP], words[cell + RING], words[cell + START]
    bigger = _take(store, stride * SIZES + _log2(2 * cap), 2 * cap * stride)
    for i in range(words[cell + LEN]):
        to, of = bigger + i * stride, ring + ((start + i) & (cap - 1)) * stride
        for j in range(stride):
            words[to + j] = words[of + j]
    _give_back(store, stride * SIZES + _log2(cap), ring)
    words[cell + RING] = bigger
    words[cell + CAP] = 2 * cap
    words[cell + START] = 0


@jit
def _amend(plan, store, table, key, t, pos, old, new, now):  # type: ignore[no-untyped-def]
    """A label in the past of a key changes its value; NaN is no value: it enters, or leaves."""
    words, reals = store.words, store.reals
    if old != old:
        store.scratch[0] = new
        _insert(plan, store, table, key, t, pos, store.scratch, now)
        return
    cell = _cell(plan, store, table, key)
    stride = plan.t_stride[table]
    ring, mask, start, length = words[cell + RING], words[cell + CAP] - 1, words[cell + START], words[cell + LEN]
    index = _bound(store, cell, stride, t, pos)
    entry = ring + ((start + index) & mask) * stride
    found = index < length and words[entry] == t and words[entry + 1] == pos
    for a in range(plan.t_acc_lo[table], plan.t_acc_lo[table + 1]):
        at, span = cell + plan.a_at[a], plan.a_length[a]
        column = plan.a_column[a]
        running = t < words[cell + ASOF] and (span == FOREVER or t >= words[cell + ASOF] - span)
        if running and (found or span == FOREVER):
            _drop(plan, store, a, at, 1.0 if column < 0 else old)
            if new == new:
                _put(plan, store, a, at, 1.0 if column < 0 else new)
        elif found and new != new and span != FOREVER and index < words[at + HEAD]:
            words[at + HEAD] -= 1
    if not found:
        return
    if new == new:
        for c in range(stride - 2):
            reals[entry + 2 + c] = new
        return
    for i in range(index, length - 1):
        to, of = ring + ((start + i) & mask) * stride, ring + ((start + i + 1) & mask) * stride
        for j in range(stride):
            words[to + j] = words[of + j]
    words[cell + LEN] = length - 1
    if index < words[cell + TAIL]:
        words[cell + TAIL] -= 1


# ----------------------------------------------------------------------------------------------------------- questions


@jit
def _extreme(plan, store, a, cell, stride, low, high, largest):  # type: ignore[no-untyped-def]
    """The extreme of events `low` to `high` of a cell, by looking at each."""
    words, reals = store.words, store.reals
    ring, mask, start, column = words[cell + RING], words[cell + CAP] - 1, words[cell + START], plan.a_column[a]
    best = np.nan
    for i in range(low, high):
        x = reals[ring + ((start + i) & mask) * stride + 2 + column]
        if x == x and (best != best or (x > best if largest else x < best)):
            best = x
    return best


@jit
def _aggregate(plan, store, table, a, op, cell, t, late):  # type: ignore[no-untyped-def]
    """The value of an accumulated window at `t`. `late`: the cell has moved on; count back from where it is."""
    words, reals, scratch = store.words, store.reals, store.scratch
    at, span, column = cell + plan.a_at[a], plan.a_length[a], plan.a_column[a]
    stride = plan.t_stride[table]
    number = words[at + NUMBER]
    sums, squares = at + plan.a_sum[a], at + plan.a_square[a]
    low = 0 if span == FOREVER else words[at + HEAD]
    high = words[cell + TAIL]
    if late:
        ring, mask, start = words[cell + RING], words[cell + CAP] - 1, words[cell + START]
        old_low, old_high = low, high
        high = _bound(store, cell, stride, t, NOTHING)
        low = 0 if span == FOREVER else _bound(store, cell, stride, t - span, NOTHING)
        copy = COPY
        for i in range(ACC_WORDS_MOST):
            words[copy + i] = words[at + i]
        for i in range(max(high, old_low), old_high):
            _drop(plan, store, a, copy, _value(store, ring + ((start + i) & mask) * stride, column))
        for i in range(low, min(old_low, high)):
            _put(plan, store, a, copy, _value(store, ring + ((start + i) & mask) * stride, column))
        number = words[copy + NUMBER]
        sums, squares = copy + plan.a_sum[a], copy + plan.a_square[a]
    if op == COUNT:
        return float(number)
    if op == SUM:
        return _total(reals, sums) if number > 0 else 0.0
    if number == 0:
        return np.nan
    if op == MEAN:
        return _mean(reals, sums, number, scratch)
    if op == STD:
        return np.nan if number < 2 else _deviation(reals, sums, squares, number, scratch)
    largest = op == MAX
    i = at + (plan.a_max[a] if largest else plan.a_min[a])
    if not late:
        if reals[i] != reals[i]:
            reals[i] = _extreme(plan, store, a, cell, stride, low, high, largest)
            if span == FOREVER:
                reals[i] = _further(reals[i], reals[i + 1], largest)
        return reals[i]
    best = _extreme(plan, store, a, cell, stride, low, high, largest)
    return _further(best, reals[i + 1], largest) if span == FOREVER else best


@jit
def _further(x, y, largest):  # type: ignore[no-untyped-def]
    if x != x:
        return y
    if y != y:
        return x
    return max(x, y) if largest else min(x, y)


@jit
def _mean(reals, sums, number, parts):  # type: ignore[no-untyped-def]
    """The exact sum over the number, rounded once in all but ties: sum / n, corrected by the exact remainder."""
    total = _total(reals, sums)
    count = float(number)
    q = total / count
    p, e = _two_product(q, count)
    n = 0
    n = _grow(parts, n, -e)
    n = _grow(parts, n, -p)
    for i in range(3):
        n = _grow(parts, n, reals[sums + i])
    rest = 0.0
    for i in range(n):
        rest += parts[i]
    return q + rest / count


@jit
def _read(plan, store, question, cell, t, late, out, row):  # type: ignore[no-untyped-def]
    """The answers that need the events themselves: last, first, since, distinct, decayed means, the most frequent."""
    words, reals = store.words, store.reals
    table, op, column, span = (
        plan.q_table[question],
        plan.q_op[question],
        plan.q_column[question],
        plan.q_length[question],
    )
    stride = plan.t_stride[table]
    ring, mask, start = words[cell + RING], words[cell + CAP] - 1, words[cell + START]
    high = _bound(store, cell, stride, t, NOTHING) if late else words[cell + TAIL]
    edge = NEVER if span == FOREVER or op == EWM else t - span
    base = cell + plan.t_base[table]
    forever = span == FOREVER and plan.t_base[table] > 0
    place = plan.q_out[question]
    if op == SINCE:
        if high > 0:
            latest = words[ring + ((start + high - 1) & mask) * stride]
            if latest >= edge:
                out[row, place] = float(t - latest) / DAY
        elif forever and words[cell + BASE_TIME] != NEVER:
            out[row, place] = float(t - words[cell + BASE_TIME]) / DAY
    elif op == LAST:
        for i in range(high - 1, -1, -1):
            entry = ring + ((start + i) & mask) * stride
            x = reals[entry + 2 + column]
            if words[entry] < edge:
                return
            if x == x:
                out[row, place] = x
                return
        if forever:
            out[row, place] = reals[base + 2 * column]
    elif op == FIRST:
        if forever and reals[base + 2 * column + 1] == reals[base + 2 * column + 1]:
            out[row, place] = reals[base + 2 * column + 1]
            return
        low = 0 if span == FOREVER else _bound(store, cell, stride, edge, NOTHING)
        for i in range(low, high):
            x = reals[ring + ((start + i) & mask) * stride + 2 + column]
            if x == x:
                out[row, place] = x
                return
    elif op == EWM:
        out[row, place] = _decayed(plan, store, table, plan.q_acc[question], cell, column, high)
    else:
        low = 0 if span == FOREVER else _bound(store, cell, stride, edge, NOTHING)
        _tally(plan, store, question, cell, low, high, out, row)


@jit
def _decayed(plan, store, table, a, cell, column, high):  # type: ignore[no-untyped-def]
    """The decayed mean of all events below `high`: weights relative to the newest, so that they cannot all vanish."""
    words, reals = store.words, store.reals
    ring, mask, start, stride = words[cell + RING], words[cell + CAP] - 1, words[cell + START], plan.t_stride[table]
    halflife, at = float(plan.a_halflife[a]), cell + plan.a_at[a] + plan.a_ewm[a]
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


@jit
def _tally(plan, store, question, cell, low, high, out, row):  # type: ignore[no-untyped-def]
    """Count the values of events `low` to `high`: how many differ, or the most frequent ones."""
    words, reals, stamps, tallies = store.words, store.reals, store.stamps, store.tallies
    table, column, place = plan.q_table[question], plan.q_column[question], plan.q_out[question]
    ring, mask, start = words[cell + RING], words[cell + CAP] - 1, words[cell + START]
    stride = plan.t_stride[table]
    store.scalars[STAMP] += 1
    stamp, different = store.scalars[STAMP], 0
    for i in range(low, high):
        x = reals[ring + ((start + i) & mask) * stride + 2 + column]
        if x == x:
            code = int(x)
            if stamps[code] != stamp:
                stamps[code] = stamp
                tallies[code] = 0
                tallies[len(tallies) - 1 - different] = code
                different += 1
            tallies[code] += 1
    if plan.q_op[question] == DISTINCT:
        out[row, place] = float(different)
        return
    for rank in range(min(plan.q_k[question], different)):
        best = rank
        for i in range(rank + 1, different):
            x, y = tallies[len(tallies) - 1 - i], tallies[len(tallies) - 1 - best]
            if tallies[x] > tallies[y] or (tallies[x] == tallies[y] and x < y):
                best = i
        x = tallies[len(tallies) - 1 - best]
        tallies[len(tallies) - 1 - best] = tallies[len(tallies) - 1 - rank]
        tallies[len(tallies) - 1 - rank] = x
        out[row, place + rank] = float(x)


@jit
def answer(plan, store, predictor, keys, t, out, row):  # type: ignore[no-untyped-def]
    """All windows of a predictor at moment `t`, for an anchor with these keys, into `out[row]`; NaN is unknown."""
    words = store.words
    previous, cell, late = -1, 0, False
    for q in range(plan.p_lo[predictor], plan.p_lo[predictor + 1]):
        table, op, place = plan.q_table[q], plan.q_op[q], plan.q_out[q]
        if table != previous:
            previous = table
            key = keys[plan.q_space[q]]
            cell = store.cells[key * plan.spaces[1] + plan.t_local[table]] if key >= 0 else 0
            if cell != 0:
                late = t < words[cell + ASOF]
                if not late:
                    _advance(plan, store, table, cell, t)
        if op == TOP:
            for i in range(plan.q_k[q]):
                out[row, place + i] = np.nan
        else:
            out[row, place] = 0.0 if op == COUNT or op == SUM or op == DISTINCT else np.nan
        if cell == 0:
            continue
        if op <= MAX:
            out[row, place] = _aggregate(plan, store, table, plan.q_acc[q], op, cell, t, late)
        else:
            _read(plan, store, q, cell, t, late, out, row)


# --------------------------------------------------------------------------------------------------- what falls due


@jit
def _before(heap, i, j):  # type: ignore[no-untyped-def]
    return heap[i, 0] < heap[j, 0] or (heap[i, 0] == heap[j, 0] and heap[i, 1] < heap[j, 1])


@jit
def _push(store, due, rank, pos, extra, address):  # type: ignore[no-untyped-def]
    """Remember that something falls due; in the order of (due, rank, anchor's position, extra)."""
    heap = store.heap
    i = store.scalars[HEAP_LEN]
    if i >= len(heap):
        raise MemoryError("too many things wait for their moment (state_bytes_limit)")
    heap[i, 0] = due
    heap[i, 1] = (rank << 60) | (pos << 12) | extra
    heap[i, 2] = address
    store.words[address + AN_WAITS] += 1
    store.scalars[HEAP_LEN] = i + 1
    while i > 0:
        parent = (i - 1) >> 1
        if not _before(heap, i, parent):
            break
        for j in range(3):
            heap[i, j], heap[parent, j] = heap[parent, j], heap[i, j]
        i = parent


@jit
def _pop(store):  # type: ignore[no-untyped-def]
    heap = store.heap
    n = store.scalars[HEAP_LEN] - 1
    store.scalars[HEAP_LEN] = n
    for j in range(3):
        heap[0, j] = heap[n, j]
    i = 0
    while True:
        least = i
        for child in (2 * i + 1, 2 * i + 2):
            if child < n and _before(heap, child, least):
                least = child
        if least == i:
            return
        for j in range(3):
            heap[i, j], heap[least, j] = heap[least, j], heap[i, j]
        i = least


@jit
def _fire(plan, store, out, now):  # type: ignore[no-untyped-def]
    """All that is due at or before `now`, in its order."""
    heap = store.heap
    while store.scalars[HEAP_LEN] > 0 and heap[0, 0] <= now:
        due, order, anchor = heap[0, 0], heap[0, 1], heap[0, 2]
        rank, extra = order >> 60, order & 4095
        _pop(store)
        store.words[anchor + AN_WAITS] -= 1
        if rank == PREDICTION_DUE:
            _ask_lead(plan, store, out, anchor, extra, due, now)
        elif rank == EXPIRY_DUE:
            store.words[anchor + AN_DEAD] = 1
        else:
            _settle(plan, store, out, anchor, rank, now)
        _bury(plan, store, anchor)


# ------------------------------------------------------------------------------------------------------------- labels


@jit
def _truth(plan, store, anchor):  # type: ignore[no-untyped-def]
    """The value that the evidence so far gives; NaN: none."""
    words, reals = store.words, store.reals
    op, number = plan.l_op[words[anchor + AN_LABEL]], words[anchor + AN_NUMBER]
    if op == L_ANY:
        return 1.0 if number > 0 else 0.0
    if op == L_NONE:
        return 0.0 if number > 0 else 1.0
    if op == L_COUNT:
        return float(number)
    if op == L_SUM:
        return _total(reals, anchor + AN_SUM) if number > 0 else 0.0
    if number == 0:
        return np.nan
    if op == L_MEAN:
        return _mean(reals, anchor + AN_SUM, number, store.scratch)
    return reals[anchor + AN_LAST]


@jit
def _become(plan, store, out, anchor, state, value, now):  # type: ignore[no-untyped-def]
    """A new version of a label: written, and made known to the pasts that read it."""
    words, reals = store.words, store.reals
    label = words[anchor + AN_LABEL]
    old = reals[anchor + AN_VALUE]
    words[anchor + AN_STATE] = state
    words[anchor + AN_VERSION] += 1
    reals[anchor + AN_VALUE] = value
    _tell(plan, store, out, anchor, now)
    if (old != old and value != value) or old == value:
        return
    for i in range(plan.l_tables_lo[label], plan.l_tables_lo[label + 1]):
        key = words[anchor + AN_KEYS + plan.label_space[i]]
        _amend(plan, store, plan.label_table[i], key, words[anchor + AN_TIME], words[anchor + AN_POS], old, value, now)


@jit
def _tell(plan, store, out, anchor, now):  # type: ignore[no-untyped-def]
    words = store.words
    n = out.scalars[N_LABELS]
    if n >= len(out.labels):
        raise MemoryError("too many label versions in one batch (batch_outputs_limit)")
    out.labels[n, 0] = out.scalars[ORDER]
    out.labels[n, 1] = words[anchor + AN_LABEL]
    out.labels[n, 2] = words[anchor + AN_POS]
    out.labels[n, 3] = words[anchor + AN_TIME]
    out.labels[n, 4] = words[anchor + AN_VERSION]
    out.labels[n, 5] = words[anchor + AN_STATE]
    out.labels[n, 6] = now
    out.labels[n, 7] = words[anchor + AN_EVIDENCE]
    for i in range(plan.spaces[0]):
        out.label_keys[n, i] = words[anchor + AN_KEYS + i]
    out.label_values[n] = store.reals[anchor + AN_VALUE]
    out.scalars[N_LABELS] = n + 1
    out.scalars[ORDER] += 1


@jit
def _silent(plan, store, label, now):  # type: ignore[no-untyped-def]
    """The sources of a label that were not heard for too long, as bits."""
    bits = 0
    for i in range(plan.l_sources_lo[label], plan.l_sources_lo[label + 1]):
        s = plan.source[i]
        if plan.s_silence[s] != FOREVER and (store.heard[s] == NEVER or now - store.heard[s] > plan.s_silence[s]):
            bits |= 1 << (i - plan.l_sources_lo[label])
    return bits


@jit
def _settle(plan, store, out, anchor, rank, now):  # type: ignore[no-untyped-def]
    words = store.words
    state, label = words[anchor + AN_STATE], words[anchor + AN_LABEL]
    if state != OPEN and not (rank == FINAL_DUE and state == PROVISIONAL):
        return
    bits = _silent(plan, store, label, now)
    if bits != 0:
        _hold(plan, store, out, anchor, rank, bits)
        return
    value = _truth(plan, store, anchor)
    if value != value:
        _become(plan, store, out, anchor, CENSORED, value, now)
    else:
        _become(plan, store, out, anchor, PROVISIONAL if rank == PROVISIONAL_DUE else FINAL, value, now)


@jit
def _hold(plan, store, out, anchor, rank, bits):  # type: ignore[no-untyped-def]
    """What is due waits for silent sources: a block of (next, anchor, rank, bits) at the end of the label's list."""
    words = store.words
    label = words[anchor + AN_LABEL]
    at = _take(store, WAITING, 4)
    words[at] = 0
    words[at + 1] = anchor
    words[at + 2] = rank
    words[at + 3] = bits
    if store.held[2 * label] == 0:
        store.held[2 * label] = at
    else:
        words[store.held[2 * label + 1]] = at
    store.held[2 * label + 1] = at
    words[anchor + AN_WAITS] += 1
    for i in range(plan.l_sources_lo[label], plan.l_sources_lo[label + 1]):
        s = plan.source[i]
        if (bits >> (i - plan.l_sources_lo[label])) & 1 and store.alerted[s] == 0:
            store.alerted[s] = 1
            out.holds[out.scalars[N_HOLDS]] = s
            out.scalars[N_HOLDS] += 1


@jit
def _hear(plan, store, stream, now):  # type: ignore[no-untyped-def]
    """A source is heard: what was held only because of it falls due again after the lateness."""
    words = store.words
    store.heard[stream] = now
    if store.alerted[stream] == 0:
        return
    store.alerted[stream] = 0
    for label in range(len(plan.l_op)):
        bit = -1
        for i in range(plan.l_sources_lo[label], plan.l_sources_lo[label + 1]):
            if plan.source[i] == stream:
                bit = i - plan.l_sources_lo[label]
        if bit < 0:
            continue
        at, before = store.held[2 * label], 0
        while at != 0:
            following, anchor = words[at], words[at + 1]
            words[at + 3] &= ~(1 << bit)
            if words[at + 3] == 0:
                _push(store, now + plan.l_lateness[label], words[at + 2], words[anchor + AN_POS], label, anchor)
                words[anchor + AN_WAITS] -= 1
                if before == 0:
                    store.held[2 * label] = following
                else:
                    words[before] = following
                if following == 0:
                    store.held[2 * label + 1] = before
                _give_back(store, WAITING, at)
            else:
                before = at
            at = following


@jit
def _bury(plan, store, anchor):  # type: ignore[no-untyped-def]
    """Forget an expired anchor once nothing waits for it any more."""
    words = store.words
    if words[anchor + AN_DEAD] == 0 or words[anchor + AN_STATE] <= PROVISIONAL or words[anchor + AN_WAITS] > 0:
        return
    label = words[anchor + AN_LABEL]
    place = words[anchor + AN_KEYS + plan.l_join[label]] * plan.spaces[1] + plan.l_local[label]
    ends = store.cells[place]
    following, previous = words[anchor + AN_NEXT], words[anchor + AN_PREV]
    if previous != 0:
        words[previous + AN_NEXT] = following
    else:
        words[ends] = following
    if following != 0:
        words[following + AN_PREV] = previous
    else:
        words[ends + 1] = previous
    _give_back(store, ANCHORS, anchor)


@jit
def _witness(plan, store, anchor, t, pos, x):  # type: ignore[no-untyped-def]
    """Evidence for an anchor is counted; whether it can change the label."""
    words, reals = store.words, store.reals
    op = plan.l_op[words[anchor + AN_LABEL]]
    if op == L_ANY or op == L_NONE:
        if words[anchor + AN_NUMBER] > 0:
            return False
        words[anchor + AN_NUMBER] = 1
        words[anchor + AN_EVIDENCE] = t
        return True
    if op != L_COUNT and x != x:
        return False
    words[anchor + AN_NUMBER] += 1
    if op == L_SUM or op == L_MEAN:
        _add(reals, anchor + AN_SUM, x)
    if op == L_LAST:
        last = words[anchor + AN_LAST_TIME]
        if t < last or (t == last and pos < words[anchor + AN_LAST_POS]):
            return False
        words[anchor + AN_LAST_TIME] = t
        words[anchor + AN_LAST_POS] = pos
        reals[anchor + AN_LAST] = x
    words[anchor + AN_EVIDENCE] = t
    return True


@jit
def _conclude(plan, store, out, anchor, now):  # type: ignore[no-untyped-def]
    """A new version, if the evidence that was counted makes one."""
    words, reals = store.words, store.reals
    op, state = plan.l_op[words[anchor + AN_LABEL]], words[anchor + AN_STATE]
    value = _truth(plan, store, anchor)
    if op == L_ANY or op == L_NONE:
        _become(plan, store, out, anchor, FINAL if state == OPEN else REVISED, value, now)
    elif state != OPEN and value != reals[anchor + AN_VALUE]:
        _become(plan, store, out, anchor, REVISED, value, now)


@jit
def _open(plan, store, rows, out, i, label):  # type: ignore[no-untyped-def]
    """The label of the anchor in row `i` opens, and takes in what came before it."""
    words, reals = store.words, store.reals
    t, now, pos = rows.time[i], rows.now[i], rows.pos[i]
    spaces = plan.spaces[0]
    anchor = _take(store, ANCHORS, AN_KEYS + spaces)
    words[anchor : anchor + AN_KEYS] = 0
    words[anchor + AN_LABEL] = label
    words[anchor + AN_POS] = pos
    words[anchor + AN_TIME] = t
    words[anchor + AN_EVIDENCE] = NOTHING
    words[anchor + AN_LAST_TIME] = NOTHING
    reals[anchor + AN_VALUE] = np.nan
    for s in range(spaces):
        words[anchor + AN_KEYS + s] = rows.keys[i, s]
    key = rows.keys[i, plan.l_join[label]]
    place = key * plan.spaces[1] + plan.l_local[label]
    ends = store.cells[place]
    if ends == 0:
        ends = _take(store, ENDS, 2)
        words[ends] = 0
        words[ends + 1] = 0
        store.cells[place] = ends
    last = words[ends + 1]
    words[anchor + AN_PREV] = last
    if last != 0:
        words[last + AN_NEXT] = anchor
    else:
        words[ends] = anchor
    words[ends + 1] = anchor
    _tell(plan, store, out, anchor, now)
    _look_back(plan, store, out, anchor, key, now)
    if plan.l_provisional[label] != FOREVER:
        _push(store, t + plan.l_provisional[label], PROVISIONAL_DUE, pos, label, anchor)
    _push(store, t + plan.l_end[label] + plan.l_lateness[label], FINAL_DUE, pos, label, anchor)
    _push(store, t + plan.l_expiry[label], EXPIRY_DUE, pos, label, anchor)
    words[anchor + AN_LEADS] = plan.l_leads_lo[label + 1] - plan.l_leads_lo[label]
    for j in range(plan.l_leads_lo[label], plan.l_leads_lo[label + 1]):
        q = plan.label_lead[j]
        moment = t + plan.lead_offset[q]
        if moment > now:
            _push(store, moment, PREDICTION_DUE, pos, q, anchor)
        else:
            _ask_lead(plan, store, out, anchor, q, moment, now)


@jit
def _look_back(plan, store, out, anchor, key, now):  # type: ignore[no-untyped-def]
    """Evidence that came before its anchor counts at once."""
    words, reals = store.words, store.reals
    label, t = words[anchor + AN_LABEL], words[anchor + AN_TIME]
    changed = False
    for table in (plan.l_lookback[label], plan.l_lookback_void[label]):
        if table < 0:
            continue
        cell = store.cells[key * plan.spaces[1] + plan.t_local[table]]
        if cell == 0:
            continue
        stride = plan.t_stride[table]
        ring, mask, start = words[cell + RING], words[cell + CAP] - 1, words[cell + START]
        low = _bound(store, cell, stride, t + plan.l_start[label], NOTHING)
        high = _bound(store, cell, stride, t + plan.l_end[label], NOTHING)
        if table == plan.l_lookback_void[label]:
            if high > low:
                words[anchor + AN_VOID] = 1
            continue
        for i in range(low, high):
            entry = ring + ((start + i) & mask) * stride
            x = reals[entry + 2] if stride > 2 else 1.0
            if _witness(plan, store, anchor, words[entry], words[entry + 1], x):
                changed = True
    if words[anchor + AN_VOID] == 1:
        _become(plan, store, out, anchor, CENSORED, np.nan, now)
    elif changed:
        _conclude(plan, store, out, anchor, now)


@jit
def _evidence(plan, store, rows, out, i, e):  # type: ignore[no-untyped-def]
    """The event in row `i` speaks to every open anchor of its key."""
    words = store.words
    label = plan.evidence_label[e]
    mask = plan.evidence_mask[e]
    if mask >= 0 and rows.masks[i, mask] == 0:
        return
    key = rows.keys[i, plan.l_join[label]]
    t, pos, now = rows.time[i], rows.pos[i], rows.now[i]
    column = plan.evidence_column[e]
    x = rows.values[i, column] if column >= 0 else 1.0
    ends = store.cells[key * plan.spaces[1] + plan.l_local[label]]
    anchor = words[ends] if ends != 0 else 0
    while anchor != 0:
        following, a = words[anchor + AN_NEXT], words[anchor + AN_TIME]
        inside = a + plan.l_start[label] <= t < a + plan.l_end[label] and words[anchor + AN_POS] != pos
        if inside and words[anchor + AN_VOID] == 0:
            if plan.evidence_voids[e] == 1:
                words[anchor + AN_VOID] = 1
                words[anchor + AN_EVIDENCE] = t
                _become(plan, store, out, anchor, CENSORED, np.nan, now)
                _bury(plan, store, anchor)
            elif _witness(plan, store, anchor, t, pos, x):
                _conclude(plan, store, out, anchor, now)
                _bury(plan, store, anchor)
        anchor = following
    table = plan.l_lookback_void[label] if plan.evidence_voids[e] == 1 else plan.l_lookback[label]
    store.scratch[0] = x
    _insert(plan, store, table, key, t, pos, store.scratch, now)


@jit
def _decide(plan, store, rows, out, i):  # type: ignore[no-untyped-def]
    """A decision that keeps the truth from being seen: row `i` names the anchor (`time`), the label (`stream`), the key."""
    words = store.words
    label = rows.stream[i]
    key = rows.keys[i, plan.l_join[label]]
    if key < 0:
        return
    ends = store.cells[key * plan.spaces[1] + plan.l_local[label]]
    anchor = words[ends] if ends != 0 else 0
    while anchor != 0:
        following = words[anchor + AN_NEXT]
        if words[anchor + AN_POS] == rows.time[i] and words[anchor + AN_VOID] == 0:
            words[anchor + AN_VOID] = 1
            if words[anchor + AN_STATE] != CENSORED:
                _become(plan, store, out, anchor, CENSORED, np.nan, rows.now[i])
            _bury(plan, store, anchor)
        anchor = following


# -------------------------------------------------------------------------------------------------------- predictions


@jit
def _ask(plan, store, out, predictor, keys, pos, time, at, now, lead, row):  # type: ignore[no-untyped-def]
    """Write down a question to a model, with its features."""
    n = out.scalars[N_PREDICTIONS]
    if n >= len(out.asked):
        raise MemoryError("too many predictions in one batch (batch_outputs_limit)")
    out.asked[n, 0] = out.scalars[ORDER]
    out.asked[n, 1] = predictor
    out.asked[n, 2] = pos
    out.asked[n, 3] = time
    out.asked[n, 4] = at
    out.asked[n, 5] = now
    out.asked[n, 6] = lead
    out.asked[n, 7] = row
    for i in range(plan.spaces[0]):
        out.asked_keys[n, i] = keys[i]
    answer(plan, store, predictor, keys, at, out.features, n)
    out.scalars[N_PREDICTIONS] = n + 1
    out.scalars[ORDER] += 1


@jit
def _ask_lead(plan, store, out, anchor, q, moment, now):  # type: ignore[no-untyped-def]
    """One of the moments before (or after) an anchor has come; what is known already is not asked."""
    words = store.words
    if words[anchor + AN_STATE] <= PROVISIONAL:
        keys = words[anchor + AN_KEYS : anchor + AN_KEYS + plan.spaces[0]]
        t = words[anchor + AN_TIME]
        _ask(plan, store, out, plan.lead_predictor[q], keys, words[anchor + AN_POS], t, moment, now, t - moment, -1)
    words[anchor + AN_LEADS] -= 1
    if words[anchor + AN_LEADS] == 0:
        out.done[out.scalars[N_DONE]] = words[anchor + AN_POS]
        out.scalars[N_DONE] += 1


# --------------------------------------------------------------------------------------------------------- duplicates


@jit
def _mix(h):  # type: ignore[no-untyped-def]
    h ^= h >> 31
    h *= 0x7FB5D329728EA185
    h ^= (h >> 27) & 0x1FFFFFFFFF
    return h


@jit
def _seen(plan, store, identity, stream, now):  # type: ignore[no-untyped-def]
    """Whether an event of this identity was applied within the declared time; if not, it is from now on."""
    words, scalars = store.words, store.scalars
    span = plan.s_duplicates[stream]
    if scalars[DUP_CAP] == 0 or 2 * scalars[DUP_LEN] >= scalars[DUP_CAP]:
        _rehash(plan, store, now)
    at, mask = scalars[DUP_AT], scalars[DUP_CAP] - 1
    i = _mix(identity) & mask
    while True:
        entry = at + 3 * i
        if words[entry + 1] == NEVER:
            words[entry] = identity
            words[entry + 1] = now
            words[entry + 2] = stream
            scalars[DUP_LEN] += 1
            return False
        if words[entry] == identity and words[entry + 2] == stream:
            if now - words[entry + 1] <= span:
                return True
            words[entry + 1] = now
            return False
        i = (i + 1) & mask


@jit
def _rehash(plan, store, now):  # type: ignore[no-untyped-def]
    """A table of identities with room, without those that no longer count."""
    words, scalars = store.words, store.scalars
    old, old_cap = scalars[DUP_AT], scalars[DUP_CAP]
    alive = 0
    for i in range(old_cap):
        entry = old + 3 * i
        if words[entry + 1] != NEVER and now - words[entry + 1] <= plan.s_duplicates[words[entry + 2]]:
            alive += 1
    cap = 1024
    while cap < 4 * (alive + 1):
        cap *= 2
    at = _take(store, IDENTITIES * SIZES + _log2(cap), 3 * cap)
    for i in range(cap):
        words[at + 3 * i + 1] = NEVER
    mask = cap - 1
    for k in range(old_cap):
        entry = old + 3 * k
        if words[entry + 1] == NEVER or now - words[entry + 1] > plan.s_duplicates[words[entry + 2]]:
            continue
        i = _mix(words[entry]) & mask
        while words[at + 3 * i + 1] != NEVER:
            i = (i + 1) & mask
        for j in range(3):
            words[at + 3 * i + j] = words[entry + j]
    if old_cap > 0:
        _give_back(store, IDENTITIES * SIZES + _log2(old_cap), old)
    scalars[DUP_AT], scalars[DUP_CAP], scalars[DUP_LEN] = at, cap, alive


# ------------------------------------------------------------------------------------------------------------ the loop


@jit
def run(plan, store, rows, out, now):  # type: ignore[no-untyped-def]
    """Apply all rows, and let all happen that is due up to `now`."""
    scratch = store.scratch
    for i in range(len(rows.kind)):
        moment, stream = rows.now[i], rows.stream[i]
        _fire(plan, store, out, moment)
        if rows.kind[i] == PASSING:
            continue
        if rows.kind[i] == DECISION:
            out.fate[i] = NO_EVENT
            _decide(plan, store, rows, out, i)
            continue
        if rows.kind[i] == HEARTBEAT:
            out.fate[i] = NO_EVENT
            _hear(plan, store, stream, moment)
            continue
        if plan.s_duplicates[stream] >= 0 and _seen(plan, store, rows.identity[i], stream, moment):
            out.fate[i] = DUPLICATE
            continue
        t = rows.time[i]
        latest = store.latest[stream]
        out.fate[i] = LATE if latest != NEVER and t < latest - plan.s_lateness[stream] else APPLIED
        if t <= moment and t > latest:
            store.latest[stream] = t
        _hear(plan, store, stream, moment)
        for j in range(plan.s_labels_lo[stream], plan.s_labels_lo[stream + 1]):
            _open(plan, store, rows, out, i, plan.anchor_label[j])
        for j in range(plan.s_asks_lo[stream], plan.s_asks_lo[stream + 1]):
            _ask(plan, store, out, plan.ask_predictor[j], rows.keys[i], rows.pos[i], t, t, moment, NOTHING, i)
        for j in range(plan.s_evidence_lo[stream], plan.s_evidence_lo[stream + 1]):
            _evidence(plan, store, rows, out, i, j)
        for j in range(plan.s_feeds_lo[stream], plan.s_feeds_lo[stream + 1]):
            if plan.feed_mask[j] >= 0 and rows.masks[i, plan.feed_mask[j]] == 0:
                continue
            table = plan.feed_table[j]
            for c in range(plan.t_columns_lo[table], plan.t_columns_lo[table + 1]):
                scratch[c - plan.t_columns_lo[table]] = rows.values[i, plan.column[c]]
            _insert(plan, store, table, rows.keys[i, plan.feed_space[j]], t, rows.pos[i], scratch, moment)
    _fire(plan, store, out, now)
    store.scalars[NOW] = now
