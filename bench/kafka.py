"""The path of `bench.path` over Apache Kafka, beside a bare loop that consumes and produces with confluent-kafka.

Both read events that other producers have posted, and commit in transactions of 5,000. The bare loop writes one record
for each event and looks at nothing; ours parses, keeps 15 exact features, scores and logs. `events_per_cpu_s` and
`bare_events_per_cpu_s` count the CPU of this process, all threads; the broker is another. Then 1,000 events a second,
one at a time: `p50_ms` and `p99_ms` from the moment an event was due to be posted until its prediction is durable.
`--events` and `--seconds` say how much of each. The broker is started from Maven's jars, or is that of KATMATIC_KAFKA.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from confluent_kafka import Consumer, Producer, TopicPartition

from bench.report import report
from katmatic.clock import ManualClock, SystemClock, monotonic_seconds, process_seconds, sleep
from katmatic.log.kafka import KafkaLog
from katmatic.measure import FIRST, RATE, WARM_EVENTS, Durable, is_scored, payments, ready, turning
from katmatic.pipeline import BATCH_LIMIT
from katmatic.records import MODELS
from tests.kafka_broker import address
from tests.poster import Poster

EVENTS = 300_000
SECONDS = 20
HORIZON = 7_000_000_000  # microseconds: all of them wait for the worker, and none comes too late
TOPICS = ("payment", "dispute", MODELS)


def measure() -> dict[str, Any]:
    """All figures."""
    broker, prefix = address(), f"bench{SystemClock().now()}"
    events = _given("--events", EVENTS)
    return {
        **_throughput(broker, f"{prefix}.a.", events),
        **_bare(broker, f"{prefix}.a.", events),
        **_latency(broker, f"{prefix}.b.", _given("--seconds", SECONDS)),
    }


def _throughput(broker: str, prefix: str, events: int) -> dict[str, Any]:
    spacing = HORIZON // (events + WARM_EVENTS)
    warm, warm_times = payments(WARM_EVENTS, FIRST, spacing)
    values, times = payments(events, FIRST + WARM_EVENTS * spacing, spacing, seed=2)
    clock = ManualClock(FIRST)
    log = KafkaLog(f"kafka://{broker}/{prefix}", "bench", TOPICS)
    with tempfile.TemporaryDirectory() as folder, ready(Path(folder), clock, warm, warm_times, log) as pipeline:
        clock.move_to(int(times[-1]))
        done = predictions = 0
        _post(broker, f"{prefix}payment", values)
        began, cpu = monotonic_seconds(), process_seconds()
        while done < events:
            turn = pipeline.turn(5.0, limit=BATCH_LIMIT)
            done += len(turn.batch)
            predictions += sum(int(is_scored(block).sum()) for block in turn.predictions)
        cpu, seconds = process_seconds() - cpu, monotonic_seconds() - began
    return {
        "events": events,
        "predictions": predictions,
        "events_per_cpu_s": round(events / cpu),
        "events_per_s": round(events / seconds),
    }


def _bare(broker: str, prefix: str, events: int) -> dict[str, Any]:
    """The same events, from the same topic to another."""
    consumer = Consumer({"bootstrap.servers": broker, "group.id": prefix, "auto.offset.reset": "earliest"})
    producer = Producer({"bootstrap.servers": broker, "transactional.id": prefix, "retry.backoff.ms": 1})
    producer.init_transactions()
    consumer.assign([TopicPartition(f"{prefix}payment", 0, 0)])
    done, began, cpu = 0, monotonic_seconds(), process_seconds()
    while done < events:
        messages = consumer.consume(BATCH_LIMIT, 0.05)
        if messages:
            producer.begin_transaction()
            for message in messages:
                producer.produce(f"{prefix}bare", message.value())
            producer.send_offsets_to_transaction(
                consumer.position(consumer.assignment()), consumer.consumer_group_metadata()
            )
            producer.commit_transaction()
        done += len(messages)
    cpu, seconds = process_seconds() - cpu, monotonic_seconds() - began
    consumer.close()
    return {"bare_events_per_cpu_s": round(done / cpu), "bare_events_per_s": round(done / seconds)}


def _latency(broker: str, prefix: str, seconds: int) -> dict[str, Any]:
    events, clock, spacing = seconds * RATE, SystemClock(), 1_000_000 // RATE
    warm, warm_times = payments(WARM_EVENTS, clock.now() - WARM_EVENTS * spacing, spacing)
    log = KafkaLog(f"kafka://{broker}/{prefix}", "bench", TOPICS)
    with tempfile.TemporaryDirectory() as folder, ready(Path(folder), clock, warm, warm_times, log) as pipeline:
        values, _ = payments(events, clock.now(), spacing, seed=2)
        durable = Durable()
        pipeline.watchers.append(durable)
        first = log.end("katmatic.models")
        producer = Producer({"bootstrap.servers": broker, "linger.ms": 0})
        with turning(pipeline):
            due = monotonic_seconds() + 0.05 + np.arange(events) / RATE
            for moment, value in zip(due.tolist(), values, strict=True):
                sleep(moment - monotonic_seconds())
                producer.produce(f"{prefix}payment", value)
                producer.poll(0)
            producer.flush()
            while len(durable) < events:
                sleep(0.05)
    moments = durable.at
    took = np.array([moments[first + i] for i in range(events)]) - due
    p50, p99 = (1000 * np.quantile(took, (0.5, 0.99))).round(3).tolist()
    return {"rate": RATE, "p50_ms": p50, "p99_ms": p99}


def _post(broker: str, topic: str, values: list[bytes]) -> None:
    poster = Poster(broker, **{"queue.buffering.max.messages": 1_000_000})
    poster.post(topic, *values)
    poster.flush()


def _given(name: str, default: int) -> int:
    return int(sys.argv[sys.argv.index(name) + 1]) if name in sys.argv else default


if __name__ == "__main__":
    report(measure)
