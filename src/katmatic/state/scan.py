"""The compiled loops over bytes: records become columns, contents become identities, keys become numbers, and back.

A record is **plain** if it is one flat JSON object whose known fields come once each and have the declared types, whose
texts have no escapes, whose numbers have at most 18 digits (W. D. Clinger, "How to Read Floating Point Numbers
Accurately", 1990) and whose time has one of the usual forms. Whatever is not plain is left to the reader that knows all
forms and says what is wrong (engine/validate.py); for what is plain, both read the same.

Columns are words, one for each field and record: a number itself (`reals` is the same memory as floats), a truth as 0
or 1, and of a text where it begins. `lengths` has the bytes of a text, and NULL for null.

Keys lie one after the other in words: a head (number, space, bytes), then the key's texts as MessagePack has them.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from katmatic.state import kernel

COMPILED: list[str] = []  # names of the functions that are compiled

# What becomes of a record: read; read, its time is in the app's zone; a heartbeat; left to the other reader.
PLAIN, LOCAL, BEAT, ODD = 0, 1, 2, 3
# Kinds of fields.
REAL, WHOLE, TRUTH, TEXT, KEY, TIME = 0, 1, 2, 3, 4, 5
NULL = -1  # length of what is null
# Words of a field: its kind, whether null is a value, whether it may be missing, what it is then, its name: where it
# begins, its bytes, the first eight of them and which of these count.
F_KIND, F_OPTIONAL, F_DEFAULT, F_WORD, F_LENGTH, F_NAME, F_BYTES, F_FIRST, F_MASK, FIELD_WORDS = range(10)
FIELDS_MOST = 62
PADDING = 16  # bytes after a text that may be looked at
POWERS = np.array([10.0**i for i in range(23)])  # exact
# Words about keys: how many there are, the words they take, the places of the index less 1, how many numbers are free,
# how many words are of keys whose number another one has; and for how many words and numbers there is room.
K_COUNT, K_USED, K_MASK, K_FREE, K_GARBAGE, K_ROOM, K_STARTS, KEY_FACTS = range(8)
NUMBER = (1 << 31) - 1  # of the head of a key; the bit above says that it was forgotten
FORGOTTEN = 1 << 31
KEY_HEAD = 5  # bytes of the longest head of a text in MessagePack

# What `intake` is told. Of a stream, beside the addresses of the two others:
(
    I_FIELDS,
    I_FIELD_COUNT,
    I_NAMES,
    I_POWERS,
    I_TABLE,
    I_IDENTITY,
    I_STREAM,
    I_HORIZON,
    I_AHEAD,
    I_COLUMNS,
    I_COLUMN_COUNT,
    I_SPACES,
    I_SPACE_COUNT,
    I_PLACES,
    I_ROWS,
    I_KEYS,
    INTAKE_WORDS,
) = range(17)
SPACE_WORDS = 3  # of a space: its number, the address of its fields, how many these are
# Of the rows: where they lie, and what a row has.
(
    R_KIND,
    R_STREAM,
    R_TIME,
    R_NOW,
    R_POS,
    R_IDENTITY,
    R_KEYS,
    R_VALUES,
    R_MASKS,
    R_FATE,
    R_SPACES,
    R_COLUMNS,
    R_CONDITIONS,
    R_NOTES,
    ROWS_WORDS,
) = range(15)
# And of keys: where all about them lies; where the free numbers lie, and per space their address and how many they are.
A_FACTS, A_INDEX, A_STARTS, A_KEYS, A_ROOM, A_SCRATCH, A_USED, A_FREE, KEYS_WORDS = range(9)
# What `intake` says: it is done; or nothing is, for some records are not plain, or out of range, or there is no room.
TAKEN, NOT_PLAIN, OUT_OF_RANGE, NO_ROOM = 0, 1, 2, 3
# What `labels` and `predictions` are told: whose they are, where they come from and go.
(
    G_OWNER,
    G_WORDS,
    G_SPACES,
    G_PARTS,
    G_PART_COUNT,
    G_KEYS,
    G_OUT,
    G_ROWS,
    G_LETTERS,
    G_ROOM,
    G_SOURCES,
    G_WIDTH,
    G_ANSWERS,
    G_FIELDS,
    G_FIELD_COUNT,
    G_TABLE,
    G_PLACES,
    GIVEN_WORDS,
) = range(18)

_EACH, _HIGH = 0x0101010101010101, -0x7F7F7F7F7F7F7F80  # of each byte the lowest bit, the highest one
_QUOTES, _SLASHES, _BLANKS = 0x2222222222222222, 0x5C5C5C5C5C5C5C5C, 0x2020202020202020
# The odd numbers of XXH64, as signed words.
_P1, _P2, _P3 = -7046029288634856825, -4417276706812531889, 1609587929392839161
_P4, _P5 = -8796714831421723037, 2870177450012600261
_EXACT = 9007199254740992  # 2^53
_NEARLY = 1.0 + 2.0**-20
_AT_ONCE = 64  # keys that are looked up together, so that memory is waited for once


def jit(function: Any) -> Any:
    """Mark a function for the compiler (state/compile.py)."""
    COMPILED.append(function.__name__)
    return function


def _word(text, at):
    """Eight bytes from `text[at]` on, as one little-endian word; compiled to one instruction."""
    return int.from_bytes(bytes(text[at : at + 8]), "little", signed=True)


def _put(text, at, word):
    """Write eight bytes from `text[at]` on; compiled to one instruction."""
    text[at : at + 8] = np.frombuffer(int(word).to_bytes(8, "little", signed=True), np.uint8)


def _zeros(word):
    """How many of the lowest bits are 0; compiled to one instruction."""
    return (word & -word).bit_length() - 1


def _prefetch(words, at):
    """Have the cache line of `words[at]` brought near while other work goes on; compiled to one instruction."""


def _ints(address):
    """The words at an address; compiled to nothing."""
    return np.ctypeslib.as_array(ctypes.cast(address, ctypes.POINTER(ctypes.c_int64)), (1 << 40,))


def _floats(address):
    """The floats at an address; compiled to nothing."""
    return np.ctypeslib.as_array(ctypes.cast(address, ctypes.POINTER(ctypes.c_double)), (1 << 40,))


def _letters(address):
    """The bytes at an address; compiled to nothing."""
    return np.ctypeslib.as_array(ctypes.cast(address, ctypes.POINTER(ctypes.c_uint8)), (1 << 40,))


# -------------------------------------------------------------------------------------------------------------- records


@jit
def scan(text, at, count, fields, field_count, names, powers, words, reals, lengths, time, fate):
    """Read `count` records, byte strings of MessagePack from `text[at]` on; how many are not plain."""
    odd = 0
    for i in range(count):
        tag = text[at]
        if tag == 0xC4:
            size = np.int64(text[at + 1])
            at += 2
        elif tag == 0xC5:
            size = (np.int64(text[at + 1]) << 8) | np.int64(text[at + 2])
            at += 3
        else:
            size = np.int64(0)
            for j in range(1, 5):
                size = (size << 8) | np.int64(text[at + j])
            at += 5
        if size == 0:
            found = BEAT
        else:
            found = _record(
                text, at, at + size, fields, field_count, names, powers, words, reals, lengths, time, i, count
            )
        fate[i] = found
        if found != PLAIN:
            odd += 1
        at += size
    return odd


@jit
def _record(text, p, end, fields, field_count, names, powers, words, reals, lengths, time, i, count):
    """Read one record into its place of the columns; what became of it."""
    p = _blank(text, p, end)
    if p >= end or text[p] != 123:
        return ODD
    p = _blank(text, p + 1, end)
    if p < end and text[p] == 125 and field_count > 0:
        return ODD  # every event has a time
    result = PLAIN
    seen, expected, known = 0, 0, 0
    while True:
        if p >= end or text[p] != 34:
            return ODD
        p += 1
        field = -1
        first = _word(text, p)
        for step in range(field_count):
            f = expected + step
            if f >= field_count:
                f -= field_count
            at = f * FIELD_WORDS
            if (first ^ fields[at + F_FIRST]) & fields[at + F_MASK] == 0:
                size = fields[at + F_BYTES]
                if p + size < end and text[p + size] == 34 and _same(text, p, names, fields[at + F_NAME], size):
                    field = f
                    break
        if field < 0:
            p = _string(text, p, end)
            if p < 0:
                return ODD
        else:
            p += fields[field * FIELD_WORDS + F_BYTES]
        p = _blank(text, p + 1, end)
        if p >= end or text[p] != 58:
            return ODD
        p = _blank(text, p + 1, end)
        if p >= end:
            return ODD
        if field < 0:
            p = _skip(text, p, end)
            if p < 0:
                return ODD
        else:
            if seen & (1 << field):
                return ODD
            seen |= 1 << field
            known += 1
            expected = field + 1
            at = field * FIELD_WORDS
            kind = fields[at + F_KIND]
            place = field * count + i
            letter = text[p]
            if letter == 34:
                if kind < TEXT:
                    return ODD
                start = p + 1
                p = _string(text, start, end)
                if p < 0:
                    return ODD
                if kind == TIME:
                    moment, form = _moment(text, start, p)
                    if form == ODD:
                        return ODD
                    result = form
                    time[i] = moment
                    start -= 1
                    p += 1
                    lengths[place] = p - start
                else:
                    if kind == KEY and p == start:
                        return ODD
                    lengths[place] = p - start
                    p += 1
                words[place] = start
            elif letter == 45 or 48 <= letter <= 57:
                start = p
                p, mantissa, exponent, is_whole, is_negative = _number(text, p, end)
                if p < 0:
                    return ODD
                if kind == REAL:
                    value, is_sure = _real(mantissa, exponent, powers)
                    if not is_sure or (is_negative and mantissa == 0):
                        return ODD
                    reals[place] = -value if is_negative else value
                    lengths[place] = 0
                elif kind == WHOLE:
                    if not is_whole:
                        return ODD
                    words[place] = -mantissa if is_negative else mantissa
                    lengths[place] = 0
                elif kind == KEY:
                    if not is_whole or (is_negative and mantissa == 0):
                        return ODD
                    words[place] = start
                    lengths[place] = p - start
                elif kind == TIME:
                    if is_negative:
                        return ODD
                    moment = _of_number(mantissa, exponent, is_whole, powers)
                    if moment < 0:
                        return ODD
                    time[i] = moment
                    words[place] = start
                    lengths[place] = p - start
                else:
                    return ODD
            elif letter == 110:
                if fields[at + F_OPTIONAL] == 0 or not _spells(text, p, end, 4, 1819047278):
                    return ODD
                p += 4
                words[place] = 0
                lengths[place] = NULL
            elif letter == 116:
                if kind != TRUTH or not _spells(text, p, end, 4, 1702195828):
                    return ODD
                p += 4
                words[place] = 1
                lengths[place] = 0
            elif letter == 102:
                if kind != TRUTH or not _spells(text, p + 1, end, 4, 1702063201):
                    return ODD
                p += 5
                words[place] = 0
                lengths[place] = 0
            else:
                return ODD
        p = _blank(text, p, end)
        if p >= end:
            return ODD
        if text[p] == 125:
            break
        if text[p] != 44:
            return ODD
        p = _blank(text, p + 1, end)
    if _blank(text, p + 1, end) != end:
        return ODD
    if known < field_count:
        for f in range(field_count):
            if not seen & (1 << f):
                at = f * FIELD_WORDS
                if fields[at + F_DEFAULT] == 0:
                    return ODD
                words[f * count + i] = fields[at + F_WORD]
                lengths[f * count + i] = fields[at + F_LENGTH]
    return result


@jit
def _blank(text, p, end):
    """Where the next letter stands that is no white space."""
    while p < end and (text[p] == 32 or text[p] == 10 or text[p] == 13 or text[p] == 9):
        p += 1
    return p


@jit
def _same(text, p, names, at, size):
    """Whether a name stands there; its first eight bytes were compared."""
    j = 8
    while j < size and text[p + j] == names[at + j]:
        j += 1
    return j >= size


@jit
def _spells(text, p, end, size, word):
    """Whether these four letters stand there."""
    return p + size <= end and (_word(text, p) & 0xFFFFFFFF) == word


@jit
def _string(text, p, end):
    """Where the quote stands that ends a text; -1 if there is none, an escape or control character, or no UTF-8."""
    while p < end:
        word = _word(text, p)
        quote, slash = word ^ _QUOTES, word ^ _SLASHES
        marked = ((quote - _EACH) & ~quote) | ((slash - _EACH) & ~slash) | ((word - _BLANKS) & ~word) | word
        marked &= _HIGH
        if marked == 0:
            p += 8
            continue
        p += _zeros(marked) >> 3
        if p >= end:
            return -1
        letter = text[p]
        if letter == 34:
            return p
        if letter < 128:
            return -1
        size = _letter(text, p, end)
        if size == 0:
            return -1
        p += size
    return -1


@jit
def _letter(text, p, end):
    """Bytes of a letter beyond ASCII; 0 if it is no UTF-8."""
    first = text[p]
    if 0xC2 <= first <= 0xDF:
        size = 2
    elif 0xE0 <= first <= 0xEF:
        size = 3
    elif 0xF0 <= first <= 0xF4:
        size = 4
    else:
        return 0
    if p + size > end:
        return 0
    for j in range(1, size):
        if text[p + j] & 0xC0 != 0x80:
            return 0
    second = text[p + 1]
    if (
        (first == 0xE0 and second < 0xA0)
        or (first == 0xED and second > 0x9F)
        or (first == 0xF0 and second < 0x90)
        or (first == 0xF4 and second > 0x8F)
    ):
        return 0
    return size


@jit
def _number(text, p, end):
    """A number: where it ends (-1: left to others), its digits, its exponent, whether it is whole, its sign."""
    is_negative = text[p] == 45
    if is_negative:
        p += 1
    mantissa, exponent, digits = 0, 0, 0
    first = p
    while p < end and 48 <= text[p] <= 57:
        mantissa = mantissa * 10 + np.int64(text[p] - 48)
        if mantissa != 0:
            digits += 1
        if digits > 18:
            return -1, mantissa, exponent, False, is_negative
        p += 1
    if p == first or (p > first + 1 and text[first] == 48):
        return -1, mantissa, exponent, False, is_negative
    is_whole = True
    if p < end and text[p] == 46:
        is_whole = False
        p += 1
        first = p
        while p < end and 48 <= text[p] <= 57:
            mantissa = mantissa * 10 + np.int64(text[p] - 48)
            if mantissa != 0:
                digits += 1
            if digits > 18:
                return -1, mantissa, exponent, False, is_negative
            p += 1
        if p == first:
            return -1, mantissa, exponent, False, is_negative
        exponent = first - p
    if p < end and (text[p] == 101 or text[p] == 69):
        is_whole = False
        p += 1
        is_less = p < end and text[p] == 45
        if p < end and (text[p] == 45 or text[p] == 43):
            p += 1
        first = p
        shift = 0
        while p < end and 48 <= text[p] <= 57 and p < first + 4:
            shift = shift * 10 + np.int64(text[p] - 48)
            p += 1
        if p == first:
            return -1, mantissa, exponent, False, is_negative
        exponent += -shift if is_less else shift
    if not -22 <= exponent <= 22:
        return -1, mantissa, exponent, False, is_negative
    return p, mantissa, exponent, is_whole, is_negative


@jit
def _real(mantissa, exponent, powers):
    """The float next to a number, and whether that is sure.

    A quotient or product of what is exact is rounded once (Clinger). Of more digits than that, it is carried on with
    twice the bits, and what these leave too near the middle between two floats is left to others.
    """
    high = np.float64(mantissa)
    power = powers[-exponent] if exponent < 0 else powers[exponent]
    if mantissa <= _EXACT:
        return (high / power if exponent < 0 else high * power), True
    low = np.float64(mantissa - np.int64(high))
    if exponent < 0:
        found = high / power
        product, error = _two_product(found, power)
        rest = (((high - product) - error) + low) / power
    else:
        found, rest = _two_product(high, power)
        rest += low * power
    rounded = found + rest
    rest -= rounded - found
    return rounded, rounded + rest * _NEARLY == rounded


@jit
def _two_product(a, b):
    """A product and its error (T. J. Dekker, 1971)."""
    p = a * b
    c = 134217729.0 * a
    ah = c - (c - a)
    al = a - ah
    c = 134217729.0 * b
    bh = c - (c - b)
    bl = b - bh
    return p, ((ah * bh - p) + ah * bl + al * bh) + al * bl


@jit
def _skip(text, p, end):
    """Where a value ends that nobody asks for; -1 if it is not plain."""
    letter = text[p]
    if letter == 34:
        p = _string(text, p + 1, end)
        return p + 1 if p >= 0 else p
    if letter == 45 or 48 <= letter <= 57:
        return _number(text, p, end)[0]
    if letter == 110 and _spells(text, p, end, 4, 1819047278):
        return p + 4
    if letter == 116 and _spells(text, p, end, 4, 1702195828):
        return p + 4
    if letter == 102 and _spells(text, p + 1, end, 4, 1702063201):
        return p + 5
    return -1


# ---------------------------------------------------------------------------------------------------------------- times


@jit
def _of_number(mantissa, exponent, is_whole, powers):
    """The moment of a number since 1970, as timestamp.py reads it; -1: left to others."""
    if is_whole:
        if mantissa < 100_000_000_000:
            return mantissa * 1_000_000
        if mantissa < 100_000_000_000_000:
            return mantissa * 1000
        return mantissa if mantissa < 100_000_000_000_000_000 else mantissa // 1000
    value, is_sure = _real(mantissa, exponent, powers)
    if not is_sure:
        return -1
    if value < 1e11:
        unit = 1_000_000
    elif value < 1e14:
        unit = 1000
    else:
        return -1
    whole = np.int64(value)
    part = (value - np.float64(whole)) * np.float64(unit)
    # To the nearest whole, of two the even one: what is added makes the last bit a 1, and adding rounds like that.
    return whole * unit + np.int64((part + 6755399441055744.0) - 6755399441055744.0)


@jit
def _moment(text, p, end):
    """The moment of a text "YYYY-MM-DD HH:MM:SS[.f][Z|+hh:mm]", and whether it is PLAIN, LOCAL or ODD."""
    size = end - p
    if size < 19 or size > 35:
        return 0, ODD
    if text[p + 4] != 45 or text[p + 7] != 45 or text[p + 13] != 58 or text[p + 16] != 58:
        return 0, ODD
    if text[p + 10] != 32 and text[p + 10] != 84 and text[p + 10] != 116:
        return 0, ODD
    century, year, month, day = _two(text, p), _two(text, p + 2), _two(text, p + 5), _two(text, p + 8)
    hour, minute, second = _two(text, p + 11), _two(text, p + 14), _two(text, p + 17)
    if min(century, year, month, day, hour, minute, second) < 0:
        return 0, ODD
    year += 100 * century
    if year < 2 or year > 9998 or month < 1 or month > 12 or day < 1 or hour > 23 or minute > 59 or second > 59:
        return 0, ODD
    is_leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    if month == 2:
        longest = 29 if is_leap else 28
    elif month == 4 or month == 6 or month == 9 or month == 11:
        longest = 30
    else:
        longest = 31
    if day > longest:
        return 0, ODD
    moment = ((_days(year, month, day) * 24 + hour) * 60 + minute) * 60 + second
    moment *= 1_000_000
    p += 19
    if p < end and (text[p] == 46 or text[p] == 44):
        p += 1
        digits, part = 0, 0
        while p < end and 48 <= text[p] <= 57:
            digits += 1
            if digits > 9:
                return 0, ODD
            if digits <= 6:
                part = part * 10 + np.int64(text[p] - 48)
            p += 1
        if digits == 0:
            return 0, ODD
        for _ in range(digits, 6):
            part *= 10
        moment += part
    if p == end:
        return moment, LOCAL
    if text[p] == 90 and p + 1 == end:
        return moment, PLAIN
    if (text[p] != 43 and text[p] != 45) or p + 6 != end or text[p + 3] != 58:
        return 0, ODD
    hours, minutes = _two(text, p + 1), _two(text, p + 4)
    if hours < 0 or hours > 23 or minutes < 0 or minutes > 59:
        return 0, ODD
    offset = (hours * 60 + minutes) * 60_000_000
    return (moment + offset if text[p] == 45 else moment - offset), PLAIN


@jit
def _two(text, p):
    """A number of two digits, -1 if it is none."""
    if not (48 <= text[p] <= 57 and 48 <= text[p + 1] <= 57):
        return -1
    return np.int64(text[p] - 48) * 10 + np.int64(text[p + 1] - 48)


@jit
def _days(year, month, day):
    """Days since 1970 in the calendar without end; years that begin in March have their leap day at their end."""
    if month <= 2:
        year -= 1
        month += 12
    return year * 365 + year // 4 - year // 100 + year // 400 + (153 * (month - 3) + 2) // 5 + day - 719_469


# ----------------------------------------------------------------------------------------------------------- identities


@jit
def _mixed(found, word):
    """One more word for a hash (a round of XXH64)."""
    word *= _P2
    word = ((word << 31) | ((word >> 33) & 0x7FFFFFFF)) * _P1
    found ^= word
    return ((found << 27) | ((found >> 37) & 0x7FFFFFF)) * _P1 + _P4


@jit
def _stirred(found):
    """The end of a hash: every bit depends on every bit."""
    found ^= (found >> 33) & 0x7FFFFFFF
    found *= _P2
    found ^= (found >> 29) & 0x7FFFFFFFF
    found *= _P3
    return found ^ ((found >> 32) & 0xFFFFFFFF)


@jit
def _of_text(found, text, at, size):
    """A hash that goes on over the bytes of a text."""
    found = _mixed(found, size)
    end = at + size
    while at + 8 <= end:
        found = _mixed(found, _word(text, at))
        at += 8
    if at < end:
        found = _mixed(found, _word(text, at) & ((1 << (8 * (end - at))) - 1))
    return found


@jit
def _identity(text, i, count, fields, field_count, words, lengths, time, identity, seed):
    """64 bits that are equal for equal records: of the field `identity`, or else (-1) of all content; never 0."""
    mixed = _mixed(_P5, seed)
    if identity >= 0:
        mixed = _of_text(mixed, text, words[identity * count + i], lengths[identity * count + i])
    else:
        mixed = _mixed(mixed, time[i])
        for f in range(field_count):
            kind, size = fields[f * FIELD_WORDS + F_KIND], lengths[f * count + i]
            if kind == TIME:
                continue
            if size == NULL:
                mixed = _mixed(mixed, NULL) + _P3
            elif kind >= TEXT:
                mixed = _of_text(mixed, text, words[f * count + i], size)
            else:
                mixed = _mixed(mixed, words[f * count + i])
    mixed = _stirred(mixed)
    return mixed if mixed != 0 else 1


@jit
def settle(
    text,
    count,
    fields,
    field_count,
    words,
    reals,
    lengths,
    time,
    identity,
    seed,
    horizon,
    ahead,
    columns,
    column_count,
    width,
    places,
    now,
    kind,
    event,
    stream,
    moment,
    identities,
    values,
):
    """Put records of the stream `seed` into their rows, unless some are out of range; how many are.

    `places` are their rows, `columns` the fields that are their numbers (-1: put there by others), `width` is that of
    a row of `values`. A time has to lie after 1970, and from `horizon` before the row's moment up to `ahead` after it.
    """
    strays = 0
    for i in range(count):
        at = now[places[i]]
        if time[i] < 0 or time[i] > at + ahead or time[i] < at - horizon:
            strays += 1
    if strays > 0:
        return strays
    for i in range(count):
        row = places[i]
        kind[row], stream[row], moment[row] = event, seed, time[i]
        identities[row] = _identity(text, i, count, fields, field_count, words, lengths, time, identity, seed)
        for c in range(column_count):
            f = columns[c]
            if f < 0:
                continue
            if lengths[f * count + i] == NULL:
                values[row * width + c] = np.nan
            elif fields[f * FIELD_WORDS + F_KIND] == REAL:
                values[row * width + c] = reals[f * count + i]
            else:
                values[row * width + c] = np.float64(words[f * count + i])
    return 0


# ----------------------------------------------------------------------------------------------------------------- keys


@jit
def _sized(letters, at, code, size):
    """Write a code of MessagePack for a size of one byte, or those after it for two or four, and the size."""
    if size < 256:
        letters[at] = code
        letters[at + 1] = size
        return at + 2
    if size < 65_536:
        letters[at] = code + 1
        letters[at + 1] = size >> 8
        letters[at + 2] = size & 255
        return at + 3
    letters[at] = code + 2
    for j in range(4):
        letters[at + 1 + j] = (size >> (24 - 8 * j)) & 255
    return at + 5


@jit
def _head(letters, at, size):
    """Write the head of a text of so many bytes, as MessagePack has it; where its bytes go."""
    if size < 32:
        letters[at] = 0xA0 | size
        return at + 1
    return _sized(letters, at, 0xD9, size)


@jit
def _hash(keys, at, size):
    """The hash of a key of so many words: of its space, its bytes and how many these are."""
    found = _mixed(_P5, (keys[at] >> 32) & 0xFFFFFFFF)
    for j in range(1, size):
        found = _mixed(found, keys[at + j])
    return _stirred(found)


@jit
def _words_of(head):
    """The words of a key, by its head: number in 31 bits, whether it was forgotten, space in 8, bytes in 24."""
    return 1 + ((((head >> 40) & 0xFFFFFF) + 7) >> 3)


@jit
def _equal(keys, at, others, other):
    """Whether two keys are the same, whatever their numbers."""
    if (keys[at] ^ others[other]) >> 32 != 0:
        return False
    j, size = 1, _words_of(keys[at])
    while j < size and keys[at + j] == others[other + j]:
        j += 1
    return j == size


@jit
def number(
    text,
    count,
    words,
    lengths,
    parts,
    part_count,
    space,
    facts,
    index,
    starts,
    keys,
    room,
    letters,
    scratch,
    adds,
    free,
    found,
    stride,
    places,
    notes,
    used,
    moment,
    now,
):
    """The numbers of the keys of records; new keys get the next ones (`adds`), or -1. 1 if there is no room for these.

    `parts` are the fields of a key. `room` is for these keys in words (`letters` is the same memory), `scratch` for two
    words for each of them. `free` are numbers of the space that were forgotten: the last goes to a new key first. The
    numbers go to `found`, `stride` apart, in the rows that `places` says; if somebody `notes` it, `used` has per number
    the last moment of a row that names it: its own, or `now` if that is later.
    """
    at = 0
    for r in range(count):
        for part in range(part_count):
            at += lengths[parts[part] * count + r] + KEY_HEAD
        at += 16
    if adds != 0:
        more = facts[K_COUNT] + count
        if facts[K_USED] + (at >> 3) > facts[K_ROOM] or more > facts[K_STARTS] or 2 * more > facts[K_MASK] + 1:
            return 1
    at = 0
    for r in range(count):
        start = at
        p = 8 * (at + 1)
        for part in range(part_count):
            place = parts[part] * count + r
            of, size = words[place], lengths[place]
            p = _head(letters, p, size)
            for j in range(0, size, 8):
                _put(letters, p + j, _word(text, of + j))
            p += size
        size = p - 8 * (at + 1)
        while p & 7 != 0:
            letters[p] = 0
            p += 1
        at = p >> 3
        room[start] = (space << 32) | (size << 40)
        scratch[2 * r] = start
        scratch[2 * r + 1] = _hash(room, start, at - start)
    mask = facts[K_MASK]
    for low in range(0, count, _AT_ONCE):
        high = min(low + _AT_ONCE, count)
        for r in range(low, high):
            _prefetch(index, 2 * (scratch[2 * r + 1] & mask))
        for r in range(low, high):
            _prefetch(keys, index[2 * (scratch[2 * r + 1] & mask) + 1])
        for r in range(low, high):
            at, hashed = scratch[2 * r], scratch[2 * r + 1]
            slot = hashed & mask
            known = -1
            while index[2 * slot + 1] != 0:
                if index[2 * slot] == hashed and _equal(room, at, keys, index[2 * slot + 1]):
                    known = keys[index[2 * slot + 1]] & NUMBER
                    break
                slot = (slot + 1) & mask
            if known < 0 and adds != 0:
                known, to = facts[K_COUNT], facts[K_USED]
                if facts[K_FREE] > 0:
                    facts[K_FREE] -= 1
                    known = free[facts[K_FREE]]
                    facts[K_GARBAGE] += _words_of(keys[starts[known]])
                else:
                    facts[K_COUNT] = known + 1
                index[2 * slot], index[2 * slot + 1] = hashed, to
                starts[known] = to
                size = _words_of(room[at])
                for j in range(size):
                    keys[to + j] = room[at + j]
                keys[to] |= known
                facts[K_USED] = to + size
            found[places[r] * stride] = known
            if notes != 0:
                used[known] = max(used[known], moment[places[r]], now[places[r]])
    return 0


def arrange(facts, index, starts, keys):
    """Make an index of keys, which is empty, and say where each number's newest key begins."""
    at, mask, used = 1, facts[K_MASK], facts[K_USED]  # nobody's key lies at 0
    while at < used:
        first, some = at, 0
        while at < used and some < _AT_ONCE:
            size = _words_of(keys[at])
            _prefetch(index, 2 * (_hash(keys, at, size) & mask))
            at += size
            some += 1
        stop, at = at, first
        while at < stop:
            size = _words_of(keys[at])
            starts[keys[at] & NUMBER] = at
            if keys[at] & FORGOTTEN == 0:
                hashed = _hash(keys, at, size)
                slot = hashed & mask
                while index[2 * slot + 1] != 0:
                    slot = (slot + 1) & mask
                index[2 * slot], index[2 * slot + 1] = hashed, at
            at += size


