"""The commands: init, run, serve, demo, replay, train, step, backtest, models, rollback, promote, archive, ..."""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from katmatic import settings as settings_of
from katmatic.clock import SystemClock, to_datetime
from katmatic.errors import KatmaticError
from katmatic.records import MODELS, ModelVersion, SkewReport
from katmatic.settings import Settings

app = typer.Typer(
    name="katmatic",
    help="A real-time machine-learning pipeline, declared in one Python file.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
BENCH_EVENTS = 50_000  # about as many as one second takes
err = Console(stderr=True)

File = Annotated[Path, typer.Argument(help="The Python file that declares the application.")]
Data = Annotated[
    str | None, typer.Option("--data", help="Folder of the log, the state and the models.", show_default=".katmatic")
]
LogAt = Annotated[
    str | None,
    typer.Option("--log", help="kafka://host:port, to keep the log on Apache Kafka.", show_default="a file in --data"),
]
ModelsAt = Annotated[
    str | None,
    typer.Option("--models", help="Where trained models are put: a folder, s3:// or gs://.", show_default="in --data"),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line.")]
Name = Annotated[str | None, typer.Option("--predictor", "-p", help="Which predictor; needed if there are several.")]
Recordings = Annotated[
    list[str],
    typer.Argument(
        metavar="EVENTS...",
        help="Files of recorded events: CSV, JSON Lines or Parquet, each also as .gz; of several topics: topic=file.",
    ),
]
Topic = Annotated[str | None, typer.Option(help="Whose events they are, if the application reads several topics.")]
Mapped = Annotated[
    list[str] | None,
    typer.Option("--map", help="field=column: where a field is read from, or topic.field=column; several times."),
]


def main() -> None:
    """What the command `katmatic` calls: an error of ours is one message of four parts, and exit code 2."""
    try:
        app(prog_name="katmatic")
    except KatmaticError as error:
        parts = {name: escape(text) for name, text in error.as_dict().items()}
        _say(f"[bold red]{parts['where']}[/]: found {parts['found']}")
        _say(f"  expected {parts['expected']}; {parts['do']}")
        sys.exit(2)


def _settings(**given: Any) -> Settings:
    return settings_of.read(os.environ, Path("katmatic.toml"), **given)


def _say(text: str) -> None:
    """A line on standard error, never cut: paths and commands are copied from it."""
    err.print(text, highlight=False, soft_wrap=True)


def _show(as_json: bool, found: Any, lines: Callable[[], None]) -> None:
    if as_json:
        print(json.dumps(found))
    else:
        lines()


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="Where to put it.")] = Path(),
    example: Annotated[str, typer.Option(help="Which one: attendance, shop or fraud.")] = "attendance",
) -> None:
    """Write a small application to start from: the declaration, and the module that stands for your own systems."""
    from katmatic.demo import EXAMPLES, example_files
    from katmatic.errors import SettingsError

    if example not in EXAMPLES:
        raise SettingsError("init", found=example, expected=", ".join(EXAMPLES), do="choose one: --example shop")
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in example_files(example).items():
        target = folder / name
        if target.exists():
            raise SettingsError(str(target), found="a file", expected="none", do="choose another folder")
        target.write_text(text, "utf-8")
        _say(f"wrote {escape(str(target))}")
    _say(f"now: katmatic run {escape(str(folder / (example + '.py')))}")


@app.command()
def run(
    file: File,
    data: Data = None,
    log: LogAt = None,
    host: Annotated[str | None, typer.Option(help="What to bind to.", show_default="127.0.0.1")] = None,
    port: Annotated[int | None, typer.Option(help="The port of the page and the API.", show_default="8000")] = None,
    training: Annotated[bool | None, typer.Option(help="Whether models are trained by themselves.")] = None,
    proof: Annotated[bool | None, typer.Option(help="Whether served features are proved meanwhile.")] = None,
) -> None:
    """Run an application until it is told to stop. Stopped in any way, it goes on where it was."""
    _run(file, _settings(data=data, log=log, host=host, port=port, training=training, proof=proof), follows=False)


