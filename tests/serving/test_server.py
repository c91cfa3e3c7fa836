"""The server: a socket at once, an end at once."""

from __future__ import annotations

import httpx
import pytest

from katmatic.errors import SettingsError
from katmatic.serving.api import make_api
from katmatic.serving.server import Server
from tests.serving.fake import FakePipeline


def test_it_stops_while_somebody_listens():
    pipeline = FakePipeline(classes=1, size=2, days=0)
    server = Server(make_api(pipeline), closing=pipeline.hub.close)
    server.start()
    with httpx.Client(base_url=server.url) as web, web.stream("GET", "/v1/stream") as answer:
        lines = answer.iter_lines()
        assert next(lines) == ": welcome"
        server.stop()
        assert [line for line in lines if line.startswith("event")] == []
    with pytest.raises(httpx.ConnectError):
        httpx.get(server.url)


def test_a_port_that_is_taken(server, pipeline):
    with pytest.raises(SettingsError, match="a free port"):
        Server(make_api(pipeline), port=server.port)


def test_others_need_a_token(pipeline):
    with pytest.raises(SettingsError):
        Server(make_api(pipeline), host="0.0.0.0")
