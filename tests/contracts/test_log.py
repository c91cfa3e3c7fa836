"""Every log keeps the same promises: the one in memory and the durable one."""

from __future__ import annotations

from types import MappingProxyType

import pytest

from katmatic.log.kafka import KafkaLog
from katmatic.log.memory import MemoryLog
from katmatic.log.sqlite import SqliteLog
from katmatic.testing.log import CHECKS, check_log
from tests.components import need_kafka, topics_of


@pytest.fixture(params=["memory", "sqlite", "sqlite-beside", pytest.param("kafka", marks=pytest.mark.slow)])
def make(request, tmp_path):
    logs = {}
    if request.param == "kafka":
        address = f"kafka://{need_kafka()}/{topics_of(tmp_path)}"

    def make(name="log"):
        if request.param == "kafka":
            return KafkaLog(f"{address}{name}-", "contract")
        if request.param == "memory":
            logs[name] = MemoryLog(logs.get(name))
            return logs[name]
        return SqliteLog(tmp_path / name / "log.db", moves_beside=request.param == "sqlite-beside")

    return make


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
def test_the_promises_of_a_log(make, check):
    check(make)


@pytest.mark.slow
def test_all_of_them_at_once(make):
    check_log(make)


class Forgetful(MemoryLog):
    """Loses what is written."""

    def commit(self, batch, written, fed=MappingProxyType({}), *, keep=False):
        super().commit(batch, {}, fed, keep=keep)


def test_a_log_that_breaks_a_promise_is_told_which():
    with pytest.raises(AssertionError, match=r"^the written records: found \[\], expected \[\(0, b'l0'\)"):
        check_log(lambda name: Forgetful())