@app.command()
def serve(
    file: File,
    data: Data = None,
    log: LogAt = None,
    host: Annotated[str | None, typer.Option(help="What to bind to.", show_default="127.0.0.1")] = None,
    port: Annotated[int | None, typer.Option(help="The port of the page and the API.", show_default="8000")] = None,
) -> None:
    """Answer for an application that runs elsewhere: a copy that follows its log. Start as many as you need."""
    _run(file, _settings(data=data, log=log, host=host, port=port), follows=True)


def _run(file: Path, settings: Settings, *, follows: bool) -> None:
    from katmatic.runtime import Runtime, load_app, stopped_by_signals
    from katmatic.serving.api import make_api
    from katmatic.serving.server import Server

    application = load_app(file)
    stop = stopped_by_signals()
    with Runtime(
        application,
        file,
        settings,
        follows=follows,
        proves=settings.proof,
        progress=lambda n: err.print(f"{n:,} records read again", end="\r"),
    ) as runtime:
        api = make_api(runtime.live, token=settings.token or None)
        server = Server(
            api, host=settings.host, port=settings.port, token=settings.token or None, closing=runtime.live.hub.close
        )
        server.start()
        _say(f"[bold]{escape(application.name)}[/] {'answers' if follows else 'runs'}: {server.url}  (Ctrl-C stops it)")
        work = runtime.follow if follows else runtime.work
        worker = threading.Thread(target=work, args=(stop,), name="katmatic-pipeline")
        worker.start()
        while worker.is_alive() and not stop.wait(0.5):
            pass
        failed = not stop.is_set()
        stop.set()
        worker.join()
        server.stop()
    if failed:
        _say(escape(runtime.live.trouble))
        sys.exit(1)


@app.command()
def demo(
    days: Annotated[int, typer.Option(help="School days to simulate; without --speed max, those before today.")] = 20,
    speed: Annotated[
        str, typer.Option(help="How much faster than the clock; max: as fast as it can, then end.")
    ] = "60",
    pupils: Annotated[int, typer.Option(help="How many pupils the school has.")] = 600,
    seed: Annotated[int, typer.Option(help="Another seed is another school.")] = 0,
    data: Annotated[str | None, typer.Option("--data", help="Folder to keep it in.", show_default="a new one")] = None,
    port: Annotated[int | None, typer.Option(help="The port of the page.", show_default="8000")] = None,
    as_json: Json = False,
) -> None:
    """Run Katmatic attendance, with its page, on a simulated school."""
    from katmatic import demo as school

    if _speed(speed) is None:
        result = school.run_days(days, pupils=pupils, seed=seed, data=data, show=not as_json)
        _show(as_json, result, lambda: _table("the simulated school", result))
    else:
        school.run_live(days, speed=_speed(speed) or 1.0, pupils=pupils, seed=seed, data=data, port=port)


@app.command()
def replay(
    file: File,
    events: Recordings,
    topic: Topic = None,
    mapping: Mapped = None,
    data: Data = None,
    speed: Annotated[str, typer.Option(help="How much faster than the clock; max: as fast as it can.")] = "max",
    training: Annotated[bool, typer.Option(help="Whether models are trained meanwhile.")] = False,
    acts: Annotated[bool, typer.Option(help="Whether actions are carried out.")] = False,
    as_json: Json = False,
) -> None:
    """Send recorded events through an application, by their own time."""
    from katmatic.replay import replay_files

    result = replay_files(
        file,
        events,
        topic=topic,
        mapping=dict(_pair(text) for text in mapping or []),
        settings=_settings(data=data, log="", training=training),
        speed=_speed(speed),
        acts=acts,
        show=not as_json,
    )
    _show(as_json, result, lambda: _table("replayed", result))


