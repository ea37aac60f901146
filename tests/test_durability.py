"""kill -9 at any moment, then the same command: bit for bit the votes of a run nobody disturbed."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from conftest import tiny_sd
from headwise.measuring.concepts import ConceptSet
from headwise.measuring.measure import measure
from headwise.measuring.votes import Votes

KILLED = """
import os, signal, sys
import torch
from pathlib import Path
torch.set_num_threads(1)
from test_durability import run
import headwise.files as files

when, folder, written, fsync = sys.argv[1], sys.argv[2], [], os.fsync

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def synced(handle):
    fsync(handle)
    written.append(handle)
    if when == "before taking its place" and len(written) == 7:
        die()

os.fsync = synced
if when == "between checkpoints":
    import headwise.measuring.probe as probe
    take = probe.ConceptProbe.take
    probe.ConceptProbe.take = lambda self: die() if self.pictures[0] == 4 else take(self)
run(folder)
"""


def run(folder):
    concepts = ConceptSet({"Animals": ["dog", "cat", "frog"], "Color": ["red", "orange"]})
    return measure(
        tiny_sd(),
        concepts,
        beside=None,
        pictures=7,
        prompts=["a dog", "a red car"],
        num_inference_steps=2,
        batch_size=2,
        checkpoint_every=0,
        progress=False,
        out=folder,
    )


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("when", ["between checkpoints", "before taking its place"])
def test_killed_and_run_again_the_votes_are_the_same_bytes(tmp_path, when, one_thread):
    command = [sys.executable, "-W", "ignore", "-c", KILLED, when, str(tmp_path / "killed")]
    killed = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert 0 < len(Votes.load(tmp_path / "killed" / "votes.safetensors")) < 7
    assert not (tmp_path / "killed" / "relevance.safetensors").exists()
    resumed, whole = run(tmp_path / "killed"), run(tmp_path / "whole")
    assert resumed == whole
    for name in ("votes.safetensors", "relevance.safetensors"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
