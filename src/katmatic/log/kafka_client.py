"""What a log on Kafka needs of the client library: an address, topics, and a cursor over a partition of one."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import ConfigResource
from confluent_kafka.cimpl import NewTopic

from katmatic.clock import sleep
from katmatic.errors import LogError
from katmatic.log.kafka_journal import MARK_BYTES, Kind

ANSWER_SECONDS = 5.0  # for a broker to answer
PATIENCE_SECONDS = 20.0  # for records to come that the journal says are there
POLL_SECONDS = 0.1
LEADERLESS = (  # a partition that was just made, or whose broker was just lost
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError._UNKNOWN_PARTITION,
)
FETCHED = 5_000  # records taken over from the client in one go
STREAMED = 500  # so many records are sooner read than searched
OURS = "katmatic."  # topics of ours begin with it; each application has its own
FOR_EVER = {"retention.ms": "-1", "retention.bytes": "-1"}  # the log is the truth
REFUSALS = {KafkaError._AUTHENTICATION, KafkaError._SSL, KafkaError._RESOLVE, KafkaError._INVALID_ARG}
FORBIDDEN = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
}
_NAME = re.compile(r"[A-Za-z0-9._-]{1,200}")
_OPTION = re.compile(r"(security|sasl|ssl|client|socket|broker)\.[a-z.]+")


class Connection:
    """One application's place on a cluster: `kafka://host:port[,host:port][/prefix][?security.protocol=...]`.

    The prefix stands before the names of all topics; what follows the question mark is given to the client as it is.
    `properties=FILE` there names a file of more such options, one `name=value` a line: for what is secret.
    """

    def __init__(self, address: str, application: str) -> None:
        found = urlsplit(address)
        options = dict(parse_qsl(found.query))
        if file := options.pop("properties", ""):
            options = {**_properties(Path(file)), **options}
        self.prefix = found.path.lstrip("/")
        wrong = [name for name in options if not _OPTION.fullmatch(name)]
        if found.scheme != "kafka" or not found.netloc or "@" in found.netloc or wrong:
            raise LogError(
                "log",
                found=f"the option {wrong[0]}" if wrong else address.partition("?")[0].rpartition("@")[2],
                expected="kafka://host:port, and after a question mark options of the client for security",
                do="name a broker, e.g. kafka://localhost:9092",
            )
        if not _NAME.fullmatch(application) or (self.prefix and not _NAME.fullmatch(self.prefix)):
            raise LogError(
                "log",
                found=f"the application {application!r} and the prefix {self.prefix!r}",
                expected="letters, digits and any of `._-`",
                do="give the application such a name, since its topics on Kafka bear it",
            )
        self.servers = found.netloc
        self.name = f"{self.prefix}{OURS}{application}"
        self.header = self.name  # of records of ours: the journal says what each log adds to it
        self._options = {
            "bootstrap.servers": found.netloc,
            "log_level": 2,  # errors are raised where they matter
            "reconnect.backoff.ms": 50,
            "reconnect.backoff.max.ms": 1000,
            **options,
        }
        self._admin: AdminClient | None = None
        self._refused: KafkaError | None = None  # why no broker lets us in, if so

    def where(self, topic: str = "") -> str:
        """A topic, or all of it, in a message."""
        return f"kafka://{self.servers} {topic}".rstrip()

    def topic(self, name: str) -> str:
        """The name that a topic has on the cluster; LogError if it can have none."""
        if not _NAME.fullmatch(name):
            raise LogError(
                name, found="a topic of this name", expected="letters, digits and any of `._-`", do="rename it"
            )
        if name.startswith(OURS):
            return f"{self.name}.{name.removeprefix(OURS)}"
        return self.prefix + name

    def options(self, **more: str | float | bool) -> dict[str, Any]:
        """What a client is made with; underscores stand for dots."""
        return {**self._options, **{name.replace("_", "."): value for name, value in more.items()}}

    def consumer(self, **more: str | float | bool) -> Consumer:
        """A consumer of committed records, for offsets that it is told; it joins no group."""
        options: dict[str, str | float | bool] = {
            "group_id": self.name,
            "enable_auto_commit": False,
            "isolation_level": "read_committed",
            "max_poll_interval_ms": 86_400_000,
            "fetch_error_backoff_ms": 50,
            "queued_max_messages_kbytes": 16_384,
        }
        return Consumer(self.options(**{**options, **more}))

    def there(self) -> dict[str, int]:
        """Every topic of the cluster, and how many partitions it has."""
        with self.explained():
            client = self._client()
            try:
                found = client.list_topics(timeout=ANSWER_SECONDS).topics
            except KafkaException as error:
                client.poll(0)  # which tells why
                raise KafkaException(self._refused or error.args[0]) from error
            self._refused = None
            return {name: len(topic.partitions) for name, topic in found.items() if topic.error is None}

    def ensure(self, topics: Sequence[str], config: Mapping[str, str] = FOR_EVER) -> None:
        """Make the topics that are not there; LogError if one of ours has more than one partition."""
        if not topics:  # which is how most commits ask: all of a cluster's topics are much to be told each time
            return
        there = self.there()
        missing = [NewTopic(topic, 1, -1, config=dict(config)) for topic in dict.fromkeys(topics) if topic not in there]
        with self.explained():
            made = self._client().create_topics(missing, request_timeout=ANSWER_SECONDS) if missing else {}
        for topic, future in made.items():
            with self.explained(topic):
                try:
                    future.result()
                except KafkaException as error:
                    if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                        raise
        waited = 0.0
        while made and not there.keys() >= made.keys():  # made, and not yet known to each broker
            if waited > ANSWER_SECONDS:
                raise self.missing(min(made.keys() - there.keys()))
            sleep(POLL_SECONDS if waited else 0.0)
            waited += POLL_SECONDS
            there = self.there()
        for topic in topics:
            if topic.startswith(f"{self.name}.") and there.get(topic, 1) != 1:
                raise LogError(
                    self.where(topic),
                    found=f"{there[topic]} partitions",
                    expected="one: a topic of katmatic's own has one order",
                    do="delete it, if nothing is in it yet: it will be made as it must be",
                )

    def missing(self, topic: str) -> LogError:
        """The error of a topic that was made and does not appear."""
        return LogError(
            self.where(topic),
            found=f"no such topic {ANSWER_SECONDS:g} s after it was made",
            expected="a broker that knows it",
            do="see how the brokers of the cluster are",
        )

    def check_kept(self, topics: Sequence[str]) -> None:
        """LogError if one of ours forgets: who made it before us may have left that to the broker's defaults."""
        ours = [ConfigResource(ConfigResource.Type.TOPIC, t) for t in topics if t.startswith(f"{self.name}.")]
        with self.explained():
            asked = self._client().describe_configs(ours, request_timeout=ANSWER_SECONDS)
        for resource, future in asked.items():
            try:
                found = {name: future.result()[name].value for name in FOR_EVER}
            except KafkaException:  # it may not look
                continue
            if found != FOR_EVER:
                raise LogError(
                    self.where(resource.name),
                    found=_listed(found),
                    expected=f"{_listed(FOR_EVER)}: a topic of katmatic's own keeps all that it was given",
                    do="alter it (kafka-configs.sh --alter --add-config)",
                )

    @contextmanager
    def explained(self, topic: str = "") -> Iterator[None]:
        """Turn what the client raises into a LogError."""
        try:
            yield
        except (KafkaException, BufferError) as error:
            raise trouble(self.where(topic), error.args[0] if error.args else error) from error

    def _client(self) -> AdminClient:
        if self._admin is None:
            options: dict[str, Any] = {**self.options(), "error_cb": self._hear}
            self._admin = AdminClient(options)
        return self._admin

    def _hear(self, error: KafkaError) -> None:
        if error.code() in REFUSALS:
            self._refused = error


