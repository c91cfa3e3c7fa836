"""SIGKILL at any moment: what was acknowledged is there, nothing is there twice, and all batches are the same bytes."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import katmatic
from katmatic.log.sqlite import SqliteLog

SEED = 20250421
ROUNDS = 10

# Appends, reads and commits as fast as it can; says what is acknowledged, a line each. Records name themselves.
WORKER = """
import json, os, random, sys, threading
from katmatic.log.sqlite import SqliteLog

path, rng = sys.argv[1], random.Random(int(sys.argv[2]))
log = SqliteLog(path)
said = threading.Lock()

def say(**what):
    with said:
        os.write(1, json.dumps(what).encode() + b"\\n")

def send(sender, rng):
    n = 0
    while True:
        topic, count = f"topic{rng.randrange(3)}", rng.choice([1, 1, 2, 50])
        values = [f"{sys.argv[2]} {sender} {n + i} {'x' * rng.randrange(200)}" for i in range(count)]
        n += count
        positions = log.append(topic, [value.encode() for value in values]).result()
        say(topic=topic, first=positions[0], values=values)

say(sequence=log.sequence())
for sender in range(2):
    threading.Thread(target=send, args=(sender, random.Random(rng.random())), daemon=True).start()
now = int(sys.argv[3])
while True:
    log.wait(1.0)
    now += 1
    batch = log.read(now, limit=rng.choice([1, 3, 100]))
    decisions = [v for piece in batch.slices if piece.topic != "decisions" for v in piece.values if hash(v) % 7 == 0]
    log.commit(
        batch,
        {"labels": [b"%d of %d" % (len(batch), batch.sequence)] if batch.slices else []},
        {"decisions": [b"on " + value for value in decisions]},
    )
    say(committed=batch.sequence, records=len(batch))
"""


def run_and_kill(path: Path, seed: int, now: int, after_lines: int) -> list[dict]:
    """Run the worker until it has said so many lines, and some instructions more; what it said."""
    worker = subprocess.Popen(
        [sys.executable, "-c", WORKER, str(path), str(seed), str(now)],
        stdout=subprocess.PIPE,
        env={"PYTHONPATH": str(Path(katmatic.__file__).parents[1]), "PYTHONHASHSEED": "0"},
    )
    lines = [worker.stdout.readline() for _ in range(after_lines)]
    worker.send_signal(signal.SIGKILL)
    lines += worker.stdout.read().splitlines(keepends=True)
    worker.stdout.close()
    assert worker.wait() == -signal.SIGKILL, "the worker ended by itself"
    return [json.loads(line) for line in lines if line.endswith(b"\n")]


def test_nothing_acknowledged_is_lost_and_nothing_is_there_twice(tmp_path):
    path, rng = tmp_path / "log.db", random.Random(SEED)
    acknowledged: dict[int, tuple[str, bytes]] = {}
    before: list = []
    for turn in range(ROUNDS):
        said = run_and_kill(path, turn, turn * 1_000_000, rng.randrange(1, 150))
        for line in said:
            for position, value in enumerate(line.get("values", ()), line.get("first", 0)):
                assert acknowledged.setdefault(position, (line["topic"], value.encode()))[1] == value.encode()
        committed = {line["committed"] for line in said if line.get("committed") and line["records"]}

        log = SqliteLog(path)
        batches = list(log.batches())
        assert batches[: len(before)] == before, "batches of an earlier life have changed"
        assert committed <= {batch.sequence for batch in batches}
        records = [
            (position, piece.topic, value)
            for batch in batches
            for piece in batch.slices
            for position, value in enumerate(piece.values, piece.first)
        ]
        assert [position for position, _, _ in records] == list(range(len(records)))
        there = {position: (topic, value) for position, topic, value in records}
        assert all(there[position] == what for position, what in acknowledged.items())
        assert len({value for _, value in there.values()}) == len(there), "a record is there twice"

        # What was made of each batch is there with it, and only then.
        labels = [value for _, value in log.scan("labels")]
        assert labels == [b"%d of %d" % (len(batch), batch.sequence) for batch in batches if batch.slices]
        for topic in ("topic0", "topic1", "topic2", "decisions"):
            assert list(log.scan(topic)) == [(p, value) for p, t, value in records if t == topic]
        before = batches
        log.close()
    assert len(before) > ROUNDS
    assert acknowledged


def test_what_was_fed_is_read_once_after_any_crash(tmp_path):
    path, rng = tmp_path / "log.db", random.Random(SEED + 1)
    for turn in range(3):
        run_and_kill(path, turn, turn * 1_000_000, rng.randrange(30, 120))
    log = SqliteLog(path)
    while len(batch := log.read(10_000_000, limit=1000)):
        log.commit(batch, {"labels": [b"rest"]})
    fed = [value for _, value in log.scan("decisions")]
    assert fed
    assert len(set(fed)) == len(fed)
    there = {b"on " + value for topic in ("topic0", "topic1", "topic2") for _, value in log.scan(topic)}
    assert set(fed) <= there
    log.close()


@pytest.mark.parametrize("kind", ["killed", "ended"])
def test_the_lock_of_an_owner_ends_with_it(tmp_path, kind):
    path = tmp_path / "log.db"
    if kind == "killed":
        run_and_kill(path, 1, 1, 1)
    else:
        SqliteLog(path).close()
    SqliteLog(path).close()
