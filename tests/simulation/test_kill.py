"""The real program, ended by SIGKILL at any moment under load: nothing is lost, nothing is doubled, nothing differs.

The long form, with two hundred kills and full disks, is `bench.crash`.
"""

from __future__ import annotations

import contextlib
import random
import signal
import time

import pytest

from katmatic.log.sqlite import open_readonly
from tests.apps import door
from tests.disturbed import Sender, judged
from tests.program import Program

ROUNDS = 5
SEED = 7
SENDERS = 2
PATIENCE_SECONDS = 60

pytestmark = pytest.mark.slow


def rings(sender):
    """What a sender sends: the n-th ring, made at a moment."""
    return lambda n, at: ("ring", {"visitor": f"{sender}-{n % 20}", "at": at, "loudness": n})


def wait_until_it_works(program, senders):
    """Until each sender was acknowledged something new."""
    before = [len(sender.acknowledged) for sender in senders]
    deadline = time.monotonic() + PATIENCE_SECONDS
    while any(len(sender.acknowledged) < n + 10 for sender, n in zip(senders, before, strict=True)):
        assert program.process.poll() is None, program.said()
        if time.monotonic() > deadline:
            program.process.send_signal(signal.SIGABRT)  # it says where it stands
            program.process.wait(PATIENCE_SECONDS)
            pytest.fail(f"it does not take anything in: {program.said()}")
        time.sleep(0.01)


def test_killed_at_any_moment_it_goes_on_where_it_was(tmp_path):
    rng = random.Random(SEED)
    (tmp_path / "app.py").write_text("from tests.apps import door\n\napp = door()\n", "utf-8")
    program = Program("run", tmp_path / "app.py", "--data", "data", "--no-training", said=tmp_path / "said.txt")
    senders = [Sender(program.url, rings(number)) for number in range(SENDERS)]
    program.start()
    for sender in senders:
        sender.start()
    try:
        for _ in range(ROUNDS):
            wait_until_it_works(program, senders)
            time.sleep(rng.random() * 0.5)
            program.end(signal.SIGKILL)
            program.start()
        wait_until_it_works(program, senders)
    except BaseException:
        program.end(signal.SIGKILL)
        raise
    finally:
        for sender in senders:
            sender.stop.set()
        for sender in senders:
            sender.join(PATIENCE_SECONDS)
    assert not any(sender.is_alive() for sender in senders)
    counts = program.ask("/v1/status")["events"]
    program.end()

    sent = [each for sender in senders for each in sender.acknowledged]
    assert counts["conserved"]
    assert counts["applied"] + counts["late"] >= len(sent)
    assert counts["dead"] == 0
    with contextlib.closing(open_readonly(tmp_path / "data" / "log.db")) as log:
        found = judged(door(), log, sent)
    assert (found["lost"], found["duplicated"], found["different"]) == (0, 0, 0), "as in one undisturbed life"
    assert found["predictions"] == counts["applied"] + counts["late"], "each once, also those that were sent again"
