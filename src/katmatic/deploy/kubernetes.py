"""What of a pipeline on Kubernetes depends on its application: its files, and what Prometheus is to look at.

All else is the same for every application, and lies in `deploy/kubernetes`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from katmatic.spec.app import App

APP, MONITORING = "base/app", "components/monitoring/monitoring.yaml"

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


def files(app: App, file: Path, *, modules: Mapping[str, str], rules: str) -> dict[str, str]:
    """The files by name, below the folder of the manifests.

    `modules`: the application's own files by name; `rules`: those for Prometheus. The rules are about the worker; copies
    are watched by a job of their own, or they would count each event again.
    """
    found = {file.name: file.read_text("utf-8"), **modules}
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
        ),
    }
