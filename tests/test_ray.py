"""A real Ray of this machine: two workers, some of them killed, and the votes of a single process."""

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial, wraps
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import tiny_sd
from headwise.benchmarks.weakening import measure_weakening
from headwise.errors import HeadwiseError, MissingExtra, ModelNotLoaded, WorkersDied
from headwise.measuring.concepts import ConceptSet
from headwise.measuring.measure import measure
from headwise.measuring.relevance import Relevance
from headwise.measuring.votes import Votes
from headwise.model.pipelines import load_pipeline
from headwise.runs.schedule import Schedule
from headwise.runs.scores import Scores
from helpers import relevance_for, votes_of

ray = pytest.importorskip("ray")

from headwise.runs.ray import RayWorkers  # noqa: E402

pytestmark = [
    pytest.mark.ray,
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings(
        "ignore::DeprecationWarning", "ignore::FutureWarning:ray.*", "ignore:No worker"
    ),
]
CONCEPTS = ConceptSet({"Animals": ["dog", "cat", "frog"], "Color": ["red", "orange"]})
SAME = {
    "beside": None,
    "pictures": 100,
    "prompts": ["a dog", "a red car"],
    "num_inference_steps": 2,
    "batch_size": 4,
    "progress": False,
    "checkpoint_every": 0,
}


def load_here(folder):
    """The pipeline, as it is computed by one thread."""
    torch.set_num_threads(1)
    return load_pipeline(folder)


def load_mortal(folder, deaths, after):
    """The same; but after so many calls of the denoiser the worker is killed, `deaths` times in all."""
    pipe = load_here(folder)
    forward, calls = pipe.unet.forward, []

    @wraps(forward)
    def dying(*args, **options):
        calls.append(1)
        if len(calls) == after and next(
            (True for i in range(deaths) if _first(folder / f"death {i}")), False
        ):
            os.kill(os.getpid(), signal.SIGKILL)
        return forward(*args, **options)

    pipe.unet.forward = dying
    return pipe


def _first(mark):
    try:
        mark.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def bright(pictures, cases):
    return np.array([np.asarray(p, float).mean() > 128 for p in pictures], float)


@pytest.fixture(scope="module")
def cluster():
    """Ray with room for two workers; a busy machine may need a second try to start it."""
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    os.environ["RAY_USAGE_STATS_ENABLED"], os.environ["OMP_NUM_THREADS"] = "0", "1"
    os.environ["RAY_worker_register_timeout_seconds"] = "600"
    for trial in range(4):
        try:
            ray.init(
                num_cpus=2,
                num_gpus=0,
                include_dashboard=False,
                log_to_driver=False,
                object_store_memory=2**28,
            )
            break
        except Exception:
            ray.shutdown()
            if trial == 3:
                raise
    yield ray.get_runtime_context().gcs_address
    ray.shutdown()


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model"
    tiny_sd().save_pretrained(folder)
    return folder


@pytest.fixture
def one(model, tmp_path):
    """What a single process counts, with one thread as the workers have."""
    threads = torch.get_num_threads()
    measure(load_here(model), CONCEPTS, out=tmp_path / "one", **SAME)
    torch.set_num_threads(threads)
    return votes_of(tmp_path / "one")


def test_two_workers_of_which_three_are_killed_count_what_one_process_counts(cluster, model, one, tmp_path):
    with RayWorkers(partial(load_mortal, model, 3, 13), workers=2) as crew:
        measure(crew, CONCEPTS, out=tmp_path / "many", keep_pictures=2, **SAME)
        assert crew.spawned == 5
    assert len(list(model.glob("death *"))) == 3
    assert votes_of(tmp_path / "many") == one
    assert len(list((tmp_path / "many" / "pictures").iterdir())) == 2


