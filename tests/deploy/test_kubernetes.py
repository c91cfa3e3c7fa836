"""What is applied to a cluster: rendered by Kustomize, valid to the letter, sealed, and whole."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import fields

import confluent_kafka
import kubernetes_validate
import pytest
import yaml

from katmatic.deploy import kubernetes, prometheus
from katmatic.runtime import load_app
from katmatic.settings import PREFIX, Settings
from tests import kafka_broker
from tests.components import need, need_kafka
from tests.program import ROOT, free_port

MANIFESTS = ROOT / "deploy" / "kubernetes"
OVERLAYS = ("one-node", "production")
WITH_PODS = ("StatefulSet", "Deployment", "CronJob")
PATIENCE_SECONDS = 60
OF_OPERATORS = {"ServiceMonitor", "PrometheusRule", "AlertmanagerConfig"}
WRITES_TO_ITS_ROOT = {"kafka"}  # its start script


@pytest.fixture(scope="module", params=OVERLAYS)
def objects(request):
    """All that an overlay gives a cluster, by kind and name."""
    kubectl = shutil.which("kubectl")
    need("kubectl", kubectl, "install Kubernetes' client")
    ran = subprocess.run(
        [str(kubectl), "kustomize", str(MANIFESTS / "overlays" / request.param)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    found = list(yaml.safe_load_all(ran.stdout))
    named = {(one["kind"], one["metadata"]["name"]): one for one in found}
    assert len(named) == len(found)
    return named


def pods(objects):
    """The pods that are made, by the name of what makes them."""
    found = {}
    for (kind, name), one in objects.items():
        if kind in WITH_PODS:
            spec = one["spec"]["jobTemplate"]["spec"] if kind == "CronJob" else one["spec"]
            found[name] = spec["template"]
    return found


def containers(objects):
    return {name: pod["spec"]["containers"][0] for name, pod in pods(objects).items()}


def matches(selector, labels):
    return selector.items() <= labels.items()


def test_every_object_is_valid_to_the_letter(objects):
    for (kind, name), one in objects.items():
        if kind in OF_OPERATORS:
            assert re.fullmatch(r"monitoring\.coreos\.com/v1(alpha1)?", one["apiVersion"]), name
            assert one["metadata"]["labels"]["release"], "the operator picks by it"
            assert one["spec"], name
        else:
            kubernetes_validate.validate(one, "1.32", strict=True)


def test_all_of_it_lies_in_one_restricted_namespace(objects):
    labels = objects["Namespace", "katmatic"]["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    assert {one["metadata"].get("namespace") for (kind, _), one in objects.items() if kind != "Namespace"} == {
        "katmatic"
    }


def test_every_pod_is_sealed(objects):
    assert {"worker", "serving", "trainer"} <= pods(objects).keys()
    for name, pod in pods(objects).items():
        spec, security = pod["spec"], pod["spec"]["securityContext"]
        assert security["runAsNonRoot"], name
        assert security["runAsUser"] >= 1000, name
        assert security["fsGroup"] == security["runAsGroup"], name
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert spec["automountServiceAccountToken"] is False, name
        assert spec["enableServiceLinks"] is False, "a Service's variables would be taken for settings"
        assert not any(spec.get(field) for field in ("hostNetwork", "hostPID", "hostIPC")), name
        assert len(spec["containers"]) == 1
        assert all(set(volume) & {"configMap", "persistentVolumeClaim", "emptyDir"} for volume in spec["volumes"])
        own = spec["containers"][0]["securityContext"]
        assert own["allowPrivilegeEscalation"] is False, name
        assert own["capabilities"] == {"drop": ["ALL"]}, name
        assert own.get("readOnlyRootFilesystem") or name in WRITES_TO_ITS_ROOT, name
        assert "/tmp" in {mount["mountPath"] for mount in spec["containers"][0]["volumeMounts"]}


def test_every_container_has_limits_probes_and_a_version(objects):
    for name, container in containers(objects).items():
        assert re.search(r":v?\d+\.\d+", container["image"]), f"{name}: {container['image']}"
        assert container["resources"]["requests"].keys() == {"cpu", "memory"}, name
        assert "memory" in container["resources"]["limits"], name
        if name != "trainer":
            assert {"startupProbe", "livenessProbe", "readinessProbe"} <= container.keys(), name
            ports = {port["name"] for port in container["ports"]}
            for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
                asked = container[probe].get("httpGet") or container[probe]["tcpSocket"]
                assert asked["port"] in ports, f"{name}: {probe}"


def test_every_volume_is_mounted_and_every_mount_has_a_volume(objects):
    for name, pod in pods(objects).items():
        claimed = objects.get(("StatefulSet", name), {}).get("spec", {}).get("volumeClaimTemplates", [])
        there = {volume["name"] for volume in pod["spec"]["volumes"]} | {one["metadata"]["name"] for one in claimed}
        assert there == {mount["name"] for mount in pod["spec"]["containers"][0]["volumeMounts"]}, name
        for volume in pod["spec"]["volumes"]:
            if "configMap" in volume:
                assert ("ConfigMap", volume["configMap"]["name"]) in objects
            if "persistentVolumeClaim" in volume:
                assert ("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]) in objects


def test_every_variable_is_a_setting_and_every_reference_leads_somewhere(objects):
    known = {PREFIX + field.name.upper() for field in fields(Settings)}
    for name in ("worker", "serving", "trainer"):
        container = containers(objects)[name]
        source = objects["ConfigMap", container["envFrom"][0]["configMapRef"]["name"]]["data"]
        given = {*source, *(one["name"] for one in container["env"])}
        assert {one for one in given if one.startswith(PREFIX)} <= known, name
        for one in container["env"]:
            if reference := one.get("valueFrom", {}).get("configMapKeyRef"):
                assert reference["key"] in objects["ConfigMap", reference["name"]]["data"]
        if name != "trainer":
            assert "KATMATIC_TOKEN" in given, "anything but loopback needs one"
        app = next(
            one for (kind, at), one in objects.items() if kind == "ConfigMap" and re.match("katmatic-app-[^f]", at)
        )
        file = next(one for (kind, at), one in objects.items() if kind == "ConfigMap" and "app-file" in at)["data"]
        assert file["APP_FILE"] in app["data"]


def test_services_budgets_and_autoscalers_find_their_pods(objects):
    for (kind, name), one in objects.items():
        spec = one.get("spec", {})
        if kind in ("Deployment", "StatefulSet"):
            assert matches(spec["selector"]["matchLabels"], spec["template"]["metadata"]["labels"]), name
        if kind == "StatefulSet":
            assert ("Service", spec["serviceName"]) in objects
        if kind in ("Service", "PodDisruptionBudget"):
            selector = spec["selector"].get("matchLabels", spec["selector"])
            chosen = [key for key, pod in pods(objects).items() if matches(selector, pod["metadata"]["labels"])]
            assert chosen == [name], f"{kind} {name} chooses {chosen}"
        if kind == "Service":
            ports = {port["name"] for port in containers(objects)[name]["ports"]}
            assert {port["targetPort"] for port in spec["ports"]} <= ports
        if kind == "HorizontalPodAutoscaler":
            target = spec["scaleTargetRef"]
            assert "replicas" not in objects[target["kind"], target["name"]]["spec"], "the autoscaler says how many"
            assert containers(objects)[target["name"]]["resources"]["requests"]["cpu"]


def test_one_worker_owns_the_log(objects):
    assert objects["StatefulSet", "worker"]["spec"]["replicas"] == 1
    assert objects["Deployment", "serving"]["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0


def test_nothing_may_talk_but_what_is_named(objects):
    policies = {name: one["spec"] for (kind, name), one in objects.items() if kind == "NetworkPolicy"}
    assert policies["nothing"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    labels = {name: pod["metadata"]["labels"] for name, pod in pods(objects).items()}

    def chosen(policy):
        selector = policies[policy]["podSelector"]
        wanted = {one["key"]: one["values"] for one in selector.get("matchExpressions", [])}
        return {
            name
            for name, own in labels.items()
            if matches(selector.get("matchLabels", {}), own)
            and all(own.get(key) in values for key, values in wanted.items())
        }

    assert chosen("names") == labels.keys(), "every pod looks names up"
    assert chosen("clients") == {"worker", "serving", "trainer"}
    assert chosen("answers") == {"serving"}
    assert chosen("watching") == {"worker", "serving"}
    for name in {"kafka", "mlflow"} & labels.keys():
        assert chosen(name) == {name}
        allowed = policies[name]["ingress"][0]
        let_in = allowed["from"][0]["podSelector"]["matchLabels"]
        assert {one for one, own in labels.items() if matches(let_in, own)} == {"worker", "serving", "trainer"}
        open_ports = {port["containerPort"] for port in containers(objects)[name]["ports"]}
        assert {port["port"] for port in allowed["ports"]} == open_ports


def test_one_node_needs_no_operator_and_production_no_secret_of_ours(objects):
    kinds = {kind for kind, _ in objects}
    if ("StatefulSet", "kafka") in objects:
        assert not OF_OPERATORS & kinds
        assert len(next(one for (kind, _), one in objects.items() if kind == "Secret")["data"]["token"]) >= 16
    else:
        assert kinds >= OF_OPERATORS
        assert "Secret" not in kinds
        for name in ("worker", "serving"):
            labels = objects["Service", name]["metadata"]["labels"]
            assert matches(objects["ServiceMonitor", name]["spec"]["selector"]["matchLabels"], labels)


def test_the_worker_is_told_of_a_decline(objects):
    if ("StatefulSet", "kafka") in objects:
        return  # one node has no operator
    spec = objects["AlertmanagerConfig", "katmatic"]["spec"]
    rules = [rule for group in objects["PrometheusRule", "katmatic"]["spec"]["groups"] for rule in group["rules"]]
    told = [
        rule["alert"]
        for rule in rules
        if "alert" in rule
        and all(rule["labels"].get(one["name"]) == one["value"] for one in spec["route"]["matchers"])
        and rule["labels"]["namespace"] == objects["AlertmanagerConfig", "katmatic"]["metadata"]["namespace"]
    ]
    assert told == ["KatmaticUnderBaseline_absence"]
    (hook,) = spec["receivers"][0]["webhookConfigs"]
    assert spec["receivers"][0]["name"] == spec["route"]["receiver"]
    service = objects["Service", "worker"]
    at = f"http://worker.{service['metadata']['namespace']}:{service['spec']['ports'][0]['port']}"
    assert hook["url"] == f"{at}/v1/hooks/alertmanager"
    token = next(one for one in containers(objects)["worker"]["env"] if one["name"] == "KATMATIC_TOKEN")
    assert hook["httpConfig"]["authorization"]["credentials"] == token["valueFrom"]["secretKeyRef"]


@pytest.mark.slow
def test_the_broker_of_one_node_starts_as_declared_and_commits(tmp_path, monkeypatch):
    """A real one, with what its image makes of its variables, but on ports that are free here."""
    need_kafka()
    manifest = next(yaml.safe_load_all((MANIFESTS / "overlays/one-node/kafka.yaml").read_text("utf-8")))
    variables = manifest["spec"]["template"]["spec"]["containers"][0]["env"]
    declared = "".join(
        f"{one['name'].removeprefix('KAFKA_').replace('_', '.').lower()}={one['value']}\n"
        for one in variables
        if one["name"] != "KAFKA_HEAP_OPTS"
    )
    here = {"kafka:9092": "127.0.0.1:{port}", "//:9092": "//127.0.0.1:{port}", "9093": "{controller}"}
    here |= {"controller.quorum.voters=1@": "controller.quorum.bootstrap.servers="}  # as our broker is formatted
    here |= {"9094": str(free_port()), "/var/lib/kafka/data/logs": "{folder}/data"}
    for there, instead in here.items():
        assert there in declared
        declared = declared.replace(there, instead)
    monkeypatch.setattr(kafka_broker, "_PROPERTIES", declared)
    broker = kafka_broker.Broker(tmp_path / "kafka")
    broker.start()
    try:
        producer = confluent_kafka.Producer({"bootstrap.servers": broker.address, "transactional.id": "one"})
        producer.init_transactions(PATIENCE_SECONDS)
        for number in range(3):  # the second begins once the markers of the first are written
            producer.begin_transaction()
            producer.produce("attendance-topic", str(number).encode())
            producer.commit_transaction(PATIENCE_SECONDS)
        reader = confluent_kafka.Consumer(
            {"bootstrap.servers": broker.address, "group.id": "reader", "auto.offset.reset": "earliest"}
        )
        reader.subscribe(["attendance-topic"])
        read = [message.value() for message in reader.consume(3, PATIENCE_SECONDS)]
        reader.close()
        assert read == [b"0", b"1", b"2"]
    finally:
        broker.kill()


@pytest.fixture
def attendance(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    return load_app(ROOT / "examples" / "attendance.py")


def test_the_rules_are_those_that_promtool_proves(attendance):
    rules = prometheus.files(attendance, "worker:8000", labels={"namespace": "katmatic"})[prometheus.RULES]
    shipped = yaml.safe_load_all((MANIFESTS / kubernetes.MONITORING).read_text("utf-8"))
    rule = next(one for one in shipped if one["kind"] == "PrometheusRule")
    assert rule["spec"] == yaml.safe_load(rules)


def test_a_user_gets_what_the_repository_has(katmatic, tmp_path):
    shutil.copytree(ROOT / "examples", tmp_path / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    code, _, said = katmatic("deploy", "kubernetes", "examples/attendance.py", "--out", "manifests")
    assert code == 0, said
    written = [path for path in (tmp_path / "manifests").rglob("*") if path.is_file()]
    assert len(written) == 4
    for path in written:
        there = MANIFESTS / path.relative_to(tmp_path / "manifests")
        assert path.read_bytes() == there.read_bytes(), f"{there}: katmatic deploy kubernetes it again"
