"""The house in order: names, docstrings and files agree; time and chance are asked in one place."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import katmatic

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "katmatic"
FILES = sorted(SOURCE.rglob("*.py"))
DISTRIBUTIONS = {  # where the names differ
    "confluent_kafka": "confluent-kafka",
    "sklearn": "scikit-learn",
    "mlflow": "mlflow-skinny",
}
ENTRANCES = {  # what users start or import
    "katmatic",
    "katmatic.__main__",
    "katmatic.cli",
    "katmatic.testing",
    "katmatic.training.tensorflow",
}


def module_name(file: Path) -> str:
    parts = file.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(file): file for file in FILES}


def tracked() -> list[Path]:
    """The files that git keeps; in an unpacked archive, all that is there."""
    found = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    names = found.stdout.split("\0") if found.returncode == 0 else []
    return [ROOT / name for name in names if name and (ROOT / name).is_file()]


def test_a_user_needs_eleven_names():
    assert katmatic.__all__ == [
        "App", "Event", "Id", "Key", "Promote", "Rank", "Retrain", "Served", "Time", "future", "past",
    ]  # fmt: skip
    assert all(hasattr(katmatic, name) for name in katmatic.__all__)


@pytest.mark.parametrize("name", MODULES)
def test_every_public_name_has_a_docstring(name):
    tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))
    missing = [] if ast.get_docstring(tree) else ["the file itself"]
    missing += [
        owner + node.name for owner, node in public_definitions(tree, "") if not ast.get_docstring(node, clean=False)
    ]
    assert not missing, f"{name}: no docstring on {', '.join(missing)}"


def public_definitions(parent, owner):
    for node in ast.iter_child_nodes(parent):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            if not any(getattr(d, "id", getattr(d, "attr", "")) in ("overload", "setter") for d in node.decorator_list):
                yield owner, node
            if isinstance(node, ast.ClassDef):
                yield from public_definitions(node, f"{owner}{node.name}.")


def imports(file: Path) -> set[str]:
    """The modules that a file imports; of `from a import b` also `a.b`, in case that is one."""
    package = module_name(file) if file.name == "__init__.py" else module_name(file).rpartition(".")[0]
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            up = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*up, *([node.module] if node.module else [])])
            found |= {base} | {f"{base}.{alias.name}" for alias in node.names}
    return found


def test_no_file_is_dead():
    """Every file is reached from an entrance, by import or by its name in a string (`python -m katmatic.x`)."""
    if "katmatic.cli" not in MODULES:
        return  # nothing to start yet, so nothing is reached from it
    reached, waiting = set(), [name for name in ENTRANCES if name in MODULES]
    waiting += [name for name in MODULES if name.startswith("katmatic.testing.")]
    texts = {name: file.read_text(encoding="utf-8") for name, file in MODULES.items()}
    while waiting:
        name = waiting.pop()
        if name in reached:
            continue
        reached.add(name)
        parents = [name.rpartition(".")[0]]
        spoken = [other for other in MODULES if f'"{other}"' in texts[name]]
        waiting += [other for other in (*imports(MODULES[name]), *parents, *spoken) if other in MODULES]
    assert sorted(set(MODULES) - reached) == [], "files that nothing imports"


BACKENDS = ("airflow", "files", "kafka", "local", "memory", "mlflow", "sqlite")
WIRING = ("katmatic.cli", "katmatic.doctor", "katmatic.measure", "katmatic.runtime", "katmatic.testing")


@pytest.mark.parametrize("name", MODULES)
def test_only_the_wiring_names_a_backend(name):
    """The import contracts are in .importlinter; this one must hold before the wiring exists, which they cannot say."""
    if name.startswith(WIRING):
        return
    named = {other for other in imports(MODULES[name]) if other in MODULES and other.rpartition(".")[2] in BACKENDS}
    assert named <= {name}, f"{name} names {', '.join(sorted(named))}: take it as an argument"


FORBIDDEN_CALLS = {
    "time.time", "time.time_ns", "time.monotonic", "time.monotonic_ns", "time.perf_counter", "time.perf_counter_ns",
    "time.process_time", "time.sleep", "datetime.now", "datetime.utcnow", "datetime.today", "date.today",
    "datetime.datetime.now", "datetime.datetime.utcnow", "datetime.date.today", "os.urandom", "uuid.uuid1",
    "uuid.uuid4",
}  # fmt: skip
SECRETS_MAY_BE_DRAWN = {"katmatic.serving.access"}  # a token must be one that nobody can guess


@pytest.mark.parametrize("name", [name for name in MODULES if name != "katmatic.clock"])
def test_time_and_chance_are_asked_in_one_place(name):
    """Only `clock.py` asks the machine the time; chance comes from a generator with a seed, given as an argument."""
    tree, wrong = ast.parse(MODULES[name].read_text(encoding="utf-8")), []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            banned = {"random", "time"} | (set() if name in SECRETS_MAY_BE_DRAWN else {"secrets"})
            wrong += [f"line {node.lineno}: imports {found}" for found in names if found in banned]
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            seeded = bool(node.args or node.keywords)
            of_numpy = re.match(r"(np|numpy)\.random\.(\w+)$", called)
            if called in FORBIDDEN_CALLS:
                wrong.append(f"line {node.lineno}: {called}()")
            if of_numpy and not (seeded and of_numpy[2] in ("default_rng", "Generator", "SeedSequence", "PCG64")):
                wrong.append(f"line {node.lineno}: {called} without a seed")
    assert not wrong, f"{name} asks for time or chance by itself: {'; '.join(wrong)}"


# Written in pieces, so that this file does not find itself.
MACHINE = re.compile(
    "|".join((r"(?<!\w)/" + "work/", "/" + "root/", r"/home" + r"/\w+/", "/" + r"tmp/\w+", r"/Users" + r"/\w+"))
)
REGISTRY = re.compile(
    r"(index-url|find-links)[ =]+\S|\"resolved\": *\"http|registry *= *\"http|^\[\[?(tool\.uv\.)?index", re.M
)


def test_no_file_names_a_machine_or_a_registry():
    wrong = []
    for file in tracked():
        if file.suffix in (".png", ".jpg", ".svg", ".gz", ".parquet", ".woff2", ".ico"):
            continue
        text = file.read_text(encoding="utf-8", errors="replace")
        for number, line in enumerate(text.splitlines(), 1):
            if MACHINE.search(line) or REGISTRY.search(line):
                wrong.append(f"{file.relative_to(ROOT)}:{number}: {line.strip()[:100]}")
    assert not wrong, "\n".join(wrong)


def test_no_merge_was_left_half_done():
    marks = ("<" * 7 + " ", ">" * 7 + " ")
    texts = {file: file.read_bytes() for file in tracked() if file.suffix in (".md", ".py", ".toml", ".txt", ".html")}
    assert [file.name for file, text in texts.items() if any(m.encode() in text for m in marks)] == []


def test_every_import_is_declared():
    """The code imports the standard library, itself, and what pyproject.toml asks for by name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [line for name, lines in project["optional-dependencies"].items() if name != "dev" for line in lines]
    declared = {re.split(r"[^\w-]", line)[0].lower() for line in (*project["dependencies"], *extras)}
    imported = {name.partition(".")[0] for file in FILES for name in imports(file)}
    foreign = imported - set(sys.stdlib_module_names) - {"katmatic"}
    assert {DISTRIBUTIONS.get(name, name) for name in foreign} <= declared