def test_chunks_that_kill_every_worker_end_the_run_with_a_sentence(cluster, model, one, tmp_path):
    out = tmp_path / "many"
    with RayWorkers(partial(load_here, model), workers=1) as crew:
        measure(crew, CONCEPTS, out=out, **SAME | {"pictures": 40})
    said = r"3 workers died one after the other while they counted 40 to 47; the last reported: "
    with (
        RayWorkers(partial(load_mortal, model, 99, 5), workers=1) as crew,
        pytest.raises(WorkersDied, match=said),
    ):
        measure(crew, CONCEPTS, out=out, **SAME)
    assert len(Votes.load(out / "votes.safetensors")) == 40
    with RayWorkers(partial(load_here, model), workers=1) as crew:
        measure(crew, CONCEPTS, out=out, **SAME)
    assert votes_of(out) == one


def test_a_worker_comes_when_there_is_room(cluster, model, one, tmp_path):
    @ray.remote(num_cpus=1)
    class Busy:
        def is_there(self):
            return True

    other = Busy.remote()
    ray.get(other.is_there.remote())
    with RayWorkers(partial(load_here, model), workers=2) as crew:
        seen = []
        give, wait = crew.give, crew.wait

        def given(worker, chunk):
            seen.append(worker)
            if len(seen) == 3:
                ray.kill(other)  # and its place is free
                while len(crew.free) < 2:
                    assert wait() == []
            give(worker, chunk)

        crew.give = given
        measure(crew, CONCEPTS, out=tmp_path / "many", **SAME)
    assert seen[:3] == [seen[0]] * 3 and len(set(seen)) == 2
    assert votes_of(tmp_path / "many") == one


def test_a_worker_that_dies_idle_died_of_no_chunk(cluster, model, one, tmp_path, monkeypatch):
    lose = Schedule.lose
    deaths = []
    monkeypatch.setattr(Schedule, "lose", lambda *given: deaths.append(given) or lose(*given))
    with RayWorkers(partial(load_here, model), workers=2) as crew:
        begin = crew.begin

        def begun(task):
            nothing = begin(task)
            while len(crew.free) < 2:
                crew.wait()
            for actor in crew.actors.values():
                ray.kill(actor)
            time.sleep(1)  # until Ray knows
            return nothing

        crew.begin = begun
        measure(crew, CONCEPTS, out=tmp_path / "many", **SAME)
    assert deaths == []
    assert votes_of(tmp_path / "many") == one


DRIVER = """
import os, signal, sys
from functools import partial, wraps
from pathlib import Path
from headwise.runs.ray import RayWorkers
from headwise.runs.schedule import Schedule
from headwise.measuring.measure import measure
from headwise.runs.folder import RunFolder
from test_ray import CONCEPTS, SAME, load_here

import ray, test_ray
ray.init(address=sys.argv[1], log_to_driver=False)
ray.cloudpickle.register_pickle_by_value(test_ray)
checkpoint, times = RunFolder.checkpoint, []

def dying(self, so_far):
    checkpoint(self, so_far)
    times.append(1)
    if len(times) == 3:
        os.kill(os.getpid(), signal.SIGKILL)

RunFolder.checkpoint = dying
with RayWorkers(partial(load_here, Path(sys.argv[2])), workers=2) as crew:
    measure(crew, CONCEPTS, out=sys.argv[3], **SAME)
"""


def test_a_driver_that_is_killed_goes_on_where_it_was(cluster, model, one, tmp_path):
    command = [sys.executable, "-W", "ignore", "-c", DRIVER, cluster, str(model), str(tmp_path / "many")]
    killed = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    before = Votes.load(tmp_path / "many" / "votes.safetensors")
    assert 0 < len(before) < 100 and not (tmp_path / "many" / "relevance.safetensors").exists()
    with RayWorkers(partial(load_here, model), workers=2) as crew:
        measure(crew, CONCEPTS, out=tmp_path / "many", **SAME)
    assert votes_of(tmp_path / "many") == one
    assert json.loads((tmp_path / "many" / "run.json").read_text())["stretches"][-1]["to"] == 100


