"""The wiring: a file becomes a running application, whatever its disk, its calendars and its functions do."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager

import pytest

from katmatic.clock import ManualClock
from katmatic.engine.step import step
from katmatic.errors import DeclarationError, LogError, SettingsError
from katmatic.log.base import Batch, Slice
from katmatic.log.sqlite import SqliteLog
from katmatic.pipeline import Pipeline, short_fingerprint
from katmatic.records import ALERTS
from katmatic.runtime import Runtime, load_app, save_checkpoint
from katmatic.settings import Settings
from katmatic.state.files import FileCheckpoints
from tests.apps import NOON, SECOND, opened, ring

PATIENCE_SECONDS = 20
DOOR = "from tests.apps import door\n\napp = door()\n"
DOOR_WITH_CALENDAR = """
from datetime import timedelta

from tests.apps import Ring, door

app = door()
calls = []


@app.every("1h")
def visits(hour):
    calls.append(hour)
    if len(calls) < {fails}:
        raise OSError("the timetable's server is away")
    yield Ring(visitor="postman", at=hour, loudness=2.0)
"""


def until(check):
    """Wait until `check` gives something, and give it back."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        if found := check():
            return found
        time.sleep(0.01)
    raise AssertionError(f"not within {PATIENCE_SECONDS} s")


@contextmanager
def working(runtime):
    """The runtime's own loop, on a thread."""
    stop = threading.Event()
    worker = threading.Thread(target=runtime.work, args=(stop,))
    worker.start()
    try:
        yield
    finally:
        stop.set()
        worker.join(PATIENCE_SECONDS)
        assert not worker.is_alive()


@pytest.fixture
def made(tmp_path):
    """A function that makes a runtime of an application's text."""
    clock = ManualClock(NOON)

    def make(text=DOOR, **options):
        path = tmp_path / "app.py"
        path.write_text(text, "utf-8")
        settings = Settings(data=str(tmp_path / "data"), training=False, tick=0.01)
        return Runtime(load_app(path), path, settings, clock=clock, **options)

    return make


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "0 applications"),
        ("from katmatic import App\na, b = App('a'), App('b')\n", "2 applications"),
        ("import katmatic\n\nx = 1 / 0\n", "ZeroDivisionError: division by zero"),
        ("from katmatic import App\n\napp = App('a'\n", "SyntaxError: '(' was never closed"),
        ("import nothing_of_this_name\n", "ModuleNotFoundError: No module named 'nothing_of_this_name'"),
    ],
)
def test_a_file_that_declares_no_application_is_refused_with_the_reason(tmp_path, text, found):
    path = tmp_path / "app.py"
    path.write_text(text, "utf-8")
    with pytest.raises(DeclarationError) as refused:
        load_app(path)
    assert str(path) in refused.value.where
    assert refused.value.found == found


def test_an_error_of_the_file_names_its_line(tmp_path):
    path = tmp_path / "app.py"
    path.write_text("import katmatic\n\nx = 1 / 0\n", "utf-8")
    with pytest.raises(DeclarationError) as refused:
        load_app(path)
    assert refused.value.where == f"{path}:3"


def test_a_refusal_of_a_declaration_stays_what_it_is(tmp_path):
    path = tmp_path / "app.py"
    path.write_text("from katmatic import App\n\napp = App('a', timezone='Mars/Olympus')\n", "utf-8")
    with pytest.raises(DeclarationError, match="Mars/Olympus"):
        load_app(path)


def test_no_such_file(tmp_path):
    with pytest.raises(DeclarationError, match="no such file"):
        load_app(tmp_path / "nothing.py")


def test_what_is_sent_is_answered_and_a_restart_knows_it(made):
    with made() as runtime, working(runtime):
        assert runtime.live.submit("ring", [ring("v1", NOON)]).result(PATIENCE_SECONDS)
        until(lambda: runtime.live.latest("open", ("v1",)))
    with made() as again:
        assert again.live.latest("open", ("v1",)).time == NOON
        assert again.live.status().vitals.counts.events == 1
        assert again.replayed == 0, "it was saved when it ended"


