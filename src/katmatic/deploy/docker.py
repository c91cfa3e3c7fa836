"""What Docker Compose needs to run an application with all that stands around it.

One file for Compose, in the subset that docker-compose 1.29 reads, too; one that shows which secrets it asks for; and
the files that the services read: Prometheus' and Alertmanager's, and Airflow's DAGs. Only ports of loopback are
published. No secret has a default: without one Compose says which is missing.
"""

from __future__ import annotations

import os
from pathlib import Path

from katmatic.spec.app import App

COMPOSE, ENVIRONMENT = "compose.yaml", ".env.example"
TOKEN_FILE = "/run/katmatic/token"  # in memory
KAFKA, MLFLOW = "kafka://kafka:9094", "http://mlflow:5000"
LOCKED = """\
    read_only: true
    cap_drop: [ALL]
    security_opt: ["no-new-privileges:true"]
    restart: unless-stopped
"""
# Both find the token in a file; it is written from the environment, so that it stands in one place only.
WITH_TOKEN = 'umask 077; printf %s "$$KATMATIC_TOKEN" > {file}; exec {command}'

_COMPOSE = """\
# {name} with all that stands around it: katmatic deploy docker. How it is started: docs/docker.md.
# The secrets stand in .env; .env.example shows which. All ports are on loopback.

services:
  pipeline:
    image: {image}
    command: [run, /app/{file}]
    environment:
      KATMATIC_TOKEN: ${{KATMATIC_TOKEN:?see .env.example}}
      KATMATIC_LOG: ${{KATMATIC_LOG-{kafka}}}
      KATMATIC_REGISTRY: ${{KATMATIC_REGISTRY-{mlflow}}}
      KATMATIC_TRAINING: ${{KATMATIC_TRAINING-true}}
    volumes:
      - {folder}:/app:ro
      - data:/data
    tmpfs: [/tmp]
    ports: ["127.0.0.1:${{PIPELINE_PORT:-8000}}:8000"]
    depends_on:
      kafka: {{condition: service_healthy}}
      mlflow: {{condition: service_healthy}}
    mem_limit: 2g
    pids_limit: 512
    stop_grace_period: 30s
{locked}
  kafka:
    image: apache/kafka:4.4.0
    environment:
      KAFKA_NODE_ID: 1
      KAFKA_PROCESS_ROLES: broker,controller
      KAFKA_LISTENERS: INSIDE://:9094,OUTSIDE://:9092,CONTROLLER://:9093
      KAFKA_ADVERTISED_LISTENERS: INSIDE://kafka:9094,OUTSIDE://localhost:${{KAFKA_PORT:-9092}}
      KAFKA_LISTENER_SECURITY_PROTOCOL_MAP: INSIDE:PLAINTEXT,OUTSIDE:PLAINTEXT,CONTROLLER:PLAINTEXT
      KAFKA_INTER_BROKER_LISTENER_NAME: INSIDE
      KAFKA_CONTROLLER_LISTENER_NAMES: CONTROLLER
      KAFKA_CONTROLLER_QUORUM_VOTERS: 1@localhost:9093
      KAFKA_LOG_DIRS: /var/lib/kafka/data
      KAFKA_LOG_RETENTION_MS: -1
      KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR: 1
      KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR: 1
      KAFKA_TRANSACTION_STATE_LOG_MIN_ISR: 1
      KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS: 0
      KAFKA_HEAP_OPTS: -Xms256m -Xmx512m
    volumes: ["kafka:/var/lib/kafka/data"]
    ports: ["127.0.0.1:${{KAFKA_PORT:-9092}}:9092"]
    healthcheck:
      test: [CMD, bash, -c, "</dev/tcp/localhost/9092"]
      interval: 5s
      timeout: 5s
      retries: 24
    mem_limit: 1g
    cap_drop: [ALL]
    security_opt: ["no-new-privileges:true"]
    stop_grace_period: 60s
    restart: unless-stopped

  mlflow:
    image: ghcr.io/mlflow/mlflow:v3.17.2
    # --allowed-hosts: it answers requests for other names than these with 403.
    command:
      - mlflow
      - server
      - --host=0.0.0.0
      - --port=5000
      - --workers=1
      - --backend-store-uri=sqlite:////mlflow/mlflow.db
      - --artifacts-destination=/mlflow/artifacts
      - --allowed-hosts=mlflow:5000,localhost:*,127.0.0.1:*
    environment:
      MLFLOW_SERVER_ENABLE_JOB_EXECUTION: "false"
      MLFLOW_DISABLE_TELEMETRY: "true"
    volumes: ["mlflow:/mlflow"]
    ports: ["127.0.0.1:${{MLFLOW_PORT:-5000}}:5000"]
    healthcheck:
      test: [CMD, python, -c, "import urllib.request as u; u.urlopen('http://127.0.0.1:5000/health', timeout=4)"]
      interval: 5s
      timeout: 5s
      retries: 24
    mem_limit: 2g
    cap_drop: [ALL]
    security_opt: ["no-new-privileges:true"]
    restart: unless-stopped

  prometheus:
    image: prom/prometheus:v3.5.0
    entrypoint:
      - /bin/sh
      - -c
      - {prometheus}
    environment:
      KATMATIC_TOKEN: ${{KATMATIC_TOKEN:?see .env.example}}
    volumes:
      - ./deploy/prometheus:/etc/prometheus:ro
      - prometheus:/prometheus
    tmpfs: [/tmp, /run/katmatic]
    ports: ["127.0.0.1:${{PROMETHEUS_PORT:-9090}}:9090"]
    healthcheck:
      test: [CMD, wget, -q, -O, /dev/null, "http://127.0.0.1:9090/-/ready"]
      interval: 5s
      timeout: 5s
      retries: 12
    mem_limit: 1g
{locked}
  alertmanager:
    image: prom/alertmanager:v0.28.1
    entrypoint:
      - /bin/sh
      - -c
      - {alertmanager}
    environment:
      KATMATIC_TOKEN: ${{KATMATIC_TOKEN:?see .env.example}}
    volumes:
      - ./deploy/prometheus:/etc/alertmanager:ro
      - alertmanager:/alertmanager
    tmpfs: [/tmp, /run/katmatic]
    ports: ["127.0.0.1:${{ALERTMANAGER_PORT:-9093}}:9093"]
    healthcheck:
      test: [CMD, wget, -q, -O, /dev/null, "http://127.0.0.1:9093/-/ready"]
      interval: 5s
      timeout: 5s
      retries: 12
    mem_limit: 256m
{locked}
  grafana:
    image: grafana/grafana:12.1.1
    environment:
      GF_SECURITY_ADMIN_PASSWORD: ${{GRAFANA_PASSWORD:?see .env.example}}
      GF_ANALYTICS_REPORTING_ENABLED: "false"
      GF_ANALYTICS_CHECK_FOR_UPDATES: "false"
      GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH: /etc/katmatic/katmatic.json
    volumes:
      - ./deploy/grafana/provisioning:/etc/grafana/provisioning:ro
      - ./deploy/grafana:/etc/katmatic:ro
      - grafana:/var/lib/grafana
    tmpfs: [/tmp]
    ports: ["127.0.0.1:${{GRAFANA_PORT:-3000}}:3000"]
    depends_on:
      prometheus: {{condition: service_healthy}}
    healthcheck:
      test: [CMD, wget, -q, -O, /dev/null, "http://127.0.0.1:3000/api/health"]
      interval: 5s
      timeout: 5s
      retries: 24
    mem_limit: 512m
{locked}
  # Trains on a schedule of its own: docker-compose --profile airflow up, with KATMATIC_TRAINING=false in .env.
  airflow:
    image: {image_airflow}
    profiles: [airflow]
    volumes:
      - ./deploy/airflow/dags:/airflow/dags:ro
      - {folder}:/app:ro
      - data:/data
      - airflow:/airflow
    tmpfs: [/tmp]
    ports: ["127.0.0.1:${{AIRFLOW_PORT:-8080}}:8080"]
    depends_on:
      pipeline: {{condition: service_healthy}}
    mem_limit: 3g
    stop_grace_period: 30s
{locked}
volumes:
  data: {{}}
  kafka: {{}}
  mlflow: {{}}
  prometheus: {{}}
  alertmanager: {{}}
  grafana: {{}}
  airflow: {{}}
"""
_ENVIRONMENT = """\
# Copy this to .env, which git ignores, and fill in the secrets. Compose starts nothing before they are there.

# What callers of the pipeline show as `Authorization: Bearer ...`, and what you sign in to its page with; 16 characters
# or more:  python3 -c "import secrets; print(secrets.token_urlsafe(24))"
KATMATIC_TOKEN=

# Of the user admin of Grafana.
GRAFANA_PASSWORD=

# false: models are trained by Airflow, or by whoever calls `katmatic train`.
KATMATIC_TRAINING=true
"""


