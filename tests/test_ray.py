"""A real Ray of this machine: two workers, some of them killed, and the counts of a single process."""

import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from functools import partial, wraps
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import tiny_sd
from headwise.benchmarks.prompts.evaluation import EvalPrompt
from headwise.benchmarks.weakening import measure_weakening
from headwise.errors import HeadwiseError, MissingExtra, ModelNotLoaded, WorkersDied
from headwise.measuring.concepts import ConceptSet
from headwise.measuring.measure import measure
from headwise.measuring.relevance import Relevance
from headwise.measuring.votes import Votes
from headwise.model.pipelines import load_pipeline
from headwise.runs.schedule import Schedule
from headwise.runs.scores import Scores
from helpers import relevance_for, votes_of, wait
from ray_helpers import SQUARES, count, first, nothing

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
    "pictures": 60,
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


def load_mortal(folder, mark):
    """The same; but one worker, whichever comes to its 13th call of the denoiser first, is killed."""
    pipe = load_here(folder)
    forward, calls = pipe.unet.forward, []

    @wraps(forward)
    def dying(*args, **options):
        calls.append(1)
        if len(calls) == 13 and first(mark):
            os.kill(os.getpid(), signal.SIGKILL)
        return forward(*args, **options)

    pipe.unet.forward = dying
    return pipe


def bright(pictures, cases):
    return np.array([np.asarray(p, float).mean() > 128 for p in pictures], float)


@pytest.fixture(scope="module")
def cluster():
    """Ray with room for two workers; a busy machine may need a second try to start it."""
    for module in ("test_ray", "ray_helpers"):
        ray.cloudpickle.register_pickle_by_value(sys.modules[module])
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("RAY_USAGE_STATS_ENABLED", "0")
        environment.setenv("OMP_NUM_THREADS", "1")
        environment.setenv("RAY_worker_register_timeout_seconds", "600")
        environment.setenv("RAY_worker_niceness", "0")  # 15 otherwise: last on a busy machine
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


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tiny_sd().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def one(model, tmp_path_factory):
    """What a single process counts, with one thread as the workers have."""
    folder, threads = tmp_path_factory.mktemp("one"), torch.get_num_threads()
    measure(load_here(model), CONCEPTS, out=folder, **SAME)
    torch.set_num_threads(threads)
    return votes_of(folder)


def test_two_workers_of_which_one_is_killed_count_what_one_process_counts(cluster, model, one, tmp_path):
    with RayWorkers(partial(load_mortal, model, tmp_path / "death"), workers=2) as crew:
        measure(crew, CONCEPTS, out=tmp_path / "many", keep_pictures=2, **SAME)
        assert crew.spawned == 3
    assert (tmp_path / "death").exists()
    assert votes_of(tmp_path / "many") == one
    assert len(list((tmp_path / "many" / "pictures").iterdir())) == 2


def test_three_workers_are_killed_at_three_chunks_and_two_at_one(cluster, tmp_path):
    for mark in ("4 a", "16 a", "16 b", "28 a"):
        (tmp_path / f"deadly {mark}").touch()
    with RayWorkers(nothing, workers=2) as crew:
        assert np.array_equal(count(crew, tmp_path, tmp_path / "many"), SQUARES)
        assert crew.spawned == 6
    assert len(list(tmp_path.glob("death of *"))) == 4


def test_a_chunk_that_kills_every_worker_ends_the_run_with_a_sentence(cluster, tmp_path):
    for mark in range(3):
        (tmp_path / f"deadly 20 {mark}").touch()
    said = r"3 workers died one after another while counting 20 to 23; the last reported: "
    with RayWorkers(nothing, workers=1) as crew, pytest.raises(WorkersDied, match=said):
        count(crew, tmp_path, tmp_path / "many")
    assert len(Scores.load(tmp_path / "many" / "scores.safetensors")) == 20
    with RayWorkers(nothing, workers=1) as crew:
        assert np.array_equal(count(crew, tmp_path, tmp_path / "many"), SQUARES)


def test_a_worker_comes_when_there_is_room(cluster, tmp_path):
    @ray.remote(num_cpus=1)
    class Busy:
        def is_there(self):
            return True

    other = Busy.remote()
    ray.get(other.is_there.remote())
    with RayWorkers(nothing, workers=2) as crew:
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
        assert np.array_equal(count(crew, tmp_path, tmp_path / "many"), SQUARES)
    assert seen[:3] == [seen[0]] * 3 and len(set(seen)) == 2


def is_gone(actor):
    try:
        return not ray.get(actor.is_there.remote())
    except ray.exceptions.RayActorError:
        return True


