"""The real program on a real Apache Kafka, fed by a producer that knows nothing of it."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
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

pytestmark = pytest.mark.slow


def test_the_producer_of_any_beginner(tmp_path):
    for name in ("attendance.py", "school.py"):
        shutil.copy(ROOT / "examples" / name, tmp_path / name)
    address = need_kafka()
    where = ("--data", str(tmp_path / "data"), "--log", f"kafka://{address}", "--no-training")
    program = Program("run", tmp_path / "attendance.py", *where, said=tmp_path / "said").start()
    try:
        beginner(address, '{"student_id": "A123", "timestamp": "2025-04-21 08:02:00", "status": "present"}')
        before = program.until(lambda found: found["events"]["events"] > 0)["events"]
        now = datetime.now(ZoneInfo("Asia/Kathmandu")).strftime("%Y-%m-%d %H:%M:%S")
        beginner(address, f'{{"student_id": "A123", "timestamp": "{now}", "status": "present"}}')
        sent = time.monotonic()
        after = program.until(lambda found: found["events"]["events"] > before["events"])["events"]
        assert time.monotonic() - sent < 1.0
        assert after["applied"] == before["applied"] + 1
        assert after["conserved"]
        if (datetime.now(ZoneInfo("Asia/Kathmandu"))).isoweekday() != 6:  # there is no school on Saturdays
            assert program.ask("/v1/predictions/absence/A123")["key"]["student_id"] == "A123"
    finally:
        program.end()


def beginner(address: str, event: str) -> None:
    """Run the beginner's script, which knows nothing of us."""
    text = BEGINNER.replace("localhost:9092", address).replace("EVENT", event)
    subprocess.run([sys.executable, "-c", text], check=True, timeout=PATIENCE_SECONDS)
