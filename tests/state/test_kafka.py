"""Checkpoints in a compacted topic: the newest intact one wins, and pieces alone count for nothing."""

from __future__ import annotations

import random
from contextlib import closing

import pytest

from katmatic.errors import LogError
from katmatic.log.kafka import KafkaLog
from katmatic.state.kafka import _HEAD, _MAGIC, PIECE_BYTES, KafkaCheckpoints
from tests.components import need_kafka, topics_of
from tests.poster import Poster

pytestmark = pytest.mark.slow

BIG = random.Random(1).randbytes(2 * PIECE_BYTES + 17)


@pytest.fixture
def place(tmp_path):
    with closing(KafkaLog(f"kafka://{need_kafka()}/{topics_of(tmp_path)}", "school")) as log:
        return log.checkpoints()


def test_the_newest_comes_back_whatever_its_size_also_to_another_process(place):
    checkpoints = KafkaCheckpoints(*place)
    assert checkpoints.latest("school") is None
    checkpoints.drop("school", 100)
    for sequence, state in enumerate((b"", b"small", BIG)):
        checkpoints.save("school", sequence, state)
        assert checkpoints.latest("school") == (sequence, state)
    checkpoints.save("shop", 9, b"of another application")
    checkpoints.save("school", 1, b"saved later, older")
    assert KafkaCheckpoints(*place).latest("school") == (2, BIG)


def test_the_newest_is_never_dropped(place):
    checkpoints = KafkaCheckpoints(*place)
    for sequence in range(12):
        checkpoints.save("school", sequence, b"%d" % sequence)
        checkpoints.drop("school", sequence)
    checkpoints.drop("school", 1000)
    assert checkpoints.latest("school") == (11, b"11")


def test_without_its_head_or_its_pieces_it_does_not_count(place):
    _, topic = place
    checkpoints = KafkaCheckpoints(*place)
    checkpoints.save("school", 2, BIG)
    poster = Poster(need_kafka())
    poster.post(topic, BIG[:100], key=f"piece/school@{3:020d}/000000")  # killed before its head was there
    poster.flush()
    assert checkpoints.latest("school") == (2, BIG)
    head = _HEAD.pack(_MAGIC, 4, len(BIG), 0, b"another checksum")
    poster.post(topic, head, key=f"head/school@{4:020d}")  # of pieces that are lost
    poster.flush()
    assert checkpoints.latest("school") == (2, BIG)


@pytest.mark.slow
def test_a_broker_that_is_not_there_is_told():
    nowhere = {"bootstrap.servers": "127.0.0.1:1", "log_level": 0}
    with pytest.raises(LogError, match="expected a broker that answers"):
        KafkaCheckpoints(nowhere, "katmatic.school.checkpoints").latest("school")