def forget(numbers, count, facts, index, starts, keys):
    """Take keys out of the index; who has their number may read them until another key gets it."""
    mask = facts[K_MASK]
    for i in range(count):
        at = starts[numbers[i]]
        slot = _hash(keys, at, _words_of(keys[at])) & mask
        while index[2 * slot + 1] != at:
            slot = (slot + 1) & mask
        after = (slot + 1) & mask
        while index[2 * after + 1] != 0:  # what follows moves up, unless it is where its hash begins to look
            if ((after - index[2 * after]) & mask) >= ((after - slot) & mask):
                index[2 * slot], index[2 * slot + 1] = index[2 * after], index[2 * after + 1]
                slot = after
            after = (after + 1) & mask
        index[2 * slot], index[2 * slot + 1] = 0, 0
        keys[at] |= FORGOTTEN


def tidy(facts, starts, keys, out, begins):
    """Copy the keys that somebody has the number of to `out`, and where they begin to `begins`; the words of all."""
    at, to = 1, 1
    while at < facts[K_USED]:
        size, number = _words_of(keys[at]), keys[at] & NUMBER
        if starts[number] == at:
            for j in range(size):
                out[to + j] = keys[at + j]
            begins[number] = to
            to += size
        at += size
    return to


@jit
def pack(numbers, count, width, starts, keys, out, room):
    """Write keys of `width` texts each, by the numbers of these, as MessagePack has a list of lists; how many bytes.

    -1 if they do not fit into `room` bytes.
    """
    to = _list(out, 0, count)
    for i in range(count):
        if to + PADDING > room:
            return -1
        to = _list(out, to, width)
        for j in range(width):
            start = starts[numbers[i * width + j]]
            size = (keys[start] >> 40) & 0xFFFFFF
            if to + size + PADDING > room:
                return -1
            for k in range((size + 7) >> 3):
                _put(out, to + 8 * k, keys[start + 1 + k])
            to += size
    return to


