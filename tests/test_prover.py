"""The process beside the pipeline that proves what is served: its reports arrive, and it is started again."""

from __future__ import annotations

import sys
import threading

import msgspec

from katmatic import prover as prover_of
from katmatic.prover import Prover
from katmatic.records import Skew, SkewReport

PATIENCE_SECONDS = 20


def saying(report, then):
    """The command line of a process that tells of a report."""
    said = msgspec.json.encode(report).decode()
    return [sys.executable, "-c", f"print('a user may print, too'); print('''{said}''', flush=True); {then}"]


def test_reports_are_handed_on_and_the_process_ends_with_the_pipeline():
    report, told = SkewReport(now=1, skews=(Skew(predictor="open", rows=3, values=12),)), threading.Event()
    found = []

    def tell(each):
        found.append(each)
        told.set()

    prover = Prover(
        lambda start: saying(report, f"assert {start} == 7; import time; time.sleep(600)"),
        lambda: 7,
        told=tell,
        ended=lambda text: None,
        start_seconds=0,
    )
    prover.start()
    assert told.wait(PATIENCE_SECONDS)
    prover.stop()
    assert found == [report]
    assert prover.process is None


def test_one_that_ends_by_itself_is_told_of_and_started_again_and_its_counts_are_kept(monkeypatch):
    monkeypatch.setattr(prover_of, "AGAIN_SECONDS", 0.01)
    report, told = SkewReport(now=1, skews=(Skew(predictor="open", rows=3, mismatches=1),)), threading.Event()
    found, ended, starts = [], [], []

    def tell(each):
        found.append(each)
        if len(found) == 3:
            told.set()

    def command(start):
        starts.append(start)
        return saying(report, "raise SystemExit(1)")

    ends = iter(range(5, 100))
    prover = Prover(command, lambda: next(ends), told=tell, ended=ended.append, start_seconds=0)
    prover.start()
    assert told.wait(PATIENCE_SECONDS)
    prover.stop()
    assert [each.rows for each in found[:3]] == [3, 6, 9]
    assert [each.mismatches for each in found[:3]] == [1, 2, 3]
    assert starts[:3] == [5, 6, 7]
    assert ended[0] == "the proof of the features has ended, and is started again in 0.01 s"
