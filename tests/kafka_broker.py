"""A real Apache Kafka for tests and benchmarks: KRaft, one node on loopback, from the jars on Maven Central.

`python -m tests.kafka_broker` starts one by hand, on port 9092 if that is free. It needs Java 17 and Maven. Maven finds
its repository as it always does (`~/.m2/settings.xml`); KATMATIC_MAVEN names another mirror of Maven Central.
KATMATIC_KAFKA=host:port is a broker that runs already: then nothing is fetched or started.
"""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from functools import cache
from pathlib import Path

VERSION = "4.4.0"
CLUSTER = "a2F0bWF0aWMta2Fma2EtMQ"  # a UUID as Kafka writes it: every cluster has one
START_SECONDS = 60.0  # it takes 3 to 6; more on a loaded machine
STOP_SECONDS = 20.0
HAND_PORT = 9092

_POM = """<project><modelVersion>4.0.0</modelVersion>
<groupId>katmatic</groupId><artifactId>kafka-for-tests</artifactId><version>1</version><dependencies><dependency>
<groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{version}</version>
</dependency><dependency>
<groupId>org.apache.logging.log4j</groupId><artifactId>log4j-slf4j-impl</artifactId><version>2.25.5</version>
</dependency></dependencies></project>
"""
_MIRROR = """<settings><mirrors>
<mirror><id>given</id><mirrorOf>*</mirrorOf><url>{url}</url></mirror>
</mirrors></settings>
"""
_PROPERTIES = """
process.roles=broker,controller
node.id=1
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
controller.quorum.bootstrap.servers=127.0.0.1:{controller}
log.dirs={folder}/data
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
transaction.abort.timed.out.transaction.cleanup.interval.ms=1000
broker.session.timeout.ms=1000
broker.heartbeat.interval.ms=200
controller.quorum.election.timeout.ms=200
controller.quorum.fetch.timeout.ms=400
group.initial.rebalance.delay.ms=0
log.cleaner.dedupe.buffer.size=8388608
log.retention.ms=-1
"""
_LOGGING = """
rootLogger.level = WARN
rootLogger.appenderRefs = out
rootLogger.appenderRef.out.ref = OUT
appenders = out
appender.out.type = Console
appender.out.name = OUT
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = %d %p %c{1}: %m%n
"""


class BrokerError(Exception):
    """A broker cannot be had here; the text says why, and what would help."""


def fetched() -> Path:
    """The folder of Kafka's jars, fetched once a machine. BrokerError if Java or Maven is missing, or Maven fails."""
    if not shutil.which("java"):
        raise BrokerError("no java on the path: apt-get install openjdk-17-jre-headless")
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "katmatic" / f"kafka-{VERSION}"
    if folder.exists():
        return folder
    if not shutil.which("mvn"):
        raise BrokerError("no mvn on the path, to fetch Apache Kafka's jars with: apt-get install maven")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as making:
        pom, jars = Path(making) / "pom.xml", Path(making) / "jars"
        pom.write_text(_POM.format(version=VERSION), "utf-8")
        command = ["mvn", "--batch-mode", "--quiet", "--strict-checksums", "--file", str(pom)]
        if mirror := os.environ.get("KATMATIC_MAVEN"):
            settings = Path(making) / "settings.xml"
            settings.write_text(_MIRROR.format(url=mirror), "utf-8")
            command += ["--settings", str(settings)]
        command += ["dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={jars}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
        if done.returncode:
            raise BrokerError(f"Maven could not fetch Apache Kafka {VERSION}: {(done.stdout + done.stderr)[-2000:]}")
        try:
            jars.rename(folder)  # whole, or not at all
        except OSError:
            if not folder.exists():  # else somebody else was faster
                raise
    return folder


class Broker:
    """One Apache Kafka with its data in `folder`; killed and started again it has the same port and the same data.

    `more` are properties that go before those that it has as it comes; they may name the ports and the folder, too.
    """

    def __init__(self, folder: Path, *, port: int = 0, more: str = "") -> None:
        self._jars, self._folder = fetched(), folder
        folder.mkdir(parents=True, exist_ok=True)
        self.port, controller = port or _free_port(), _free_port()
        self.address = f"127.0.0.1:{self.port}"
        self._properties, self._logging = folder / "server.properties", folder / "log4j2.properties"
        text = (_PROPERTIES + more).format(port=self.port, controller=controller, folder=folder)  # the last one counts
        self._properties.write_text(text, "utf-8")
        self._logging.write_text(_LOGGING, "utf-8")
        self._said = folder / "said.txt"
        self.process: subprocess.Popen[bytes] | None = None
        if not (folder / "data").exists():
            format_it = ["format", "--standalone", "--cluster-id", CLUSTER, "--config", str(self._properties)]
            done = subprocess.run(self._java("kafka.tools.StorageTool", *format_it), capture_output=True, check=False)
            if done.returncode:
                raise BrokerError(f"the storage could not be made: {(done.stdout + done.stderr).decode()[-2000:]}")

    def start(self) -> None:
        """Start it, and wait until it answers."""
        with self._said.open("ab") as said:
            command = self._java("kafka.Kafka", str(self._properties))
            self.process = subprocess.Popen(command, stdout=said, stderr=said, stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + START_SECONDS
        while not _answers(self.port):
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise BrokerError(f"Apache Kafka did not start: {self._said.read_text('utf-8', 'replace')[-2000:]}")
            time.sleep(0.05)

    def kill(self) -> None:
        """End it as a power cut does."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End it in good order; if it will not, all the same."""
        self._end(signal.SIGTERM)

    def _end(self, number: int) -> None:
        if self.process is None:
            return
        self.process.send_signal(number)
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None

    def _java(self, main: str, *arguments: str) -> list[str]:
        memory = ["-Xms64m", "-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto"]
        logging = [f"-Dlog4j2.configurationFile={self._logging}"]
        return ["java", *memory, *logging, "-cp", f"{self._jars}/*", main, *arguments]


@cache
def address() -> str:
    """host:port of a broker: the one of KATMATIC_KAFKA, or else one that lives as long as this process."""
    if given := os.environ.get("KATMATIC_KAFKA"):
        return given
    folder = Path(tempfile.mkdtemp(prefix="katmatic-kafka-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    broker = Broker(folder)
    broker.start()
    atexit.register(broker.kill)
    return broker.address


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def main() -> None:
    """Run a broker until Ctrl-C; its data goes with it."""
    port = 0 if _answers(HAND_PORT) else HAND_PORT
    with tempfile.TemporaryDirectory(prefix="katmatic-kafka-") as folder:
        broker = Broker(Path(folder), port=port)
        broker.start()
        print(f"Apache Kafka {VERSION} runs: {broker.address}  (Ctrl-C stops it)", flush=True)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        try:
            assert broker.process is not None
            broker.process.wait()
        except KeyboardInterrupt:
            pass
        finally:
            broker.stop()


if __name__ == "__main__":
    try:
        main()
    except BrokerError as error:
        sys.exit(str(error))
