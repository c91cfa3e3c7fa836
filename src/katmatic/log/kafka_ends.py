"""What a broker has left without an end: which of it is meant, and what of a batch is not there.

A transaction is promised to be committed before its markers are written, one into each partition. A broker that dies in
between may take partitions for deleted while it starts, and leave their markers out. Then records hang: the end of the
next transaction of the same producer decides about them, too, whatever was promised. So a new producer of the owner
looks first what hangs. An entry of the journal that hangs is meant if all that it names is there; records are meant if
an entry that is meant names them. What is not meant is aborted, the rest is committed, before anything else is written.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import closing

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from katmatic.log.kafka_client import ANSWER_SECONDS, POLL_SECONDS, Connection, Cursor, mark_of, newest
from katmatic.log.kafka_journal import MARK_BYTES, Entry, Kind, Place, unpack
from katmatic.log.tail import WRITTEN

Record = tuple[str, bytes, bytes]  # its topic, its value, and the mark that it bears
Mark = tuple[int, int]  # kind and number of a record whose parts are all there


class Hanging:
    """What hangs of the topics `names` (as the cluster has them), one of which is the journal."""

    def __init__(self, connection: Connection, journal: str, names: Iterable[str]) -> None:
        self._connection, self._journal = connection, journal
        self.names: list[str] = []
        self._entries: list[Entry] = []
        self._marks: dict[str, set[Mark]] = {}  # of the others, by topic
        there = connection.there()
        with connection.explained(), closing(connection.consumer()) as committed, closing(_all_of(connection)) as all_:
            names = {journal, *names}
            seen = set[str]()
            while left := sorted(names - seen, key=lambda name: name != journal):  # the journal names topics, too
                name = left[0]
                seen.add(name)
                found = _after_the_stable(committed, all_, name) if name in there else []
                if name == journal:
                    self._entries = [unpack(value, connection.where(name)) for value in map(_value, found) if value]
                    if self._entries:
                        connection.header = f"{connection.name}{self._entries[-1].log}"
                    names |= {connection.topic(topic) for entry in self._entries for topic in entry.places}
                else:
                    found = [each for each in found if mark_of(each, connection.header)]
                    self._marks[name] = _marks(connection, found)
                if found:
                    self.names.append(name)

    def truth(self, last: Entry) -> Entry:
        """The newest entry that is meant, if `last` is the last one that is committed."""
        truth = last
        for entry in self._entries:
            if entry.number != truth.number + 1 or not self._is_whole(truth, entry):
                return last
            truth = entry
        return truth

    def meant(self, truth: Entry) -> list[str]:
        """The topics in which all that hangs is named by the entries up to the true one."""
        places = {self._connection.topic(topic): place for topic, place in truth.places.items()}
        found = [
            name
            for name in self.names
            if name != self._journal and all(_is_named(m, places.get(name), truth) for m in self._marks[name])
        ]
        if self._entries and self._entries[-1].number <= truth.number:
            found.append(self._journal)
        return found

    def gone(self, sent: Sequence[Record], truth: Entry, meant: Sequence[str]) -> list[Record]:
        """What is neither committed nor hangs as it is meant, of the records of the true entry."""
        self._marks = {name: marks for name, marks in self._marks.items() if name in meant}
        there = {topic: self._there(topic, truth.places[topic]) for topic, _, _ in sent}

        def is_there(topic: str, bearing: bytes) -> bool:
            kind, number, *_ = MARK_BYTES.unpack(bearing)
            found = there[topic]
            return number <= found if isinstance(found, int) else (kind, number) in found

        return [record for record in sent if not is_there(record[0], record[2])]

    def _there(self, topic: str, place: Place) -> set[Mark] | int:
        """What is there of a topic's newest records, hanging or committed; of a written one, up to which number."""
        name = self._connection.topic(topic)
        hanging = self._marks.get(name, set())
        if place.way == WRITTEN:
            if hanging:
                return max(number for _, number in hanging)
            with Cursor(self._connection, name) as cursor:
                message = newest(cursor)
            marks = _marks(self._connection, [] if message is None else [message], ends=True)
            return max((number - (kind == Kind.END) for kind, number in marks), default=-1)
        with Cursor(self._connection, name, place.own) as cursor:
            return hanging | _marks(self._connection, cursor.rest())

    def _is_whole(self, before: Entry, entry: Entry) -> bool:
        """Whether all is there that an entry names."""
        fed = set(range(before.fed + 1, entry.fed + 1))
        for topic, place in entry.places.items():
            was = before.places.get(topic)
            appended = {(Kind.APPENDED, number) for number in _appended(entry, topic)}
            if place.way == WRITTEN and place.end == (was.end if was else 0):
                continue
            if place.way != WRITTEN and not appended and not fed:
                continue
            there = self._there(topic, place)
            if isinstance(there, int):
                if there < place.end - 1:
                    return False
            elif not appended <= there:
                return False
            else:
                fed -= {number for kind, number in there if kind == Kind.FED}
        return not fed


def _appended(entry: Entry, topic: str) -> Iterable[int]:
    """The numbers of the records of a topic that were handed in, and that an entry names."""
    return (
        number
        for run in entry.runs
        if run.topic == topic and run.kind == Kind.APPENDED
        for number in range(run.first, run.last + 1)
    )


def _is_named(mark: Mark, place: Place | None, truth: Entry) -> bool:
    kind, number = mark
    if kind == Kind.WRITTEN:
        return place is not None and number < place.end
    return number <= truth.fed if kind == Kind.FED else number < truth.end


def _marks(connection: Connection, messages: Iterable[Message], *, ends: bool = False) -> set[Mark]:
    """The marks of records of ours whose last part is among the messages."""
    found = (mark_of(message, connection.header) for message in messages)
    return {
        (kind, number)
        for kind, number, part, parts in filter(None, found)
        if part == parts - 1 and (ends or kind != Kind.END)
    }


def _all_of(connection: Connection) -> Consumer:
    """A consumer of all records, committed or not."""
    return connection.consumer(isolation_level="read_uncommitted", enable_partition_eof=True)


def _after_the_stable(committed: Consumer, all_: Consumer, name: str) -> list[Message]:
    """The records of a topic's first partition that no transaction has ended, and what lies between them."""
    place = TopicPartition(name, 0)
    stable, end = _end(committed, place), _end(all_, place)
    found: list[Message] = []
    if end <= stable:
        return found
    all_.assign([TopicPartition(name, 0, stable)])
    waited = 0.0
    while waited < ANSWER_SECONDS:
        message = all_.poll(POLL_SECONDS)
        error = message.error() if message else None
        if message is None:
            waited += POLL_SECONDS
        elif error is None:
            found.append(message)
        elif error.code() == KafkaError._PARTITION_EOF:
            return found
    raise KafkaException(KafkaError(KafkaError._TIMED_OUT))


def _end(consumer: Consumer, place: TopicPartition) -> int:
    """The offset after the last record that a consumer may read by now."""
    found = consumer.get_watermark_offsets(place, timeout=ANSWER_SECONDS)
    if found is None:
        raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
    return int(found[1])


def _value(message: Message) -> bytes:
    value = message.value()
    return value if isinstance(value, bytes) else b""
