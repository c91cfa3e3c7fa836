"""The real program on a real Apache Kafka, fed by a producer that knows nothing of it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from tests.components import need_kafka
from tests.program import PATIENCE_SECONDS, ROOT, Program

BEGINNER = """
import json
from kafka import KafkaProducer
producer = KafkaProducer(bootstrap_servers='localhost:9092', value_serializer=lambda v: json.dumps(v).encode('utf-8'))
producer.send('attendance-topic', EVENT)
producer.flush()
"""

# Whatever the time, there is school soon.
SCHOOL = """
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

BELL = datetime.now(ZoneInfo("Asia/Kathmandu")) + timedelta(minutes=5)


def roster(day):
    yield "1a", "A123"


def first_bell(day):
    return BELL


def message(who, text):
    print(who, text)
"""

pytestmark = pytest.mark.slow


def test_the_producer_of_any_beginner(tmp_path):
    shutil.copy(ROOT / "examples" / "attendance.py", tmp_path / "attendance.py")
    (tmp_path / "school.py").write_text(SCHOOL, "utf-8")
    address = need_kafka()
    where = ("--data", str(tmp_path / "data"), "--log", f"kafka://{address}", "--no-training")
    program = Program("run", tmp_path / "attendance.py", *where, said=tmp_path / "said").start()
    try:
        beginner(address, '{"student_id": "A123", "timestamp": "2025-04-21 08:02:00", "status": "present"}')
        before = program.until(lambda found: found["events"]["events"] > 0)["events"]
        now = datetime.now(ZoneInfo("Asia/Kathmandu")).strftime("%Y-%m-%d %H:%M:%S")
        beginner(address, f'{{"student_id": "A123", "timestamp": "{now}", "status": "present"}}')
        after = program.until(lambda found: found["events"]["events"] > before["events"])["events"]
        assert after["applied"] == before["applied"] + 1
        assert after["conserved"]
        assert program.ask("/v1/predictions/absence/A123")["key"]["student_id"] == "A123"
    finally:
        program.end()


def beginner(address: str, event: str) -> None:
    """Run the beginner's script, which knows nothing of us."""
    text = BEGINNER.replace("localhost:9092", address).replace("EVENT", event)
    subprocess.run([sys.executable, "-c", text], check=True, timeout=PATIENCE_SECONDS)
