"""The log on a real Apache Kafka: what others post, two owners, a broker that goes away, and what was tampered with."""

from __future__ import annotations

import time
from contextlib import closing

import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewPartitions, NewTopic

from katmatic.clock import SystemClock
from katmatic.errors import LogError, LogLost
from katmatic.log.base import Slice
from katmatic.log.kafka import KafkaHistory, KafkaLog
from katmatic.log.kafka_client import Connection
from tests.components import need, need_kafka, topics_of
from tests.kafka_broker import Broker, BrokerError
from tests.poster import Poster

WAIT_SECONDS = 20.0
pytestmark = pytest.mark.slow


@pytest.fixture
def prefix(tmp_path):
    """Topics of its own for each test."""
    return topics_of(tmp_path)


@pytest.fixture
def address(prefix):
    return f"kafka://{need_kafka()}/{prefix}"


@pytest.fixture
def post(address, prefix):
    """Post values into a topic as any client does."""

    def post(topic, *values, **options):
        poster = Poster(need_kafka(), **options)
        if "transactional.id" in options:
            poster.client.init_transactions()
            poster.client.begin_transaction()
        poster.post(f"{prefix}{topic}", *values)
        poster.flush()
        return poster.client

    return post


def read_all(log, count, *, limit=1000, now=1):
    """Read and commit until so many records were read; the batches."""
    found = []
    deadline = time.monotonic() + WAIT_SECONDS
    while sum(map(len, found)) < count:
        assert time.monotonic() < deadline, f"only {sum(map(len, found))} of {count} records came"
        has_come = log.wait(0.2)
        batch = log.read(now, limit=limit)  # which says what is wrong, too
        if not has_come:
            continue
        log.commit(batch, {"katmatic.labels": [b"made of %d" % len(batch)]})
        found.append(batch)
        deadline = time.monotonic() + WAIT_SECONDS
    return found


def plain(batches):
    return [(b.sequence, b.now, [(s.topic, s.first, list(s.values)) for s in b.slices]) for b in batches]


