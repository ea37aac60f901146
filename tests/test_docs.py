"""The documents: their code runs, their commands exist, their links lead somewhere."""

import json
import re
import runpy
import shlex
import sys

import numpy as np
import pytest
import typer
from PIL import Image
from safetensors import safe_open

import headwise
from headwise.cli.commands import app
from headwise.measuring.concepts import ConceptSet
from headwise.measuring.relevance import Relevance
from headwise.model.heads import HeadMap
from headwise.pictures import save_picture
from helpers import ROOT, blocks, sd_map, votes_on

PAGES = sorted(
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")]
)
EMOJI = ROOT / "src" / "headwise" / "data" / "emoji.toml"


@pytest.fixture
def workspace(sd, tmp_path, monkeypatch):
    """An empty folder to work in, where the tiny pipeline stands in for the slower built-in one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("headwise.model.pipelines.load_pipeline", lambda name, **options: sd)
    if not EMOJI.exists():
        load = ConceptSet.load
        monkeypatch.setattr(ConceptSet, "load", lambda name: load("paper34" if name == "emoji" else name))
    return tmp_path


def run(page):
    """Run all Python blocks of a page, one after the other, as one program."""
    names = {}
    for block in blocks(page, "python"):
        exec(compile(block, str(page), "exec"), names)
    return names


@pytest.mark.filterwarnings("ignore:The image is reconstructed poorly")  # by a random autoencoder
def test_the_guide_runs_and_the_format_is_as_written(workspace, capsys):
    assert run(ROOT / "docs" / "guide.md")["page"].is_file()
    assert "Did you mean 'Color'?" in capsys.readouterr().out
    said = run(ROOT / "docs" / "format.md")["said"]
    text = (ROOT / "docs" / "format.md").read_text()
    for file in ("relevance", "votes"):
        with safe_open(workspace / "runs" / "guide" / f"{file}.safetensors", "np") as opened:
            table = text.split(f"## {file.title()}\n")[1].split("| tensor |")[1].split("\n\n")[0]
            assert set(opened.keys()) == set(re.findall(r"^\| `(\w+)` \|", table, re.M)), file
    for key in [*said, "model", "weights", "pictures", "versions"]:
        assert f"`{key}`" in text, key
    settings = json.loads((workspace / "runs" / "guide" / "run.json").read_text())["settings"]
    assert {"model", "weights", "seed", "num_inference_steps"} <= settings.keys()
    for path in re.findall(r"^\| `([\w./]+\.\w+)`", text, re.M):
        assert (workspace / "runs" / "guide" / path).is_file(), path


@pytest.mark.filterwarnings("ignore:The first was measured by votes")  # as the page means to
def test_the_tutorial_runs(workspace, capsys):
    names = run(ROOT / "docs" / "tutorial_figure.md")
    assert (workspace / "weather.pdf").is_file()
    assert names["effect"].kind == "effect" and "weights" in names["settings"]
    assert "random order:" in capsys.readouterr().out


def test_the_readme_runs(workspace, capsys):
    run(ROOT / "README.md")
    assert "±" in capsys.readouterr().out


EXAMPLES = {
    "measure": "±",
    "steer": "adjusted.png",
    "weaken": "area",
    "edit": "edited.png",
    "compose": "composed.png",
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_run(name, workspace, sd, capsys, monkeypatch):
    head_map, names = HeadMap.of(sd), ConceptSet.load("emoji").names
    votes = np.random.default_rng(0).integers(1, 50, (len(names), head_map.all_heads))
    Relevance.from_votes(votes, names, head_map).save("mine.safetensors")
    options = ["--steps", "2", "--prompts" if name == "weaken" else "--pictures", "2"]
    options += [] if name == "measure" else ["--relevance", "mine.safetensors"]
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *options])
    runpy.run_path(str(ROOT / "examples" / f"{name}.py"))
    out = capsys.readouterr().out
    assert EXAMPLES[name] in out
    assert sorted(re.findall(r"\w+\.png", out)) == sorted(file.name for file in workspace.glob("*.png"))


def test_every_example_is_run():
    assert {file.stem for file in (ROOT / "examples").glob("*.py")} == EXAMPLES.keys()


def test_examples_are_short():
    for file in (ROOT / "examples").glob("*.py"):
        assert 20 <= len(file.read_text().splitlines()) <= 40, file


def commands():
    for page in PAGES:
        for block in blocks(page, "console") + blocks(page, "text"):
            for line in re.findall(r"^(?:\$ | {4})(?:.*\| )?(headwise .+)$", block, re.M):
                yield pytest.param(line.split("#")[0], id=f"{page.name}: {line}")


@pytest.mark.parametrize("line", list(commands()))
def test_every_command_in_the_documents_is_understood(line):
    name, *arguments = shlex.split(line)[1:]
    command = typer.main.get_command(app).commands[name]
    if hasattr(command, "commands"):
        name, *arguments = arguments
        command = command.commands[name]
    command.make_context(name, arguments)  # raises for an unknown option or a value out of range


def test_every_command_is_in_the_guide_or_the_readme():
    told = (ROOT / "README.md").read_text() + (ROOT / "docs" / "guide.md").read_text()
    names = [c.name or c.callback.__name__ for c in app.registered_commands]
    assert [name for name in names if f"headwise {name}" not in told] == []


def test_the_page_of_the_commands_is_up_to_date():
    page = runpy.run_path(str(ROOT / "docs" / "make_cli.py"))["page"]
    assert (ROOT / "docs" / "cli.md").read_text() == page(), "run: make docs"


def test_the_tables_of_the_evidence_are_those_of_the_results(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs")
    making = runpy.run_path(str(ROOT / "docs" / "make_evidence.py"))
    page = (ROOT / "docs" / "evidence.md").read_text()
    assert making["TABLE"].findall(page)
    assert making["written"](page) == page, "run: python docs/make_evidence.py"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\((?!https?://)([^)#]+)", page.read_text()):
        if link == "docs/demo.png" and not (ROOT / link).exists():
            pytest.xfail("the image is made after the built-in model: python docs/make_picture.py runs/demo")
        assert (page.parent / link).exists(), link


def test_every_public_name_is_in_the_documents():
    told = "".join(page.read_text() for page in PAGES)
    assert [
        name for name in headwise.__all__ if not re.search(rf"\b{name}\b", told) and name != "__version__"
    ] == []


def test_the_picture_of_the_readme_can_be_made(tmp_path):
    relevance = Relevance.from_votes(votes_on(sd_map()))
    relevance.save(tmp_path / "relevance.safetensors")
    for row, word in enumerate(("red", "forest")):
        for dial in (-1.0, 0.0, 2.0):
            made_of = {"prompt": "a red car in the forest", "word": word, "dial": dial}
            made_of |= {"concept": relevance.concepts[row]}
            file = tmp_path / "turned" / f"{row:03d} dial {dial:g}.png"
            save_picture(file, Image.new("RGB", (64, 64), "red"), made_of)
    script = tmp_path / "make_picture.py"  # it writes beside itself
    script.write_text((ROOT / "docs" / "make_picture.py").read_text())
    runpy.run_path(str(script))["main"](tmp_path)
    with Image.open(tmp_path / "demo.png") as picture:
        colors = dict(picture.convert("RGB").getcolors(picture.width * picture.height))
        assert picture.width > 800 and (255, 0, 0) in colors.values()


def test_changelog_begins_with_this_version():
    assert f"\n## {headwise.__version__} " in (ROOT / "CHANGELOG.md").read_text()
