"""What of a pipeline on Kubernetes depends on its application: its files, and what Prometheus is to look at.

All else is the same for every application, and lies in `deploy/kubernetes`.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path

from katmatic.spec.app import App

APP, MONITORING = "base/app", "components/monitoring/monitoring.yaml"
NAMESPACE = "katmatic"

_KUSTOMIZATION = """\
# The application {name}: katmatic deploy kubernetes
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
configMapGenerator:
  - name: katmatic-app
    files: {files}
  - name: katmatic-app-file
    literals: {literals}
"""
_MONITORING = """\
# For the Prometheus Operator, from the policies of {name}: katmatic deploy kubernetes
{monitors}
---
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: katmatic
spec:
{rules}"""
_MONITOR = """\
apiVersion: monitoring.coreos.com/v1
kind: ServiceMonitor
metadata:
  name: {service}
spec:
  selector:
    matchLabels: {{app.kubernetes.io/name: {service}}}
  endpoints:
    - port: http
      path: /metrics
      interval: 15s
      authorization:
        type: Bearer
        credentials: {{name: katmatic-token, key: token}}
      relabelings:
        - {{targetLabel: job, replacement: {job}}}"""

# The operator hands it the alerts of its own namespace; they go on to whom the house's own routes tell, too.
_REVIEW = """
---
apiVersion: monitoring.coreos.com/v1alpha1
kind: AlertmanagerConfig
metadata:
  name: katmatic
spec:
  route:
    receiver: pipeline
    matchers: [{{name: katmatic, value: {review}}}]
    groupBy: [alertname, job, predictor]
    groupWait: 30s
    groupInterval: 5m
    repeatInterval: {again}s
  receivers:
    - name: pipeline # trains again, or lets an earlier version answer, as the policies say
      webhookConfigs:
        - url: http://worker.{namespace}:8000/v1/hooks/alertmanager
          sendResolved: false
          httpConfig:
            authorization:
              type: Bearer
              credentials: {{name: katmatic-token, key: token}}
"""


def files(app: App, file: Path, *, rules: str, review: str, again: int | None) -> dict[str, str]:
    """The files by name, below the folder of the manifests, from the application's `file` and its rules for Prometheus.

    Of alerts with the label `review`, if there are any, the worker is told; `again` after so many seconds. The rules
    are about the worker; copies are watched by a job of their own, or they would count each event again.
    """
    found = {one.name: one.read_text("utf-8") for one in _with_imports(file, set())}
    jobs = {"worker": app.name, "serving": f"{app.name}-serving"}
    monitors = (_MONITOR.format(service=service, job=json.dumps(job)) for service, job in jobs.items())
    groups = rules[rules.index("groups:") :]
    return {
        f"{APP}/kustomization.yaml": _KUSTOMIZATION.format(
            name=app.name, files=json.dumps(sorted(found)), literals=json.dumps([f"APP_FILE={file.name}"])
        ),
        **{f"{APP}/{name}": text for name, text in found.items()},
        MONITORING: _MONITORING.format(
            name=app.name,
            monitors="\n---\n".join(monitors),
            rules="".join(f"  {line}\n" for line in groups.splitlines()),
        )
        + ("" if again is None else _REVIEW.format(review=review, again=again, namespace=NAMESPACE).lstrip("\n")),
    }


def _with_imports(file: Path, seen: set[Path]) -> Iterator[Path]:
    """A file, and those beside it that it imports."""
    if file in seen or not file.is_file():
        return
    seen.add(file)
    yield file
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        for name in names:
            yield from _with_imports(file.with_name(f"{name.partition('.')[0]}.py"), seen)