def test_it_says_since_when_what_others_posted_has_waited(address, prefix):
    poster, day = Poster(need_kafka()), 86_400_000
    now = SystemClock().now() // 1000
    stamps = [now - 100 * day, now - 100 * day, now - 10 * day, now - 9 * day, now + day // 48]
    for stamp in stamps:
        poster.post(f"{prefix}gate", b"present", timestamp=stamp)
    poster.flush()
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


def test_what_a_producer_took_back_is_never_seen(address, post, prefix):
    with closing(KafkaLog(address, "school", ["gate"])) as log:
        kept = post("gate", b"a", b"b", **{"transactional.id": prefix})
        kept.commit_transaction()
        post("gate", b"no", **{"transactional.id": prefix}).abort_transaction()
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


def test_a_batch_of_which_each_record_is_of_another_topic_than_the_one_before_fits_into_the_journal(address):
    topics = ["a" * 150, "b" * 150]
    with closing(KafkaLog(address, "school")) as log:
        for i in range(9_000):
            log.append(topics[i % 2], [b"%d" % i])
        batches = read_all(log, 9_000, limit=100_000)
        assert len(batches) > 1
        assert plain(log.batches()) == plain(batches)


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
def partitioned(prefix):
    """Make a topic of so many partitions, or give it more."""
    admin = AdminClient({"bootstrap.servers": need_kafka()})

    def known(name):
        found = admin.list_topics(timeout=WAIT_SECONDS).topics.get(name)
        return len(found.partitions) if found else 0

    def partitioned(topic, count):
        name = f"{prefix}{topic}"
        made = (
            admin.create_partitions([NewPartitions(name, count)])
            if known(name)
            else admin.create_topics([NewTopic(name, count, 1)])
        )
        made[name].result()
        deadline = time.monotonic() + WAIT_SECONDS
        while known(name) != count:  # the broker is told later than whoever asked for them
            assert time.monotonic() < deadline, f"{known(name)} partitions of {name}"
            time.sleep(0.01)

    return partitioned


def test_each_partition_is_read_in_its_order_and_again_in_the_order_in_which_all_of_them_came(
    address, partitioned, prefix
):
    partitioned("gate", 4)
    poster = Poster(need_kafka())
    batches, handed = [], 0
    for life in range(3):
        with closing(KafkaLog(address, "school", ["gate"])) as log:
            for i in range(200):
                value = b"%d %d %03d" % (i % 4, life, i)
                poster.post(f"{prefix}gate", value, partition=i % 4)
            poster.flush()
            promise = log.append("gate", [b"handed in"])
            batches += read_all(log, 151, limit=37)  # some wait for the next life
            handed += promise.done()  # else it was not read, and whoever was promised nothing hands it in again
    with closing(KafkaLog(address, "school", ["gate"])) as log:
        batches += read_all(log, 600 + handed - sum(map(len, batches)))
        found = [value for batch in batches for piece in batch.slices for value in piece.values]
        for partition in range(4):
            mine = [value for value in found if value.startswith(b"%d " % partition)]
            assert mine == sorted(mine)
            assert len(mine) == len(set(mine)) == 150
        assert found.count(b"handed in") == handed
        assert plain(log.batches()) == plain(batches)
        assert [value for _, value in log.scan("gate")] == found
        assert plain(KafkaHistory(address, "school").batches(batches[5].sequence)) == plain(batches[6:])


def test_a_topic_may_be_given_more_partitions_and_never_fewer(address, partitioned, prefix):
    partitioned("gate", 1)
    poster = Poster(need_kafka())
    with closing(KafkaLog(address, "school", ["gate"])) as log:
        poster.post(f"{prefix}gate", b"a", partition=0)
        read_all(log, 1)
        partitioned("gate", 3)
        poster.client.list_topics(f"{prefix}gate", timeout=WAIT_SECONDS)
        poster.post(f"{prefix}gate", b"b", partition=2)
        poster.flush()
    with closing(KafkaLog(address, "school", ["gate"])) as log:
        read_all(log, 1)
        assert [value for _, value in log.scan("gate")] == [b"a", b"b"]
    admin = AdminClient({"bootstrap.servers": need_kafka()})
    admin.delete_topics([f"{prefix}gate"])[f"{prefix}gate"].result()
    while f"{prefix}gate" in admin.list_topics(timeout=WAIT_SECONDS).topics:
        time.sleep(0.05)
    partitioned("gate", 2)
    with pytest.raises(LogError, match="gate: found 2 partitions, where 3 were read"):
        KafkaLog(address, "school", ["gate"])


def test_partitions_that_a_topic_is_given_while_it_is_read_are_read_too(address, partitioned, prefix, monkeypatch):
    monkeypatch.setattr("katmatic.log.kafka.LOOK_SECONDS", 0.2)
    partitioned("gate", 1)
    with closing(KafkaLog(address, "school", ["gate"])) as log:
        partitioned("gate", 2)
        poster = Poster(need_kafka())
        poster.post(f"{prefix}gate", b"b", partition=1)
        poster.flush()
        read_all(log, 1)
        assert [value for _, value in log.scan("gate")] == [b"b"]


def test_a_topic_of_ours_has_one_partition(address, prefix):
    admin = AdminClient({"bootstrap.servers": need_kafka()})
    name = f"{prefix}katmatic.school.journal"
    admin.create_topics([NewTopic(name, 3, 1)])[name].result()
    with pytest.raises(LogError, match=r"journal: found 3 partitions, expected one"):
        KafkaLog(address, "school", ["gate"])


@pytest.fixture
def deleted(prefix):
    """Delete the records of a topic's first partition before an offset, as retention does; -1: all there are."""
    admin = AdminClient({"bootstrap.servers": need_kafka()})

    def deleted(topic, before=-1):
        for future in admin.delete_records([TopicPartition(f"{prefix}{topic}", 0, before)]).values():
            future.result()

    return deleted


@pytest.fixture
def told(prefix):
    """Wait until the consumer group was told that a topic was read up to an offset."""
    consumer = Consumer({"bootstrap.servers": need_kafka(), "group.id": f"{prefix}katmatic.school"})

    def told(topic, offset):
        here = TopicPartition(f"{prefix}{topic}", 0)
        deadline = time.monotonic() + WAIT_SECONDS
        while (found := consumer.committed([here], timeout=WAIT_SECONDS)[0].offset) != offset:
            assert time.monotonic() < deadline, f"the group was told {found}"
            time.sleep(0.05)

    yield told
    consumer.close()


def test_the_consumer_group_shows_no_lag_when_all_is_read_also_after_transactions(address, post, told, prefix):
    with closing(KafkaLog(address, "school", ["gate"])) as log:
        post("gate", b"a", b"b", **{"transactional.id": prefix}).commit_transaction()
        log.append("gate", [b"handed in"])
        read_all(log, 3)
        told("gate", 5)  # three records, and the ends of two transactions
        post("gate", b"c")
        assert log.wait(WAIT_SECONDS)
        told("gate", 5)  # it came, and was not read
        read_all(log, 1)
        told("gate", 6)


def test_what_was_read_may_be_deleted_to_the_last_transaction_and_the_log_goes_on(address, post, told, deleted, prefix):
    with closing(KafkaLog(address, "school", ["gate"])) as log:
        post("gate", b"a", **{"transactional.id": prefix}).commit_transaction()
        read_all(log, 1)
        told("gate", 2)
    deleted("gate")
    with closing(KafkaLog(address, "school", ["gate"])) as log:
        post("gate", b"b")
        assert [list(piece.values) for batch in read_all(log, 1) for piece in batch.slices] == [[b"b"]]


def test_what_was_deleted_before_it_was_read_stops_the_log(address, post, told, deleted):
    with closing(KafkaLog(address, "school", ["gate"])) as log:
        post("gate", b"a")
        read_all(log, 1)
        told("gate", 1)
    post("gate", b"b", b"c")
    deleted("gate", 2)
    with (
        closing(KafkaLog(address, "school", ["gate"])) as log,
        pytest.raises(LogError, match="gate: found no record at offset 1 any more"),
    ):
        read_all(log, 1)


def test_a_journal_that_was_deleted_is_missed_and_not_begun_anew(address, post, deleted):
    post("gate", b"a")
    with closing(KafkaLog(address, "school", ["gate"])) as log:
        read_all(log, 1)
    deleted("katmatic.school.journal")
    with pytest.raises(LogError, match="journal: found a journal of which nothing is left"):
        KafkaLog(address, "school", ["gate"])


def test_a_new_log_reads_also_what_was_handed_in_to_an_earlier_one(address, post, prefix):
    with closing(KafkaLog(address, "school", ["gate"])) as log:
        log.append("gate", [b"handed in"])
        read_all(log, 1)
        post("gate", b"posted")
        read_all(log, 1)
    admin = AdminClient({"bootstrap.servers": need_kafka()})
    ours = [name for name in admin.list_topics(timeout=WAIT_SECONDS).topics if name.startswith(f"{prefix}kat")]
    for future in admin.delete_topics(ours).values():
        future.result()
    with closing(KafkaLog(address, "school", ["gate"])) as log:
        read_all(log, 2)
        assert [value for _, value in log.scan("gate")] == [b"handed in", b"posted"]


def test_a_topic_of_ours_that_would_forget_is_refused(address, prefix):
    admin = AdminClient({"bootstrap.servers": need_kafka()})
    name = f"{prefix}katmatic.school.journal"
    admin.create_topics([NewTopic(name, 1, 1, config={"retention.ms": "604800000"})])[name].result()
    with pytest.raises(LogError, match=r"journal: found retention.ms=604800000, .*expected retention.ms=-1"):
        KafkaLog(address, "school", ["gate"])


def test_of_large_records_no_more_are_taken_in_than_memory_is_meant_for(address, post, monkeypatch):
    monkeypatch.setattr("katmatic.log.kafka.INTAKE_BYTES_LIMIT", 2**20)
    for _ in range(8):
        post("gate", *[bytes(800_000)] * 10)
    with closing(KafkaLog(address, "school", ["gate"])) as log:
        found = waiting = 0
        while found < 80:
            assert log.wait(WAIT_SECONDS)
            time.sleep(0.02)  # it goes on taking in
            waiting = max(waiting, log.waiting)
            batch = log.read(1, limit=1)
            log.commit(batch, {})
            found += len(batch)
        assert waiting < 60  # what the client fetches ahead is 16 MB


def test_a_commit_to_topics_that_are_known_asks_for_no_list_of_them(address, monkeypatch):
    with closing(KafkaLog(address, "school", ["gate"])) as log:
        log.commit(log.read(1, limit=1), {"katmatic.labels": [b"a"]})
        monkeypatch.setattr(Connection, "there", lambda self: pytest.fail("all topics of the cluster, once more"))
        log.append("gate", [b"b"])
        log.commit(log.read(2, limit=1), {"katmatic.labels": [b"c"]})
        assert [value for _, value in log.scan("katmatic.labels")] == [b"a", b"c"]


def test_a_topic_that_was_made_is_waited_for_until_the_brokers_know_it(address, monkeypatch):
    known, asked = Connection.there, []

    def there(self):
        asked.append(known(self))
        return {} if len(asked) < 4 else asked[-1]

    monkeypatch.setattr(Connection, "there", there)
    with closing(KafkaLog(address, "school", ["gate"])) as log:
        assert len(asked) >= 4
        log.append("gate", [b"a"])
        assert len(log.read(1, limit=1)) == 1


def test_records_that_somebody_deleted_are_missed(address, post, deleted):
    post("gate", b"a", b"b", b"c", b"d")
    with closing(KafkaLog(address, "school", ["gate"])) as log:
        read_all(log, 4)
        deleted("gate", 2)
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
            broker.kill()
            time.sleep(1.5)  # the group would be told meanwhile
            began = time.monotonic()
        assert time.monotonic() - began < WAIT_SECONDS / 2
    finally:
        broker.kill()
