"""From SIGKILL to the first correct prediction over HTTP, with 1,000,000 keys; and the start of an empty application.

The real program (`katmatic run`, as it stands, with training and proof) takes in payments of a million cards over HTTP,
on its embedded log, and keeps checkpoints as it always does. Then it is killed, started again on the same port, and
asked about one card until it answers: `recovery_seconds` is the time from the start of the new process to the answer
that equals, in every bit, that of the life before, which nothing had disturbed. Then it is asked about many more
cards, of which all have to answer the same. `replayed` says how many records were behind the newest checkpoint, and
were read again. Then SMALL more are put into the log, each a batch of its own; `small_batches_seconds` is the same time
for a life that reads these again too. `start_seconds` is the time until the same file, with an empty data folder, says
that it is ready.

The page cache is warm, and so are Python's compiled files. The best and the median of several lives; and beside them
the CPU seconds of the program up to then, which do not count what else the machine does. Both include the second or so
in which the application's own file imports scikit-learn.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import numpy as np

from bench.million import app, disputed
from bench.report import report
from katmatic.clock import SystemClock, monotonic_seconds, sleep
from katmatic.log.codec import encode
from katmatic.log.sqlite import SqliteLog, open_readonly
from katmatic.pipeline import CHECKPOINT_BATCHES, CHECKPOINT_RECORDS
from katmatic.records import MODELS, ModelVersion
from katmatic.training.dataset import Dataset
from katmatic.training.export import export
from tests.program import Program

KEYS = 1_000_000
BEHIND = 100_000  # payments after the last checkpoint: half of what may be
# And then so many batches of one payment each: as many as may be, until the next checkpoint.
SMALL = int((1 - BEHIND / CHECKPOINT_RECORDS) / (1 / CHECKPOINT_RECORDS + 1 / CHECKPOINT_BATCHES))
LIVES = 5
POSTED = 5_000  # payments in a request
ASKED = 200  # cards that are compared
SPAN = 3_600_000_000  # microseconds over which the payments spread, up to now
PATIENCE_SECONDS = 120.0
APP = Path(__file__).with_name("million.py")
assert app.labels["disputed"] is disputed


def model(folder: Path) -> ModelVersion:
    """A linear model, learnt from made-up rows: what counts here is that it answers."""
    predictor, random = app.predictors["disputed"], np.random.default_rng(1)
    rows, columns = 2_000, tuple(predictor.features)
    label = (random.random(rows) < 0.1).astype(np.float64)
    learnt = Dataset(
        columns=columns,
        anchor=np.arange(rows),
        key=[("C0",)] * rows,
        at=np.arange(rows),
        values=random.lognormal(1, 1, (rows, len(columns))),
        texts={},
        label=label,
        label_now=np.zeros(rows, np.int64),
        weight=np.ones(rows),
        score=np.full(rows, np.nan),
        tables={},
    )
    predictor.model.fit(learnt.matrix(), label)
    assert export(predictor.model, learnt, folder, is_binary=True, about={}) == "linear"
    now = SystemClock().now()
    return ModelVersion(
        predictor="disputed", version=1, action="promoted", reason="", now=now, artifact=str(folder.resolve())
    )


def post(program: Program, keys: int, first: int, events: int, began: int, step: float) -> None:
    """Payments `first` to `first + events`, of the cards in turn; each request waits until they are durable."""
    for start in range(first, first + events, POSTED):
        numbers = range(start, min(start + POSTED, first + events))
        body = b"\n".join(payments(numbers, keys, began, step))
        request = Request(f"{program.url}/v1/events/payment", body, {"content-type": "application/x-ndjson"})
        with urlopen(request, timeout=PATIENCE_SECONDS) as answer:
            assert answer.status == 202


def payments(numbers: range, keys: int, began: int, step: float) -> list[bytes]:
    """Payments with such numbers, of the cards in turn, from a moment on."""
    amounts = np.round(np.random.default_rng(numbers.start + 1).lognormal(3, 1, len(numbers)), 2).tolist()
    return [
        b'{"card": "C%07d", "amount": %.2f, "at": %.6f}' % (number % keys, amount, (began + int(number * step)) / 1e6)
        for number, amount in zip(numbers, amounts, strict=True)
    ]


def put_one_by_one(path: Path, values: list[bytes]) -> None:
    """Each payment a batch of its own, at the end of a log that nobody owns."""
    with closing(SqliteLog(path)) as log:
        for value in values:
            log.append("payment", [value])
            log.commit(log.read(SystemClock().now(), limit=1), {})


def asked(program: Program, cards: list[int], at: int) -> Any:
    """The answers about some cards at a moment: features and score; `at` is not the clock's, so that lives compare."""
    anchors = [{"card": f"C{card:07}", "amount": 20.0, "at": at / 1e6} for card in cards]
    found = program.ask("/v1/predict/disputed", anchors)
    return [{name: value for name, value in one.items() if name != "now"} for one in found]


def first_answer(program: Program, cards: list[int], at: int) -> tuple[Any, float, float]:
    """Start the program, and ask until it answers; the answer, and the seconds from the start, and those of its CPU."""
    began = monotonic_seconds()
    program.start()
    while True:
        try:
            found = asked(program, cards, at)
            return found, monotonic_seconds() - began, cpu_seconds(program)
        except OSError:
            assert program.process.poll() is None, program.said()
            assert monotonic_seconds() - began < PATIENCE_SECONDS, program.said()
            sleep(0.002)