@jit
def _list(out, to, size):
    """Write the head of a list."""
    if size < 16:
        out[to] = 0x90 | size
        return to + 1
    if size < 65_536:
        out[to] = 0xDC
        out[to + 1] = size >> 8
        out[to + 2] = size & 255
        return to + 3
    out[to] = 0xDD
    for j in range(4):
        out[to + 1 + j] = (size >> (24 - 8 * j)) & 255
    return to + 5


# -------------------------------------------------------------------------------------------- few records, all at once


def intake(text, at, count, moment, stream):
    """Put `count` records of a stream into the rows at I_PLACES; in the row that follows there, only time passes.

    It is what `scan`, `settle` and `number` do, for few records. TAKEN, or why not: then nothing is changed but rows.
    """
    rows, about = _ints(stream[I_ROWS]), _ints(stream[I_KEYS])
    kind, now, pos, places = _ints(rows[R_KIND]), _ints(rows[R_NOW]), _ints(rows[R_POS]), _ints(stream[I_PLACES])
    keys, values = _ints(rows[R_KEYS]), _floats(rows[R_VALUES])
    masks, fate = _letters(rows[R_MASKS]), _letters(rows[R_FATE])
    for i in range(count + 1):
        r = places[i]
        kind[r], now[r], fate[r] = kernel.PASSING, moment, kernel.NO_EVENT
        for j in range(rows[R_SPACES]):
            keys[r * rows[R_SPACES] + j] = -1
        for j in range(rows[R_COLUMNS]):
            values[r * rows[R_COLUMNS] + j] = np.nan
        for j in range(rows[R_CONDITIONS]):
            masks[r * rows[R_CONDITIONS] + j] = 1
    pos[places[count]] = 0
    if count == 0:
        return TAKEN
    fields, field_count = _ints(stream[I_FIELDS]), stream[I_FIELD_COUNT]
    column = 8 * count
    table = stream[I_TABLE]
    words, reals, lengths = _ints(table), _floats(table), _ints(table + field_count * column)
    time, fates = _ints(table + 2 * field_count * column), _ints(table + (2 * field_count + 1) * column)
    names, powers = _letters(stream[I_NAMES]), _floats(stream[I_POWERS])
    if scan(text, at, count, fields, field_count, names, powers, words, reals, lengths, time, fates) != 0:
        return NOT_PLAIN
    facts, spaces = _ints(about[A_FACTS]), _ints(stream[I_SPACES])
    size = 0
    for s in range(stream[I_SPACE_COUNT]):
        parts = _ints(spaces[SPACE_WORDS * s + 1])
        for r in range(count):
            for part in range(spaces[SPACE_WORDS * s + 2]):
                size += lengths[parts[part] * count + r] + KEY_HEAD
            size += 16
    more = facts[K_COUNT] + stream[I_SPACE_COUNT] * count
    if facts[K_USED] + (size >> 3) > facts[K_ROOM] or more > facts[K_STARTS] or 2 * more > facts[K_MASK] + 1:
        return NO_ROOM
    moments = _ints(rows[R_TIME])
    strays = settle(
        text,
        count,
        fields,
        field_count,
        words,
        reals,
        lengths,
        time,
        stream[I_IDENTITY],
        stream[I_STREAM],
        stream[I_HORIZON],
        stream[I_AHEAD],
        _ints(stream[I_COLUMNS]),
        stream[I_COLUMN_COUNT],
        rows[R_COLUMNS],
        places,
        now,
        kind,
        kernel.EVENT,
        _ints(rows[R_STREAM]),
        moments,
        _ints(rows[R_IDENTITY]),
        values,
    )
    if strays != 0:
        return OUT_OF_RANGE
    free = _ints(about[A_FREE])
    for s in range(stream[I_SPACE_COUNT]):
        space = spaces[SPACE_WORDS * s]
        facts[K_FREE] = free[2 * space + 1]
        number(
            text,
            count,
            words,
            lengths,
            _ints(spaces[SPACE_WORDS * s + 1]),
            spaces[SPACE_WORDS * s + 2],
            space,
            facts,
            _ints(about[A_INDEX]),
            _ints(about[A_STARTS]),
            _ints(about[A_KEYS]),
            _ints(about[A_ROOM]),
            _letters(about[A_ROOM]),
            _ints(about[A_SCRATCH]),
            1,
            _ints(free[2 * space]),
            _ints(rows[R_KEYS] + 8 * space),
            rows[R_SPACES],
            places,
            rows[R_NOTES],
            _ints(about[A_USED]),
            moments,
            now,
        )
        free[2 * space + 1] = facts[K_FREE]
    return TAKEN


