"""What is wrong, and what to do: the machine, the installation, the log, the models, and an application."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from katmatic.clock import SystemClock, to_datetime
from katmatic.duration import spell
from katmatic.errors import KatmaticError
from katmatic.log.codec import decode
from katmatic.log.sqlite import open_readonly
from katmatic.predictions.artifact import load
from katmatic.records import ALERTS, DEAD, LABELS, MODELS, PREDICTIONS, ModelVersion
from katmatic.runtime import load_app, open_history
from katmatic.settings import Settings
from katmatic.state import loop

if TYPE_CHECKING:
    from katmatic.engine.plan import Plan

FREE_BYTES = 1 << 30
YEAR_2025 = 1_735_689_600_000_000


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was looked at; `do` helps where it is not well."""

    what: str
    found: str
    is_well: bool = True
    do: str = ""
    figures: dict[str, Any] | None = None  # the same for machines


def examine(file: Path | None, settings: Settings) -> list[Finding]:
    """All findings, the machine first; an application is read only if a `file` is given."""
    looks: list[Callable[[], Iterator[Finding]]] = [_machine, lambda: _folder(settings), lambda: _port(settings)]
    if file is not None:
        looks.append(lambda: _application(file))
    if settings.log:
        looks.append(lambda: _kafka(file, settings))
    elif (settings.folder / "log.db").exists():
        looks += [lambda: _log(settings.folder / "log.db"), lambda: _models(settings.folder / "log.db")]
    findings: list[Finding] = []
    for look in looks:
        try:
            findings.extend(look())
        except KatmaticError as error:
            findings.append(Finding(what=error.where, found=error.found, is_well=False, do=error.do))
    return findings


def _machine() -> Iterator[Finding]:
    yield Finding(what="katmatic", found=f"{metadata.version('katmatic')}, Python {platform.python_version()}")
    there = loop.found()
    yield Finding(
        what="compiled loops",
        found=there.name if there else "none for this machine",
        is_well=there is not None,
        do=f"{Path(sys.executable).name} -m katmatic.state.compile  (half a minute; else the first start does it)",
    )
    now = SystemClock().now()
    yield Finding(
        what="clock",
        found=to_datetime(now).isoformat(timespec="seconds"),
        is_well=now > YEAR_2025,
        do="set the machine's clock: live events are taken or refused by it",
    )
    limit = _open_files()
    yield Finding(
        what="open files",
        found=f"at most {limit:,}" if limit else "no limit known",
        is_well=not limit or limit >= 256,
        do="raise it: ulimit -n 1024",
    )


