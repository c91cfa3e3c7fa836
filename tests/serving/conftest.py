"""A small school behind a real server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import httpx
import pytest

from katmatic.serving.api import make_api
from katmatic.serving.server import Server
from tests.serving.fake import FakePipeline, name


@pytest.fixture
def pipeline() -> FakePipeline:
    return FakePipeline(classes=3, size=8, days=12)


@pytest.fixture
def server(pipeline: FakePipeline) -> Iterator[Server]:
    server = Server(make_api(pipeline, names=name), closing=pipeline.hub.close)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def web(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url) as client:
        yield client


@pytest.fixture
def web_of() -> Callable[..., AbstractContextManager[httpx.Client]]:
    """Serve another pipeline for a while."""

    @contextmanager
    def serving(pipeline: FakePipeline, **options: Any) -> Iterator[httpx.Client]:
        server = Server(make_api(pipeline, names=name, **options), closing=pipeline.hub.close)
        server.start()
        try:
            with httpx.Client(base_url=server.url) as client:
                yield client
        finally:
            server.stop()

    return serving
