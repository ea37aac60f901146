"""Sharing work: whichever workers die, however late, in whatever order, every image is counted once."""

import random
from contextlib import nullcontext
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import tiny_sd
from headwise.benchmarks.editing import benchmark_editing
from headwise.benchmarks.multi_concept import benchmark_multi_concept
from headwise.benchmarks.polysemy import benchmark_polysemy
from headwise.benchmarks.prompts.evaluation import EvalPrompt
from headwise.benchmarks.results import kind_of
from headwise.benchmarks.sweep import Sweep, run_sweep
from headwise.benchmarks.weakening import measure_weakening
from headwise.benchmarks.weakening_sweeps import benchmark_weakening
from headwise.errors import HeadwiseError, UnreadableFile, WorkersDied
from headwise.measuring.concepts import ConceptSet
from headwise.measuring.measure import measure
from headwise.measuring.measure_effect import measure_effect
from headwise.measuring.merge import merge
from headwise.measuring.votes import Votes
from headwise.runs.folder import versions
from headwise.runs.schedule import Schedule, chunks_of
from headwise.runs.scores import Scores
from headwise.runs.shards import Shard, merge_ranges, subtract
from headwise.runs.workers import Result, Worker, WorkerLost, dispatch
from helpers import PAIRS, SENSES, SEVERAL, SHORT, Bright, Stub, counted, relevance_for, votes_of


class Here:
    """Workers that are all in this process; which is heard next, and which dies, is random."""

    versions = versions()

    def __init__(self, load=lambda: None, count=3, deaths=(), seed=0):
        self.load, self.count, self.random = load, count, random.Random(seed)
        self.deaths = list(deaths)  # for each chunk that is given: does its worker die of it?
        self.spawned, self.given, self.clock = 0, {}, 0.0
        self.free, self.done = [], []

    def __len__(self):
        return self.count

    def begin(self, task):
        self.workers, self.task = {}, task
        self.free, self.given = [], {}
        return [self.spawn() for _ in range(self.count)][0]

    def spawn(self):
        self.spawned += 1
        self.workers[self.spawned] = Worker()
        self.free.append(self.spawned)
        return self.workers[self.spawned].begin((self.load, self.task))[1]

    def idle(self):
        return tuple(self.free)

    def give(self, worker, chunk):
        self.free.remove(worker)
        self.given[worker] = chunk

    def wait(self):
        self.clock += 1
        if not self.given:
            return []
        worker = self.random.choice(sorted(self.given))
        chunk = self.given.pop(worker)
        if self.deaths and self.deaths.pop(0):
            self.spawn()
            return [WorkerLost(worker, "it was shot.")]
        self.done.append(chunk)
        packed, pictures = self.workers[worker].do(chunk)
        self.free.append(worker)
        return [Result(worker, packed, pictures)]

    def now(self):
        return self.clock


class Counting:
    """A task that counts every image at once."""

    nothing = counted([])

    def __init__(self, pipe):
        pass

    def counts(self, missing, so_far, keep):
        for numbers in missing:
            yield counted(numbers)


chunks_in = st.lists(st.integers(1, 9), min_size=1, max_size=12).map(
    lambda sizes: [range(end - size, end) for size, end in zip(sizes, np.cumsum(sizes).tolist(), strict=True)]
)


@settings(deadline=None)
@given(chunks_in, st.integers(1, 5), st.lists(st.booleans(), max_size=8), st.integers(0, 99), st.booleans())
def test_whichever_workers_die_every_picture_is_counted_once(chunks, count, deaths, seed, in_order):
    workers = Here(count=count, deaths=deaths, seed=seed)
    workers.begin(Counting)
    results = dispatch(workers, chunks, in_order=in_order, attempts=99)
    found = [Votes.unpack(result.packed) for result in results]
    assert sum(found, start=counted([])) == counted(range(chunks[-1].stop))
    if in_order:
        assert [votes.pictures[0][0] for votes in found] == [chunk.start for chunk in chunks]


