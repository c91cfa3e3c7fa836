"""Checkpoints in a compacted topic: pieces that a broker takes, and then a head that makes them count."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import xxhash
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from katmatic.clock import sleep
from katmatic.errors import LogError

PIECE_BYTES = 900_000  # a broker takes a million, as it comes
ANSWER_SECONDS = 5.0
SAVE_SECONDS = 60.0
POLL_SECONDS = 0.1
LEADERLESS = (  # a partition that was just made, or whose broker was just lost
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError._UNKNOWN_PARTITION,
)
_HEAD = struct.Struct("<8sQQQ16s")  # magic, sequence, length, offset of the first piece, checksum
_MAGIC = b"katmck\x00\x01"  # the last byte is the form


class KafkaCheckpoints:
    """Checkpoints in one compacted topic, which is there and has one partition. `options`: for the client library."""

    def __init__(self, options: dict[str, Any], topic: str) -> None:
        self._topic = topic
        self._options = options
        self._producer: Producer | None = None

    def save(self, name: str, sequence: int, state: bytes) -> None:
        """Keep `state` as it was after batch `sequence`: after a crash it is there whole, or not at all."""
        with self._explained():
            pieces = range(0, len(state), PIECE_BYTES)
            first = self._put([(_key(name, sequence, i), state[at : at + PIECE_BYTES]) for i, at in enumerate(pieces)])
            head = _HEAD.pack(_MAGIC, sequence, len(state), first, _checksum(sequence, state))
            self._put([(_key(name, sequence), head)])

    def latest(self, name: str) -> tuple[int, bytes] | None:
        """The newest intact checkpoint with its sequence, or None; one that has lost a piece is passed over."""
        with self._explained(), self._consumer() as consumer:
            for head in sorted(self._heads(consumer, name), reverse=True):
                found = self._whole(consumer, name, *head)
                if found is not None:
                    return head[0], found
        return None

    def drop(self, name: str, before: int) -> None:
        """Forget the checkpoints of sequences below `before`, but never the newest."""
        with self._explained(), self._consumer() as consumer:
            heads = sorted(self._heads(consumer, name))
        gone = [head for head in heads[:-1] if head[0] < before]
        for sequence, length, _, _ in gone:
            keys = [_key(name, sequence), *(_key(name, sequence, i) for i in range(-(-length // PIECE_BYTES)))]
            with self._explained():
                self._put([(key, None) for key in keys])

    # ---------------------------------------------------------------------------------------------------------- pieces

    def _put(self, records: list[tuple[bytes, bytes | None]]) -> int:
        """Make records durable; the offset of the first."""
        if self._producer is None:
            self._producer = Producer({**self._options, "enable.idempotence": True})
        offsets: list[int] = []
        errors: list[KafkaError] = []

        def told(error: KafkaError | None, message: Message) -> None:
            if error is not None:
                errors.append(error)
            else:
                offsets.append(message.offset() or 0)

        for key, value in records:
            self._producer.produce(self._topic, value, key, on_delivery=told)
            self._producer.poll(0)
        if self._producer.flush(SAVE_SECONDS) or errors:
            self._producer = None
            raise KafkaException(errors[0] if errors else KafkaError(KafkaError._TIMED_OUT))
        return min(offsets, default=0)

    @contextmanager
    def _consumer(self) -> Iterator[Consumer]:
        options = {"group.id": self._topic, "enable.auto.commit": False, "auto.offset.reset": "earliest"}
        consumer = Consumer({**self._options, **options, "enable.partition.eof": True, "fetch.wait.max.ms": 10})
        try:
            yield consumer
        finally:
            consumer.close()

    def _heads(self, consumer: Consumer, name: str) -> set[tuple[int, int, int, bytes]]:
        """Sequence, length, first offset and checksum of the newest checkpoints, as far back as must be looked."""
        low, high = self._bounds(consumer)
        back = 8  # a head, and what was dropped after it
        while high > low:
            start = max(low, high - back)
            found: dict[bytes, bytes] = {}
            for key, value in self._records(consumer, start, high):
                if value is None:
                    found.pop(key, None)
                elif key.startswith(_key(name)) and len(value) == _HEAD.size and value.startswith(_MAGIC):
                    found[key] = value
            if len(found) > 1 or start == low:
                return {_HEAD.unpack(value)[1:] for value in found.values()}
            back *= 8
        return set()

    def _whole(
        self, consumer: Consumer, name: str, sequence: int, length: int, first: int, checksum: bytes
    ) -> bytes | None:
        wanted = {_key(name, sequence, i): b"" for i in range(-(-length // PIECE_BYTES))}
        _, high = self._bounds(consumer)
        left = set(wanted)
        for key, value in self._records(consumer, first, high) if left else ():
            if key in left and value is not None:
                wanted[key] = value
                left.remove(key)
                if not left:
                    break
        state = b"".join(wanted.values())
        return state if len(state) == length and _checksum(sequence, state) == checksum else None

    def _records(self, consumer: Consumer, start: int, stop: int) -> Iterator[tuple[bytes, bytes | None]]:
        """Keys and values from one offset to another; compaction may have left gaps."""
        consumer.assign([TopicPartition(self._topic, 0, start)])
        waited = 0.0
        while waited < ANSWER_SECONDS:
            message = consumer.poll(POLL_SECONDS)
            if message is None:
                waited += POLL_SECONDS
                continue
            waited = 0.0
            error = message.error()
            if error is not None and error.code() == KafkaError._PARTITION_EOF:
                return
            if error is None:
                key, value = message.key(), message.value()
                yield key if isinstance(key, bytes) else b"", value if isinstance(value, bytes) else None
                if (message.offset() or 0) + 1 >= stop:
                    return
        raise KafkaException(KafkaError(KafkaError._TIMED_OUT))

    def _bounds(self, consumer: Consumer) -> tuple[int, int]:
        waited = 0.0
        while True:
            try:
                found = consumer.get_watermark_offsets(TopicPartition(self._topic, 0), timeout=ANSWER_SECONDS)
            except KafkaException as error:  # a topic that was just made may have no leader yet
                if waited > ANSWER_SECONDS or error.args[0].code() not in LEADERLESS:
                    raise
                sleep(POLL_SECONDS)
                waited += POLL_SECONDS
                continue
            if found is None:
                raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
            return int(found[0]), int(found[1])

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (KafkaException, BufferError) as error:
            said = error.args[0].str() if error.args and isinstance(error.args[0], KafkaError) else str(error)
            raise LogError(
                self._topic,
                found=said,
                expected="a broker that answers",
                do="see that it runs; the pipeline can go on, and a restart will take longer",
            ) from error


def _key(name: str, sequence: int | None = None, piece: int | None = None) -> bytes:
    """Of a piece; without one, of a head; without a sequence, what all heads of a name begin with."""
    if piece is not None:
        return f"piece/{name}@{sequence:020d}/{piece:06d}".encode()
    return f"head/{name}@".encode() + (b"" if sequence is None else f"{sequence:020d}".encode())


def _checksum(sequence: int, state: bytes) -> bytes:
    digest = xxhash.xxh3_128(_MAGIC + sequence.to_bytes(8, "little"))
    digest.update(state)
    return digest.digest()
