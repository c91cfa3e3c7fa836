"""A broker that lets in whom it knows, to what they were granted: TLS, passwords and ACLs, as banks have them."""

from __future__ import annotations

import shutil
import subprocess
import time
from contextlib import closing
from types import SimpleNamespace
from urllib.parse import quote

import pytest
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)

from katmatic.errors import LogError
from katmatic.log.kafka import KafkaHistory, KafkaLog
from katmatic.log.kafka_client import Connection
from katmatic.state.kafka import KafkaCheckpoints
from tests.components import need
from tests.kafka_broker import Broker, BrokerError
from tests.poster import Poster

WAIT_SECONDS = 20.0
PASSWORD = "learn & keep=100%"
STORE = "keystore"  # and its password
GUARDED = f"""
listeners=SASL_SSL://127.0.0.1:{{port}},CONTROLLER://127.0.0.1:{{controller}}
advertised.listeners=SASL_SSL://127.0.0.1:{{port}}
listener.security.protocol.map=SASL_SSL:SASL_SSL,CONTROLLER:PLAINTEXT
inter.broker.listener.name=SASL_SSL
sasl.mechanism.inter.broker.protocol=PLAIN
sasl.enabled.mechanisms=PLAIN
listener.name.sasl_ssl.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required \\
  username="admin" password="{PASSWORD}" user_admin="{PASSWORD}" user_school="{PASSWORD}";
ssl.keystore.location={{folder}}/{STORE}
ssl.keystore.password={STORE}{STORE}
ssl.truststore.location={{folder}}/{STORE}
ssl.truststore.password={STORE}{STORE}
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:admin;User:ANONYMOUS
"""
GRANTED = (  # what the page on scaling lists
    (ResourceType.TOPIC, "katmatic.school.", ("READ", "WRITE", "CREATE", "DESCRIBE_CONFIGS")),
    (ResourceType.TOPIC, "gate", ("READ", "WRITE", "CREATE")),
    (ResourceType.TRANSACTIONAL_ID, "katmatic.school", ("WRITE",)),
    (ResourceType.GROUP, "katmatic.school", ("READ",)),
)
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    """A broker with TLS, users and ACLs: its address, its certificate and its administrator."""
    folder = tmp_path_factory.mktemp("guarded")
    certificate = folder / "ca.pem"
    try:
        _make_store(folder / STORE, certificate)
        broker = Broker(folder, more=GUARDED)
    except BrokerError as error:
        need("Apache Kafka", None, str(error))
        raise
    broker.start()
    options = {
        "bootstrap.servers": broker.address,
        "security.protocol": "SASL_SSL",
        "sasl.mechanisms": "PLAIN",
        "sasl.username": "admin",
        "sasl.password": PASSWORD,
        "ssl.ca.location": str(certificate),
    }
    yield SimpleNamespace(address=broker.address, certificate=certificate, options=options, admin=AdminClient(options))
    broker.kill()


def _make_store(store, certificate):
    need("keytool", shutil.which("keytool"), "it comes with Java: apt-get install openjdk-17-jre-headless")
    keytool = ["keytool", "-keystore", store, "-storepass", STORE + STORE, "-alias", "broker"]
    key = ["-keyalg", "RSA", "-dname", "CN=127.0.0.1", "-ext", "san=ip:127.0.0.1", "-validity", "2"]
    subprocess.run([*keytool, "-genkeypair", *key], check=True, capture_output=True)
    subprocess.run([*keytool, "-exportcert", "-rfc", "-file", certificate], check=True, capture_output=True)


@pytest.fixture
def login(guarded, tmp_path):
    """The address of the log for a user, whose name and password stand in a file."""

    def login(user="school", *, password=PASSWORD, certificate=guarded.certificate):
        secret = tmp_path / "secret.properties"
        secret.write_text(f"# of {user}\nsasl.username = {user}\n\nsasl.password={password}\n", "utf-8")
        options = f"security.protocol=SASL_SSL&sasl.mechanisms=PLAIN&ssl.ca.location={certificate}"
        return f"kafka://{guarded.address}?{options}&properties={secret}"

    return login


@pytest.fixture
def grant(guarded):
    """Grant the school's user all that it needs, but nothing of the kind `without`; in the end nothing is granted."""

    def grant(without=None):
        wanted = [
            AclBinding(
                kind, name, ResourcePatternType.PREFIXED, "User:school", "*", AclOperation[op], AclPermissionType.ALLOW
            )
            for kind, name, operations in GRANTED
            for op in operations
            if kind != without
        ]
        for future in guarded.admin.create_acls(wanted).values():
            future.result()

    yield grant
    _revoke(guarded)


