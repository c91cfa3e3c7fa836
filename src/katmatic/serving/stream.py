"""Live messages: from any thread of the pipeline to every listener, as server-sent events."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Collection, Iterable
from typing import Any, Self

import msgspec

from katmatic.metrics import Metrics
from katmatic.serving.base import KINDS, Subscription

WAITING_LIMIT = 1_000  # messages that wait for one slow client; beyond it the oldest are dropped
CLIENTS_LIMIT = 200
HEARTBEAT_SECONDS = 15.0  # below the idle limit of common proxies
DIGEST_SECONDS = 1.0  # a digest tells at most this often that something changed
DROPPED = "dropped"


class TooManyListeners(Exception):
    """There are already `CLIENTS_LIMIT` listeners."""


class Hub:
    """Hands each published message to every listener. `publish` never waits, and is nearly free without listeners."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._listeners: set[Listener] = set()
        self._lock = threading.Lock()
        self._is_closed = False

    @property
    def listeners(self) -> int:
        """How many listen now: with none, a message need not even be made."""
        return len(self._listeners)

    def publish(self, kind: str, data: dict[str, Any]) -> None:
        """Tell every listener; from any thread. A listener that is too slow loses its oldest messages."""
        self.publish_many(kind, 1, lambda: (data,))

    def publish_many(self, kind: str, number: int, make: Callable[[], Iterable[dict[str, Any]]]) -> None:
        """Tell of `number` messages; `make` makes them only if somebody wants more than their number."""
        if not self._listeners:
            return
        with self._lock:
            listeners = list(self._listeners)
        readers = [listener for listener in listeners if not listener.count(kind, number)]
        for data in make() if readers else ():
            for listener in readers:
                listener.put(kind, data)

    def subscribe(self) -> Listener:
        """A new listener, which hears all that is published from now on; inside a running event loop."""
        with self._lock:
            if len(self._listeners) >= CLIENTS_LIMIT:
                raise TooManyListeners
            listener = Listener(self, asyncio.get_running_loop())
            self._listeners.add(listener)
            number = len(self._listeners)
            is_closed = self._is_closed
        self._metrics.set("stream_clients", number)
        if is_closed:
            listener.close()
        return listener

    def close(self) -> None:
        """End every subscription, so that a server can stop without waiting for its listeners."""
        with self._lock:
            self._is_closed = True
            listeners = list(self._listeners)
        for listener in listeners:
            listener.close()

    def leave(self, listener: Listener) -> None:
        """Forget a listener."""
        with self._lock:
            self._listeners.discard(listener)
            number = len(self._listeners)
        self._metrics.set("stream_clients", number)

    def dropped(self) -> None:
        """A message was dropped."""
        self._metrics.add("stream_dropped_total")


class Listener:
    """One subscription: an async iterator of (kind, data) with at most `WAITING_LIMIT` messages waiting."""

    def __init__(self, hub: Hub, loop: asyncio.AbstractEventLoop) -> None:
        self._hub, self._loop = hub, loop
        self._waiting: deque[tuple[str, dict[str, Any]]] = deque()
        self._counts: Counter[str] | None = None
        self._dropped = 0
        self._is_closed = False
        self._lock = threading.Lock()
        self._wake = asyncio.Event()

    def put(self, kind: str, data: dict[str, Any]) -> None:
        """Let it hear a message; from any thread."""
        with self._lock:
            if len(self._waiting) >= WAITING_LIMIT:
                self._waiting.popleft()
                self._dropped += 1
                self._hub.dropped()
            self._waiting.append((kind, data))
            is_first = len(self._waiting) == 1
        if is_first:
            self._notify()

    def only_counts(self) -> None:
        """From now on only count."""
        with self._lock:
            self._counts = Counter(kind for kind, _ in self._waiting)
            self._waiting.clear()

    def count(self, kind: str, number: int) -> bool:
        """Count messages; False if it wants the messages themselves."""
        with self._lock:
            if self._counts is not None:
                self._counts[kind] += number
            return self._counts is not None

    def counts(self) -> dict[str, int]:
        """How many came since this was asked last."""
        with self._lock:
            found = dict(self._counts or {})
            if self._counts is not None:
                self._counts.clear()
            return found

    def close(self) -> None:
        """No more is wanted; the iterator ends."""
        with self._lock:
            was_closed, self._is_closed = self._is_closed, True
        if not was_closed:
            self._hub.leave(self)
            self._notify()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> tuple[str, dict[str, Any]]:
        while True:
            with self._lock:
                if self._is_closed:
                    raise StopAsyncIteration
                if self._dropped:
                    lost, self._dropped = self._dropped, 0
                    return DROPPED, {"messages": lost}
                if self._waiting:
                    return self._waiting.popleft()
                self._wake.clear()
            await self._wake.wait()

    def _notify(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._wake.set)


async def events(subscription: Subscription, kinds: Collection[str] = KINDS) -> AsyncIterator[bytes]:
    """Server-sent events of `kinds`, with a comment when nothing came for `HEARTBEAT_SECONDS`."""
    yield b": welcome\nretry: 2000\n\n"
    following: asyncio.Future[tuple[str, dict[str, Any]]] | None = None
    try:
        while True:
            following = following or asyncio.ensure_future(anext(aiter(subscription)))
            done, _ = await asyncio.wait({following}, timeout=HEARTBEAT_SECONDS)
            if not done:
                yield b": still here\n\n"
                continue
            try:
                kind, data = following.result()
            except StopAsyncIteration:
                return
            following = None
            if kind in kinds or kind == DROPPED:
                yield spell(kind, data)
    finally:
        if following is not None:
            following.cancel()
        subscription.close()


async def digests(subscription: Subscription) -> AsyncIterator[bytes]:
    """At most one event a `DIGEST_SECONDS`: how many messages of each kind came. For pages, which then ask for more."""
    yield b": welcome\nretry: 2000\n\n"
    subscription.only_counts()
    ended = asyncio.ensure_future(anext(aiter(subscription)))
    quiet = 0.0
    try:
        while not ended.done():
            await asyncio.wait({ended}, timeout=DIGEST_SECONDS)
            if found := subscription.counts():
                quiet = 0.0
                yield spell("digest", found)
            elif (quiet := quiet + DIGEST_SECONDS) >= HEARTBEAT_SECONDS:
                quiet = 0.0
                yield b": still here\n\n"
    finally:
        ended.cancel()
        if ended.done() and not ended.cancelled():
            ended.exception()  # that it ended is no error
        subscription.close()


def spell(kind: str, data: Any) -> bytes:
    r"""One server-sent event.

    >>> spell("alert", {"name": "lag"})
    b'event: alert\ndata: {"name":"lag"}\n\n'
    """
    return b"event: " + kind.encode() + b"\ndata: " + msgspec.json.encode(data) + b"\n\n"