@app.command()
def train(
    file: File,
    predictor: Name = None,
    data: Data = None,
    log: LogAt = None,
    registry: Annotated[str | None, typer.Option(help="An MLflow tracking server.", show_default="SQLite")] = None,
    models: ModelsAt = None,
    archive: Annotated[
        str | None, typer.Option("--from", help="Learn from an archive: a folder, s3:// or gs://.")
    ] = None,
    now: Annotated[int | None, typer.Option(help="As known at this moment (microseconds since 1970).")] = None,
    review: Annotated[
        bool, typer.Option(help="Let an earlier version answer again if it does better than the champion and the new.")
    ] = False,
    record: Annotated[bool, typer.Option(hidden=True)] = False,
    waited: Annotated[bool, typer.Option(hidden=True)] = False,
    as_json: Json = False,
) -> None:
    """Train a predictor now, compare it with the champion and the baselines, say what came of it. Code 1: it failed."""
    if record:  # for the pipeline, which goes on meanwhile, unless it has waited for this
        from katmatic.aside import NICENESS, give_way

        give_way(0 if waited else NICENESS)
    from katmatic.log.codec import encode
    from katmatic.runtime import load_app, open_history
    from katmatic.training.job import train as train_now

    settings = _settings(data=data, log=log, registry=registry, models=models)
    application = load_app(file)
    name = _chosen(application, predictor)
    moment = now if now is not None else SystemClock().now()
    with contextlib.closing(_history(application, settings, archive)) as history:
        found = train_now(
            application,
            name,
            history,
            _registry(settings),
            settings.artifacts,
            now=moment,
            may_go_back=review,
            may_promote=archive is None,  # else that is for who hands it over: `katmatic promote`
        )
    if record:
        print(msgspec.json.encode(found).decode())
        return
    if archive is None:
        with contextlib.closing(open_history(application, settings)) as history:
            history.post(MODELS, [encode(found)])
    shown = msgspec.to_builtins(found)
    _show(as_json, shown, lambda: _table(f"{name}: {found.action}", shown))
    if found.is_failure:
        sys.exit(1)


@app.command()
def step(
    stage: Annotated[str, typer.Argument(help="validate, dataset, fit, evaluate, gate or promote: in this order.")],
    file: File,
    work: Annotated[Path, typer.Option(help="Folder in which the stages of one training meet.")],
    predictor: Name = None,
    data: Data = None,
    log: LogAt = None,
    registry: Annotated[str | None, typer.Option(help="An MLflow tracking server.", show_default="SQLite")] = None,
    models: ModelsAt = None,
    now: Annotated[str | None, typer.Option(help="As known at this moment (ISO 8601).", show_default="now")] = None,
    since: Annotated[str | None, typer.Option(help="What came since is validated.", show_default="7 days")] = None,
    as_json: Json = False,
) -> None:
    """Do one stage of a training, for a scheduler such as Airflow. Code 99: there is nothing more to do."""
    from katmatic.runtime import load_app
    from katmatic.steps import SKIP, do

    settings = _settings(data=data, log=log, registry=registry, models=models)
    application = load_app(file)
    name = _chosen(application, predictor)
    found, goes_on = do(stage, application, name, settings, _registry, work, now=now, since=since)
    _show(as_json, found, lambda: _table(f"{name}: {stage}", found))
    if not goes_on:
        sys.exit(SKIP)


@app.command()
def backtest(
    file: File,
    events: Recordings,
    topic: Topic = None,
    mapping: Mapped = None,
    as_json: Json = False,
) -> None:
    """Say how a predictor would have done on recorded events: trained as declared, each answer before its truth."""
    import tempfile

    from katmatic.replay import replay_files

    with tempfile.TemporaryDirectory(prefix="katmatic-") as folder:
        result = replay_files(
            file,
            events,
            topic=topic,
            mapping=dict(_pair(text) for text in mapping or []),
            settings=_settings(data=folder, log="", training=True),
            speed=None,
            acts=False,
            show=not as_json,
        )
    _show(as_json, result, lambda: _table("backtest", result))


@app.command()
def models(file: File, predictor: Name = None, data: Data = None, log: LogAt = None, as_json: Json = False) -> None:
    """List the versions of a predictor's model: who answered from when on, and why."""
    from katmatic.runtime import load_app

    application = load_app(file)
    name = _chosen(application, predictor)
    mine = _versions(application, _settings(data=data, log=log), name)

    def lines() -> None:
        table = Table("when", "version", "what", "rows", "metrics", "baselines", "why", title=name)
        for record in mine:
            table.add_row(
                to_datetime(record.now).astimezone(application.timezone).strftime("%Y-%m-%d %H:%M"),
                str(record.version or ""),
                record.action,
                f"{record.rows:,}",
                _figures(record.metrics),
                _figures(record.baselines),
                escape(record.reason),
            )
        Console().print(table if mine else f"{name} has no model yet: it is learning")

    _show(as_json, {"predictor": name, "versions": [msgspec.to_builtins(record) for record in mine]}, lines)