def test_a_sweep_over_workers(cluster, model, tmp_path):
    from headwise.benchmarks.prompts import EvalPrompt

    cases = [
        EvalPrompt("a red dog", ("red",)),
        EvalPrompt("a cat", ("cat",)),
        EvalPrompt("a red vase", ("red",)),
    ]
    same = {"ks": (0, 3, 8), "seeds": (1,), "random_orders": 1, "num_inference_steps": 2, "progress": False}
    relevance = relevance_for(load_here(model))
    threads = torch.get_num_threads()
    alone = measure_weakening(
        load_here(model), relevance, "Color", cases, bright, out=tmp_path / "one", **same
    )
    torch.set_num_threads(threads)
    with RayWorkers(partial(load_mortal, model, 1, 9), workers=2) as crew:
        many = measure_weakening(crew, relevance, "Color", cases, bright, out=tmp_path / "many", **same)
    assert np.array_equal(alone.scores.values, many.scores.values)


def test_refusals_come_from_where_they_happen(cluster, tmp_path):
    with (
        RayWorkers(partial(load_pipeline, tmp_path / "nowhere"), workers=1) as crew,
        pytest.raises(ModelNotLoaded, match="There is no folder .*nowhere"),
    ):
        measure(crew, CONCEPTS, **SAME)
    with (
        RayWorkers(partial(os._exit, 3), workers=1) as crew,
        pytest.raises(
            WorkersDied,
            match=r"4 workers died before they counted anything; the last reported: .*\. Try one on such",
        ),
    ):
        measure(crew, CONCEPTS, **SAME)
    with pytest.raises(HeadwiseError, match="The workers are not at work yet. Enter them first"):
        measure(RayWorkers(partial(load_pipeline, tmp_path)), CONCEPTS, **SAME)
    with pytest.raises(HeadwiseError, match="workers=0 was given; expected 1 or more"):
        RayWorkers(load_pipeline, workers=0)


def test_the_command_shares_over_ray(cluster, model, one, run, tmp_path, monkeypatch):
    (tmp_path / "mine.toml").write_text(
        '[concepts]\nAnimals = ["dog", "cat", "frog"]\nColor = ["red", "orange"]\n'
    )
    (tmp_path / "prompts.txt").write_text("a dog\na red car\n")
    line = ["measure", "-m", model, "-c", tmp_path / "mine.toml", "-p", tmp_path / "prompts.txt", "-n", 100]
    line += ["--num-inference-steps", 2, "--batch-size", 4, "-o", tmp_path / "many", "--workers", 2, "--json"]
    code, out, err = run(*line, "--ray")
    assert code == 0 and json.loads(out)["pictures"] == 100 and "100/100" in err
    assert votes_of(tmp_path / "many") == one


PAGE = """
import sys
from pathlib import Path
import ray
from helpers import ROOT, blocks

ray.init(address=sys.argv[1], log_to_driver=False)
for block in blocks(ROOT / "docs" / "cluster.md", "python"):
    exec(block)
print(relevance.split_half.shape, found.values.shape)
"""


def test_the_page_of_many_machines_runs(cluster, tmp_path):
    # In a process of its own, as a reader runs it: functions that are checked cannot be sent.
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PAGE, cluster],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([*sys.path, str(Path(__file__).parent)])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len(Votes.load(tmp_path / "runs/crew/votes.safetensors")) == 8
    relevance = Relevance.load(tmp_path / "runs/crew/relevance.safetensors")
    scores = Scores.load(tmp_path / "runs/brightness/scores.safetensors")
    assert done.stdout.split("\n")[0] == f"{relevance.split_half.shape} {scores.values.shape}"
    assert scores.values.size == 4


def test_ray_is_asked_for_by_name(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtra, match=r"pip install 'headwise\[ray\]'"), RayWorkers(load_pipeline):
        pass
