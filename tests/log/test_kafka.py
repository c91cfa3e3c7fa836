"""The log on a real Apache Kafka: what others post, two owners, a broker that goes away, and what was tampered with."""

from __future__ import annotations

from contextlib import closing

import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewPartitions, NewTopic

from katmatic.clock import SystemClock
from katmatic.errors import LogError, LogLost
from katmatic.log.base import Slice
from katmatic.log.kafka import KafkaHistory, KafkaLog
from tests.components import need, need_kafka
from tests.kafka_broker import Broker, BrokerError

WAIT_SECONDS = 20.0
pytestmark = pytest.mark.slow


@pytest.fixture
def address(tmp_path):
    """Topics of its own for each test."""
    return f"kafka://{need_kafka()}/{tmp_path.name}-"


@pytest.fixture
def post(address, tmp_path):
    """Post values into a topic as any client does."""

    def post(topic, *values, **options):
        producer = Producer({"bootstrap.servers": need_kafka(), **options})
        if "transactional.id" in options:
            producer.init_transactions()
            producer.begin_transaction()
        for value in values:
            producer.produce(f"{tmp_path.name}-{topic}", value)
        assert producer.flush(WAIT_SECONDS) == 0
        return producer

    return post


def read_all(log, count, *, limit=1000, now=1):
    """Read and commit until so many records were read; the batches."""
    found = []
    while sum(map(len, found)) < count:
        assert log.wait(WAIT_SECONDS), f"only {sum(map(len, found))} of {count} records came"
        batch = log.read(now, limit=limit)
        log.commit(batch, {"katmatic.labels": [b"made of %d" % len(batch)]})
        found.append(batch)
    return found


def plain(batches):
    return [(b.sequence, b.now, [(s.topic, s.first, list(s.values)) for s in b.slices]) for b in batches]