@app.command()
def rollback(
    file: File,
    version: Annotated[int | None, typer.Option(help="Which version; without it, the one before.")] = None,
    predictor: Name = None,
    data: Data = None,
    log: LogAt = None,
    registry: Annotated[str | None, typer.Option(help="An MLflow tracking server.", show_default="SQLite")] = None,
    as_json: Json = False,
) -> None:
    """Make an earlier version answer again. A running pipeline takes it up at once, another when it starts."""
    from katmatic.errors import ModelError
    from katmatic.log.codec import encode
    from katmatic.runtime import load_app, open_history

    application = load_app(file)
    name = _chosen(application, predictor)
    settings = _settings(data=data, log=log, registry=registry)
    live = [record for record in _versions(application, settings, name) if record.action in ("promoted", "rolled-back")]
    earlier = [r for r in live if live and r.version != live[-1].version]
    wanted = version if version is not None else (earlier[-1].version if earlier else None)
    record = next((r for r in reversed(earlier) if r.version == wanted), None)
    if record is None:
        raise ModelError(
            name,
            found="no version before this one" if wanted is None else f"version {wanted}",
            expected=f"one of {sorted({r.version for r in earlier})}" if earlier else "one that has answered before",
            do="`katmatic models` shows what has answered",
        )
    back = msgspec.structs.replace(record, action="rolled-back", reason="asked for by hand", now=SystemClock().now())
    with contextlib.closing(open_history(application, settings)) as history:
        history.post(MODELS, [encode(back)])
    try:
        _registry(settings).promote(name, back.version)
    except KatmaticError as error:  # it answers all the same: the log decides
        _say(f"the alias in MLflow was not moved: {escape(str(error))}")
    _show(as_json, msgspec.to_builtins(back), lambda: _say(f"{name}: version {back.version} answers again"))


@app.command()
def promote(
    file: File,
    version: Annotated[int | None, typer.Option(help="Which version; without it, the newest.")] = None,
    predictor: Name = None,
    data: Data = None,
    log: LogAt = None,
    registry: Annotated[str | None, typer.Option(help="An MLflow tracking server.", show_default="SQLite")] = None,
    registry_only: Annotated[bool, typer.Option(hidden=True)] = False,
    as_json: Json = False,
) -> None:
    """Let a version of the registry answer, wherever it was trained. A running pipeline takes it up at once."""
    from katmatic.errors import ModelError
    from katmatic.log.codec import encode
    from katmatic.runtime import load_app, open_history
    from katmatic.training.stages import REFUSED, VERDICT

    settings = _settings(data=data, log=log, registry=registry)
    application = load_app(file)
    name = _chosen(application, predictor)
    mlflow = _registry(settings)
    known = {each.version: each for each in mlflow.versions(name)}
    wanted = known.get(version if version is not None else max(known, default=0))
    if wanted is None:
        raise ModelError(
            name,
            found="no version" if version is None else f"version {version}",
            expected=f"one of {sorted(known)}" if known else "one that was trained",
            do="train it first: katmatic train",
        )
    if version is None and wanted.tags.get(VERDICT) == REFUSED:
        raise ModelError(
            f"{name} version {wanted.version}, the newest",
            found=f"refused: {wanted.tags.get('reason')}",
            expected="one that the gate has let pass",
            do=f"leave it, or name it: --version {wanted.version}",
        )
    record = ModelVersion(
        predictor=name,
        version=wanted.version,
        action="promoted",
        reason=f"asked for by hand; {wanted.tags.get('reason', 'nothing is known of its training')}",
        now=SystemClock().now(),
        artifact=wanted.folder,
        metrics=dict(wanted.metrics),
        rows=int(wanted.tags.get("rows", 0)),
    )
    if not registry_only:
        with contextlib.closing(open_history(application, settings)) as history:
            history.post(MODELS, [encode(record)])
    mlflow.promote(name, wanted.version)
    _show(as_json, msgspec.to_builtins(record), lambda: _say(f"{name}: version {wanted.version} answers"))