def test_time_alone_settles_a_label(made):
    with made() as runtime, working(runtime):
        runtime.live.submit("ring", [ring("v1", NOON)]).result(PATIENCE_SECONDS)
        until(lambda: runtime.live.latest("open", ("v1",)))
        runtime.clock.move_to(NOON + 2 * 60 * SECOND)
        runtime.live.submit("opened", [opened("v2", NOON + 119 * SECOND)]).result(PATIENCE_SECONDS)
        runtime.clock.move_to(NOON + 3 * 60 * SECOND)
        until(lambda: runtime.live.rows("open"))


def test_a_full_disk_is_shown_and_once_there_is_room_all_goes_on(made, monkeypatch):
    monkeypatch.setattr("katmatic.runtime.COMMIT_RETRY_SECONDS", 0.01)
    with made() as runtime:
        commit, full = runtime.log.commit, threading.Event()
        full.set()

        def failing(*args, **more):
            if full.is_set():
                raise LogError("log.db", found="database or disk is full", expected="room", do="make some")
            return commit(*args, **more)

        monkeypatch.setattr(runtime.log, "commit", failing)
        with working(runtime):
            sent = runtime.live.submit("ring", [ring("v1", NOON)])
            reason = until(lambda: not runtime.live.status().ready and runtime.live.status().reason)
            assert "database or disk is full" in reason
            assert not sent.done()
            full.clear()
            assert sent.result(PATIENCE_SECONDS) == range(1)
            until(lambda: runtime.live.status().ready)
            assert runtime.live.status().vitals.counts.applied == 1


def test_a_calendar_that_fails_is_an_alert_and_is_asked_again(made, monkeypatch):
    monkeypatch.setattr("katmatic.runtime.CALENDAR_RETRY", 60 * SECOND)
    with made(DOOR_WITH_CALENDAR.format(fails=30)) as runtime, working(runtime):
        told = until(lambda: runtime.live.alerts(10))
        assert told[0].name == "calendar-failed"
        assert "OSError: the timetable's server is away" in told[0].text
        until(lambda: runtime.log.end(ALERTS) >= 24)
        for minute in range(1, 30):
            runtime.clock.move_to(NOON + minute * 61 * SECOND)
            time.sleep(0.02)
        until(lambda: runtime.live.latest("open", ("postman",)))


def test_what_a_calendar_says_again_after_a_restart_counts_once(made):
    text = DOOR_WITH_CALENDAR.format(fails=0)
    with made(text) as runtime, working(runtime):
        first = until(lambda: runtime.live.status().vitals.counts.applied)
    with made(text) as runtime, working(runtime):
        counts = until(lambda: runtime.live.status().vitals.counts.duplicate and runtime.live.status().vitals.counts)
        assert counts.applied == first


def test_a_second_process_on_the_same_folder_is_refused(made):
    with made(), pytest.raises(LogError):
        made()


OTHER = """
from tests.apps import Ring, door
from katmatic import future

app = door()
predictor = app.predictors.pop("open")
app = type(app)("door")
app.source(Ring, lateness="5s")
silent = future.none(Ring, per=Ring, within="1m")
app.predict("silence", silent, features=dict(list(predictor.features.items())[:1]), model=predictor.model)
"""


def test_a_restart_with_another_declaration_reads_the_same_log_with_it(made):
    """Found by running: predictions of a predictor that was renamed since stopped the start."""
    with made() as runtime, working(runtime):
        runtime.live.submit("ring", [ring("v1", NOON)]).result(PATIENCE_SECONDS)
        runtime.live.submit("opened", [opened("v1", NOON)]).result(PATIENCE_SECONDS)
        until(lambda: runtime.live.status().vitals.counts.applied == 2)
    with made(OTHER) as again, working(again):
        assert again.live.status().vitals.counts.events == 1, "nobody reads who opened now"
        again.live.submit("ring", [ring("v2", NOON)]).result(PATIENCE_SECONDS)
        until(lambda: again.live.latest("silence", ("v2",)))
    with made() as back:
        assert back.live.latest("open", ("v1",)) is not None


