"""The options that commands share, the defaults that go with a model, and the app's own options."""

import json
import os
import subprocess
import sys
from dataclasses import is_dataclass, replace
from inspect import signature
from pathlib import Path
from typing import Annotated

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

import headwise
from headwise.benchmarks.defaults import defaults_of
from headwise.cli import options, output, running
from headwise.cli.commands import COMMANDS, app
from headwise.cli.grouping import grouped
from headwise.cli.options import Measured, Model, Sampling, Sharing
from headwise.cli.steer import generate
from headwise.measuring.relevance import Relevance

SHARED = (
    "name", "config", "loras", "scheduler", "clip_skip", "dtype", "device", "relevance_file",
    "scorer", "shard", "ray", "workers", "guidance_scale", "height", "width", "as_json",
    "negative_prompt", "ks",
)  # fmt: skip
HEADWISE = [sys.executable, "-c", "from headwise.cli.commands import main; main()"]


def functions():
    for name, command in COMMANDS.items():
        if isinstance(command, dict):
            yield from ((f"{name} {inner}", function) for inner, function in command.items())
        else:
            yield name, command


def parsers():
    """Every command of the app by its name, as it reads the command line."""
    root = typer.main.get_command(app)
    for name, command in root.commands.items():
        inner = getattr(command, "commands", None)
        yield from ([(name, command)] if inner is None else [(f"{name} {k}", c) for k, c in inner.items()])


def called(command, *words):
    """What a command is called with, from the words of a command line."""
    calls = []

    def recorded(**values):
        calls.append(values)

    recorded.__signature__ = signature(command)
    small = typer.Typer()
    small.command()(grouped(recorded))
    result = CliRunner().invoke(small, list(words), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return calls[0]


def example(
    concept: Annotated[str, typer.Argument()],
    model: Measured = Measured("sdxl"),
    sampling: Sampling = Sampling(20),
    count: Annotated[int, typer.Option(min=1)] = 3,
    sharing: Sharing = Sharing(),
) -> None:
    raise NotImplementedError


def test_a_command_gets_its_groups_filled():
    values = called(example, "Color", "--guidance-scale", "2", "--device", "cpu", "--relevance", "runs/mine")
    assert values == {
        "concept": "Color",
        "model": Measured("sdxl", device="cpu", relevance_file=Path("runs/mine")),
        "sampling": Sampling(20, guidance_scale=2.0),
        "count": 3,
        "sharing": Sharing(),
    }


def test_without_options_a_group_is_its_default():
    for name, command in functions():
        groups = [p for p in signature(command).parameters.values() if is_dataclass(p.annotation)]
        required = [p for p in signature(command).parameters.values() if p.default is p.empty]
        if groups and not required:
            values = called(command)
            assert {p.name: values[p.name] for p in groups} == {p.name: p.default for p in groups}, name


def test_options_stand_in_the_order_of_the_parameters_but_for_those_that_all_commands_have():
    assert list(signature(grouped(example)).parameters) == [
        "concept", "name", "relevance_file", "num_inference_steps", "guidance_scale", "count",
        "shard", "ray", "workers", "config", "loras", "scheduler", "clip_skip", "dtype", "device",
    ]  # fmt: skip


def test_a_default_changed_in_one_group_shows_in_every_command():
    script = """if True:
        import json, sys, types
        import headwise.cli
        changed = types.ModuleType("headwise.cli.options")
        sys.modules[changed.__name__] = headwise.cli.options = changed
        exec(compile(sys.stdin.read(), "options.py", "exec"), vars(changed))
        import typer
        from headwise.cli.commands import app
        root = typer.main.get_command(app).commands.values()
        commands = [one for command in root for one in getattr(command, "commands", {"": command}).values()]
        devices = [p.default for command in commands for p in command.params if p.name == "device"]
        print(json.dumps(devices))
    """
    source = Path(options.__file__).read_text()
    line = 'device: Device = "auto"'
    assert source.count(line) == 1
    changed = source.replace(line, 'device: Device = "cuda:7"')
    out = subprocess.run(
        [sys.executable, "-c", script], input=changed, capture_output=True, text=True, check=True
    )
    assert json.loads(out.stdout) == ["cuda:7"] * 19


def test_a_shared_option_has_one_help_and_one_default_everywhere():
    texts = {}
    for _, command in parsers():
        for option in command.params:
            if option.name in SHARED:
                texts.setdefault(option.name, set()).add((option.help, str(option.default)))
    assert set(texts) == set(SHARED) and all(len(variants) == 1 for variants in texts.values()), texts


def test_what_goes_with_a_model():
    mine, other = defaults_of("emoji"), defaults_of("./emoji")
    assert mine.built_in and not other.built_in
    assert (mine.concepts, mine.cases, mine.pairs, mine.scorer, mine.score) == ("emoji",) * 4 + ("choice",)
    assert (other.concepts, other.cases, other.pairs) == ("paper34", "paper", "emoji")
    assert other.scorer == "openai/clip-vit-large-patch14" and other.score == "similarity"
    generated = signature(generate).parameters["sampling"].default
    assert (other.steps, other.guidance_scale) == tuple(vars(generated).values())
    assert mine.steps < other.steps and mine.guidance_scale == other.guidance_scale
    assert Model("emoji").defaults == mine and Model("sdxl").defaults == other


def test_concepts_that_the_judge_reads_badly_are_not_scored(monkeypatch, tmp_path):
    file = tmp_path / "cases.toml"
    file.write_text(
        "".join(f'[{name}]\nprompts = ["a {{word}}"]\nwords = ["b"]\n' for name in ("Color", "Time"))
    )
    monkeypatch.setattr("headwise.emoji.BuiltIn.card", lambda model: {"judge": {"Color": 0.95, "Time": 0.94}})
    assert defaults_of("emoji").scored_concepts(file) == ["Color"]
    assert defaults_of("sdxl").scored_concepts(file) == ["Color", "Time"]


def test_defaults_are_known_without_torch():
    script = "import sys; from headwise.benchmarks.defaults import defaults_of; print('torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", script], text=True) == "False\n"


