"""Short lives of a log's owner, while Apache Kafka's broker falls and comes back: what was promised is there, once.

Each life opens the log, hands records in, and commits them with one label a batch, and now and then with records that
are fed to later batches; then it is killed (SIGKILL) within moments. In every third life the broker is killed, too, and
the owner soon after its return: then a broker may have promised an end of a transaction that it does not write. Printed
is what was promised and is `lost`, what is there twice (`duplicated`), batches without their label (`different`), and
how often something was `mended`: an owner found a transaction without an end, or its last batch gone. `--lives` says
how many; `--keep FOLDER` keeps the broker's data if something is wrong.
"""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

from bench.report import report
from katmatic.clock import SystemClock, sleep
from katmatic.errors import LogError
from katmatic.log.kafka import KafkaHistory, KafkaLog
from tests.kafka_broker import Broker

LIVES = 150
SEED = 5
LIFE_SECONDS = 0.25  # at most, after the log was opened
RETURN_SECONDS = 0.3  # at most, after the broker came back
CHECKED = 10  # lives between two looks at the whole log
APPLICATION, TOPIC, LABELS = "lives", "gate", "katmatic.labels"


def live(address: str, life: int) -> None:
    """Commit on and on, and say after each commit how many there were; without end."""
    rng = random.Random(life)
    log = KafkaLog(address, APPLICATION, [TOPIC])
    print("opened", flush=True)
    committed = 0
    while True:
        log.append(TOPIC, [b"%d.%d.%d" % (life, committed, i) for i in range(rng.choice((1, 5, 50)))])
        log.wait(1.0)
        batch = log.read(SystemClock().now(), limit=1000)
        fed = {TOPIC: [b"%d.%d.fed" % (life, committed)]} if rng.random() < 0.3 else {}
        while True:
            try:
                log.commit(batch, {LABELS: [b"%d.%d" % (life, committed)]}, fed)
                break
            except LogError:
                sleep(0.05)
        committed += 1
        print(committed, flush=True)


class Life:
    """One owner in a process of its own."""

    def __init__(self, address: str, number: int) -> None:
        command = [sys.executable, "-m", "bench.kafkalives", "--live", address, str(number)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.number, self.promised = number, 0
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "opened\n", "the owner did not come to open the log"

    def kill(self) -> None:
        """End it as a power cut does, and hear what it has promised."""
        self._process.send_signal(signal.SIGKILL)
        said, _ = self._process.communicate()
        whole = [line for line in said.splitlines(keepends=True) if line.endswith("\n")]
        self.promised = len(whole)


def judged(address: str, promised: dict[int, int]) -> dict[str, int]:
    """What is wrong with the log, after lives that were promised so many commits."""
    with closing(KafkaHistory(address, APPLICATION)) as log:
        batches = [[value for piece in batch.slices for value in piece.values] for batch in log.batches()]
        labels = [value for _, value in log.scan(LABELS)]
        waiting = log.pending(TOPIC)
        entries = log._newest().number + 1  # of batches, of owners who began, and of what was mended
    values = Counter(value for batch in batches for value in batch) + Counter(waiting)
    made = [batch for batch in batches if batch]
    there = Counter(labels)
    wanted = [b"%d.%d" % (life, i) for life, count in promised.items() for i in range(count)]
    own = [[value.rpartition(b".")[0] for value in batch if not value.endswith(b".fed")] for batch in made]
    return {
        "batches": len(made),
        "mended": entries - len(batches) - len(promised),
        "records": values.total(),
        "lost": sum(label not in there for label in wanted),
        "duplicated": values.total() - len(values) + there.total() - len(there),
        "different": sum({label} != set(batch) for label, batch in zip(labels, own, strict=False) if batch)
        + abs(len(labels) - len(made)),
    }


def measure() -> dict[str, Any]:
    """The figures; `lost`, `duplicated` and `different` must be 0."""
    lives = int(sys.argv[sys.argv.index("--lives") + 1]) if "--lives" in sys.argv else LIVES
    rng, promised, falls = random.Random(SEED), dict[int, int](), 0
    with tempfile.TemporaryDirectory() as name:
        broker = Broker(Path(name))
        broker.start()
        try:
            for number in range(lives):
                life = Life(f"kafka://{broker.address}", number)
                sleep(rng.random() * LIFE_SECONDS)
                if number % 3 == 2:
                    broker.kill()
                    broker.start()
                    falls += 1
                    sleep(rng.random() * RETURN_SECONDS)
                life.kill()
                promised[number] = life.promised
                if number % CHECKED == CHECKED - 1 or number == lives - 1:
                    found = judged(f"kafka://{broker.address}", promised)
                    print(f"{number + 1} lives: {found}", file=sys.stderr, flush=True)
                    assert not found["lost"] + found["duplicated"] + found["different"], found
        except BaseException:
            if "--keep" in sys.argv:
                shutil.copytree(name, sys.argv[sys.argv.index("--keep") + 1])
            raise
        finally:
            broker.kill()
    return {"lives": lives, "broker_kills": falls, "promised": sum(promised.values()), **found}


if __name__ == "__main__":
    if "--live" in sys.argv:
        live(sys.argv[-2], int(sys.argv[-1]))
    report(measure)