def test_a_worker_that_dies_idle_died_of_no_chunk(cluster, tmp_path, monkeypatch):
    lose = Schedule.lose
    deaths = []
    monkeypatch.setattr(Schedule, "lose", lambda *given: deaths.append(given) or lose(*given))
    with RayWorkers(nothing, workers=2) as crew:
        begin = crew.begin

        def begun(task):
            nothing = begin(task)
            while len(crew.free) < 2:
                crew.wait()
            for actor in crew.actors.values():
                ray.kill(actor)
                wait(partial(is_gone, actor))
            return nothing

        crew.begin = begun
        assert np.array_equal(count(crew, tmp_path, tmp_path / "many"), SQUARES)
        assert crew.spawned == 4
    assert deaths == []


DRIVER = """
import os, signal, sys
from pathlib import Path
import ray, ray_helpers
from headwise.runs.folder import RunFolder
from headwise.runs.ray import RayWorkers

ray.init(address=sys.argv[1], log_to_driver=False)
ray.cloudpickle.register_pickle_by_value(ray_helpers)
checkpoint, times = RunFolder.checkpoint, []

def dying(self, so_far):
    checkpoint(self, so_far)
    times.append(1)
    if len(times) == 3:
        os.kill(os.getpid(), signal.SIGKILL)

RunFolder.checkpoint = dying
with RayWorkers(ray_helpers.nothing, workers=2) as crew:
    ray_helpers.count(crew, Path(sys.argv[2]), sys.argv[2])
"""


def test_a_driver_that_is_killed_goes_on_where_it_was(cluster, tmp_path):
    command = [sys.executable, "-W", "ignore", "-c", DRIVER, cluster, str(tmp_path)]
    killed = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    before = len(Scores.load(tmp_path / "scores.safetensors"))
    assert 0 < before < len(SQUARES)
    with RayWorkers(nothing, workers=2) as crew:
        assert np.array_equal(count(crew, tmp_path, tmp_path), SQUARES)
    last = json.loads((tmp_path / "run.json").read_text())["stretches"][-1]
    assert (last["from"], last["to"]) == (before, len(SQUARES))


def test_a_sweep_of_pictures_over_a_worker(cluster, model, tmp_path):
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
    with RayWorkers(partial(load_here, model), workers=1) as crew:
        many = measure_weakening(crew, relevance, "Color", cases, bright, out=tmp_path / "many", **same)
    assert np.array_equal(alone.scores.values, many.scores.values)


def test_refusals_come_from_where_they_happen(cluster, tmp_path):
    with (
        RayWorkers(partial(load_pipeline, tmp_path / "nowhere"), workers=1) as crew,
        pytest.raises(ModelNotLoaded, match="The folder .*nowhere does not exist"),
    ):
        measure(crew, CONCEPTS, **SAME)
    with (
        RayWorkers(partial(os._exit, 3), workers=1) as crew,
        pytest.raises(
            WorkersDied,
            match=r"4 workers died before counting any image; the last reported: .*\. Run `headwise doctor`",
        ),
    ):
        count(crew, tmp_path, None)
    with pytest.raises(HeadwiseError, match="The workers have not started. Enter the context first"):
        measure(RayWorkers(partial(load_pipeline, tmp_path)), CONCEPTS, **SAME)
    with pytest.raises(HeadwiseError, match="workers=0 was given; expected 1 or more"):
        RayWorkers(load_pipeline, workers=0)


def test_the_command_shares_over_ray(cluster, model, one, tmp_path):
    """In a process of its own: Ray prints there what concerns its own workers only."""
    (tmp_path / "mine.toml").write_text(
        '[concepts]\nAnimals = ["dog", "cat", "frog"]\nColor = ["red", "orange"]\n'
    )
    (tmp_path / "prompts.txt").write_text("a dog\na red car\n")
    line = ["measure", "-m", model, "-c", tmp_path / "mine.toml", "-p", tmp_path / "prompts.txt", "-n", 60]
    line += ["--num-inference-steps", 2, "--batch-size", 4, "-o", tmp_path / "many", "--workers", 2, "--json"]
    line += ["--beside", "none", "--ray", cluster]
    command = [Path(sys.executable).with_name("headwise"), *map(str, line)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout)["pictures"] == 60 and "60/60" in done.stderr
    assert votes_of(tmp_path / "many") == one


def test_what_ray_prints_of_a_dead_worker_does_not_mix_with_the_answer(sd, run, workspace, monkeypatch):
    @contextmanager
    def talkative(load, *_, **__):
        print("(raylet) A worker died")
        yield load()

    monkeypatch.setattr("headwise.runs.ray.RayWorkers", talkative)
    line = ["measure", "-m", "tiny", "-n", 4, "--num-inference-steps", 1, "--beside", "none", "--ray"]
    code, out, err = run(*line, "--json", "-o", workspace / "shared")
    assert code == 0 and json.loads(out)["pictures"] == 4 and "(raylet) A worker died" in err


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