def test_of_a_chunk_that_kills_every_worker_no_fourth_dies():
    workers = Here(deaths=[True] * 9)
    workers.begin(Counting)
    with pytest.raises(
        WorkersDied,
        match=r"3 workers died one after another while counting 0 to 3; .*: it was shot\. Earlier",
    ):
        list(dispatch(workers, [range(4)]))
    assert workers.spawned == 6


def test_a_late_chunk_goes_to_a_second_worker_and_counts_once():
    schedule = Schedule([range(0, 2), range(2, 4), range(4, 6)])
    assert [schedule.take(worker, 0.0) for worker in "abc"] == [range(0, 2), range(2, 4), range(4, 6)]
    assert schedule.take("d", 1000.0) is None, "it is not known yet how long a chunk takes"
    assert schedule.finish("a", 10.0) == 0 and schedule.finish("b", 12.0) == 1
    assert schedule.take("a", 30.0) is None
    assert schedule.take("a", 60.0) == range(4, 6)
    assert schedule.take("b", 90.0) is None, "two are enough"
    schedule.lose("c", "gone.")
    assert not schedule.todo and schedule.open, "the other still has it"
    assert schedule.finish("a", 95.0) == 2 and not schedule.open
    assert schedule.finish("a", 96.0) is None and schedule.finish("c", 97.0) is None


def test_a_late_chunk_that_holds_up_the_others_goes_to_a_second_worker():
    schedule = Schedule([range(i, i + 1) for i in range(9)])
    assert schedule.take("hangs", 0.0, ahead=2) == range(0, 1)
    assert schedule.take("a", 0.0, ahead=2) == range(1, 2)
    assert schedule.finish("a", 1.0) == 1
    assert schedule.take("a", 2.0, ahead=2) is None, "no further ahead, and nobody is late yet"
    assert schedule.take("a", 1000.0, ahead=2) == range(0, 1)
    assert schedule.finish("a", 1001.0) == 0
    assert schedule.take("a", 1001.0, ahead=2) == range(2, 3)


def test_a_chunk_comes_back_first():
    schedule = Schedule([range(i, i + 1) for i in range(9)])
    assert schedule.take("a", 0.0) == range(0, 1)
    schedule.lose("a", "gone.")
    assert [schedule.take(worker, 0.0, ahead=2) for worker in "bcd"] == [range(0, 1), range(1, 2), None]


@given(
    st.integers(1, 200),
    st.integers(1, 9),
    st.integers(1, 9),
    st.integers(1, 50),
    st.sets(st.integers(0, 199)),
)
def test_chunks_hold_what_is_missing_in_complete_batches(count, batch, workers, most, done):
    todo = [range(start, min(start + batch, count)) for start in range(0, count, batch)]
    ranges = merge_ranges((n, n + 1) for n in done if n < count).ranges
    left = subtract(range(count), ranges)
    chunks = chunks_of(todo, left, workers, most, cuts=[32, 64])
    assert [n for chunk in chunks for n in chunk] == [n for part in left for n in part]
    assert all(len(chunk) <= max(most, batch) for chunk in chunks)
    starts = {of.start for of in todo} | {stop for _, stop in ranges}
    assert all(chunk.start in starts for chunk in chunks)
    assert not any(chunk.start < cut < chunk.stop for cut in (32, 64) for chunk in chunks if cut % batch == 0)


def test_the_chunks_of_a_run_that_goes_on_are_no_smaller():
    todo = [range(start, start + 4) for start in range(0, 400, 4)]
    chunks = chunks_of(todo, [range(300, 400)], 1, 32)
    assert [len(chunk) for chunk in chunks[:4]] == [8, 16, 16, 12] and len(chunks[-1]) == 4