def trouble(where: str, error: object) -> LogError:
    """What the client library says, with what to do about it."""
    code = error.code() if isinstance(error, KafkaError) else None
    expected, do = (
        "a broker that answers",
        "see that it runs and can be reached; nothing is lost, and it will be tried again",
    )
    if code in REFUSALS:
        expected, do = "a broker that lets us in", "correct the options for security in the address of the log"
    elif code in FORBIDDEN:
        expected, do = "to be allowed to", "grant what the page on scaling lists; nothing is lost"
    return LogError(where, found=error.str() if isinstance(error, KafkaError) else str(error), expected=expected, do=do)


def _listed(config: Mapping[str, str]) -> str:
    return ", ".join(f"{name}={value}" for name, value in config.items())


def _properties(file: Path) -> dict[str, str]:
    """The options in a file, one `name=value` a line; lines that begin with `#` are passed over."""
    try:
        lines = [line.strip() for line in file.read_text("utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise LogError(
            f"log: {file}",
            found=str(error),
            expected="a file of options, name=value",
            do="name another, or put it there",
        ) from error
    pairs = [line.partition("=") for line in lines if line and not line.startswith("#")]
    return {name.strip(): value.strip() for name, _, value in pairs}


class Cursor:
    """The committed records of one partition of a topic, from an offset on, in order. Close it.

    Moved about, it may still give a record from where it was before: whoever needs every one takes a new cursor.
    """

    def __init__(
        self,
        connection: Connection,
        topic: str,
        offset: int | None = None,
        *,
        partition: int = 0,
        wait_seconds: float = 0.01,
    ) -> None:
        self._connection, self._topic, self._partition = connection, topic, partition
        self._consumer = connection.consumer(
            enable_partition_eof=True,
            auto_offset_reset="earliest",
            fetch_wait_max_ms=round(wait_seconds * 1000),  # a move waits for the fetch before it
        )
        if offset is not None:
            self.move(offset)

    def move(self, offset: int) -> None:
        """Go on from `offset`."""
        with self._connection.explained(self._topic):
            self._consumer.assign([TopicPartition(self._topic, self._partition, offset)])

    def bounds(self) -> tuple[int, int]:
        """The offset of the first record, and the one after the last that is committed."""
        waited, found = 0.0, None
        with self._connection.explained(self._topic):
            while found is None and waited <= ANSWER_SECONDS:
                try:
                    found = self._consumer.get_watermark_offsets(
                        TopicPartition(self._topic, self._partition), timeout=ANSWER_SECONDS
                    )
                except KafkaException as error:  # a topic that was just made may have no leader yet
                    if waited + POLL_SECONDS > ANSWER_SECONDS or error.args[0].code() not in LEADERLESS:
                        raise
                    sleep(POLL_SECONDS)
                waited += POLL_SECONDS
        if found is None:
            raise self._missing("no answer")
        return int(found[0]), int(found[1])

    def take(self) -> list[Message]:
        """The next records, at least one: the journal says that they are there. LogError if they do not come."""
        found: list[Message] = []
        waited = 0.0
        while not found:
            found, _ = self.some()
            waited += 0.0 if found else POLL_SECONDS
            if waited > PATIENCE_SECONDS:
                raise self._missing("no more records")
        return found

    def rest(self) -> Iterator[Message]:
        """The records that are committed by now."""
        waited, at_end = 0.0, False
        while not at_end:
            found, at_end = self.some()
            yield from found
            waited = 0.0 if found else waited + POLL_SECONDS
            if waited > PATIENCE_SECONDS:
                raise self._missing("no answer")

    def some(self) -> tuple[list[Message], bool]:
        """What has come, perhaps after a moment; and whether that is all there is."""
        with self._connection.explained(self._topic):
            first = self._consumer.poll(POLL_SECONDS)
            if first is None:
                return [], False
            found = [first, *self._consumer.consume(FETCHED, 0)]
        messages, at_end = [], False
        for message in found:
            error = message.error()
            if error is None:
                messages.append(message)
                at_end = False
            elif error.code() == KafkaError._PARTITION_EOF:
                at_end = True
            elif not error.retriable() and error.code() not in PASSING:
                with self._connection.explained(self._topic):
                    raise KafkaException(error)
        return messages, at_end

    def close(self) -> None:
        """Let go of the connection."""
        self._consumer.close()

    def __enter__(self) -> Cursor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _missing(self, found: str) -> LogError:
        return LogError(
            self._connection.where(self._topic),
            found=found,
            expected="all that was committed",
            do="see that the broker runs, and that nobody deletes from this topic (retention.ms=-1)",
        )


PASSING = {  # errors while a broker starts, or a topic is being made; and of the group, which is only told
    KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError._UNKNOWN_PARTITION,
    KafkaError._UNKNOWN_TOPIC,
    KafkaError._TRANSPORT,
    KafkaError._ALL_BROKERS_DOWN,
    KafkaError._TIMED_OUT,
}


def newest(cursor: Cursor) -> Message | None:
    """The last committed record of a topic; None of nothing."""
    low, high = cursor.bounds()
    back = 4  # a record and the marker of its transaction, and once more
    while high > low:
        start = max(low, high - back)
        cursor.move(start)
        last = max(cursor.rest(), key=lambda message: message.offset() or 0, default=None)
        if last is not None or start == low:
            return last
        back *= 8  # only markers, and what was never committed
    return None


def offset_before(cursor: Cursor, is_there: Callable[[Message], bool]) -> int:
    """An offset not far before the first record that `is_there`, which is true from some record on.

    What lies before it was looked at, and is not there.
    """
    low, high = cursor.bounds()
    while high - low > STREAMED:
        middle = (low + high) // 2
        cursor.move(middle)
        message = next(cursor.rest(), None)
        if message is None or is_there(message):
            high = middle
        else:
            low = int(message.offset() or 0) + 1
    return low


def mark(kind: Kind, number: int, part: int = 0, parts: int = 1) -> bytes:
    """What a record of ours bears in its header."""
    return MARK_BYTES.pack(kind, number, part, parts)


def mark_of(message: Message, name: str) -> tuple[int, int, int, int] | None:
    """Kind, number, part and parts of a record that the log `name` wrote; None of one that it did not."""
    for header, value in list(message.headers() or ()):
        if header == name and isinstance(value, bytes) and len(value) == MARK_BYTES.size:
            kind, number, part, parts = MARK_BYTES.unpack(value)
            return kind, number, part, parts
    return None
