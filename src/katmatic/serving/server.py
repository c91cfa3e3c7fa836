"""A server that runs in a thread of its own, on a socket that it opens at once."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable

import uvicorn
from starlette.types import ASGIApp

from katmatic.errors import SettingsError
from katmatic.serving.access import check_bind

STOP_SECONDS = 5  # what an answer under way may still take when the server stops
CONNECTIONS_LIMIT = 1_000


class Server:
    """Serves `app`: `start()` returns when it answers, `stop()` when it does not any more.

    `closing` is called first when it stops: it ends live streams, which would be waited for.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        token: str | None = None,
        closing: Callable[[], None] = lambda: None,
    ) -> None:
        check_bind(host, token)
        self._closing = closing
        self._socket = _listening(host, port)
        self.host, self.port = host, int(self._socket.getsockname()[1])
        self._server = _Uvicorn(
            uvicorn.Config(
                app,
                log_config=None,
                access_log=False,
                lifespan="off",
                ws="none",
                server_header=False,
                limit_concurrency=CONNECTIONS_LIMIT,
                timeout_graceful_shutdown=STOP_SECONDS,
            )
        )
        self._thread = threading.Thread(target=self._run, name="katmatic-http", daemon=True)

    @property
    def url(self) -> str:
        """Where it answers."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    def start(self) -> None:
        """Return when it answers."""
        self._thread.start()
        self._server.ready.wait()

    def stop(self) -> None:
        """Return when it has stopped."""
        self._closing()
        self._server.should_exit = True
        self._thread.join()

    def _run(self) -> None:
        try:
            self._server.run(sockets=[self._socket])
        finally:
            self._server.ready.set()
            self._socket.close()


class _Uvicorn(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        self.ready.set()


def _listening(host: str, port: int) -> socket.socket:
    try:
        info = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        found = socket.socket(info[0], info[1])
        try:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            found.bind(info[4])
        except OSError:
            found.close()
            raise
    except OSError as error:
        raise SettingsError(
            "port", found=f"{host}:{port}: {error.strerror}", expected="a free port", do="choose another: --port"
        ) from error
    return found
