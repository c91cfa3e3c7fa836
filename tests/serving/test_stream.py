"""Live messages: from any thread to every listener, bounded, and ended when they should."""

from __future__ import annotations

import asyncio
import json
import threading

import pytest

from katmatic.metrics import Metrics
from katmatic.serving import stream
from katmatic.serving.stream import Hub

CHECK_IN = {"student_id": "P0003", "timestamp": "2025-04-21 08:02:00"}


def listen(web, path, *, act, until, limit=40):
    """The events (kind, data) of a stream: acts when it is open, and reads until one is `until`."""
    found = []
    with web.stream("GET", path, timeout=10) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        kind = ""
        for line in answer.iter_lines():
            if line.startswith(": welcome"):
                act()
            elif line.startswith("event: "):
                kind = line[7:]
            elif line.startswith("data: "):
                found.append((kind, json.loads(line[6:])))
                if kind == until or len(found) >= limit:
                    return found
    return found


def test_predictions_and_labels_as_they_happen(web, pipeline):
    found = listen(
        web,
        "/v1/stream",
        act=lambda: pipeline.submit("attendance-topic", [json.dumps(CHECK_IN).encode()]),
        until="prediction",
    )
    label, prediction = found[0], found[-1]
    assert label[0] == "label"
    assert (label[1]["key"]["student_id"], label[1]["state"], label[1]["value"]) == ("P0003", "final", 0.0)
    assert prediction[1]["key"]["class_id"] == "1a"
    assert prediction[1]["probability"] > 0


def test_only_some_kinds(web, pipeline):
    def act():
        pipeline.submit("attendance-topic", [json.dumps(CHECK_IN).encode()])
        pipeline.move_to(pipeline.now + 1)

    assert [kind for kind, _ in listen(web, "/v1/stream?kinds=status", act=act, until="status")] == ["status"]
    assert web.get("/v1/stream?kinds=gossip").status_code == 400


def test_a_digest_counts(web, pipeline, monkeypatch):
    monkeypatch.setattr(stream, "DIGEST_SECONDS", 0.05)

    def act():
        pipeline.submit("attendance-topic", [json.dumps(CHECK_IN).encode()])

    ((kind, counts),) = listen(web, "/v1/stream?digest=1", act=act, until="digest")
    assert kind == "digest"
    assert (counts["label"], counts["prediction"]) == (1, 7)


def test_a_quiet_stream_beats(web, monkeypatch):
    monkeypatch.setattr(stream, "HEARTBEAT_SECONDS", 0.02)
    monkeypatch.setattr(stream, "DIGEST_SECONDS", 0.01)
    for path in ("/v1/stream", "/v1/stream?digest=1"):
        with web.stream("GET", path, timeout=10) as answer:
            assert next(line for line in answer.iter_lines() if line == ": still here")


def test_listeners_that_leave_are_forgotten(web, pipeline, monkeypatch):
    monkeypatch.setattr(stream, "HEARTBEAT_SECONDS", 0.02)
    with web.stream("GET", "/v1/stream", timeout=10) as answer:
        lines = answer.iter_lines()  # kept: the stream ends with it
        assert next(lines) == ": welcome"
        assert pipeline.hub.listeners == 1
    gone = threading.Event()
    for _ in range(200):
        if pipeline.hub.listeners == 0:
            gone.set()
            break
        gone.wait(0.02)
    assert gone.is_set()


def test_too_many_listeners(web, pipeline, monkeypatch):
    monkeypatch.setattr(stream, "CLIENTS_LIMIT", 0)
    answer = web.get("/v1/stream")
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) > 0


def test_a_slow_listener_loses_the_oldest_and_is_told(monkeypatch):
    monkeypatch.setattr(stream, "WAITING_LIMIT", 3)

    async def story():
        metrics = Metrics()
        hub = Hub(metrics)
        listener = hub.subscribe()
        thread = threading.Thread(target=lambda: [hub.publish("label", {"n": n}) for n in range(10)])
        thread.start()
        thread.join()
        found = [await anext(listener) for _ in range(4)]
        assert metrics.value("stream_dropped_total") == 7
        listener.close()
        assert metrics.value("stream_clients") == 0
        with pytest.raises(StopAsyncIteration):
            await anext(listener)
        return found

    assert asyncio.run(story()) == [
        ("dropped", {"messages": 7}), ("label", {"n": 7}), ("label", {"n": 8}), ("label", {"n": 9}),
    ]  # fmt: skip


def test_closing_ends_those_who_wait():
    async def story():
        hub = Hub(Metrics())
        waiting = asyncio.ensure_future(_all(hub.subscribe()))
        late = hub.subscribe()
        await asyncio.sleep(0)
        threading.Thread(target=hub.close).start()
        assert await asyncio.wait_for(waiting, 5) == []
        assert await asyncio.wait_for(_all(late), 5) == []
        assert await asyncio.wait_for(_all(hub.subscribe()), 5) == []
        assert hub.listeners == 0

    asyncio.run(story())


async def _all(listener):
    return [message async for message in listener]


def test_every_message_arrives_in_order_from_many_threads():
    async def story():
        hub = Hub(Metrics())
        listener = hub.subscribe()
        threads = [
            threading.Thread(target=lambda t=t: [hub.publish("label", {"t": t, "n": n}) for n in range(100)])
            for t in range(4)
        ]
        for thread in threads:
            thread.start()
        found = [(await anext(listener))[1] for _ in range(400)]
        for t in range(4):
            assert [m["n"] for m in found if m["t"] == t] == list(range(100))

    asyncio.run(story())


def test_what_only_is_counted_is_never_made():
    async def story():
        hub = Hub(Metrics())
        counting = hub.subscribe()
        hub.publish("label", {"n": 1})
        counting.only_counts()
        made = []
        hub.publish_many("label", 1000, lambda: made.append(1) or ())
        assert (counting.counts(), counting.counts(), made) == ({"label": 1001}, {}, [])
        reading = hub.subscribe()
        hub.publish_many("prediction", 2, lambda: ({"n": n} for n in range(2)))
        assert [await anext(reading), await anext(reading)] == [("prediction", {"n": 0}), ("prediction", {"n": 1})]
        assert counting.counts() == {"prediction": 2}

    asyncio.run(story())


def test_nobody_listens():
    Hub(Metrics()).publish("label", {})
