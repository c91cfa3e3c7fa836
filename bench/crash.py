"""Real crashes: the real program under load, killed at random instants, or on a disk that is full: nothing is lost.

`--kills 200`: `katmatic run` is killed (SIGKILL) so many times, under load, while it starts and while it works, and
started again; now and then it is ended in an orderly way. Two senders post events by fifties, and send again what was
not acknowledged. `--full-disk`: the data folder is on a small file system of its own (a loop-mounted one, or tmpfs;
that needs root), which is filled up under load, three times; once the program is killed while the disk is full. Then
there is room again.

In the end the log is read: `lost` counts acknowledged events that are not in it, `duplicated` those that counted twice,
`different` the predictions with their scores, label versions, dead letters and decisions that are not those of one
undisturbed life over the same batches.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from bench.report import report
from katmatic.clock import monotonic_seconds, sleep
from katmatic.log.sqlite import open_readonly
from katmatic.runtime import load_app
from tests.disturbed import Sender, judged
from tests.program import Program

KILLS, ROUNDS = 200, 3
SEED = 3
SENDERS, EACH = 2, 50
NEW_EVENTS = 200  # acknowledged after a start before it is killed, unless that comes while it starts
WHILE_STARTING = 0.25  # share of the kills
START_SECONDS = 1.5  # within which these come
PAUSE_SECONDS = 0.3  # within which the others come
ORDERLY_EVERY = 20  # turns; then the state is kept
DISK_MB = 24
FULL_SECONDS = 3.0  # that it stays full
PATIENCE_SECONDS = 120.0
VISITORS = 40
APP = Path(__file__).with_name("gate.py")


class CannotMount(Exception):
    """No small file system can be had here."""


def _event(sender: int) -> Any:
    def make(number: int, at: str) -> tuple[str, Any]:
        topic = "opened" if number // EACH % 3 == 2 else "ring"
        if number % 997 == 5:
            return topic, {"visitor": f"{sender}-nobody", "number": number}  # no time: a dead letter
        return topic, {"visitor": f"{sender}-{number % VISITORS}", "at": at, "number": number}

    return make


def _program(folder: Path, data: Path) -> tuple[Program, list[Sender]]:
    environment = {"KATMATIC_PROOF": "false"}  # which would start with each life
    program = Program(
        "run", APP, "--data", str(data), "--no-training", said=folder / "said.txt", environment=environment
    )
    return program, [Sender(program.url, _event(number), each=EACH) for number in range(SENDERS)]


def _until_it_works(program: Program, senders: list[Sender], more: int = NEW_EVENTS) -> None:
    """Until each sender was acknowledged something new."""
    before = [len(sender.acknowledged) for sender in senders]
    deadline = monotonic_seconds() + PATIENCE_SECONDS
    while any(len(s.acknowledged) < n + more for s, n in zip(senders, before, strict=True)):
        assert program.process.poll() is None, program.said()
        assert monotonic_seconds() < deadline, f"it does not take anything in: {program.said()[-2000:]}"
        sleep(0.01)


def _ended(program: Program, senders: list[Sender]) -> None:
    for sender in senders:
        sender.stop.set()
    for sender in senders:
        sender.join(PATIENCE_SECONDS)
        assert not sender.is_alive()
    program.end()


def _judged(data: Path, senders: list[Sender]) -> dict[str, Any]:
    sent = [each for sender in senders for each in sender.acknowledged]
    with closing(open_readonly(data / "log.db")) as history:
        return {"acknowledged": len(sent), **judged(load_app(APP), history, sent)}


def killed(folder: Path, kills: int) -> dict[str, Any]:
    """Kill the program so many times."""
    began, random = monotonic_seconds(), np.random.default_rng(SEED)
    program, senders = _program(folder, folder / "data")
    starting = orderly = 0
    program.start()
    try:
        for sender in senders:
            sender.start()
        _until_it_works(program, senders)
        for turn in range(kills):
            if turn and random.random() < WHILE_STARTING:
                starting += 1
                sleep(random.random() * START_SECONDS)
            else:
                _until_it_works(program, senders)
                sleep(random.random() * PAUSE_SECONDS)
            program.end(signal.SIGKILL)
            program.start()
            if turn % ORDERLY_EVERY == ORDERLY_EVERY - 1:
                _until_it_works(program, senders)
                program.end()
                orderly += 1
                program.start()
        _until_it_works(program, senders)
        _ended(program, senders)
    except BaseException:
        program.end(signal.SIGKILL)
        raise
    found = _judged(folder / "data", senders)
    return {
        "kills": kills,
        "while_starting": starting,
        "orderly_ends": orderly,
        **found,
        "seconds": round(monotonic_seconds() - began),
    }


# --------------------------------------------------------------------------------------------------------- full disk


def filled(folder: Path, rounds: int) -> dict[str, Any]:
    """Fill the disk up so many times."""
    began = monotonic_seconds()
    with small_disk(folder) as (disk, kind):
        data, filler = disk / "data", disk / "filler"
        program, senders = _program(folder, data)
        refused = kills = 0
        program.start()
        try:
            for sender in senders:
                sender.start()
            for turn in range(rounds):
                _until_it_works(program, senders)
                before = sum(sender.refused for sender in senders)
                _fill(filler)
                program.until(lambda found: not found["ready"])  # it says that nothing goes on
                told = program.ask("/v1/status")["reason"]
                assert "full" in told, told
                sleep(FULL_SECONDS)  # in which a small commit may still find room in a file that is there
                if turn == 1:
                    program.end(signal.SIGKILL)
                    kills += 1
                filler.unlink()
                if turn == 1:
                    program.start()
                _until_it_works(program, senders)
                refused += sum(sender.refused for sender in senders) - before
            _ended(program, senders)
        except BaseException:
            program.end(signal.SIGKILL)
            raise
        found = _judged(data, senders)
    return {
        "disk": f"{kind} of {DISK_MB} MB",
        "times_full": rounds,
        "kills_while_full": kills,
        "posts_sent_again": refused,
        **found,
        "seconds": round(monotonic_seconds() - began),
    }


def _fill(filler: Path) -> None:
    """Leave no room."""
    with filler.open("ab", buffering=0) as file, suppress(OSError):
        while True:
            file.write(b"\0" * 4096)


@contextmanager
def small_disk(folder: Path) -> Iterator[tuple[Path, str]]:
    """A small file system and its kind: ext4 in a file, else tmpfs; CannotMount if neither can be had."""
    place, image = folder / "disk", folder / "image"
    place.mkdir()
    image.touch()
    os.truncate(image, DISK_MB * 2**20)
    tried = []
    for kind, commands in (
        ("ext4", [["mkfs.ext4", "-q", "-m", "0", str(image)], ["mount", "-o", "loop", str(image), str(place)]]),
        ("tmpfs", [["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "tmpfs", str(place)]]),
    ):
        error = _run(commands)
        if not error:
            try:
                yield place, kind
            finally:
                subprocess.run(["umount", str(place)], check=True)
            return
        tried.append(f"{kind}: {error}")
    raise CannotMount("; ".join(tried))


def _run(commands: list[list[str]]) -> str:
    """Run commands; what the first that fails says."""
    for command in commands:
        if shutil.which(command[0]) is None:
            return f"there is no {command[0]}"
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
        if ran.returncode:
            return ran.stderr.strip()
    return ""


def measure() -> dict[str, Any]:
    """The figures; `lost`, `duplicated` and `different` must be 0."""
    kills = int(sys.argv[sys.argv.index("--kills") + 1]) if "--kills" in sys.argv else KILLS
    with tempfile.TemporaryDirectory() as folder:
        if "--full-disk" not in sys.argv:
            return killed(Path(folder), kills)
        try:
            return filled(Path(folder), ROUNDS)
        except CannotMount as error:
            print(f"SKIPPED: no small disk can be mounted here; it needs root. {error}", file=sys.stderr)
            return {"skipped": str(error)}


if __name__ == "__main__":
    report(measure)
