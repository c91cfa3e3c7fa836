"""One seed, or many: what came of them."""

from __future__ import annotations

import tempfile
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path

from katmatic.errors import SettingsError
from katmatic.spec.app import App
from katmatic.testing.simulation import compare, plants
from katmatic.testing.simulation.apps import APPS
from katmatic.testing.simulation.models import make_models
from katmatic.testing.simulation.script import draw
from katmatic.testing.simulation.world import Different, Models, World

AT_ONCE = 8  # seeds that a process is handed


@dataclass(frozen=True)
class Outcome:
    """What came of a seed."""

    seed: int
    app: str
    is_gentle: bool
    happenings: int
    records: int
    lives: int
    writes: int
    difference: str = ""  # what was not equal, or did not hold; nothing if all was well

    @property
    def is_well(self) -> bool:
        """Whether all was equal, and held."""
        return not self.difference


def simulate(seed: int, app: App | None = None, *, plant: str = "") -> Outcome:
    """Live through what the seed draws, disturbed and undisturbed, and compare. `app` None: one that the seed draws.

    `plant` names a bug that is to be planted: for tests of the simulation itself.
    """
    app = app or _family()[seed % len(APPS)]
    script, planted = draw(app, seed), _planted(plant)
    with tempfile.TemporaryDirectory(prefix="katmatic-simulation-", dir=_memory()) as name:
        folder = Path(name).resolve()
        world = World(script, _models(app), folder, planted)
        difference = ""
        try:
            world.go()
            world.close()
            _compare(world)
        except Different as error:
            difference = str(error)
        except Exception as error:  # whatever it is, it is no way to end
            difference = "".join(traceback.format_exception(error))
        finally:
            world.close()
        assert world.disk is not None
        return Outcome(
            seed,
            app.name,
            script.is_gentle,
            len(script.happenings),
            len(world.sent),
            world.lives,
            world.disk.writes,
            difference,
        )


def simulate_many(seeds: Sequence[int], path: Path | None, *, jobs: int, plant: str = "") -> Iterator[Outcome]:
    """The outcomes of seeds in their order, from several processes."""
    if jobs <= 1:
        _begin(path)
        yield from map(_one, seeds, [plant] * len(seeds))
        return
    with ProcessPoolExecutor(jobs, get_context("spawn"), _begin, (path,)) as pool:
        yield from pool.map(_one, seeds, [plant] * len(seeds), chunksize=AT_ONCE)


def _planted(name: str) -> plants.Plant:
    if name not in plants.PLANTS:
        names = ", ".join(filter(None, plants.PLANTS))
        raise SettingsError("--plant", found=name, expected=f"one of {names}", do="choose one, or none")
    return plants.PLANTS[name]


def _compare(world: World) -> None:
    script, live = world.script, world.life.live
    counts = world.life.pipeline.state.store.counts
    now = max(world.machine, world.life.pipeline.state.now)  # the clock may have gone back, the log's time did not
    with closing(world.history()) as found:
        if script.is_gentle:
            twin = World(script, world.models, plant=world.plant.undisturbed())
            twin.go()
            compare.compare_logs(found, twin.life.log)
            compare.compare_rows(script.app, found, twin.life.log, now)
            compare.compare_quality(live, twin.life.live, now)
        else:
            cut = bool(script.seed // 2 % 2)
            again, lived = compare.live_through(script.app, list(found.batches()), world.plant.undisturbed(), cut=cut)
            compare.compare_written(found, again, cut=cut)
            compare.compare_rows(script.app, found, again, now)
            compare.compare_quality(live, lived, now)
        compare.ask_oracle(script.app, found, counts)


@cache
def _family() -> list[App]:
    return [make() for make in APPS.values()]


_made: dict[int, tuple[tempfile.TemporaryDirectory[str], Models, App]] = {}  # by application


def _models(app: App) -> Models:
    if id(app) not in _made:
        folder = tempfile.TemporaryDirectory(prefix="katmatic-models-")
        _made[id(app)] = folder, make_models(app, Path(folder.name)), app
    return _made[id(app)][1]


def _memory() -> str | None:
    """A folder in memory, if there is one: what a seed writes is thrown away."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


_app: list[App | None] = [None]


def _begin(path: Path | None) -> None:
    from katmatic.runtime import load_app

    _app[0] = None if path is None else load_app(path)


def _one(seed: int, plant: str) -> Outcome:
    return simulate(seed, _app[0], plant=plant)