def read(path: str) -> str:
    file = ROOT / path
    return file.read_text(encoding="utf-8") if file.exists() else ""


def documented(path: str, pattern: str) -> set[str]:
    return set(re.findall(pattern, read(path), re.M))


def words() -> dict[str, object]:
    """All that a user writes, by the name under which docs/reference/words.md explains it."""
    found: dict[str, object] = {name: getattr(katmatic, name) for name in katmatic.__all__}
    for name in ("past", "future"):
        module = found.pop(name)
        found |= {
            f"{name}.{word}": value
            for word, value in vars(module).items()
            if inspect.isfunction(value) and value.__module__ == module.__name__ and not word.startswith("_")
        }
    found |= {
        f"App.{word}": value
        for word, value in vars(katmatic.App).items()
        if inspect.isfunction(value) and not word.startswith("_")
    }
    found["Predictor.when"] = importlib.import_module("katmatic.spec.app").Predictor.when
    return found


def test_every_word_is_explained_and_every_explained_word_exists():
    assert documented("docs/reference/words.md", r"^#{2,3} `([\w.]+)") == set(words()) | {"past", "future"}


@pytest.mark.parametrize("name", words())
def test_every_argument_of_a_word_is_explained(name):
    if name in ("Event", "Id", "Key", "Served", "Time"):
        return  # these take none
    text = read("docs/reference/words.md")
    before, _, after = text.partition(f"# `{name}")
    own = re.split(r"^#{1,3} ", after, maxsplit=1, flags=re.M)[0]
    shared = re.split(r"^### ", re.split(r"^## ", before, flags=re.M)[-1], flags=re.M)[0]
    missing = [
        argument
        for argument in inspect.signature(words()[name]).parameters
        if argument != "self" and not re.search(rf"`{argument}\b", shared + own)
    ]
    assert not missing, f"docs/reference/words.md, {name}: {', '.join(missing)}"