@app.command()
def archive(
    file: File,
    to: Annotated[str, typer.Option("--to", help="A folder, s3://bucket/path or gs://bucket/path.")],
    every: Annotated[str | None, typer.Option(help="Go on, and look so often, e.g. 10m.", show_default="once")] = None,
    data: Data = None,
    log: LogAt = None,
    as_json: Json = False,
) -> None:
    """Copy what the log holds to Parquet files: each time what has come since. The pipeline may be running."""
    from katmatic import duration
    from katmatic.errors import KatmaticError
    from katmatic.log.archive import Archive
    from katmatic.runtime import load_app, open_history, stopped_by_signals

    settings = _settings(data=data, log=log)
    application = load_app(file)
    pause = None if every is None else duration.parse(every, where="--every", least=duration.SHORTEST).total_seconds()
    stop = stopped_by_signals() if pause is not None else threading.Event()
    while True:
        try:
            with contextlib.closing(open_history(application, settings)) as history:
                found = Archive(to, application.name).extend(history)
        except KatmaticError as error:
            if pause is None:
                raise
            _say(f"not archived, and tried again in {every}: {escape(str(error))}")
        else:
            _show(as_json, {"to": to, **found}, partial(_say, f"archived {found['records']:,} records"))
        if pause is None or stop.wait(pause):
            return


@app.command()
def prove(
    file: File,
    data: Data = None,
    log: LogAt = None,
    start: Annotated[int, typer.Option(help="The block of logged rows to begin with.")] = 0,
    record: Annotated[bool, typer.Option(hidden=True)] = False,
    as_json: Json = False,
) -> None:
    """Compute what was served again from the log, naively, and compare. The pipeline may be running."""
    from katmatic.aside import give_way, last_of_all

    if record:  # for the pipeline: it goes on until nobody listens
        give_way()
    from katmatic.runtime import load_app, open_history, stopped_by_signals
    from katmatic.training.proof import Proof

    application = load_app(file)
    with contextlib.closing(open_history(application, _settings(data=data, log=log))) as history:
        if record:
            stop = stopped_by_signals()
            with contextlib.suppress(BrokenPipeError):
                for each in last_of_all(Proof(application, history, start=start).follow(stop.is_set)):
                    sys.stdout.buffer.write(msgspec.json.encode(each) + b"\n")
                    sys.stdout.buffer.flush()
            return
        found = Proof(application, history, start=start, share=1.0).whole()
    _show(as_json, msgspec.to_builtins(found), partial(_tell_skew, found))
    if found.mismatches:
        sys.exit(1)


@app.command(hidden=True)
def checkpoint(file: File, plan: Annotated[str, typer.Option()], data: Data = None) -> None:
    """Save the state as the embedded log says it is, for the pipeline, which goes on meanwhile."""
    from katmatic.aside import give_way
    from katmatic.runtime import load_app, save_checkpoint

    give_way()
    save_checkpoint(load_app(file), _settings(data=data).folder, plan)


def _tell_skew(found: SkewReport) -> None:
    table = Table("predictor", "rows", "equal", "different", "unprovable", "passed over", title="served features")
    for skew in found.skews:
        counts = (skew.rows, skew.values, skew.mismatches, skew.unprovable, skew.skipped)
        table.add_row(skew.predictor, *(f"{count:,}" for count in counts))
    Console().print(table)
    for d in found.differences:
        where = f"{d.predictor} of {', '.join(d.key)}, anchor {d.anchor}, {d.feature or 'the row'}"
        _say(f"[bold red]{escape(where)}[/]: served {escape(d.served)}, should be {escape(d.found)}")