def test_a_folder_that_is_a_file_is_refused(tmp_path, made):
    (tmp_path / "data").write_text("", "utf-8")
    with pytest.raises(SettingsError, match="a folder to write to"):
        made()


def ring_until(runtime, check):
    """One visitor after the other, each a batch of its own, until something has come to pass, beside busy others."""
    deadline, count = time.monotonic() + 10 * PATIENCE_SECONDS, 0
    while not (found := check()):
        assert time.monotonic() < deadline
        runtime.log.append("ring", [ring(f"v{count % 7}", time.time_ns() // 1000)]).result(PATIENCE_SECONDS)
        count += 1
    return found


def test_while_few_come_at_once_another_program_saves_the_state(tmp_path, monkeypatch):
    path, folder = tmp_path / "app.py", tmp_path / "data"
    path.write_text(DOOR, "utf-8")
    monkeypatch.setattr("katmatic.pipeline.CHECKPOINT_BATCHES", 40)
    monkeypatch.setattr("katmatic.pipeline.is_possible", lambda: pytest.fail("that it would do by itself"))
    checkpoints = FileCheckpoints(folder / "checkpoints")
    runtime = Runtime(load_app(path), path, Settings(data=str(folder), training=False, tick=0.01))
    with working(runtime):
        sequence, state = ring_until(runtime, lambda: checkpoints.latest("door"))
        ring_until(runtime, lambda: runtime.log.sequence() > sequence + 10)
    kept = bytes(state)
    runtime.log.close()  # as after a kill: nothing is saved at the end
    log = SqliteLog(folder / "log.db")
    checkpoints.save("door", sequence, kept)
    again, whole = (Pipeline(runtime.app, log, ManualClock(NOON), checkpoints=c) for c in (checkpoints, None))
    assert 0 < again.recover() < whole.recover() == log.end("ring")
    more = [Slice("ring", log.end("ring"), [ring(f"v{i}", whole.state.now) for i in range(8)])]
    batch = Batch(log.sequence() + 1, whole.state.now, more)
    (one,), (other,) = (step(each.plan, each.state, batch).predictions for each in (again, whole))
    assert [repr(one[0].row(i)) for i in range(8)] == [repr(other[0].row(i)) for i in range(8)]
    assert again.state.store.counts == whole.state.store.counts
    log.close()


@pytest.mark.slow
def test_what_another_program_cannot_save_is_told_and_then_saved_by_a_copy(tmp_path, monkeypatch):
    path, folder = tmp_path / "app.py", tmp_path / "data"
    path.write_text(DOOR, "utf-8")
    monkeypatch.setattr("katmatic.pipeline.CHECKPOINT_BATCHES", 40)
    checkpoints = FileCheckpoints(folder / "checkpoints")
    runtime = Runtime(load_app(path), path, Settings(data=str(folder), training=False, tick=0.01))
    path.write_text(DOOR.replace("door()", "door(quiet=True)"), "utf-8")
    with working(runtime):
        ring_until(runtime, lambda: checkpoints.latest("door"))
        (alert,) = [alert for alert in runtime.live.alerts(10) if alert.name == "checkpoint-failed"]
    runtime.close()
    assert "TypeError" in alert.text


def test_only_the_state_of_the_declaration_that_runs_is_saved(made, tmp_path):
    with made() as runtime:
        plan = runtime.pipeline.plan
    app, folder = load_app(tmp_path / "app.py"), tmp_path / "data"
    assert save_checkpoint(app, folder, short_fingerprint(plan)) == 0
    with pytest.raises(LogError, match="has changed since the pipeline was started"):
        save_checkpoint(app, folder, short_fingerprint(plan)[::-1])
