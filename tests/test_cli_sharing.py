"""The commands for many machines, on a tiny pipeline."""

import json

import pytest

from cli_helpers import CASES, FAST, SENSES
from headwise.cli.app import _with_ray_address
from headwise.measuring.votes import Votes
from helpers import votes_of


@pytest.fixture
def workspace(workspace):
    """With files of concepts, prompts and cases."""
    (workspace / "mine.toml").write_text('[concepts]\nAnimals = ["dog", "cat"]\nColor = ["red", "blue"]\n')
    (workspace / "prompts.txt").write_text("a dog\na red car\n")
    (workspace / "cases.toml").write_text(CASES)
    (workspace / "senses.toml").write_text(SENSES)
    return workspace


MEASURE = ("measure", "-m", "./tiny", "-c", "mine.toml", "-p", "prompts.txt", "-n", 7, *FAST)


def test_measure_in_shards_and_merge(run, workspace):
    code, out, _ = run(*MEASURE, "--out", "one", "--json")
    assert code == 0
    for i in range(3):
        code, out, _ = run(*MEASURE, "--out", "many", "--shard", f"{i}/3", "--json")
        found = json.loads(out)
        assert code == 0 and found["shard"] == f"{i}/3" and found["pictures"] == (2, 2, 3)[i]
    code, out, _ = run("merge", "many", "--out", "many")
    assert code == 0 and out == "many/votes.safetensors: 7 counted in 3 shards\n"
    assert (workspace / "many/command.txt").read_text() == "headwise merge many --out many\n"
    assert votes_of(workspace / "one") == votes_of(workspace / "many")
    code, out, _ = run("merge", "many", "--out", "many", "--json")
    merged = json.loads(out)["merged"]
    assert merged == [{"file": "many/votes.safetensors", "shards": 3, "counted": 7, "missing": []}]
    assert run(*MEASURE, "--out", "many", "--json")[0] == 0, "the whole is there"
    (workspace / "many/shards/00001-of-00003/votes.safetensors").unlink()
    code, _, err = run("merge", "many", "--out", "other")
    assert code == 2 and "Run shard 1/3 again; or merge what is there with --partial" in err
    code, out, _ = run("merge", "many", "--out", "other", "--partial")
    assert code == 0 and out == "other/votes.safetensors: 5 counted in 2 shards; missing: 2 to 3\n"


def test_shards_without_a_folder_named_go_below_that_of_the_model(run, workspace):
    assert run(*MEASURE, "--shard", "0/2")[0] == 0
    assert Votes.load(workspace / "runs/tiny/shards/00000-of-00002/votes.safetensors").pictures == ((0, 3),)


def test_a_launcher_says_which_shard(run, workspace, monkeypatch):
    code, _, err = run(*MEASURE, "--out", "many", "--shard", "auto")
    assert code == 2 and "no launcher set the variables" in err
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "1")
    monkeypatch.setenv("SLURM_ARRAY_TASK_COUNT", "2")
    assert run(*MEASURE, "--out", "many", "--shard", "auto")[0] == 0
    assert Votes.load(workspace / "many/shards/00001-of-00002/votes.safetensors").pictures == ((3, 7),)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--shard", "3/3"), "expected number/count, counted from 0"),
        (("--shard", "0/9"), "holds no image. Make fewer shards"),
        (("--shard", "0/2", "--until", "0.5"), "needs all images, but only 0 to 2 are counted here"),
        (("--shard", "0/2", "--ray", "local"), "Give one: Ray distributes the work by itself"),
        (("--workers", "2"), "--workers was given without --ray"),
    ],
)
def test_what_does_not_go_together(run, workspace, more, said):
    code, _, err = run(*MEASURE, "--out", "many", *more)
    assert code == 2 and said in err


def test_a_shard_that_counted_other_pictures(run, workspace):
    assert run(*MEASURE, "--out", "many", "--shard", "1/2")[0] == 0
    again = [word if word != 7 else 20 for word in MEASURE]
    code, _, err = run(*again, "--out", "many", "--shard", "1/2")
    assert code == 2 and "already counts 3 to 6, not all of them among the requested 10 to 19" in err


@pytest.mark.usefixtures("judged")
def test_weaken_and_benchmarks_in_shards(run, workspace):
    weaken = ("weaken", "Color", "-m", "./tiny", "--cases", "cases.toml", *FAST, "--random-orders", 1)
    polysemy = ("benchmark", "polysemy", "-m", "./tiny", "--senses", "senses.toml", *FAST, "--seeds", "0")
    weakening = (
        "benchmark",
        "weakening",
        "-m",
        "./tiny",
        "--cases",
        "cases.toml",
        *FAST,
        "--concept",
        "Color",
    )
    for number, line in enumerate((weaken, polysemy, weakening)):
        one, many = f"one{number}", f"many{number}"
        code, whole, _ = run(*line, "--out", one, "--json")
        assert code == 0
        for i in range(2):
            code, out, _ = run(*line, "--out", many, "--shard", f"{i}/2", "--json")
            found = json.loads(out)
            assert code == 0 and found["shard"] == f"{i}/2" and found["scored"] > 0
        code, out, _ = run(*line, "--out", many, "--shard", "1/2")
        assert f"headwise merge {many} --out {many}, then this command without --shard" in out
        assert run("merge", many, "--out", many)[0] == 0
        code, again, _ = run(*line, "--out", many, "--json")
        again, whole = (
            json.loads(out, parse_float=lambda text: round(float(text), 5)) for out in (again, whole)
        )
        assert code == 0 and again | {"page": 0} == whole | {"page": 0}


def test_a_bare_ray_is_one_of_this_machine():
    assert _with_ray_address([]) == []
    assert _with_ray_address(["measure", "--ray"]) == ["measure", "--ray=local"]
    assert _with_ray_address(["measure", "--ray", "--json"]) == ["measure", "--ray=local", "--json"]
    assert _with_ray_address(["measure", "--ray", "auto"]) == ["measure", "--ray", "auto"]