@app.command()
def deploy(
    what: Annotated[
        str, typer.Argument(help="What the files are for: airflow, docker, grafana, kubernetes or prometheus.")
    ],
    file: File,
    folder: Annotated[Path, typer.Option("--out", help="Where to write them.")] = Path("deploy"),
    address: Annotated[str, typer.Option(help="Host and port of the running pipeline.")] = "127.0.0.1:8000",
    alertmanager: Annotated[str, typer.Option(help="Host and port of Alertmanager.")] = "127.0.0.1:9093",
    token_file: Annotated[str, typer.Option(help="Where both find the pipeline's token.", show_default="none")] = "",
    command: Annotated[str, typer.Option(help="How Airflow's tasks call katmatic.")] = "katmatic",
    data: Data = None,
    log: LogAt = None,
    registry: Annotated[str | None, typer.Option(help="An MLflow tracking server.", show_default="SQLite")] = None,
    models: ModelsAt = None,
    as_json: Json = False,
) -> None:
    """Write the files by which others train, watch and run an application elsewhere."""
    from importlib.metadata import version

    from katmatic.deploy import airflow, docker, grafana, kubernetes, prometheus
    from katmatic.errors import SettingsError
    from katmatic.runtime import load_app

    settings = _settings(data=data, log=log, registry=registry, models=models)
    makers = {
        "airflow": lambda app: airflow.files(
            app,
            file.resolve(),
            command=command,
            data=settings.folder.resolve(),
            log=settings.log,
            registry=settings.registry,
            models=settings.models,
        ),
        "docker": lambda app: docker.files(
            app,
            file,
            folder=folder,
            version=version("katmatic"),
            watching=prometheus.files(
                app, "pipeline:8000", alertmanager="alertmanager:9093", token_file=docker.TOKEN_FILE
            ),
            shown=grafana.files("http://prometheus:9090"),
            dags=airflow.files(
                app,
                Path("/app", file.name),
                command="/opt/katmatic/bin/katmatic",
                data=Path("/data"),
                log=docker.KAFKA,
                registry=docker.MLFLOW,
            ),
        ),
        "grafana": lambda app: grafana.files("http://127.0.0.1:9090"),
        "kubernetes": lambda app: kubernetes.files(
            app,
            file,
            rules=prometheus.files(app, "worker:8000", labels={"namespace": kubernetes.NAMESPACE})[prometheus.RULES],
            review=prometheus.REVIEW,
            again=prometheus.told_again(app),
        ),
        "prometheus": lambda app: prometheus.files(app, address, alertmanager=alertmanager, token_file=token_file),
    }
    if what not in makers:
        raise SettingsError("deploy", found=what, expected=f"one of {', '.join(makers)}", do="choose one")
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, text in makers[what](load_app(file)).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, "utf-8")
        written.append(str(folder / name))
    _show(as_json, {"files": written}, lambda: _say("\n".join(f"wrote {escape(path)}" for path in written)))


@app.command()
def doctor(
    file: Annotated[Path | None, typer.Argument(help="An application to look at, too.")] = None,
    data: Data = None,
    log: LogAt = None,
    as_json: Json = False,
) -> None:
    """Look at the machine, the installation, the log and the application; say what is wrong and what to do."""
    from katmatic.doctor import examine

    findings = examine(file, _settings(data=data, log=log))
    bad = [finding for finding in findings if not finding.is_well]

    def lines() -> None:
        out = Console()
        for finding in findings:
            mark = "[green]ok[/]  " if finding.is_well else "[red]BAD[/] "
            out.print(f"{mark} {escape(f'{finding.what}: {finding.found}')}", highlight=False, soft_wrap=True)
            if not finding.is_well:
                out.print(f"     {escape(finding.do)}", highlight=False, soft_wrap=True)

    _show(as_json, {"well": not bad, "findings": [msgspec.to_builtins(finding) for finding in findings]}, lines)
    if bad:
        sys.exit(1)


