"""A DAG of Apache Airflow 3 for each predictor: each stage of its training is a task that calls the command.

Airflow lives in an environment of its own, and imports nothing of ours: its tasks are `katmatic step ...`. A stage that
leaves nothing to do for the next ends with code 99, and Airflow passes the next ones over.
"""

from __future__ import annotations

import shlex
from pathlib import Path

from katmatic import duration
from katmatic.spec.app import App, Predictor

STAGES = ("validate", "dataset", "fit", "evaluate", "gate", "promote")
RETRIES = 3
RETRY_SECONDS = 30
LIMIT_HOURS = 6  # of one task: one that hangs would keep every later run waiting

_MOMENT = "(dag_run.data_interval_end or dag_run.logical_date or dag_run.run_after).isoformat()"
_DAG = '''"""Trains {predictor} of the application {app}: written by `katmatic deploy airflow`.

Each task is a stage of one training, and each may be retried. The gate lets a version pass that does better than the
one that answers, and than two simple rules; if it refuses, `promote` is passed over. A backfill trains on what was
known at the end of its interval, and never takes the place of a version that knows of more.
"""

from datetime import datetime, timedelta

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG

STEP = {command!r}
WHERE = {where!r}
NOW = {now!r}
EVERY = {every}

with DAG(
    {name!r},
    doc_md=__doc__,
    schedule=EVERY,
    start_date=datetime(2020, 1, 1),  # before anything that a backfill could ask for
    catchup=False,
    max_active_runs=1,
    tags=["katmatic", {app!r}],
    default_args={{
        "retries": {retries},
        "retry_delay": timedelta(seconds={retry_seconds}),
        "retry_exponential_backoff": True,
        "max_retry_delay": timedelta(minutes=10),
        "execution_timeout": timedelta(hours={hours}),
    }},
) as dag:

    def stage(name: str) -> BashOperator:
        """The task of a stage: code 99 says that there is nothing more to do."""
        return BashOperator(
            task_id=name, bash_command=f"{{STEP}} {{name}} {{WHERE}} {{NOW}} --json", skip_on_exit_code=99
        )

    {chain}
'''


def files(
    app: App,
    file: Path,
    *,
    command: str,
    data: Path,
    log: str,
    registry: str,
    models: str = "",
    retry_seconds: int = RETRY_SECONDS,
) -> dict[str, str]:
    """The files by name, one for each predictor that is trained; what learns from every event has none.

    `file`, `data` and `command` are as Airflow's tasks see them.
    """
    trained = [p for p in app.predictors.values() if not hasattr(p.model, "learn_one")]
    return {
        f"{app.name}_{predictor.name}.py": _dag(
            app, predictor, file, command, data, log, registry, models, retry_seconds
        )
        for predictor in trained
    }


def _dag(
    app: App,
    predictor: Predictor,
    file: Path,
    command: str,
    data: Path,
    log: str,
    registry: str,
    models: str,
    retry_seconds: int,
) -> str:
    where = [str(file), "--predictor", predictor.name, "--data", str(data)]
    where += ["--log", log] if log else []
    where += ["--registry", registry] if registry else []
    where += ["--models", models] if models else []
    every = predictor.retrain.every
    seconds = duration.parse(every).total_seconds() if every else 0
    return _DAG.format(
        app=app.name,
        predictor=predictor.name,
        name=f"{app.name}_{predictor.name}",
        command=f"{command} step",
        where=shlex.join(where),
        now=f'--now "{{{{ {_MOMENT} }}}}" --work {shlex.quote(str(data / "work"))}/"{{{{ run_id }}}}"',
        every=f"timedelta(seconds={seconds:g})" if every else "None  # when somebody asks for it",
        retries=RETRIES,
        retry_seconds=retry_seconds,
        hours=LIMIT_HOURS,
        chain=" >> ".join(f'stage("{stage}")' for stage in STAGES),
    )
