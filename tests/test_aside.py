"""Work in a copy of the process, as it was at one moment."""

from __future__ import annotations

import fcntl
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from katmatic import aside as aside_of
from katmatic.aside import GOES_WITH_PARENT, LOOK_SECONDS, Aside, is_possible, last_of_all

copies = pytest.mark.skipif(not is_possible(), reason="processes with threads are copied on Linux only")
linux = pytest.mark.skipif(not GOES_WITH_PARENT, reason="a process goes with its parent on Linux only")
WAIT_SECONDS = 20.0


def end(aside):
    deadline = time.monotonic() + WAIT_SECONDS
    while (found := aside.ended()) is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return found


@copies
def test_the_copy_sees_memory_as_it_was_while_the_process_goes_on(tmp_path):
    state, go, aside = {"now": 1}, tmp_path / "go", Aside()

    def work():
        while not go.exists():
            time.sleep(0.01)
        (tmp_path / "seen").write_text(str(state["now"]))

    aside.start(work)
    state["now"] = 2
    assert aside.ended() is None
    go.touch()
    assert end(aside) == ""
    assert (tmp_path / "seen").read_text() == "1"
    assert aside.ended() is None
    assert not aside.is_busy


@copies
def test_what_went_wrong_is_told(tmp_path):
    aside = Aside()
    aside.start(lambda: (tmp_path / "nowhere" / "file").write_text("x"))
    assert "No such file or directory" in end(aside)
    aside.start(lambda: os._exit(3))
    assert end(aside) == "it ended with code 3"
    aside.start(lambda: os.kill(os.getpid(), signal.SIGKILL))
    assert end(aside) == "it ended with code -9"


def test_another_program_may_do_it(tmp_path):
    aside = Aside()
    aside.run([sys.executable, "-c", f"open({str(tmp_path / 'done')!r}, 'w').close()"])
    assert end(aside) == ""
    assert (tmp_path / "done").exists()
    aside.run([sys.executable, "-c", "import sys; sys.exit('no room' + 100_000 * ' for it')"])
    assert end(aside) == (100_000 * " for it")[-3_999:].strip()
    with pytest.raises(OSError, match="nowhere"):
        aside.run([str(tmp_path / "nowhere")])
    assert not aside.is_busy
    aside.run([sys.executable, "-c", "import time; time.sleep(60)"])
    aside.stop()
    assert not aside.is_busy


@linux
def test_who_works_aside_lets_others_go_first_and_goes_with_its_parent():
    child = "import time; from katmatic.aside import give_way; give_way(); print('ready'); time.sleep(60)"
    parent = f"""
import os, signal, subprocess, sys
child = subprocess.Popen([sys.executable, "-uc", "{child}"], stdout=subprocess.PIPE)
assert child.stdout.readline() == b"ready\\n"
with open(f"/proc/{{child.pid}}/oom_score_adj") as file:
    print(child.pid, os.getpriority(os.PRIO_PROCESS, child.pid), file.read(), flush=True)
child.send_signal(signal.SIGSTOP)  # as a training, while the state is saved
os.kill(os.getpid(), 9)
"""
    said = subprocess.run([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True, check=False).stdout.split()
    assert said[1:] == ["10", "1000"]
    deadline = time.monotonic() + WAIT_SECONDS
    while Path("/proc", said[0]).exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@copies
def test_what_takes_too_long_is_ended():
    aside = Aside(seconds_limit=0.2)
    aside.start(lambda: time.sleep(60))
    with pytest.raises(RuntimeError, match="one piece"):
        aside.start(lambda: None)
    assert end(aside) == "it took more than 0.2 s"
    aside.start(lambda: time.sleep(60))
    aside.stop()
    assert not aside.is_busy


@copies
def test_other_threads_and_their_locks_do_not_hold_it_up(tmp_path):
    stop, lock = threading.Event(), threading.Lock()

    def hold():
        while not stop.is_set():
            with lock:
                time.sleep(0.001)

    thread = threading.Thread(target=hold)
    thread.start()
    aside = Aside()
    for turn in range(20):
        aside.start(lambda turn=turn: (tmp_path / str(turn)).touch())
        assert end(aside) == ""
    stop.set()
    thread.join()


@copies
def test_a_lock_of_the_process_is_free_once_it_is_gone(tmp_path):
    program = f"""
import fcntl, os, time
from pathlib import Path
from katmatic.aside import Aside
file = os.open({str(tmp_path / "lock")!r}, os.O_RDWR | os.O_CREAT)
fcntl.flock(file, fcntl.LOCK_EX)
aside = Aside()
aside.start(lambda: (Path({str(tmp_path / "began")!r}).touch(), time.sleep(60)))
while not Path({str(tmp_path / "began")!r}).exists():
    time.sleep(0.01)
os.kill(os.getpid(), 9)
"""
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=WAIT_SECONDS).returncode == -9
    with (tmp_path / "lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


@pytest.fixture
def cores(monkeypatch):
    """Cores of which so many seconds were free between two looks, one at each step."""

    def cores(*free):
        idle, looks = itertools.accumulate(free, initial=0.0), itertools.count()
        monkeypatch.setattr(aside_of, "_idle_seconds", lambda: next(idle))
        monkeypatch.setattr(aside_of, "monotonic_seconds", lambda: LOOK_SECONDS * next(looks))

    return cores


def where(count):
    """Steps that tell their number, which thread made them, and of which class it is."""
    for number in range(count):
        yield number, threading.current_thread().name, os.sched_getscheduler(0)


@linux
def test_who_goes_last_works_while_a_core_is_free_and_beside_the_others_else(cores):
    cores(0.0, 4.0, 0.03, 0.01, 0.0, 0.5, 0.0)
    found = list(last_of_all(where(6)))
    here, last = (threading.current_thread().name, os.SCHED_OTHER), ("katmatic-last_0", os.SCHED_IDLE)
    assert [number for number, *_ in found] == [0, 1, 2, 3, 4, 5]
    assert [tuple(rest) for _, *rest in found] == [here, last, last, here, here, last]
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


@linux
def test_what_a_step_raises_is_raised_and_it_may_be_left_early(cores):
    cores(*[1.0] * 10)

    def steps():
        yield 1
        raise ValueError("no more")

    left = last_of_all(where(3))
    assert next(left)[0] == 0
    left.close()
    assert not any(thread.name.startswith("katmatic-last") for thread in threading.enumerate())
    with pytest.raises(ValueError, match="no more"):
        list(last_of_all(steps()))


@linux
@pytest.mark.slow
def test_where_all_cores_are_busy_who_goes_last_comes_to_an_end():
    def steps():
        for _ in range(50):
            until = time.thread_time() + 0.02
            while time.thread_time() < until:
                pass
            yield

    busy = "import time\nend = time.monotonic() + 60\nwhile time.monotonic() < end: pass"
    others = [subprocess.Popen([sys.executable, "-c", busy]) for _ in range(2 * len(os.sched_getaffinity(0)))]
    try:
        for _ in last_of_all(steps()):
            pass
        assert all(other.poll() is None for other in others), "it only came to an end when they had"
    finally:
        for other in others:
            other.kill()
            other.wait()