def files(
    app: App,
    file: Path,
    *,
    folder: Path,
    version: str,
    watching: dict[str, str],
    shown: dict[str, str],
    dags: dict[str, str],
) -> dict[str, str]:
    """The files by name, for `folder`; `file` declares the application.

    `watching` are Prometheus' and Alertmanager's files, `shown` Grafana's, `dags` Airflow's, as seen in the containers.
    """
    near = Path(os.path.relpath(file.resolve().parent, folder.resolve())).as_posix()
    text = _COMPOSE.format(
        name=app.name,
        image=f"katmatic:{version}",
        image_airflow=f"katmatic-airflow:{version}",
        file=file.name,
        folder=near if near.startswith(".") else f"./{near}",
        kafka=KAFKA,
        mlflow=MLFLOW,
        locked=LOCKED,
        prometheus=_with_token(
            "/bin/prometheus --config.file=/etc/prometheus/prometheus.yml --storage.tsdb.path=/prometheus"
        ),
        alertmanager=_with_token(
            "/bin/alertmanager --config.file=/etc/alertmanager/alertmanager.yml --storage.path=/alertmanager"
            " --cluster.listen-address="
        ),
    )
    return {
        COMPOSE: text,
        ENVIRONMENT: _ENVIRONMENT,
        **{f"deploy/prometheus/{name}": text for name, text in watching.items()},
        **{f"deploy/grafana/{name}": text for name, text in shown.items()},
        **{f"deploy/airflow/dags/{name}": text for name, text in dags.items()},
    }


def _with_token(command: str) -> str:
    line = WITH_TOKEN.format(file=TOKEN_FILE, command=command)
    return "'" + line.replace("'", "''") + "'"
