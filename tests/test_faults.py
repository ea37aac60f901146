"""Faults: full disks, damaged files, two drivers, launchers. Counts are never wrong, never silently fewer."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from conftest import tiny_sd
from headwise.errors import RunMismatch, UnreadableFile, UnwritableFolder
from headwise.measuring.measure import measure
from headwise.measuring.merge import merge
from headwise.measuring.votes import Votes
from headwise.runs.folder import RunFolder
from headwise.runs.scores import Scores
from headwise.runs.shards import Shard
from helpers import SHORT, votes_of

RUN = "from headwise.cli.commands import main; main()"


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 64 kB, where the system lets us have one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no disk can be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_runs_full_keeps_what_was_counted(sd, concepts, small_disk, tmp_path):
    same = SHORT | {"batch_size": 1, "checkpoint_every": 0}
    measure(sd, concepts, pictures=3, out=small_disk / "run", **same)
    room = os.statvfs(small_disk)
    (small_disk / "filler").write_bytes(bytes(room.f_bavail * room.f_frsize))
    before = votes_of(small_disk / "run")
    with pytest.raises(UnwritableFolder, match="No space left on device"):
        measure(sd, concepts, pictures=6, out=small_disk / "run", **same)
    assert (
        votes_of(small_disk / "run") == before and len(Votes.load(small_disk / "run/votes.safetensors")) == 3
    )
    (small_disk / "filler").unlink()
    measure(sd, concepts, pictures=6, out=small_disk / "run", **same)
    measure(sd, concepts, pictures=6, out=tmp_path / "whole", **same)
    assert votes_of(small_disk / "run") == votes_of(tmp_path / "whole")


def test_a_disk_that_is_full_for_a_while_in_the_middle_of_a_run(sd, concepts, tmp_path, monkeypatch):
    fsync, times = os.fsync, []

    def full_now_and_then(handle):
        times.append(handle)
        if len(times) == 6:
            raise OSError(28, "No space left on device")
        fsync(handle)

    same = SHORT | {"pictures": 6, "checkpoint_every": 0}
    with monkeypatch.context() as patch, pytest.raises(UnwritableFolder, match="Free some space, or"):
        patch.setattr(os, "fsync", full_now_and_then)
        measure(sd, concepts, out=tmp_path / "run", **same)
    assert 0 < len(Votes.load(tmp_path / "run" / "votes.safetensors")) < 6
    measure(sd, concepts, out=tmp_path / "run", **same)
    measure(sd, concepts, out=tmp_path / "whole", **same)
    assert votes_of(tmp_path / "run") == votes_of(tmp_path / "whole")


def test_no_changed_byte_of_a_checkpoint_is_believed(sd, concepts, tmp_path):
    measure(sd, concepts, pictures=3, out=tmp_path / "run", **SHORT)
    path = tmp_path / "run" / "votes.safetensors"
    whole, votes = path.read_bytes(), Votes.load(path)
    for place in np.random.default_rng(0).integers(8, len(whole), 150).tolist():
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :])
        try:
            assert Votes.load(path) == votes, f"byte {place}"
        except UnreadableFile as error:
            assert "damaged" in str(error) or "holds" in str(error) or "format" in str(error)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UnreadableFile, match="cut short or damaged"):
        measure(sd, concepts, pictures=5, out=tmp_path / "run", **SHORT)


def test_a_result_that_was_lost_is_made_again_from_the_votes(sd, concepts, tmp_path):
    first = measure(sd, concepts, pictures=3, out=tmp_path, **SHORT)
    (tmp_path / "relevance.safetensors").unlink()
    assert measure(sd, concepts, pictures=3, out=tmp_path, **SHORT) == first


def test_votes_without_their_run_are_still_checked(sd, concepts, tmp_path):
    measure(sd, concepts, pictures=3, out=tmp_path, **SHORT)
    (tmp_path / "run.json").unlink()
    from headwise.errors import VotesMismatch

    with pytest.raises(VotesMismatch, match="'seed' is 1 in one and 0 in the other"):
        measure(sd, concepts, pictures=3, seed=1, out=tmp_path, **SHORT)


def test_two_drivers_on_one_folder(run, sd, concepts, tmp_path):
    sd.save_pretrained(tmp_path / "tiny")
    (tmp_path / "mine.toml").write_text('[concepts]\nAnimals = ["dog", "cat"]\nColor = ["red", "blue"]\n')
    line = ["measure", "-m", tmp_path / "tiny", "-c", tmp_path / "mine.toml", "--num-inference-steps", 2]
    line += ["-o", tmp_path / "run"]
    run(*line, "-n", 2)
    before = votes_of(tmp_path / "run")
    with RunFolder(tmp_path / "run", *_of(tmp_path / "run")) as first:
        code, _, err = run(*line, "-n", 4)
        assert code == 2 and "is being written by process" in err and "Wait until it ends" in err
        with pytest.raises(RunMismatch, match="is being written by"):
            merge([tmp_path / "run" / "votes.safetensors"], tmp_path / "run")
        assert votes_of(tmp_path / "run") == before and len(first.so_far) == 2
    assert run(*line, "-n", 4)[0] == 0


def _of(folder):
    votes = Votes.load(folder / "votes.safetensors")
    return votes.settings, Votes.empty(votes.head_map, votes.concepts, votes.settings)


def test_shards_of_a_sweep_that_saw_other_pictures_are_refused(tmp_path):
    axes = {"method": ("plain",), "prompt": (0, 1)}
    both = Scores(np.array([[1.0, 2.0]]), axes, {})
    Scores(np.array([[3.0, np.nan]]), axes, {}).save(tmp_path / "a")
    both.save(tmp_path / "b")
    with pytest.raises(Exception, match="both score prompt 0"):
        merge([tmp_path / "a", tmp_path / "b"], tmp_path / "out")


@pytest.mark.timeout(600)
def test_torchrun_starts_shards(tmp_path, concepts):
    tiny_sd().save_pretrained(tmp_path / "tiny")
    (tmp_path / "mine.toml").write_text(
        '[concepts]\nAnimals = ["dog", "cat", "frog"]\nColor = ["red", "orange"]\nFood = ["pie"]\n'
    )
    (tmp_path / "prompts.txt").write_text("a dog\na red car\n")
    line = ["measure", "-m", "tiny", "-c", "mine.toml", "-p", "prompts.txt", "-n", "7", "-o", "run"]
    line += ["--num-inference-steps", "2"]
    launch = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--no-python", sys.executable]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", *launch, "-c", RUN, *line, "--shard", "auto"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    folders = sorted(path.name for path in (tmp_path / "run" / "shards").iterdir())
    assert folders == ["00000-of-00002", "00001-of-00002"]
    for i in range(2):
        folder = Shard(i, 2).folder(tmp_path / "run")
        assert Votes.load(folder / "votes.safetensors").pictures == (((0, 3), (3, 7))[i],)
        assert json.loads((folder / "run.json").read_text())["pictures"] == 7
    (merged,) = merge([tmp_path / "run"], tmp_path / "run")
    assert merged.counted == 7 and not Path(tmp_path / "run" / ".lock").exists()