def test_settings_and_their_documentation_agree():
    if "katmatic.settings" not in MODULES:
        return
    settings = importlib.import_module("katmatic.settings").Settings
    names = set(settings.__struct_fields__ if hasattr(settings, "__struct_fields__") else settings.__dataclass_fields__)
    assert documented("docs/reference/settings.md", r"^\| `(\w+)`") == names


def metrics_used() -> set[str]:
    """Names given to `metrics.add`, `.set`, `.renew` and `.observe`, wherever they are written as texts."""
    used = set()
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute) or not node.args:
                continue
            name = node.args[0]
            is_metric = node.func.attr in ("add", "set", "renew", "observe") and ast.unparse(node.func.value).endswith(
                "metrics"
            )
            if is_metric and isinstance(name, ast.Constant) and isinstance(name.value, str):
                used.add(name.value.removeprefix("katmatic_"))
    return used


def test_metrics_and_their_documentation_agree():
    assert documented("docs/reference/metrics.md", r"^\| `(?:katmatic_)?(\w+)") == metrics_used()


def test_routes_and_their_documentation_agree():
    if "katmatic.serving.api" not in MODULES:
        return
    used = set()
    for name, file in MODULES.items():
        if name.startswith("katmatic.serving"):
            used |= set(re.findall(r'Route\(\s*f?"(/[^"]*)"', file.read_text(encoding="utf-8")))
    plain = {re.sub(r":\w+}", "}", path) for path in used}  # without Starlette's converters
    assert documented("docs/reference/http.md", r"`(?:GET|POST|DELETE|PUT) (/[^\s`]*)`") == plain


def test_commands_and_their_documentation_agree():
    if "katmatic.cli" not in MODULES:
        return
    import typer

    commands = set(typer.main.get_command(importlib.import_module("katmatic.cli").app).commands)
    assert documented("docs/reference/cli.md", r"^## `katmatic (\w+)") == commands


PAGES = [file for file in tracked() if file.suffix == ".md"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, anchor = target.partition("#")
        other = (page.parent / path).resolve() if path else page
        if re.match(r"\w+:", target):
            continue
        if not other.exists() or (anchor and anchor not in anchors(other)):
            broken.append(target)
    assert not broken, f"{page.relative_to(ROOT)}: {', '.join(broken)}"


def anchors(page: Path) -> set[str]:
    """The names that headings get: lower case, without punctuation, dashes for spaces."""
    titles = re.findall(r"^#+ (.*)", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_decisions_are_numbered_without_a_gap_and_listed():
    found = sorted(file.name for file in (ROOT / "docs/decisions").glob("[0-9]*.md"))
    assert [name[:4] for name in found] == [f"{number:04}" for number in range(1, len(found) + 1)]
    assert documented("docs/decisions/README.md", r"\]\((\d{4}-[\w-]+\.md)\)") == set(found)


def test_the_readme_shows_the_example_as_it_is():
    shown = re.findall(r"^```python\n(.*?)^```", read("README.md"), re.M | re.S)
    assert read("examples/attendance.py") in shown


def test_the_words_of_the_makefile_are_the_ones_we_tell():
    told = documented("CONTRIBUTING.md", r"^\| `make (\w+)`")
    assert told == set(re.findall(r"^(\w+):.*##", read("Makefile"), re.M)) - {"help"}


def test_every_error_has_four_parts():
    errors = importlib.import_module("katmatic.errors")
    for _, kind in inspect.getmembers(errors, inspect.isclass):
        if issubclass(kind, errors.KatmaticError):
            assert kind("here", found="F", expected="E", do="do").as_dict() == {
                "where": "here", "found": "F", "expected": "E", "do": "do",
            }  # fmt: skip