def cpu_seconds(program: Program) -> float:
    """What the program has used of the CPU, all its threads; its children not."""
    fields = Path(f"/proc/{program.process.pid}/stat").read_text("ascii", "replace").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def ready(folder: Path, number: int, environment: dict[str, str]) -> tuple[float, float]:
    """Seconds from the start of the file with an empty data folder until it is ready, and those of its CPU."""
    said = folder / f"said-{number}.txt"
    program = Program("run", APP, "--data", str(folder / f"empty-{number}"), said=said, environment=environment)
    began = monotonic_seconds()
    program.start()
    try:
        while True:
            try:
                if program.ask("/readyz")["ready"]:
                    return monotonic_seconds() - began, cpu_seconds(program)
            except OSError:
                assert program.process.poll() is None, program.said()
            sleep(0.002)
    finally:
        program.end(signal.SIGKILL)


def recovered(folder: Path, keys: int, lives: int, environment: dict[str, str]) -> dict[str, Any]:
    """Fill a program, kill it again and again, and time each new life until its first answer."""
    data = folder / "data"
    program = Program("run", APP, "--data", str(data), said=folder / "said.txt", environment=environment)
    program.start()
    try:
        program.until(lambda found: found["ready"])
        with closing(open_readonly(data / "log.db")) as log:
            log.post(MODELS, [encode(model(folder / "model"))])
        program.until(lambda found: found and found[0]["action"] == "promoted", "/v1/models/disputed")
        until = SystemClock().now()
        behind = min(BEHIND, keys)
        filled = monotonic_seconds()
        post(program, keys, 0, keys + behind, until - SPAN, SPAN / (keys + behind))
        filled = monotonic_seconds() - filled
        cards = np.random.default_rng(2).choice(keys, min(ASKED, keys), replace=False).tolist()
        cards[: ASKED // 2] = [card % behind for card in cards[: ASKED // 2]]  # which have two payments
        before = asked(program, cards, until)
        assert all(one["probability"] is not None for one in before)
        took, cpu, wrong = [], [], 0
        for _ in range(lives):
            program.end(signal.SIGKILL)
            first, seconds, used = first_answer(program, cards[:1], until)
            took.append(seconds)
            cpu.append(used)
            wrong += first != before[:1]
            wrong += asked(program, cards, until) != before
        replayed = _replayed(program)
    finally:
        program.end(signal.SIGKILL)
    small = min(SMALL, keys)
    numbers = range(keys + behind, keys + behind + small)
    put_one_by_one(data / "log.db", payments(numbers, keys, until - SPAN, SPAN / numbers.stop))
    one_by_one = [_copied_life(folder, number, cards[:1], until, environment) for number in range(lives)]
    return {
        "keys": keys,
        "events": keys + behind,
        "replayed": replayed,
        "recovery_seconds": round(min(took), 2),
        "recovery_seconds_median": round(float(np.median(took)), 2),
        "recovery_cpu_seconds": round(min(cpu), 2),
        "small_batches": small,
        "small_batches_replayed": max(replayed for *_, replayed in one_by_one),
        "small_batches_seconds": round(min(seconds for _, seconds, _ in one_by_one), 2),
        "small_batches_seconds_median": round(float(np.median([seconds for _, seconds, _ in one_by_one])), 2),
        "compared": lives * (len(cards) + 1),
        "lives_that_answered_differently": wrong + sum(found != one_by_one[0][0] for found, *_ in one_by_one),
        "filled_seconds": round(filled, 1),
        "checkpoint_mb": round(sum(file.stat().st_size for file in data.glob("checkpoints/*.checkpoint")) / 1e6),
    }


def _copied_life(
    folder: Path, number: int, cards: list[int], at: int, environment: dict[str, str]
) -> tuple[Any, float, int]:
    """A life on a copy of the data: its first answer, the seconds until then, how many records it read again."""
    data = folder / f"copy-{number}"
    shutil.copytree(folder / "data", data)
    program = Program("run", APP, "--data", str(data), said=folder / f"copy-{number}.txt", environment=environment)
    try:
        found, seconds, _ = first_answer(program, cards, at)
        return found, seconds, _replayed(program)
    finally:
        program.end(signal.SIGKILL)
        shutil.rmtree(data)


def _replayed(program: Program) -> int:
    """How many records of the log it read again at most, as it said."""
    told = (part for part in program.said().replace("\r", "\n").split("\n") if part.endswith("records read again"))
    return max((int(part.split()[0].replace(",", "")) for part in told), default=0)


def measure() -> dict[str, Any]:
    """The figures; `lives_that_answered_differently` must be 0."""
    keys = int(sys.argv[sys.argv.index("--keys") + 1]) if "--keys" in sys.argv else KEYS
    lives = int(sys.argv[sys.argv.index("--lives") + 1]) if "--lives" in sys.argv else LIVES
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # what is compiled once is kept, as for everybody
    with tempfile.TemporaryDirectory() as name:
        folder, environment = Path(name), {"PYTHONDONTWRITEBYTECODE": ""}
        found = recovered(folder, keys, lives, environment)
        starts = [ready(folder, number, environment) for number in range(lives + 1)][1:]
    return {
        **found,
        "start_seconds": round(min(clock for clock, _ in starts), 2),
        "start_seconds_median": round(float(np.median([clock for clock, _ in starts])), 2),
        "start_cpu_seconds": round(min(used for _, used in starts), 2),
    }


if __name__ == "__main__":
    report(measure)
