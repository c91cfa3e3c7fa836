"""Trains absence of the application attendance: written by `katmatic deploy airflow`.

Each task is a stage of one training, and each may be retried. The gate lets a version pass that does better than the
one that answers, and than two simple rules; if it refuses, `promote` is passed over. A backfill trains on what was
known at the end of its interval, and never takes the place of a version that knows of more.
"""

from datetime import datetime, timedelta

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG

STEP = '/opt/katmatic/bin/katmatic step'
WHERE = '/app/attendance.py --predictor absence --data /data --log kafka://kafka:9094 --registry http://mlflow:5000'
NOW = '--now "{{ (dag_run.data_interval_end or dag_run.logical_date or dag_run.run_after).isoformat() }}" --work /data/work/"{{ run_id }}"'
EVERY = timedelta(seconds=604800)

with DAG(
    'attendance_absence',
    doc_md=__doc__,
    schedule=EVERY,
    start_date=datetime(2020, 1, 1),  # before anything that a backfill could ask for
    catchup=False,
    max_active_runs=1,
    tags=["katmatic", 'attendance'],
    default_args={
        "retries": 3,
        "retry_delay": timedelta(seconds=30),
        "retry_exponential_backoff": True,
        "max_retry_delay": timedelta(minutes=10),
        "execution_timeout": timedelta(hours=6),
    },
) as dag:

    def stage(name: str) -> BashOperator:
        """The task of a stage: code 99 says that there is nothing more to do."""
        return BashOperator(
            task_id=name, bash_command=f"{STEP} {name} {WHERE} {NOW} --json", skip_on_exit_code=99
        )

    stage("validate") >> stage("dataset") >> stage("fit") >> stage("evaluate") >> stage("gate") >> stage("promote")
