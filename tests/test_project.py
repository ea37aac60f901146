"""The project itself: what installing brings, what importing costs, what the wheel holds."""

import ast
import importlib.util
import re
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OLDEST = (ROOT / "constraints-oldest.txt").read_text().splitlines()
HEAVY = ("matplotlib", "gradio", "ray", "diffusers", "transformers", "torch", "jinja2", "typer", "fastapi")


def tree(roots):
    """Every installed distribution that installing `roots` brings, by canonical name."""
    found, todo = set(), [(Requirement(root).name, frozenset(Requirement(root).extras)) for root in roots]
    while todo:
        name, extras = todo.pop()
        name = re.sub(r"[-_.]+", "-", name).lower()
        if (name, extras) in found:
            continue
        found.add((name, extras))
        try:
            wanted = [Requirement(line) for line in requires(name) or []]
        except PackageNotFoundError:  # required by a marker of another platform
            continue
        for requirement in wanted:
            environments = [{"extra": extra} for extra in extras or {""}]
            if requirement.marker is None or any(map(requirement.marker.evaluate, environments)):
                todo.append((requirement.name, frozenset(requirement.extras)))
    return {name for name, _ in found}


def tracked(folder):
    """The files under version control; skips where there is none, as in an unpacked source archive."""
    done = subprocess.run(["git", "ls-files", folder], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("this is no git checkout")
    return [name for name in done.stdout.split() if (ROOT / name).is_file()]


@pytest.mark.parametrize("extra", ["", *PROJECT["optional-dependencies"]])
def test_torchvision_is_nowhere_in_the_requirement_tree(extra):
    """It is bound to one build of torch, so that it would replace the user's own."""
    brought = tree([f"headwise[{extra}]" if extra else "headwise"])
    assert {"torch", "diffusers", "typer"} <= brought, "the walk works"
    assert not brought & {"torchvision", "torchaudio", "timm", "open-clip-torch"}


def test_the_walk_would_find_torchvision():
    assert "torchvision" in tree(["transformers[vision,torch-vision]"])  # as newer and older versions call it


LOADING = {
    "import headwise": set(),
    "headwise.HeadMap, headwise.HeadwiseError": set(),
    "headwise.Relevance": set(),
    "headwise.plots.heat_map": {"matplotlib"},
    "headwise.measure, headwise.merge, headwise.RayWorkers": {"matplotlib", "torch"},
}


def test_each_name_loads_only_what_it_needs():
    """In one process, from the lightest on: each line may load these packages more, and no other."""
    lines = [f"{line}; print(*(name for name in {HEAVY} if name in sys.modules))" for line in LOADING]
    lines.append("print('matplotlib.pyplot' in sys.modules)")
    script = "import sys, headwise\n" + "\n".join(lines)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    *loaded, global_state = done.stdout.splitlines()
    assert {line: set(names.split()) for line, names in zip(LOADING, loaded, strict=True)} == LOADING
    assert global_state == "False"


def test_every_public_name_is_there():
    import headwise

    assert all(getattr(headwise, name) is not None for name in headwise.__all__)
    assert headwise.__version__ == PROJECT["version"] == version("headwise")


def test_installing_headwise_pins_nothing():
    """A user with a GPU keeps the torch that fits it."""
    for line in PROJECT["dependencies"]:
        assert {specifier.operator for specifier in Requirement(line).specifier} <= {">=", "!="}, line


def test_constraints_name_the_versions_the_tests_run_on():
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and line[0] != "#"]
    pins = {Requirement(line).name: Requirement(line) for line in lines}
    direct = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["test"]]
    assert {Requirement(line).name for line in direct} - {"headwise"} <= pins.keys()
    oldest = {Requirement(line).name: Requirement(line) for line in OLDEST if line[0] != "#"}
    if all(pin.specifier.contains(version(name)) for name, pin in oldest.items()):
        pins |= oldest  # this is `make test-oldest`
    for name in {Requirement(line).name for line in PROJECT["dependencies"]}:
        assert pins[name].specifier.contains(version(name)), f"{name} {version(name)} is installed"


def test_the_oldest_versions_are_those_that_are_declared():
    declared = {r.name: r for r in map(Requirement, PROJECT["dependencies"])}
    for pin in (Requirement(line) for line in OLDEST if line[0] != "#"):
        (least,), (tested,) = declared[pin.name].specifier, pin.specifier
        assert least.operator == ">=" and Version(least.version) == Version(tested.version), pin.name


def test_every_package_is_a_chapter_and_the_ground_is_named():
    stated = (ROOT / "CONTRIBUTING.md").read_text()
    root = ROOT / "src" / "headwise"
    packages = {file.parent.name for file in root.glob("*/__init__.py")} - {"emoji"}
    assert [name for name in sorted(packages) if f"`{name}/`**" not in stated] == []
    assert [file.stem for file in root.glob("[!_]*.py") if f"`{file.stem}`" not in stated] == []


def test_the_wheel_holds_all_data():
    builder = WheelBuilder(str(ROOT))
    inside = {file.distribution_path for file in builder.recurse_included_files()}
    wanted = {name.removeprefix("src/") for name in tracked("src")}
    assert "headwise/data/paper34.toml" in wanted and wanted - inside == set()
    weights = sum(
        file.stat().st_size for file in (ROOT / "src" / "headwise" / "emoji").rglob("*.safetensors")
    )
    assert weights <= 80 * 10**6  # which make a wheel of less than the 100 MB that PyPI takes


def test_make_says_what_to_do_about_an_old_python(tmp_path):
    old = tmp_path / "python"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.9.2 && exit\nexit 1\n')
    old.chmod(0o755)
    done = subprocess.run(
        ["make", "demo", f"PYTHON={old}", f"VENV={tmp_path / 'venv'}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert "needs Python 3.11 or newer; found: Python 3.9.2" in done.stderr
    assert not (tmp_path / "venv").exists()


def test_no_path_of_one_machine_is_written_down():
    home = re.compile(r"(?<![\w/.])/(home|Users)/\w")
    texts = [ROOT / name for name in tracked(".") if name.endswith((".py", ".md", ".toml", ".txt", ".html"))]
    assert len(texts) > 20
    assert [str(file) for file in texts if home.search(file.read_text(errors="ignore"))] == []


SCRIPTS = sorted(
    file for folder in ("benchmarks", "training", "examples") for file in (ROOT / folder).glob("*.py")
)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda file: f"{file.parent.name}/{file.name}")
def test_what_scripts_import_of_the_library_exists(script):
    for node in ast.walk(ast.parse(script.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "headwise":
            module = importlib.import_module(node.module)
            for name in node.names:
                inner = f"{node.module}.{name.name}"
                assert hasattr(module, name.name) or importlib.util.find_spec(inner), inner