def labels(about):
    """The versions of one label that a run gave: how many they are (n), and 32 bits higher how many bytes; or -1.

    They go to G_OUT as columns of words, order, anchor, time, version, now, evidence and value, then the numbers of
    their keys, then states; and to G_LETTERS as log/codec.py writes them, from the keys on.
    """
    words, out, letters = _ints(about[G_WORDS]), _ints(about[G_OUT]), _letters(about[G_LETTERS])
    parts, part_count = _ints(about[G_PARTS]), about[G_PART_COUNT]
    n = 0
    for i in range(words[kernel.N_LABELS]):
        if words[kernel.OUT_LABELS_AT + 8 * i + 1] == about[G_OWNER]:
            n += 1
    if n == 0 or n > about[G_ROWS]:
        return -1 if n else 0
    states = _letters(about[G_OUT] + 8 * n * (7 + part_count))
    r = 0
    for i in range(words[kernel.N_LABELS]):
        at = kernel.OUT_LABELS_AT + 8 * i
        if words[at + 1] != about[G_OWNER]:
            continue
        out[r], out[n + r], out[2 * n + r], out[3 * n + r] = words[at], words[at + 2], words[at + 3], words[at + 4]
        out[4 * n + r], out[5 * n + r] = words[at + 6], words[at + 7]
        out[6 * n + r] = words[kernel.OUT_LABEL_VALUES_AT + i]
        for k in range(part_count):
            out[7 * n + r * part_count + k] = words[kernel.OUT_LABEL_KEYS_AT + i * about[G_SPACES] + parts[k]]
        states[r] = words[at + 5]
        r += 1
    to = _packed(about, n)
    if to < 0 or to + 64 * (n + 1) > about[G_ROOM]:
        return -1
    for column in range(1, 4):
        to = _column(letters, to, out, column * n, n)
    to = _sized(letters, to, 0xC4, n)
    for i in range(n):
        letters[to + i] = states[i]
    to = _column(letters, to + n, out, 6 * n, n)
    to = _column(letters, to, out, 4 * n, n)
    return n << 32 | _column(letters, to, out, 5 * n, n)