def _revoke(guarded, name=None):
    every = AclBindingFilter(
        ResourceType.ANY, name, ResourcePatternType.ANY, None, None, AclOperation.ANY, AclPermissionType.ANY
    )
    for future in guarded.admin.delete_acls([every]).values():
        future.result()


def test_with_what_the_page_lists_a_user_may_run_an_application(login, grant):
    grant()
    with closing(KafkaLog(login(), "school", ["gate"])) as log:
        log.append("gate", [b"a"])
        log.commit(log.read(1, limit=10), {"katmatic.labels": [b"l"]})
        checkpoints = KafkaCheckpoints(*log.checkpoints())
        checkpoints.save("school", 1, b"state")
        assert checkpoints.latest("school") == (1, b"state")
        history = KafkaHistory(login(), "school")
        history.post("gate", [b"b"])
        assert log.wait(WAIT_SECONDS)
        log.commit(log.read(2, limit=10), {})
        assert [value for _, value in history.scan("gate")][-2:] == [b"a", b"b"]


def test_who_may_not_tell_the_group_runs_all_the_same_and_ends_at_once(login, grant):
    grant(without=ResourceType.GROUP)
    with closing(KafkaLog(login(), "school", ["gate"])) as log:
        for turn in range(3):
            log.append("gate", [b"%d" % turn])
            log.commit(log.read(turn, limit=10), {})
            time.sleep(0.6)  # the group would be told meanwhile
        began = time.monotonic()
    assert time.monotonic() - began < WAIT_SECONDS


def test_a_topic_that_may_not_be_read_for_a_while_is_read_on_later(guarded, login, grant):
    grant()
    poster = Poster(guarded.address, **guarded.options)
    with closing(KafkaLog(login(), "school", ["gate"])) as log:
        poster.post("gate", b"before")
        poster.flush()
        assert log.wait(WAIT_SECONDS)
        _revoke(guarded, "gate")
        deadline = time.monotonic() + WAIT_SECONDS
        said = ""
        while "Topic authorization failed" not in said:
            assert time.monotonic() < deadline, said
            poster.post("gate", b"meanwhile")
            poster.flush()
            try:
                log.read(1, limit=1)
                log.wait(0.1)
            except LogError as error:
                said = str(error)
        assert "gate: " in said
        assert "grant what the page on scaling lists" in said
        grant()
        poster.post("gate", b"later")
        poster.flush()
        found = []
        while b"later" not in found:
            assert time.monotonic() < deadline + WAIT_SECONDS, found
            try:
                batch = log.read(2, limit=1000)
                log.commit(batch, {})
                found += [value for piece in batch.slices for value in piece.values]
            except LogError:
                log.wait(0.1)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"password": "guessed"}, r"Authentication failed.*expected a broker that lets us in; correct the options"),
        ({"certificate": "/etc/hostname"}, r"expected a broker that lets us in; correct the options"),
        ({}, r"journal: found .*uthorization failed.*expected to be allowed to; grant what the page on scaling lists"),
    ],
    ids=["a wrong password", "a wrong certificate", "nothing granted"],
)
def test_who_is_not_let_in_is_told_why(login, wrong, said):
    with pytest.raises(LogError, match=said) as error:
        KafkaLog(login(**wrong), "school", ["gate"])
    assert PASSWORD not in str(error.value)


def test_what_is_secret_is_not_said(tmp_path):
    for address in (
        f"kafka://localhost:1?sasl.password={quote(PASSWORD)}&acks=0",
        f"kafka://school:{quote(PASSWORD)}@localhost:1",
    ):
        with pytest.raises(LogError, match="expected kafka://host:port") as error:
            Connection(address, "school")
        assert quote(PASSWORD) not in str(error.value)
        assert PASSWORD not in str(error.value)


def test_a_file_of_options_must_be_there_and_holds_options_for_security_only(tmp_path):
    with pytest.raises(LogError, match=r"absent: found .*No such file.* expected a file of options, name=value"):
        Connection(f"kafka://localhost:1?properties={tmp_path}/absent", "school")
    file = tmp_path / "client.properties"
    file.write_text("acks=0\n", "utf-8")
    with pytest.raises(LogError, match="found the option acks"):
        Connection(f"kafka://localhost:1?properties={file}", "school")
    file.write_text(f"sasl.password={PASSWORD}\n", "utf-8")
    assert Connection(f"kafka://localhost:1?properties={file}", "school").options()["sasl.password"] == PASSWORD