def _open_files() -> int:
    with contextlib.suppress(ImportError):
        import resource

        return int(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    return 0


def _folder(settings: Settings) -> Iterator[Finding]:
    folder = settings.folder
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    yield Finding(
        what="data folder",
        found=str(folder) + ("" if folder.exists() else ", which is not there yet"),
        is_well=there.is_dir() and os.access(there, os.W_OK),
        do=f"let this user write to {there}, or choose another: --data FOLDER",
    )
    free = shutil.disk_usage(there).free
    yield Finding(
        what="free disk",
        found=f"{free / 1e9:.1f} GB",
        is_well=free >= FREE_BYTES,
        do="make room: with a full disk nothing is lost, but nothing more is taken in",
    )


def _port(settings: Settings) -> Iterator[Finding]:
    with socket.socket() as probe:
        probe.settimeout(0.5)
        is_taken = probe.connect_ex((settings.host, settings.port)) == 0
    yield Finding(
        what=f"port {settings.port}",
        found="somebody answers there: this pipeline, if it runs" if is_taken else "free",
    )
    is_open = settings.host not in ("127.0.0.1", "::1", "localhost")
    yield Finding(
        what="access",
        found=f"{settings.host}, {'with' if settings.token else 'without'} a token",
        is_well=bool(settings.token) or not is_open,
        do="set KATMATIC_TOKEN, or bind to 127.0.0.1: whoever reaches the port reads and writes everything",
    )


def _application(file: Path) -> Iterator[Finding]:
    from katmatic.engine.plan import compile

    app = load_app(file)
    plan = compile(app)
    yield Finding(
        what=f"application {app.name}",
        found=f"{len(app.events)} events, {len(app.labels)} labels, {len(app.predictors)} predictors",
    )
    yield from _memory(plan)
    for name, predictor in app.predictors.items():
        yield Finding(what=f"predictor {name}", found=f"{len(predictor.features)} features")


def _memory(plan: Plan) -> Iterator[Finding]:
    """What the state takes: the declaration says it, before anything has happened."""
    from katmatic.engine.bound import bounds

    found = bounds(plan)
    for bound in found.keys:
        held = "".join(
            f" + {window.event_bytes} for each {window.of}"
            + ("" if window.seconds is None else f" of the last {spell(timedelta(seconds=window.seconds))}")
            for window in bound.windows
        )
        kept = "for ever" if bound.for_ever else "until its windows are empty and its labels closed"
        million = bound.worst_bytes(10) / 1e3  # GB of a million
        yield Finding(
            what=f"memory per {bound.key}",
            found=f"{bound.key_bytes} bytes{held}; kept {kept}; "
            f"a million with ten events in each window: at most {million:.1f} GB",
            figures=msgspec.to_builtins(bound),
        )
    for name, size in found.label_bytes.items():
        life = spell(timedelta(seconds=found.label_seconds[name]))
        yield Finding(
            what=f"memory per open {name}",
            found=f"{size} bytes, for {life} after its anchor, longer while a silent source holds it",
            figures={"label_bytes": size, "label_seconds": found.label_seconds[name]},
        )
    if found.identity_seconds:
        yield Finding(
            what="memory per event, to know duplicates",
            found=f"{found.identity_bytes} bytes, for {spell(timedelta(seconds=found.identity_seconds))}",
            figures={"identity_bytes": found.identity_bytes, "identity_seconds": found.identity_seconds},
        )


def _log(path: Path) -> Iterator[Finding]:
    with contextlib.closing(open_readonly(path)) as log:
        last = records = 0
        for batch in log.batches():
            last, records = batch.now, records + len(batch)
        written = {topic: sum(1 for _ in log.scan(topic)) for topic in (PREDICTIONS, LABELS, ALERTS, DEAD)}
    made = f"{written[PREDICTIONS]:,} blocks of predictions, {written[LABELS]:,} of labels"
    told = f"{written[ALERTS]:,} alerts, {written[DEAD]:,} dead letters"
    until = f", the last at {to_datetime(last).isoformat(timespec='seconds')}" if last else ""
    yield Finding(what="log", found=f"{records:,} records read, {made}, {told}{until}; every checksum holds")
    yield Finding(what="log file", found=f"{path.stat().st_size / 1e6:.1f} MB")


def _kafka(file: Path | None, settings: Settings) -> Iterator[Finding]:
    where = settings.log.partition("?")[0]  # without what lets us in
    if file is None:
        yield Finding(what="log", found=where, is_well=False, do="name the application, to look at its log, too")
        return
    with contextlib.closing(open_history(load_app(file), settings)) as log:
        ends = {topic: log.end(topic) for topic in (PREDICTIONS, LABELS, ALERTS, DEAD)}
    told = ", ".join(f"{end:,} {topic.removeprefix('katmatic.')}" for topic, end in ends.items())
    yield Finding(what="log", found=f"{where} answers: {told}")


def _models(path: Path) -> Iterator[Finding]:
    champions: dict[str, ModelVersion] = {}
    with contextlib.closing(open_readonly(path)) as log:
        for batch in log.batches():
            for piece in batch.slices:
                for record in (decode(MODELS, value) for value in piece.values if piece.topic == MODELS):
                    if record.action in ("promoted", "rolled-back"):
                        champions[record.predictor] = record
    for name, record in champions.items():
        load(record.artifact)
        yield Finding(what=f"model of {name}", found=f"version {record.version} answers as it did when it was made")
