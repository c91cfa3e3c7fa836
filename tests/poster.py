"""A client of Apache Kafka that hears of each record what became of it: `flush` of the library counts refused ones."""

from __future__ import annotations

from typing import Any

from confluent_kafka import KafkaError, Message, Producer

PATIENCE_SECONDS = 60.0


class Poster:
    """Posts as any client does; after `flush` the broker has all of it, or AssertionError says what it refused."""

    def __init__(self, servers: str, **options: Any) -> None:
        """`options` are the client's, by the names that it has for them."""
        self._refused: list[str] = []
        self.client = Producer({"bootstrap.servers": servers, **options, "on_delivery": self._hear})

    def post(self, topic: str, *values: bytes | None, **where: Any) -> None:
        """Send values on their way, all to the same place: `partition`, `key`, `timestamp`."""
        for value in values:
            self.client.produce(topic, value, **where)
            self.client.poll(0)

    def flush(self) -> None:
        """Wait until the broker has what was posted."""
        left = self.client.flush(PATIENCE_SECONDS)
        assert not left, f"{left} records without an answer after {PATIENCE_SECONDS:g} s"
        assert not self._refused, f"{len(self._refused)} records were refused, the first one: {self._refused[0]}"

    def _hear(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self._refused.append(f"{message.topic()}, partition {message.partition()}: {error.str()}")
