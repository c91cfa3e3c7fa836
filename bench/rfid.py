"""Badges of two real schools through Katmatic attendance: every read accounted for, first and last presence as in SQL.

Data: SocioPatterns collaboration (Stehle et al., PLoS ONE 6(8) e23176, 2011; Gemmetto et al., BMC Infectious Diseases
14:695, 2014; Fournet and Barrat, PLoS ONE 9(9) e107878, 2014). The application is examples/attendance.py in the zone
of the schools; its roster is read from the list of people, and `katmatic replay` runs it. What it kept is then read
from the log through the same engine, and compared with SQL on the file of reads.
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import json
import sqlite3
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from bench.data import data
from bench.report import report
from katmatic.clock import process_seconds
from katmatic.demo import examples
from katmatic.engine.plan import compile
from katmatic.engine.step import State, step
from katmatic.log.sqlite import open_readonly
from katmatic.runtime import load_app

SCHOOLS = {"primary2009": "08:45", "highschool2012": "07:15"}  # and when their first lesson begins, about
ZONE = "Europe/Paris"
SCHOOL = '''
"""The school of {name}, from its list of people: nobody is expected at the weekend, and teachers never are."""

import csv
import gzip

with gzip.open({people!r}, "rt") as file:
    PUPILS = [(row["class"], row["tag"]) for row in csv.DictReader(file) if row["class"] != "Teachers"]


def roster(day):
    return PUPILS if day.isoweekday() <= 5 else []


def first_bell(day):
    hour, minute = map(int, {bell!r}.split(":"))
    return day.replace(hour=hour, minute=minute)


def message(class_id, text):
    pass
'''

Presence = dict[tuple[str, str], tuple[str, str, int]]  # tag and day: first and last read on the clock, and how many


def measure() -> dict[str, Any]:
    """Per school: what became of the reads, and whether presence is the same."""
    found: dict[str, Any] = {name: school(name, bell) for name, bell in SCHOOLS.items()}
    found["ok"] = all(each["accounted_for"] and each["presence_equal"] for each in found.values())
    return found


def school(name: str, bell: str) -> dict[str, Any]:
    """Replay one school and compare."""
    folder = data("school_rfid_sociopatterns")
    reads = folder / f"{name}_reads.csv.gz"
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        app = work / "attendance.py"
        app.write_text((examples() / "attendance.py").read_text("utf-8").replace("Asia/Kathmandu", ZONE), "utf-8")
        people = str(folder / f"{name}_people.csv.gz")
        (work / "school.py").write_text(SCHOOL.lstrip().format(name=name, people=people, bell=bell), "utf-8")
        command = [sys.executable, "-m", "katmatic", "replay", str(app), str(reads), "--topic", "attendance-topic"]
        command += ["--map", "student_id=tag", "--map", "timestamp=local_time", "--data", str(work / "data"), "--json"]
        ran = subprocess.run(command, capture_output=True, text=True, check=True)
        counts = json.loads(ran.stdout.splitlines()[-1])
        began = process_seconds()
        ours, days = kept(app, work / "data" / "log.db")
        seconds = process_seconds() - began
    with gzip.open(reads, "rt") as file:
        rows = list(csv.DictReader(file))
    expected = in_sql(rows)
    calendar = counts["events"] - len(rows)
    return {
        "reads": len(rows),
        "events": counts["events"],
        "expected_pupils": calendar,
        "applied": counts["applied"],
        "duplicate": counts["duplicate"],
        "late": counts["late"],
        "dead": counts["dead"],
        "predictions": counts["predictions"],
        "labels": counts["labels"],
        "accounted_for": sum(n for _, _, n in ours.values()) == len(rows)
        and counts["events"] == counts["applied"] + counts["duplicate"] + counts["late"] + counts["dead"],
        "pupil_days": len(expected),
        "days": days,
        "presence_equal": ours == expected,
        "seconds": counts["seconds"],
        "again_cpu_s": round(seconds, 2),
    }


def kept(app_file: Path, log_file: Path) -> tuple[Presence, int]:
    """Presence by the events that the engine applies when the log is read again; and on how many days."""
    for name in ("school", "attendance"):
        sys.modules.pop(name, None)
    app = load_app(app_file)
    plan = compile(app)
    state = State(plan)
    found: Presence = {}
    with contextlib.closing(open_readonly(log_file)) as log:
        for batch in log.batches():
            for schema, columns in step(plan, state, batch).taken:
                if schema.topic == "attendance-topic":
                    for tag, moment in zip(columns.fields["student_id"], columns.time.tolist(), strict=True):
                        local = datetime.fromtimestamp(moment / 1e6, UTC).astimezone(app.timezone)
                        day, clock = f"{local:%Y-%m-%d}", f"{local:%H:%M:%S}"
                        first, last, n = found.get((tag, day), (clock, clock, 0))
                        found[tag, day] = min(first, clock), max(last, clock), n + 1
    return found, len(np.unique([day for _, day in found]))


def in_sql(rows: list[dict[str, str]]) -> Presence:
    """The same by SQLite, of the file as it is."""
    with contextlib.closing(sqlite3.connect(":memory:")) as db:
        db.execute("CREATE TABLE reads (tag TEXT, local_time TEXT)")
        db.executemany("INSERT INTO reads VALUES (?, ?)", [(row["tag"], row["local_time"]) for row in rows])
        query = """SELECT tag, substr(local_time, 1, 10), min(substr(local_time, 12)), max(substr(local_time, 12)),
                   count(*) FROM reads GROUP BY 1, 2"""
        return {(tag, day): (first, last, n) for tag, day, first, last, n in db.execute(query)}


if __name__ == "__main__":
    report(measure)