def test_the_version(run):
    assert run("--version") == (0, f"headwise {headwise.__version__}\n", "")


@pytest.mark.parametrize("words", [(), *((name,) for name in COMMANDS), *(n.split() for n, _ in parsers())])
def test_h_is_help_everywhere(run, words):
    code, out, err = run(*words, "-h")
    assert (code, err) == (0, "") and "-h, --help" in out and out == run(*words, "--help")[1]


def test_commands_stand_in_the_order_in_which_people_meet_them(run):
    listed = run("--help")[1].split("Commands:\n")[1].splitlines()
    assert [line.split()[0] for line in listed] == list(COMMANDS)
    assert list(COMMANDS)[0] == "measure" and {"benchmark", "study"} == {
        name for name, command in COMMANDS.items() if isinstance(command, dict)
    }


def test_the_help_is_in_plain_english():
    texts = [(name, command.help) for name, command in parsers()]
    texts += [(f"{name} {p.name}", getattr(p, "help", "")) for name, c in parsers() for p in c.params]
    for name, text in texts:
        assert text, name
        for phrase in (
            "an image.",
            "at a time a",
            "a concept,",
            "likewise",
            "Likewise",
            "so many",
            "one a line",
        ):
            assert phrase not in text, (name, text)


@pytest.mark.parametrize(
    ("line", "completed"),
    [
        ("headwise mea", {"measure"}),
        ("headwise benchmark mul", {"multi-concept"}),
        ("headwise weaken Color --num", {"--num-inference-steps"}),
        ("headwise measure --dtype fp", {"fp32", "fp16"}),
    ],
)
def test_the_shell_completes(line, completed):
    words = {"_HEADWISE_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
    out = subprocess.run(HEADWISE, env=os.environ | words, capture_output=True, text=True, check=True).stdout
    assert set(out.split()) == completed


def test_completion_is_installed_in_the_home_of_its_user_only(tmp_path):
    command = " ".join(f"'{word}'" for word in HEADWISE)
    environment = os.environ | {"HOME": str(tmp_path)}

    def shell(option):
        return subprocess.run(
            ["bash", "--norc", "-c", f"{command} {option}; exit $?"],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    shown = shell("--show-completion")
    assert "_HEADWISE_COMPLETE=complete_bash" in shown and not list(tmp_path.iterdir())
    assert "bash completion installed in" in shell("--install-completion")
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert {file.name for file in files} == {".bashrc", "headwise.sh"}
    assert "_HEADWISE_COMPLETE=complete_bash" in (tmp_path / ".bash_completions/headwise.sh").read_text()


def test_the_median_of_two_concepts_lies_between_them(run, monkeypatch, tmp_path):
    from headwise.measuring.agreement import Agreement

    made = {name: Agreement(r, 1.0, 3) for name, r in (("a", 0.2), ("b", 0.6))}
    relevance = Relevance.from_votes(np.ones((2, 4)), ("a", "b"))
    monkeypatch.setattr("headwise.measuring.relevance.Relevance.load", lambda path: relevance)
    monkeypatch.setattr("headwise.measuring.agreement.agreement", lambda first, second: made)
    monkeypatch.setattr("headwise.measuring.agreement.differences", lambda first, second: [])
    file = tmp_path / "relevance.safetensors"
    file.touch()
    assert json.loads(run("compare", file, file, "--json")[1])["median"] == pytest.approx(0.4)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_what_json_has_no_number_for_is_null(number):
    assert output.finite(number) is None and output.finite(0.5) == 0.5


def test_a_table_is_printed_for_eyes_and_its_numbers_for_programs(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("headwise.report.measurement.report", lambda folder: folder / "index.html")
    made = output.table("concept", "area>", rows=[("Color", "0.5")])
    output.print_report(tmp_path, {"area": 0.5}, True, made, "One concept.")
    assert json.loads(capsys.readouterr().out) == {"page": str(tmp_path / "index.html"), "area": 0.5}
    output.print_report(tmp_path, {"area": 0.5}, False, made, "One concept.")
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["Color", "0.5"]
    assert lines[2:] == ["One concept.", f"Open {tmp_path / 'index.html'}"]


def test_a_shard_has_a_folder_and_numbers_of_its_own(monkeypatch, tmp_path):
    monkeypatch.setattr(options, "pipeline_of", lambda *words: words)
    with running.running(Model("m"), Sharing(), tmp_path) as run:
        assert run.pipe == ("m", "auto", "auto", {}) and run.place(7) == {"numbers": None, "out": tmp_path}
        assert not run.ends_as_shard(3, True)
    with running.running(Model("m"), replace(Sharing(), shard="1/2"), tmp_path) as run:
        assert run.place(7) == {"numbers": range(3, 7), "out": tmp_path / "shards/00001-of-00002"}
