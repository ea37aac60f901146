"""First looks: what --quick changes, what it leaves, and where its results go."""

import re
from inspect import signature
from pathlib import Path
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from headwise.cli.commands import COMMANDS, app
from headwise.cli.grouping import grouped
from headwise.cli.options import Sweep
from headwise.cli.quick import FIRST_LOOKS, quickly
from headwise.cli.steer import weaken


def called(name, command, *words):
    """What the command of this name is called with, from the words of a command line."""
    calls = []

    def recorded(**values):
        calls.append(values)

    recorded.__signature__ = signature(command)
    small = typer.Typer()
    small.command()(quickly(name, grouped(recorded)))
    result = CliRunner().invoke(small, list(words), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return calls[0]


def polysemy(
    count: Annotated[int | None, typer.Option()] = None,
    sweep: Sweep = Sweep("0,1,2", Path("runs/benchmark-polysemy"), 20),
) -> None:
    raise NotImplementedError


def test_a_first_look_changes_what_is_not_given():
    values = called("benchmark polysemy", polysemy, "--quick", "--seeds", "0,1,2")
    assert values["count"] == FIRST_LOOKS["benchmark polysemy"]["count"]
    assert values["sweep"] == Sweep("0,1,2", Path("runs/benchmark-polysemy-quick"), 10)


def test_without_it_nothing_changes():
    whole = called("benchmark polysemy", polysemy)
    assert whole == {"count": None, "sweep": Sweep("0,1,2", Path("runs/benchmark-polysemy"), 20)}


def test_a_folder_that_is_given_is_used():
    values = called("benchmark polysemy", polysemy, "--quick", "--out", "runs/mine")
    assert values["sweep"].out == Path("runs/mine")


def test_a_weakening_has_a_folder_of_its_own():
    assert called("weaken", weaken, "Image Style", "--quick")["out"] == Path("runs/weaken-image-style-quick")
    assert called("weaken", weaken, "Image Style")["out"] is None


@pytest.mark.parametrize(("by", "pictures"), [("votes", 64), ("effect", 10)])
def test_a_quick_measurement_is_the_first_images_of_the_whole(by, pictures):
    values = called("measure", COMMANDS["measure"], "--quick", "--by", by)
    assert (values["pictures"], values["out"]) == (pictures, None)


def test_every_first_look_is_of_a_command_and_of_options_that_it_has():
    root = typer.main.get_command(app)
    for name, look in FIRST_LOOKS.items():
        command = root
        for word in name.split(" --")[0].split():
            command = command.commands[word]
        names = {parameter.name for parameter in command.params}
        assert look.keys() <= names, name
        assert "quick" in names, name


def test_the_help_says_what_it_means():
    for name in ("measure", "benchmark polysemy"):
        text = re.sub(r"\s+|-\s+", " ", CliRunner().invoke(app, [*name.split(), "--help"]).output)
        for option in ("pictures 64", "pictures 10 with --by effect") if name == "measure" else ("count 12",):
            assert option in text, text