@app.command()
def simulate(
    file: Annotated[
        Path | None, typer.Argument(help="Your application; without it, a family that uses every word.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Live through this seed alone, as a failing one was printed.")
    ] = None,
    seeds: Annotated[int, typer.Option(help="How many seeds to live through, from --first on.")] = 100,
    first: Annotated[int, typer.Option(help="The first of them.")] = 0,
    jobs: Annotated[int | None, typer.Option(help="Processes at once.", show_default="one per core")] = None,
    plant: Annotated[str, typer.Option(hidden=True)] = "",
    as_json: Json = False,
) -> None:
    """Let an application live through crashes, full disks and wrong clocks as seeds draw them; nothing may differ."""
    from katmatic.clock import monotonic_seconds
    from katmatic.testing.simulation.run import simulate_many

    began = monotonic_seconds()
    wanted = range(first, first + seeds) if seed is None else range(seed, seed + 1)
    failed = []
    for outcome in simulate_many(wanted, file, jobs=min(jobs or os.cpu_count() or 1, len(wanted)), plant=plant):
        if seed is not None and not as_json:
            _table(f"seed {seed}", asdict(outcome))
        if not outcome.is_well:
            failed.append(outcome.seed)
            again = f"katmatic simulate {f'{file} ' if file else ''}--seed {outcome.seed}"
            _say(f"[bold red]seed {outcome.seed}[/] ({escape(outcome.app)}): {escape(outcome.difference)}")
            _say(f"  again: {escape(again)}")
    result = {"seeds": len(wanted), "failures": len(failed), "seconds": round(monotonic_seconds() - began, 2)}
    _show(as_json, {**result, "failed": failed}, lambda: _table("simulated", result))
    if failed:
        sys.exit(1)


@app.command()
def bench(
    seconds: Annotated[float, typer.Option(help="How long each measurement takes, about.")] = 3.0, as_json: Json = False
) -> None:
    """Measure this machine: events per second from JSON to the logged prediction, and how soon one is there."""
    from katmatic.measure import latency, throughput

    result = {**throughput(round(seconds * BENCH_EVENTS)), **latency(seconds)}
    _show(as_json, result, lambda: _table("this machine", result))


def _chosen(application: Any, predictor: str | None) -> str:
    from katmatic.errors import SettingsError

    names = list(application.predictors)
    if predictor is None and len(names) == 1:
        return str(names[0])
    if predictor not in names:
        raise SettingsError(
            "--predictor", found=str(predictor), expected=f"one of {', '.join(names) or 'none'}", do="name it"
        )
    return str(predictor)


def _registry(settings: Settings) -> Any:
    """MLflow: the tracking server that is set, else a file in the data folder."""
    from katmatic.registry.mlflow import MlflowRegistry

    return MlflowRegistry(settings.registry or f"sqlite:///{(settings.folder / 'registry.db').resolve()}")


def _history(application: Any, settings: Settings, archive: str | None) -> Any:
    """What is committed: in the log, or in an archive of it."""
    from katmatic.errors import SettingsError
    from katmatic.log.archive import Archive
    from katmatic.runtime import open_history

    if archive is None:
        return open_history(application, settings)
    found = Archive(archive, application.name)
    if not found.files:
        raise SettingsError(
            "--from",
            found=f"nothing of {application.name} in {archive.partition('?')[0]}",
            expected="an archive of its log",
            do="name the place that was given to `katmatic archive --to`",
        )
    return found


def _versions(application: Any, settings: Settings, predictor: str) -> list[ModelVersion]:
    """Every change of who answers, oldest first; also those that a pipeline will take up when it starts."""
    from katmatic.log.codec import decode
    from katmatic.runtime import open_history

    with contextlib.closing(open_history(application, settings)) as history:
        values = [*(value for _, value in history.scan(MODELS)), *history.pending(MODELS)]
    records: list[ModelVersion] = [decode(MODELS, value) for value in values]
    return [record for record in records if record.predictor == predictor]


def _pair(text: str) -> tuple[str, str]:
    from katmatic.errors import SettingsError

    field, equals, column = text.partition("=")
    if not equals or not field or not column:
        raise SettingsError("--map", found=text, expected="field=column", do="e.g. --map student_id=tag")
    return field, column


def _speed(text: str) -> float | None:
    """How many times as fast as the clock; None: as fast as it can."""
    from katmatic.errors import SettingsError

    if text == "max":
        return None
    try:
        speed = float(text)
    except ValueError:
        speed = math.nan
    if not 0 < speed < math.inf:
        raise SettingsError("--speed", found=text, expected="max, or a number above 0", do="e.g. --speed 60")
    return speed


def _figures(found: dict[str, float]) -> str:
    return " ".join(f"{name} {value:.4g}" for name, value in found.items())


def _table(title: str, found: dict[str, Any]) -> None:
    table = Table("", "", title=title, show_header=False)
    for name, value in found.items():
        shown = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
        table.add_row(name, escape(shown))
    Console().print(table)