@pytest.mark.parametrize("until", [None, 0.3])
def test_shared_votes_are_those_of_one_process_bit_for_bit(tmp_path, concepts, until):
    same = SHORT | {
        "pictures": 100,
        "num_inference_steps": 1,
        "batch_size": 4,
        "keep_pictures": 3,
        "until": until,
        "beside": concepts,
    }
    concepts = ConceptSet({"Color": ["red", "vase"]})
    one = measure(tiny_sd(), concepts, out=tmp_path / "one", **same)
    workers = Here(tiny_sd, deaths=[False, True, False, False, True, True], seed=1)
    many = measure(workers, concepts, out=tmp_path / "many", **same)
    assert many == one and votes_of(tmp_path / "one") == votes_of(tmp_path / "many")
    assert (many.settings["pictures"] < 100) == (until is not None)
    kept = [sorted((tmp_path / name / "pictures").iterdir()) for name in ("one", "many")]
    assert len(kept[0]) == 3 and [f.read_bytes() for f in kept[0]] == [f.read_bytes() for f in kept[1]]


def test_the_result_names_the_versions_of_all_that_counted(tmp_path, concepts):
    workers = Here(tiny_sd, count=2)
    workers.versions = {"torch": "1.2.3"}
    same = SHORT | {"pictures": 4, "out": tmp_path}
    assert measure(workers, concepts, **same).settings["versions"] == {"torch": "1.2.3"}
    again = measure(tiny_sd(), concepts, **same | {"pictures": 8}).settings["versions"]
    assert again == versions() | {"torch": f"1.2.3, {versions()['torch']}"}


def test_a_run_may_go_from_one_process_to_many_and_back(tmp_path, concepts):
    same = SHORT | {"num_inference_steps": 1, "batch_size": 4}
    measure(tiny_sd(), concepts, pictures=6, out=tmp_path / "a", **same)
    workers = Here(tiny_sd)
    measure(workers, concepts, pictures=50, out=tmp_path / "a", **same)
    assert all(chunk.start >= 6 for chunk in workers.done)
    measure(tiny_sd(), concepts, pictures=60, out=tmp_path / "a", **same)
    measure(tiny_sd(), concepts, pictures=60, out=tmp_path / "b", **same)
    assert votes_of(tmp_path / "a") == votes_of(tmp_path / "b")


def test_a_driver_that_ends_in_between_loses_nothing_that_was_counted(tmp_path, concepts):
    same = SHORT | {"pictures": 64, "num_inference_steps": 1, "batch_size": 4, "checkpoint_every": 0}
    with pytest.raises(WorkersDied, match="Earlier counts are kept"):
        measure(
            Here(tiny_sd, deaths=[False] * 4 + [True] * 99, count=1), concepts, out=tmp_path / "a", **same
        )
    before = Votes.load(tmp_path / "a" / "votes.safetensors")
    assert 0 < len(before) < 64
    workers = Here(tiny_sd, seed=3)
    measure(workers, concepts, out=tmp_path / "a", **same)
    assert sum(map(len, workers.done)) == 64 - len(before)
    measure(tiny_sd(), concepts, out=tmp_path / "b", **same)
    assert votes_of(tmp_path / "a") == votes_of(tmp_path / "b")


def test_the_callback_of_shared_progress_may_end_the_run(tmp_path, concepts, capsys):
    same = SHORT | {"pictures": 64, "num_inference_steps": 1, "batch_size": 4, "checkpoint_every": 1e9}
    told = []

    def stops(done, pictures):
        told.append((done, pictures))
        if len(told) == 3:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        measure(Here(tiny_sd), concepts, out=tmp_path / "a", **same | {"progress": stops})
    assert len(Votes.load(tmp_path / "a" / "votes.safetensors")) == told[-1][0] < 64
    measure(Here(tiny_sd), concepts, out=tmp_path / "a", **same | {"progress": lambda *now: told.append(now)})
    assert told[-1] == (64, 64) and told == sorted(told)
    measure(tiny_sd(), concepts, out=tmp_path / "b", **same)
    assert votes_of(tmp_path / "a") == votes_of(tmp_path / "b")
    assert capsys.readouterr().err == ""