def test_it_says_since_when_what_others_posted_has_waited(address, tmp_path):
    producer, day = Producer({"bootstrap.servers": need_kafka()}), 86_400_000
    now = SystemClock().now() // 1000
    stamps = [now - 100 * day, now - 100 * day, now - 10 * day, now - 9 * day, now + day // 48]
    for stamp in stamps:
        producer.produce(f"{tmp_path.name}-gate", b"present", timestamp=stamp)
    assert producer.flush(WAIT_SECONDS) == 0
    with closing(KafkaLog(address, "school", ["gate"])) as log:
        batches = read_all(log, 5, limit=3)
        assert [sum(count for _, _, count in batch.came) for batch in batches] == list(map(len, batches))
        came = [since // 1000 for batch in batches for _, since, count in batch.came for _ in range(count)]
        assert came[:3] == stamps[:3]
        assert came[3] in stamps[2:4], "those of about one age are told of together"
        assert now <= came[4] <= SystemClock().now() // 1000, "nothing comes from the future"
        log.append("gate", [b"by us"])
        assert not read_all(log, 1)[0].came, "who hands in waits by himself"
    assert not any(batch.came for batch in KafkaHistory(address, "school").batches()), "it is no part of the log"


def test_what_others_post_is_read_in_order_and_once_also_what_came_before_the_log(address, post):
    post("gate", b"a", b"b", None)
    with closing(KafkaLog(address, "school", ["gate"])) as log:
        first = read_all(log, 3)
        post("gate", b"c")
        second = read_all(log, 1)
    with closing(KafkaLog(address, "school", ["gate"])) as log:
        post("gate", b"d")
        third = read_all(log, 1)
        assert [value for _, value in log.scan("gate")] == [b"a", b"b", b"", b"c", b"d"]
        assert plain(log.batches()) == plain([*first, *second, *third])
        assert plain(KafkaHistory(address, "school").batches()) == plain([*first, *second, *third])


def test_what_is_handed_in_and_what_is_posted_mix_in_one_topic_and_come_again_in_the_same_order(address, post):
    batches = []
    with closing(KafkaLog(address, "school", ["gate"])) as log:
        for turn in range(6):
            log.append("gate", [b"handed %d" % turn])
            promise = log.append("bell", [b"bell %d" % turn])
            if turn % 2:
                post("gate", *(b"posted %d %d" % (turn, i) for i in range(5)))
            batch = log.read(turn, limit=3)
            log.commit(batch, {}, {"bell": [b"fed %d" % turn]})
            batches.append(batch)
        while not promise.done():
            batches += read_all(log, 1, limit=3, now=6)
    with closing(KafkaLog(address, "school", ["gate"])) as log:
        batches += read_all(log, 18 + 15 - sum(map(len, batches)), limit=2, now=10)
        assert plain(log.batches()) == plain(batches)
        assert plain(log.batches(batches[7].sequence)) == plain(batches[8:])
        there = dict([*log.scan("gate"), *log.scan("bell")])
        assert sorted(there) == list(range(len(there)))
        assert sorted(there.values()) == sorted(v for b in batches for s in b.slices for v in s.values)
        assert len(set(there.values())) == len(there) == 18 + 15


def test_what_a_producer_took_back_is_never_seen(address, post, tmp_path):
    with closing(KafkaLog(address, "school", ["gate"])) as log:
        kept = post("gate", b"a", b"b", **{"transactional.id": tmp_path.name})
        kept.commit_transaction()
        post("gate", b"no", **{"transactional.id": tmp_path.name}).abort_transaction()
        post("gate", b"c")
        batches = read_all(log, 3)
        assert [value for _, value in log.scan("gate")] == [b"a", b"b", b"c"]
        assert plain(log.batches()) == plain(batches)


def test_another_process_sees_what_waits_and_may_post(address):
    with closing(KafkaLog(address, "school", ["katmatic.models"])) as log:
        history = KafkaHistory(address, "school")
        history.post("katmatic.models", [b"version 2"])
        assert history.pending("katmatic.models") == [b"version 2"]
        (batch,) = read_all(log, 1)
        assert tuple(batch.slices) == (Slice("katmatic.models", 0, [b"version 2"]),)
        assert history.pending("katmatic.models") == []
        assert list(history.scan("katmatic.models")) == [(0, b"version 2")]
        assert history.end("katmatic.labels") == 1
        with pytest.raises(LogError, match="a record to be read"):
            history.post("katmatic.labels", [b"x"])


def test_the_second_owner_shuts_out_the_first(address):
    with closing(KafkaLog(address, "school")) as first:
        first.append("gate", [b"a"])
        first.commit(first.read(1, limit=10), {})
        promise = first.append("gate", [b"b"])
        batch = first.read(2, limit=10)
        with closing(KafkaLog(address, "school")) as second:
            for _ in range(2):
                with pytest.raises(LogError) as error:
                    first.commit(batch, {"katmatic.labels": [b"never"]})
            assert isinstance(error.value, LogLost)
            assert "another owner" in str(error.value)
            second.append("gate", [b"c"])
            second.commit(second.read(3, limit=10), {})
            assert [value for _, value in second.scan("gate")] == [b"a", b"c"]
            assert second.end("katmatic.labels") == 0
    with pytest.raises(LogError):
        promise.result(0)


def test_a_block_of_many_megabytes_comes_back_as_it_was(address):
    block = bytes(range(256)) * 10_000
    with closing(KafkaLog(address, "school")) as log:
        log.commit(log.read(1, limit=1), {"katmatic.labels": [b"small", block, b""]})
        log.commit(log.read(2, limit=1), {"katmatic.labels": [block]})
        assert [value for _, value in log.scan("katmatic.labels")] == [b"small", block, b"", block]
        assert list(log.scan("katmatic.labels", 1, 2)) == [(1, block)]
        with pytest.raises(LogError, match="at most 900000"):
            log.append("gate", [block])


def test_a_long_log_is_read_from_any_place(address):
    with closing(KafkaLog(address, "school")) as log:
        for turn in range(600):
            log.append("gate", [b"%d" % turn])
            log.commit(log.read(turn, limit=1), {"katmatic.labels": [b"%d" % turn]})
        sequences = [batch.sequence for batch in log.batches()]
        for start in (0, 1, 299, 598, 599, 600):
            expected = [(i, b"%d" % i) for i in range(start, 600)]
            assert list(log.scan("katmatic.labels", start)) == expected
            assert list(log.scan("gate", start)) == expected
            assert [b.now for b in log.batches(sequences[start] if start < 600 else log.sequence())] == list(
                range(start + 1, 600)
            )


@pytest.fixture
def partitioned(tmp_path):
    """Make a topic of so many partitions, or give it more."""
    admin = AdminClient({"bootstrap.servers": need_kafka()})

    def partitioned(topic, count):
        name = f"{tmp_path.name}-{topic}"
        there = name in admin.list_topics(timeout=WAIT_SECONDS).topics
        made = (
            admin.create_partitions([NewPartitions(name, count)])
            if there
            else admin.create_topics([NewTopic(name, count, 1)])
        )
        made[name].result()

    return partitioned


def test_each_partition_is_read_in_its_order_and_again_in_the_order_in_which_all_of_them_came(
    address, partitioned, tmp_path
):
    partitioned("gate", 4)
    producer = Producer({"bootstrap.servers": need_kafka()})
    batches, handed = [], 0
    for life in range(3):
        with closing(KafkaLog(address, "school", ["gate"])) as log:
            for i in range(200):
                value = b"%d %d %03d" % (i % 4, life, i)
                producer.produce(f"{tmp_path.name}-gate", value, partition=i % 4)
            producer.flush(WAIT_SECONDS)
            log.append("gate", [b"handed in"])
            handed += 1
            batches += read_all(log, 151, limit=37)  # some wait for the next life
    with closing(KafkaLog(address, "school", ["gate"])) as log:
        batches += read_all(log, 600 + handed - sum(map(len, batches)))
        found = [value for batch in batches for piece in batch.slices for value in piece.values]
        for partition in range(4):
            mine = [value for value in found if value.startswith(b"%d " % partition)]
            assert mine == sorted(mine)
            assert len(mine) == len(set(mine)) == 150
        assert found.count(b"handed in") <= handed  # whoever was promised nothing hands it in again
        assert plain(log.batches()) == plain(batches)
        assert [value for _, value in log.scan("gate")] == found
        assert plain(KafkaHistory(address, "school").batches(batches[5].sequence)) == plain(batches[6:])


def test_a_topic_may_be_given_more_partitions_and_never_fewer(address, partitioned, tmp_path):
    partitioned("gate", 1)
    producer = Producer({"bootstrap.servers": need_kafka()})
    with closing(KafkaLog(address, "school", ["gate"])) as log:
        producer.produce(f"{tmp_path.name}-gate", b"a", partition=0)
        read_all(log, 1)
        partitioned("gate", 3)
        producer.list_topics(f"{tmp_path.name}-gate", timeout=WAIT_SECONDS)
        producer.produce(f"{tmp_path.name}-gate", b"b", partition=2)
        assert producer.flush(WAIT_SECONDS) == 0
    with closing(KafkaLog(address, "school", ["gate"])) as log:
        read_all(log, 1)
        assert [value for _, value in log.scan("gate")] == [b"a", b"b"]
    admin = AdminClient({"bootstrap.servers": need_kafka()})
    admin.delete_topics([f"{tmp_path.name}-gate"])[f"{tmp_path.name}-gate"].result()
    partitioned("gate", 2)
    with pytest.raises(LogError, match="gate: found 2 partitions, where 3 were read"):
        KafkaLog(address, "school", ["gate"])


def test_partitions_that_a_topic_is_given_while_it_is_read_are_read_too(address, partitioned, tmp_path, monkeypatch):
    monkeypatch.setattr("katmatic.log.kafka.LOOK_ROUNDS", 2)
    partitioned("gate", 1)
    with closing(KafkaLog(address, "school", ["gate"])) as log:
        partitioned("gate", 2)
        producer = Producer({"bootstrap.servers": need_kafka()})
        producer.produce(f"{tmp_path.name}-gate", b"b", partition=1)
        assert producer.flush(WAIT_SECONDS) == 0
        read_all(log, 1)
        assert [value for _, value in log.scan("gate")] == [b"b"]


def test_a_topic_of_ours_has_one_partition(address, tmp_path):
    admin = AdminClient({"bootstrap.servers": need_kafka()})
    name = f"{tmp_path.name}-katmatic.school.journal"
    admin.create_topics([NewTopic(name, 3, 1)])[name].result()
    with pytest.raises(LogError, match=r"journal: found 3 partitions, expected one"):
        KafkaLog(address, "school", ["gate"])


def test_records_that_somebody_deleted_are_missed(address, post, tmp_path):
    post("gate", b"a", b"b", b"c", b"d")
    with closing(KafkaLog(address, "school", ["gate"])) as log:
        read_all(log, 4)
        admin = AdminClient({"bootstrap.servers": need_kafka()})
        for future in admin.delete_records([TopicPartition(f"{tmp_path.name}-gate", 0, 2)]).values():
            future.result()
        post("gate", b"e", b"f")
        with pytest.raises(LogError, match="other records than those that were read"):
            list(log.batches())


@pytest.mark.parametrize("wrong", ["http://localhost:1", "kafka://", "kafka://localhost:1?acks=0"])
def test_an_address_that_means_nothing_is_refused(wrong):
    with pytest.raises(LogError, match="expected kafka://host:port"):
        KafkaHistory(wrong, "school")


def test_a_log_that_was_never_begun_cannot_be_read(address):
    with pytest.raises(LogError, match=r"katmatic.nobody.journal: found no such topic"):
        list(KafkaHistory(address, "nobody").batches())


def test_a_broker_that_goes_away_in_mid_commit_loses_and_doubles_nothing(tmp_path):
    try:
        broker = Broker(tmp_path / "broker")
    except BrokerError as error:
        need("Apache Kafka", None, str(error))
        raise
    broker.start()
    try:
        with closing(KafkaLog(f"kafka://{broker.address}", "school", ["gate"])) as log:
            for turn in range(3):
                promise = log.append("gate", [b"%d" % turn])
                broker.kill()
                batch = log.read(turn, limit=10)
                with pytest.raises(LogError, match="a broker that answers"):
                    log.commit(batch, {"katmatic.labels": [b"%d" % turn]})
                assert not promise.done()
                broker.start()
                for _ in range(20):
                    try:
                        log.commit(batch, {"katmatic.labels": [b"%d" % turn]})
                        break
                    except LogError as error:
                        last = error
                else:
                    raise last
                assert promise.result(0) == range(turn, turn + 1)
            assert list(log.scan("gate")) == list(log.scan("katmatic.labels")) == [(i, b"%d" % i) for i in range(3)]
    finally:
        broker.kill()
