# The image of a pipeline: katmatic, with what it needs to answer and to train. It runs as a user of its own, writes to
# /data and nowhere else, and needs no compiler: mount your application at /app, or build your own image on top.
#
#   docker build --tag katmatic .
#   docker run --read-only --tmpfs /tmp --cap-drop ALL -e KATMATIC_TOKEN -p 127.0.0.1:8000:8000 \
#       -v "$PWD:/app:ro" -v katmatic:/data katmatic run attendance.py

FROM python:3.11-slim-bookworm AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/katmatic
COPY requirements.txt /src/
RUN /opt/katmatic/bin/pip install --requirement /src/requirements.txt
COPY pyproject.toml README.md LICENSE /src/
COPY examples /src/examples
COPY src /src/src
# The loops are compiled for every server since 2013, not for the machine that builds.
RUN /opt/katmatic/bin/pip install --no-deps /src \
    && /opt/katmatic/bin/python -m katmatic.state.compile --portable \
    && /opt/katmatic/bin/pip uninstall --yes pip \
    && find /opt/katmatic -type d -name tests -prune -exec rm -rf {} +

FROM python:3.11-slim-bookworm AS pipeline
LABEL org.opencontainers.image.title="katmatic" \
      org.opencontainers.image.description="A real-time machine-learning pipeline, declared in one Python file" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/katmatic /opt/katmatic
RUN groupadd --gid 10001 katmatic \
    && useradd --uid 10001 --gid 10001 --home-dir /data --no-create-home --shell /usr/sbin/nologin katmatic \
    && install --directory --owner 10001 --group 10001 /data /app
# With the address 0.0.0.0 it refuses to run without a token: KATMATIC_TOKEN.
ENV PATH=/opt/katmatic/bin:$PATH \
    HOME=/data \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    KATMATIC_DATA=/data \
    KATMATIC_HOST=0.0.0.0
USER 10001:10001
WORKDIR /app
VOLUME /data
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as u; u.urlopen('http://127.0.0.1:' + os.environ.get('KATMATIC_PORT', '8000') + '/readyz', timeout=4)"]
ENTRYPOINT ["katmatic"]
CMD ["--help"]

# Airflow, in an environment of its own beside ours; its tasks call katmatic: docker build --target airflow .
FROM pipeline AS airflow
USER root
COPY requirements-airflow.txt /opt/
RUN PATH=/usr/local/bin:/usr/bin:/bin python3 -m venv /opt/airflow \
    && /opt/airflow/bin/pip install --no-cache-dir --disable-pip-version-check --requirement /opt/requirements-airflow.txt \
    && rm /opt/requirements-airflow.txt \
    && install --directory --owner 10001 --group 10001 /airflow
ENV PATH=$PATH:/opt/airflow/bin \
    AIRFLOW_HOME=/airflow \
    AIRFLOW__CORE__LOAD_EXAMPLES=False \
    AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL=30
USER 10001:10001
VOLUME /airflow
EXPOSE 8080
HEALTHCHECK --interval=15s --timeout=5s --start-period=180s --retries=5 \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8080/api/v2/monitor/health', timeout=4)"]
ENTRYPOINT ["/opt/airflow/bin/airflow"]
CMD ["standalone"]

# What is built if nobody says otherwise.
FROM pipeline