def predictions(about, count):
    """The questions of one predictor that a run gave, as `labels` gives versions, their features being all numbers.

    Columns are order, anchor, time, at, now, lead and row, then come the numbers of their keys, then features. A
    feature is one of the answers, or (a source below 0) a field of its anchor. Every anchor has to be one of `count`
    records that `intake` put into the rows at G_PLACES.
    """
    words, out, letters = _ints(about[G_WORDS]), _ints(about[G_OUT]), _letters(about[G_LETTERS])
    reals = _floats(about[G_WORDS])
    parts, part_count = _ints(about[G_PARTS]), about[G_PART_COUNT]
    sources, width, fields = _ints(about[G_SOURCES]), about[G_WIDTH], _ints(about[G_FIELDS])
    places = _ints(about[G_PLACES])
    n = 0
    for i in range(words[kernel.N_PREDICTIONS]):
        if words[kernel.OUT_ASKED_AT + 8 * i + 1] == about[G_OWNER]:
            n += 1
    if n == 0 or n > about[G_ROWS]:
        return -1 if n else 0
    features = _floats(about[G_OUT] + 8 * n * (7 + part_count))
    r = 0
    for i in range(words[kernel.N_PREDICTIONS]):
        at = kernel.OUT_ASKED_AT + 8 * i
        if words[at + 1] != about[G_OWNER]:
            continue
        out[r] = words[at]
        for j in range(1, 7):
            out[j * n + r] = words[at + 1 + j]
        for k in range(part_count):
            out[7 * n + r * part_count + k] = words[kernel.OUT_ASKED_KEYS_AT + i * about[G_SPACES] + parts[k]]
        row = 0
        while row < count and places[row] != words[at + 7]:
            row += 1
        if row == count:
            return -1
        for c in range(width):
            of = sources[c]
            if of >= 0:
                features[r * width + c] = reals[kernel.OUT_FEATURES_AT + i * about[G_ANSWERS] + of]
                continue
            field = -1 - of
            at_field = about[G_TABLE] + 8 * (field * count + row)
            length = _ints(about[G_TABLE] + 8 * ((about[G_FIELD_COUNT] + field) * count + row))[0]
            if length == NULL and fields[field * FIELD_WORDS + F_OPTIONAL] != 0:
                features[r * width + c] = np.nan
            elif fields[field * FIELD_WORDS + F_KIND] == REAL:
                features[r * width + c] = _floats(at_field)[0]
            else:
                features[r * width + c] = np.float64(_ints(at_field)[0])
        r += 1
    to = _packed(about, n)
    if to < 0 or to + (64 + 8 * width) * (n + 1) > about[G_ROOM]:
        return -1
    for column in range(1, 6):
        to = _column(letters, to, out, column * n, n)
    to = _column(letters, to, out, (7 + part_count) * n, n * width)
    letters[to] = 0x80  # no texts
    to = _sized(letters, to + 1, 0xC4, n)
    for i in range(n):
        letters[to + i] = 0  # nothing failed
    return n << 32 | (to + n)


@jit
def _packed(about, n):
    """Write the keys of `n` rows, whose numbers lie behind seven columns; how many bytes, or -1."""
    keys = _ints(about[G_KEYS])
    numbers = _ints(about[G_OUT] + 8 * 7 * n)
    letters = _letters(about[G_LETTERS])
    return pack(numbers, n, about[G_PART_COUNT], _ints(keys[A_STARTS]), _ints(keys[A_KEYS]), letters, about[G_ROOM])


@jit
def _column(letters, to, words, at, count):
    """Write words as bytes, as MessagePack has them; where they end."""
    to = _sized(letters, to, 0xC4, 8 * count)
    for i in range(count):
        _put(letters, to + 8 * i, words[at + i])
    return to + 8 * count
