"""The command line: what programs read, what people read, and how it refuses."""

import errno
import json
import os
import shlex
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from headwise.benchmarks import demo
from headwise.cli import commands as cli
from headwise.errors import HeadwiseError
from headwise.measuring.concepts import ConceptSet

COMMANDS = (
    "demo", "measure", "merge", "plan", "show", "doctor", "report", "generate", "explain", "weaken", "edit",
    "excite", "import", "compare", "serve",
)  # fmt: skip


@pytest.fixture
def refused(run):
    """The one sentence with which a command is refused."""

    def refused(*arguments):
        code, out, err = run(*arguments)
        assert (code, out) == (2, "")
        lines = [line for line in err.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1 and err.endswith(lines[0] + "\n"), err
        return lines[0]

    return refused


@pytest.fixture
def model(sd, tmp_path):
    """A tiny pipeline on the disk."""
    folder = tmp_path / "tiny"
    sd.save_pretrained(folder)
    return folder


@pytest.fixture
def concept_file(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text('[concepts]\nAnimals = ["dog", "cat"]\nColor = ["red", "blue"]\n')
    return file


@pytest.fixture
def measured(run, model, concept_file, tmp_path):
    """The arguments of a small measurement."""
    out = tmp_path / "run"
    return ["measure", "-m", model, "-c", concept_file, "--num-inference-steps", 2, "-o", out]


def test_measure_show_doctor_and_report_say_what_design_promises(run, measured, model, tmp_path):
    code, out, err = run(*measured, "-n", 6, "--batch-size", 4, "--keep-pictures", 2, "--json")
    found = json.loads(out)
    assert code == 0 and "6/6" in err
    assert found.keys() >= {"file", "pictures", "seconds", "resumed_from", "split_half_median"}
    assert (found["pictures"], found["resumed_from"]) == (6, 0)

    code, out, _ = run(*measured, "-n", 8, "--json")
    assert (json.loads(out)["pictures"], json.loads(out)["resumed_from"]) == (8, 6)
    out_of_measure = out

    code, out, _ = run("show", found["file"], "--json", "--top", 2)
    shown = json.loads(out)
    assert (shown["model"], shown["pictures"]) == (str(model), 8)
    assert shown["beside"] == json.loads(out_of_measure)["beside"] == "32 concepts of paper34"
    assert list(shown["concepts"]) == ["Animals", "Color"]
    color = shown["concepts"]["Color"]
    assert color.keys() >= {"split_half", "top"} and len(color["top"]) == 2
    assert color["top"][0].keys() >= {"index", "address", "relevance", "se"}
    assert run("show", tmp_path / "run", "--json", "--top", 2)[1] == out

    code, out, _ = run("show", tmp_path / "run", "--concept", "Color", "--top", 1)
    assert color["top"][0]["address"] in out and "Animals" not in out and "±" in out
    assert (
        "a background of 32 concepts of paper34." in out and "fewer than 64 images are rough (here 8)" in out
    )

    code, out, _ = run("report", tmp_path / "run")
    assert code == 0 and out.strip() == str(tmp_path / "run" / "index.html")


def test_a_background_is_chosen_or_none(run, measured, refused, concept_file, tmp_path):
    code, out, _ = run(*measured, "-n", 2, "--beside", "none")
    assert code == 0 and "a background of" not in out and "fewer than 64 images" in out
    concept_file.write_text('[concepts]\nColor = ["red"]\n')
    elsewhere = (*measured[:-1], tmp_path / "one", "-n", 1, "--beside")
    assert "'Color' is the only concept" in refused(*elsewhere, "none")
    assert "The concept file nope does not exist" in refused(*elsewhere, "nope")
    assert "31 concepts of emoji" in run(*elsewhere, "emoji")[1]


def test_doctor_covers_every_layer_and_foresees_the_cost(run, model):
    code, out, _ = run("doctor", "--model", model, "--json", "--pictures", 10, "--num-inference-steps", 3)
    found = json.loads(out)
    assert code == 0 and found["covered"] is True and found["undisturbed"] is True
    assert found["steered"] is True and found["family"] == ["StableDiffusionPipeline"]
    assert found["heads"] == sum(layer["heads"] for layer in found["layers"]) == 8
    assert found["layers"][0].keys() >= {"address", "heads", "kind"}
    assert found["versions"].keys() >= {"headwise", "torch", "diffusers", "transformers"}
    assert found["expected"]["seconds"] == pytest.approx(30 * found["seconds_a_call"], abs=0.1)
    effect = found["effect"]
    assert (effect["measurable"], effect["error"], effect["heads"]) == (True, None, 8)
    assert effect["expected"]["pictures"] == 100 * effect["expected"]["concepts"]
    assert effect["expected"]["seconds"] > 0 and effect["expected"]["memory_mb"] > 0
    code, out, _ = run("doctor", "--model", model)
    assert "8 heads; " in out and "by effect, 100 images for each of 34 concepts" in out
    assert "identical latents" in out and "different latents" in out and found["layers"][-1]["address"] in out


def test_doctor_says_why_effect_cannot_be_measured(run, model, monkeypatch):
    from headwise.measuring.effect import EffectProbe

    def failing(probe, call):
        raise RuntimeError("no gradient here\nat line 3")

    monkeypatch.setattr(EffectProbe, "finish", failing)
    code, out, _ = run("doctor", "--model", model, "--json")
    effect = json.loads(out)["effect"]
    assert code == 0 and effect["error"] == "no gradient here" and effect["expected"] is None
    code, out, _ = run("doctor", "--model", model)
    assert code == 0 and "cannot be measured. no gradient here" in out


def test_doctor_refuses_a_model_that_a_hook_disturbs(run, model, monkeypatch):
    monkeypatch.setattr("headwise.steering.doctor.torch.equal", lambda a, b: False)
    code, out, err = run("doctor", "--model", model, "--json")
    assert code == 2 and json.loads(out)["covered"] is False
    assert err.splitlines()[-1] == "error: A hook that does nothing changed the latents of this model."


def test_prompts_come_from_a_pipe(run, measured, monkeypatch):
    import io

    monkeypatch.setattr(sys, "stdin", io.StringIO("a red dog\n\na cat\n"))
    assert run(*measured, "-n", 2, "--prompts", "-")[0] == 0
    monkeypatch.setattr(sys, "stdin", io.StringIO("another\n"))
    code, _, err = run(*measured, "-n", 2, "--prompts", "-")
    assert code == 2 and "holds another run: prompts is '2 prompts" in err


def test_an_unknown_model_is_refused(refused):
    assert "The folder ./nowhere does not exist." in refused("doctor", "--model", "./nowhere")


def test_an_unknown_concept_is_refused_with_the_nearest(refused, run, measured, tmp_path):
    run(*measured, "-n", 2)
    assert "Unknown concept 'Colour'. Did you mean 'Color'?" in refused(
        "show", tmp_path / "run", "--concept", "Colour"
    )


def test_an_empty_concept_is_refused_with_its_line(refused, tmp_path, model):
    file = tmp_path / "bad.toml"
    file.write_text('[concepts]\nColor = ["red"]\nNothing = []\n')
    assert "line 3" in refused("measure", "-m", model, "-c", file, "-o", tmp_path / "run")


def test_a_prompt_file_with_nul_is_refused_with_its_line(refused, measured, tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_bytes(b"a dog\na\0cat\n")
    assert "line 2: a NUL character" in refused(*measured, "--prompts", file)


def test_a_folder_without_a_result_is_refused(refused, tmp_path):
    assert "Give a relevance file, or the folder of a finished" in refused("show", tmp_path)
    assert "relevance.safetensors" in refused("report", tmp_path)


def test_a_file_that_is_no_result_is_refused(refused, tmp_path):
    (tmp_path / "relevance.safetensors").write_bytes(b"not at all")
    assert "not a complete safetensors file" in refused("show", tmp_path)


def test_an_unknown_device_is_refused(refused, model):
    assert "'gpu0' is not a device" in refused("doctor", "--model", model, "--device", "gpu0")


def test_a_read_only_folder_is_refused(refused, measured, monkeypatch):
    """As root nothing is read-only, so the system's answer is played."""
    from pathlib import Path

    def denied(self, *args, **options):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(self))

    monkeypatch.setattr(Path, "mkdir", denied)
    assert "Read-only file system" in refused(*measured)


def test_any_other_fault_of_the_system_is_one_sentence(refused, monkeypatch, tmp_path):
    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(tmp_path / "index.html"))

    monkeypatch.setattr("headwise.report.measurement.report", full)
    assert refused("report", tmp_path) == f"error: {tmp_path / 'index.html'}: No space left on device."


def test_ctrl_c_keeps_what_was_counted(run, measured, monkeypatch, tmp_path):
    from headwise.measuring import measure as measuring
    from headwise.measuring.votes import Votes

    generate, calls = measuring.generate, []

    def interrupted(*args, **options):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return generate(*args, **options)

    monkeypatch.setattr(measuring, "generate", interrupted)
    code, out, err = run(*measured, "-n", 5)
    assert code == 130 and "the same command resumes from there" in err
    assert len(Votes.load(tmp_path / "run" / "votes.safetensors")) == 2


def test_a_bug_is_not_dressed_up_as_a_refusal(monkeypatch, tmp_path):
    def broken(*args):
        raise ZeroDivisionError

    monkeypatch.setattr("headwise.report.measurement.report", broken)
    with pytest.raises(ZeroDivisionError):
        cli.main(["report", str(tmp_path)])


def test_a_run_says_the_command_that_made_it(workspace, run):
    said = ["measure", "-m", "tiny", "--pictures", "2", "--num-inference-steps", "2", "--out", "a run"]
    assert run(*said)[0] == 0
    assert Path("a run/command.txt").read_text() == f"headwise {shlex.join(said)}\n"
    run("report", "a run")
    assert "headwise measure -m " in Path("a run/index.html").read_text()


def test_a_refused_command_leaves_no_note(workspace, run):
    assert run("measure", "-m", "tiny", "--until", "0.9", "--height", "7", "--out", "none")[0] == 2
    assert not Path("none").exists()


def test_a_refused_command_leaves_the_note_of_another_run(workspace, run):
    same = ["measure", "-m", "tiny", "--pictures", "2", "--num-inference-steps", "2", "--out", "mine"]
    assert run(*same)[0] == 0
    assert run(*same, "--seed", "1")[0] == 2
    assert Path("mine/command.txt").read_text() == f"headwise {shlex.join(same)}\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_an_example_of_every_command(run, command):
    code, out, _ = run(command, "--help")
    assert code == 0 and f"headwise {command}" in out.split("Example")[1]


def test_every_command_is_tested_for_help(run):
    names = {command.name or command.callback.__name__ for command in cli.app.registered_commands}
    assert names == set(COMMANDS)


@pytest.mark.parametrize(
    "arguments", [["measur"], ["measure", "--pictures", "none"], ["measure", "--until", "2"]]
)
def test_usage_errors_leave_with_2(run, arguments):
    assert run(*arguments)[0] == 2


def test_help_does_not_pay_for_torch():
    script = """if True:
        import sys
        from headwise.cli.commands import main
        try:
            main(["--help"])
        finally:
            print("torch" in sys.modules)
    """
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert out.splitlines()[-1] == "False"


def test_demo_prints_five_lines(run, monkeypatch, sd, tmp_path):
    concepts = ConceptSet({"Color": ["red"], "Nature Scenes": ["forest"], "Time of Day": ["night"]})
    small = partial(demo.demo, concepts=concepts, score=lambda pictures, prompts: np.zeros(len(pictures)))
    monkeypatch.setattr("headwise.model.pipelines.load_pipeline", lambda name, **options: sd)
    monkeypatch.setattr(demo, "demo", small)
    monkeypatch.setattr(demo, "DRAWN", 2)
    monkeypatch.setattr(demo, "PROMPTS", 3)
    monkeypatch.setattr(demo, "read_prompts", lambda prompts, pipe: ("a dog", "a red <b>vase</b>"))
    arguments = ["demo", "--out", tmp_path / "demo", "--pictures", 2, "--num-inference-steps", 2]
    code, out, err = run(*arguments)
    assert code == 0 and all(f"{n} of 4: " in err for n in (1, 2, 3, 4)), err
    assert len(out.splitlines()) == 5 and out.endswith(f"Open {tmp_path / 'demo' / 'index.html'}\n")
    assert "a red &lt;b&gt;vase&lt;/b&gt;" in (tmp_path / "demo" / "index.html").read_text()
    code, out, _ = run(*arguments, "--json")
    assert code == 0, "a finished demo may be run again"
    found = json.loads(out)
    assert found.keys() == {
        "page", "file", "seconds", "pictures", "split_half_median", "completeness_median", "weakening",
    }  # fmt: skip
    assert found["pictures"] == 6 and found["weakening"]["concept"] == "Color"
    assert found["weakening"].keys() == {"concept", "area", "low", "high", "random_area"}


def test_every_error_of_the_library_is_a_refusal(refused, monkeypatch, tmp_path):
    def refusing(*args):
        raise HeadwiseError("no.")

    monkeypatch.setattr("headwise.report.measurement.report", refusing)
    assert refused("report", tmp_path) == "error: no."