def test_a_count_that_was_damaged_on_its_way_ends_the_run_and_is_not_added(tmp_path, concepts):
    same = SHORT | {"pictures": 12, "num_inference_steps": 1, "checkpoint_every": 0}
    workers = Here(tiny_sd, count=1)
    wait, times = workers.wait, []

    def flipped():
        events = wait()
        times.extend(events)
        if len(times) == 3:
            (worker, packed, pictures) = events[0]
            return [Result(worker, packed[:-1] + bytes([packed[-1] ^ 1]), pictures)]
        return events

    workers.wait = flipped
    with pytest.raises(UnreadableFile, match="What a worker sent is damaged: its checksum"):
        measure(workers, concepts, out=tmp_path, **same)
    before = Votes.load(tmp_path / "votes.safetensors")
    assert len(before) == sum(map(len, workers.done[:2])) > 0
    assert measure(Here(tiny_sd), concepts, out=tmp_path, **same) == measure(tiny_sd(), concepts, **same)


def test_a_refusal_at_a_workers_place_is_the_drivers(concepts):
    with pytest.raises(HeadwiseError, match="The latents have shape"):
        measure(Here(tiny_sd), concepts, pictures=4, latents=torch.zeros(2, 4, 8, 8), **SHORT)
    with pytest.raises(HeadwiseError, match="keep_pictures=1 needs a folder"):
        measure(Here(tiny_sd), concepts, pictures=4, keep_pictures=1, **SHORT)


FAST = {"num_inference_steps": 2, "progress": False}


SWEEPS = {
    "weakening": lambda pipe, **options: measure_weakening(
        pipe,
        relevance_for(tiny_sd()),
        "Color",
        [sense.case for sense in SENSES] * 2,
        Bright(),
        ks=(0, 3, 8),
        seeds=(1, 2),
        random_orders=1,
        **FAST | {"keep_prompts": 1} | options,
    ).scores,
    "polysemy": lambda pipe, **options: benchmark_polysemy(
        pipe, relevance_for(tiny_sd()), SENSES * 2, Stub(), seeds=(0, 1), batch_size=2,
        **FAST | {"keep_prompts": 2} | options,
    ).scores,
}  # fmt: skip


@pytest.mark.parametrize("sweep", SWEEPS)
def test_a_shared_sweep_scores_what_one_process_scores(tmp_path, sweep):
    run = SWEEPS[sweep]
    one = run(tiny_sd(), out=tmp_path / "one")
    many = run(Here(tiny_sd, deaths=[False, True], seed=2), out=tmp_path / "many")
    assert np.array_equal(one.values, many.values) and dict(one.axes) == dict(many.axes)
    assert one.settings == many.settings
    names = [sorted(f.name for f in (tmp_path / of / "pictures").iterdir()) for of in ("one", "many")]
    assert names[0] and names[0] == names[1]
    stored = [(tmp_path / of / "scores.safetensors").read_bytes() for of in ("one", "many")]
    assert stored[0] == stored[1]
    again = Here(tiny_sd)
    assert np.array_equal(run(again, out=tmp_path / "many").values, one.values) and not again.done


@pytest.mark.parametrize("sweep", SWEEPS)
def test_a_sweep_in_shards_adds_up(sweep):
    run = SWEEPS[sweep]
    one = run(tiny_sd(), keep_prompts=0)
    parts = [run(tiny_sd(), keep_prompts=0, numbers=Shard(i, 3).of(4)) for i in range(3)]
    assert [len(part) * 4 for part in parts] == [len(one), len(one), 2 * len(one)]
    # The images are the same; a scorer's matrix products may round differently in other batches.
    np.testing.assert_allclose((parts[0] + parts[1] + parts[2]).values, one.values, rtol=0, atol=1e-6)


