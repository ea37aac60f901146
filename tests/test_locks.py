"""Two writers of one folder: the second is refused, and no kind of death leaves the folder closed."""

import os
import signal
import subprocess
import sys

import pytest

from headwise.errors import RunMismatch, UnwritableFolder
from headwise.runs import locks
from headwise.runs.folder import RunFolder
from headwise.runs.scores import Scores

AXES = {"prompt": (0, 1, 2)}

HOLDER = """
import sys, time
from pathlib import Path
from headwise.runs.locks import hold
held = hold(Path(sys.argv[1]), sys)
print("held", flush=True)
time.sleep(600)
"""


def scores(*values):
    found = Scores.empty(AXES, {"seed": 0})
    found.values[:] = values
    return found


def folder(path):
    return RunFolder(path, {"seed": 0}, Scores.empty(AXES, {"seed": 0}), "scores")


@pytest.fixture
def holder(tmp_path):
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_second_process_is_refused_until_the_first_is_killed(tmp_path, holder):
    with pytest.raises(RunMismatch, match=rf"is being written by process {holder.pid} on .*\. Wait until"):
        folder(tmp_path)
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (tmp_path / ".lock").exists(), "nothing could be cleared away"
    with folder(tmp_path) as ours:
        ours.checkpoint(scores(1, 2, 3))
    assert not (tmp_path / ".lock").exists()


def test_a_folder_is_free_again_after_the_context_whatever_ended_it(tmp_path):
    with pytest.raises(ZeroDivisionError) as kept, folder(tmp_path):  # the traceback still knows the folder
        1 / 0  # noqa: B018
    with folder(tmp_path), pytest.raises(RunMismatch, match="is being written by process"):
        folder(tmp_path)
    folder(tmp_path)
    folder(tmp_path)
    assert kept.value


def test_a_refused_folder_is_free_again(tmp_path):
    with folder(tmp_path):
        pass
    for _ in range(2):
        with pytest.raises(RunMismatch, match="holds another run: seed is 0 there and 1 here"):
            RunFolder(tmp_path, {"seed": 1}, Scores.empty(AXES, {"seed": 1}), "scores")


def test_where_there_are_no_locks_the_file_is_looked_at_before_it_is_replaced(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "fcntl", None)
    with folder(tmp_path) as first, folder(tmp_path) as second:
        first.checkpoint(scores(1, 2, 3))
        with pytest.raises(RunMismatch, match="was changed by another process during this run"):
            second.checkpoint(scores(1, None, None))
    assert len(Scores.load(tmp_path / "scores.safetensors")) == 3


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    def none(*args):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(locks.fcntl, "flock", none)
    with folder(tmp_path) as ours:
        ours.checkpoint(scores(1, 2, 3))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["run.json", "scores.safetensors"]


def test_a_folder_in_which_nothing_can_be_written(tmp_path, monkeypatch):
    def denied(*args):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(os, "open", denied)
    with pytest.raises(UnwritableFolder, match=r"cannot be written to: Read-only file system\."):
        folder(tmp_path)


def test_a_lock_that_is_taken_away_at_the_wrong_moment_is_taken_again(tmp_path, monkeypatch):
    flock, times = locks.fcntl.flock, []

    def late(handle, how):
        times.append(handle)
        if len(times) == 1:
            (tmp_path / ".lock").unlink()  # whoever held it has just let go
        flock(handle, how)

    monkeypatch.setattr(locks.fcntl, "flock", late)
    with folder(tmp_path):
        assert len(times) == 2 and (tmp_path / ".lock").exists()
