# The image of a pipeline: docker build --tag katmatic .
# It runs an application's file, the example if no other is named: docs/docker.md.

FROM python:3.11-slim-bookworm AS builder
WORKDIR /build
# What changes seldom comes first, so that a change of the code builds in seconds.
COPY requirements.txt ./
RUN python -m venv /opt/katmatic \
    && /opt/katmatic/bin/pip install --no-cache-dir --disable-pip-version-check --no-compile --requirement requirements.txt
COPY pyproject.toml README.md LICENSE ./
COPY src src
COPY examples examples
# Bytecode and the inner loops are compiled here once, the loops for any processor: nothing can be written where it runs.
RUN /opt/katmatic/bin/pip install --no-cache-dir --disable-pip-version-check --no-compile --no-deps . \
    && /opt/katmatic/bin/python -m katmatic.state.compile --any \
    && find /opt/katmatic -type d \( -name tests -o -name test \) -path '*/site-packages/*' -prune -exec rm -rf {} + \
    && rm -rf /opt/katmatic/lib/python3.11/site-packages/pip* \
    && /opt/katmatic/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/katmatic/lib

FROM python:3.11-slim-bookworm
LABEL org.opencontainers.image.title="katmatic" \
      org.opencontainers.image.description="A real-time machine-learning pipeline, declared in one Python file" \
      org.opencontainers.image.licenses="Apache-2.0"
ENV PATH=/opt/katmatic/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp \
    KATMATIC_DATA=/data \
    KATMATIC_HOST=0.0.0.0
COPY --from=builder /opt/katmatic /opt/katmatic
COPY examples/attendance.py examples/school.py /app/
RUN install -d -o 10001 -g 10001 -m 0700 /data
USER 10001:10001
WORKDIR /app
VOLUME /data
EXPOSE 8000
# SIGTERM drains: what is being answered is answered, the batch is committed, the state is saved.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-I", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/healthz', timeout=4)"]
ENTRYPOINT ["katmatic"]
CMD ["run", "attendance.py"]