@pytest.mark.filterwarnings("ignore")
def test_the_other_sweeps_take_shards_and_workers_too():
    relevance, same = relevance_for(tiny_sd()), FAST | {"seeds": (0,), "batch_size": 4}
    editing = {"methods": ("prompt-to-prompt", "sdedit 0.5")}
    composing = {"methods": ("plain", "relevance")}
    for run, cases, more in (
        (benchmark_editing, PAIRS, editing),
        (benchmark_multi_concept, SEVERAL, composing),
    ):
        one = run(tiny_sd(), relevance, cases, Stub(), **same, **more)
        many = run(Here(tiny_sd), relevance, cases, Stub(), **same, **more)
        parts = [
            run(
                tiny_sd(), relevance, cases, Stub(), **same, **more, numbers=Shard(i, 2).of(len(cases))
            ).scores
            for i in range(2)
        ]
        assert many.methods == one.methods
        for other in (many.scores, parts[0] + parts[1]):
            assert np.allclose(other.values, one.scores.values, atol=1e-5)


def test_many_concepts_by_shards_and_by_workers(tmp_path):
    relevance = relevance_for(tiny_sd())
    cases = {"Color": [EvalPrompt("a red dog", ("red",))] * 3, "Animals": [EvalPrompt("a dog", ("dog",))]}
    same = FAST | {"seeds": (0,), "random_orders": 1, "ks": (0, 3, 8)}
    one = benchmark_weakening(tiny_sd(), relevance, cases, Bright(), tmp_path / "one", **same)
    many = benchmark_weakening(Here(tiny_sd), relevance, cases, Bright(), tmp_path / "many", **same)
    for i in range(2):
        out = Shard(i, 2).folder(tmp_path / "shards")
        benchmark_weakening(tiny_sd(), relevance, cases, Bright(), out, Shard(i, 2), **same)
    merged = merge([tmp_path / "shards"], tmp_path / "merged")
    assert [one.file.parent.name for one in merged] == ["animals", "color"]
    for name, of_one in one.items():
        assert np.array_equal(many[name].scores.values, of_one.scores.values)
        stored = Scores.load(tmp_path / "merged" / name.lower() / "scores.safetensors")
        assert np.array_equal(stored.values, of_one.scores.values)


def squares(powers, values, pipe):
    """A grid of the user's own."""

    def score(call, images):
        return np.array([value**power for value, power in zip(images, call.labels("power"), strict=True)])

    return Sweep(
        axes={"power": powers, "value": range(len(values))},
        settings={"values": values},
        loops=(),
        batch_size=2,
        generate=lambda call: [values[n] for n in call.numbers],
        score=score,
    )


def test_any_grid_of_parameters_is_shared(tmp_path):
    make, here = partial(squares, (1, 2), [3, 4, 5]), nullcontext()
    alone = run_sweep(here, make, progress=False)
    many = run_sweep(Here(lambda: here, deaths=[True, False, True]), make, kind="squares", out=tmp_path)
    assert many.values.tolist() == [[3, 4, 5], [9, 16, 25]] == alone.values.tolist()
    assert kind_of(tmp_path) == "squares"


def test_workers_of_which_one_dies_measure_the_same_effect(tmp_path):
    said = {"Color": [("a red dog", "red"), ("a blue dog", "blue")], "Animals": [("a cat", "cat")]}
    concepts = {"Color": ["red", "blue"], "Animals": ["cat"]}
    options = {"prompts": said, "pictures": 4, "num_inference_steps": 2, "batch_size": 2, "progress": False}
    alone = measure_effect(tiny_sd(), concepts, **options)
    workers = Here(load=tiny_sd, count=2, deaths=[True, False], seed=1)
    shared = measure_effect(workers, concepts, out=tmp_path, **options)
    assert workers.spawned == 3 and np.array_equal(shared.values, alone.values)
    assert np.array_equal(shared.standard_errors, alone.standard_errors)
