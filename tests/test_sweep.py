"""A sweep: each entry is generated once, in the calls its loops say, whatever was interrupted or shared."""

import json
import subprocess
import sys
from contextlib import nullcontext
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from headwise.benchmarks.comparison import spread_evenly
from headwise.benchmarks.results import kind_of, kind_of_scores
from headwise.benchmarks.sweep import Call, KeptImage, Sweep, run_sweep
from headwise.errors import RunMismatch
from headwise.runs.image_names import ImageName
from headwise.runs.scores import Scores

AXES = {"method": ("a", "b"), "measure": ("x", "y", "z"), "seed": (5, 6), "prompt": range(5)}
GRID = {name: labels for name, labels in AXES.items() if name != "measure"}
LOOPS = [("method", "seed"), ("seed",), (), ("seed", "prompt"), ("seed", "prompt", "method"), ("prompt",)]


def counting(loops, batch_size=2, axes=AXES, same=None, calls=None, fails_at=None):
    """A sweep whose images are their rows, and whose scores are three numbers of each row."""
    calls = [] if calls is None else calls

    def generate(call):
        calls.append(call)
        if len(calls) == fails_at:
            raise KeyboardInterrupt
        return [tuple(row) for row in call.rows.tolist()]

    def score(call, images):
        digits = np.array([int("1" + "".join(map(str, image))) for image in images], float)
        return np.stack([digits, -digits, digits / 2]) if "measure" in axes else digits

    def keep(call, images):
        for number, method in zip(call.numbers, call.labels("method"), strict=True):
            yield KeptImage(ImageName(number, method), Image.new("RGB", (2, 2)), f"prompt {number}")

    return Sweep(axes, {"loops": loops}, loops, batch_size, generate, score, keep, same)


def run(sweep, **options):
    return run_sweep(nullcontext(), lambda pipe: sweep, **{"progress": False} | options)


@pytest.mark.parametrize("loops", LOOPS)
@pytest.mark.parametrize("batch_size", [1, 2, 3, 100])
def test_every_entry_is_generated_once_and_a_call_has_one_label_of_each_loop(loops, batch_size):
    calls = []
    scores = run(counting(loops, batch_size, calls=calls))
    rows = [tuple(row) for call in calls for row in call.rows.tolist()]
    assert sorted(rows) == sorted(product(range(2), range(2), range(5)))
    for call in calls:
        for axis in set(loops) - {"prompt"}:
            assert set(call.labels(axis)) == {call.label(axis)}
        few = len(set(call.numbers)) if "prompt" in loops else len(call.rows)
        assert few <= batch_size
    for row in rows:
        digits = int("1" + "".join(map(str, row)))
        assert scores.values[row[0], :, row[1], row[2]].tolist() == [digits, -digits, digits / 2]


def test_the_outermost_loop_is_the_slowest():
    calls = []
    run(counting(("seed", "prompt", "method"), calls=calls))
    blocks = [(call.label("seed"), tuple(call.numbers), call.label("method")) for call in calls]
    assert blocks == [(s, n, m) for s in (5, 6) for n in ((0, 1), (2, 3), (4,)) for m in "ab"]


@pytest.mark.parametrize("loops", LOOPS)
@pytest.mark.parametrize("fails_at", [1, 2, 3])
def test_a_sweep_continues_where_it_ended_and_generates_nothing_twice(tmp_path, loops, fails_at):
    calls, again = [], []
    with pytest.raises(KeyboardInterrupt):
        run(counting(loops, calls=calls, fails_at=fails_at), out=tmp_path)
    scores = run(counting(loops, calls=again), out=tmp_path)
    rows = [tuple(row) for call in calls[:-1] + again for row in call.rows.tolist()]
    assert sorted(rows) == sorted(product(range(2), range(2), range(5)))
    assert np.array_equal(scores.values, run(counting(loops)).values)


@given(st.sets(st.integers(0, 19)), st.sampled_from(LOOPS), st.integers(1, 4))
def test_whatever_is_missing_is_generated_once(there, loops, batch_size):
    sweep = counting(loops, batch_size)
    missing = np.array([i not in there for i in range(20)]).reshape(2, 2, 5)
    rows = [tuple(row) for call in sweep.calls(missing, range(5)) for row in call.rows.tolist()]
    assert sorted(rows) == sorted(map(tuple, np.argwhere(missing).tolist()))


def test_entries_that_are_the_same_are_scored_once():
    same = np.arange(20).reshape(2, 2, 5)
    same[1, 0] = same[0, 0]  # with the first seed, both methods do the same
    calls = []
    scores = run(counting(("seed",), calls=calls, same=same))
    assert sum(len(call.rows) for call in calls) == 15
    assert np.array_equal(scores.values[1, :, 0], scores.values[0, :, 0])
    assert (scores.values[1, 0, 1] != scores.values[0, 0, 1]).all() and np.isfinite(scores.values).all()


def test_a_sweep_without_metrics_has_one_score_for_each_image():
    scores = run(counting(("method",), axes=GRID))
    assert scores.values.shape == (2, 2, 5) and scores.values[1, 0, 3] == 1103


def test_a_name_may_be_kept_once(tmp_path, monkeypatch):
    kept = []
    monkeypatch.setattr("headwise.runs.folder.RunFolder.keep", lambda self, *image: kept.append(image))
    run(counting(("seed",)), out=tmp_path)
    assert sorted(name for name, _, _ in kept) == sorted(f"00{n} {m}" for n in range(5) for m in "ab")
    kept.clear()
    run(counting(("seed",)))
    assert not kept, "without a folder"


@pytest.mark.parametrize(
    ("count", "of", "chosen"), [(0, 5, []), (1, 5, [0]), (3, 10, [0, 4, 8]), (9, 2, [0, 1])]
)
def test_prompts_to_keep_are_far_apart(count, of, chosen):
    assert list(spread_evenly(count, of)) == chosen


def test_labels_of_a_call():
    call = Call({"method": ("a", "b"), "prompt": range(9)}, np.array([[1, 7], [1, 3]]))
    assert (call.numbers, call.labels("method"), call.label("method")) == ([7, 3], ["b", "b"], "b")


@given(st.integers(0, 12000), st.text("abc ×.0", min_size=1), st.none() | st.integers(0, 20000))
def test_the_name_of_an_image_is_read_as_it_was_written(number, method, k):
    method = method.strip() or "a"
    if k is None and method.rpartition(" ")[2].isdecimal():
        method += "a"  # which would be read as a number of heads
    name = ImageName(number, method, k)
    assert ImageName.parse(str(name)) == name


def test_names_of_images():
    assert str(ImageName(3, "most relevant", 16)) == "003 most relevant 0016"
    assert ImageName.parse("000 random 0 0002") == (0, "random 0", 2)
    assert ImageName.parse("012 relevance × 2") == (12, "relevance × 2", None)
    assert ImageName.parse("003 sdedit 0.5") == (3, "sdedit 0.5", None)
    assert ImageName.parse("00012") is None and ImageName.parse("cat") is None


KINDS = {
    "weakening": ({"order": ("most relevant",), "k": (0, 8), "seed": (1,), "prompt": (0,)}, {}),
    "interventions": ({"order": ("a",), "k": (0,), "seed": (1,), "prompt": (0,)}, {"sweep": "patched"}),
    "polysemy": ({"method": ("plain",), "seed": (1,), "prompt": (0,)}, {}),
    "multi-concept": ({"method": ("plain",), "measure": ("full",), "seed": (1,), "prompt": (0,)}, {}),
    "editing": ({"method": ("plain",), "measure": ("x",), "seed": (1,), "pair": (0,)}, {"relevance": "abc"}),
    "strengthening": (
        {"method": ("plain",), "measure": ("x",), "seed": (1,), "pair": (0,)},
        {"relevance": {}},
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_folders_written_before_they_said_their_kind_are_known_by_their_axes(tmp_path, kind):
    axes, settings = KINDS[kind]
    scores = Scores.empty(axes, settings)
    (tmp_path / "run").mkdir()
    scores.save(tmp_path / "run" / "scores.safetensors")
    assert kind_of_scores(scores) == kind == kind_of(tmp_path / "run")
    assert kind_of(tmp_path) == ("weakenings" if kind == "weakening" else "")
    for said, expected in (("other", "other"), ("scores", kind)):
        (tmp_path / "run" / "run.json").write_text(json.dumps({"kind": said}))
        assert kind_of(tmp_path / "run") == expected


def test_the_kind_of_other_folders(tmp_path):
    assert kind_of(tmp_path) == kind_of(tmp_path / "nothing") == ""
    for name, kind in (("scales.json", "scales"), ("votes.safetensors", "votes")):
        (tmp_path / name).touch()
        assert kind_of(tmp_path) == kind


def test_another_sweep_is_refused_in_a_folder(tmp_path):
    run(counting(("seed",)), out=tmp_path, kind="mine")
    assert kind_of(tmp_path) == "mine"
    with pytest.raises(RunMismatch, match=r"loops is \['seed'\] there and \[\] here"):
        run(counting(()), out=tmp_path)


def test_results_and_runs_need_no_torch():
    code = (
        "import sys, headwise.benchmarks.results, headwise.runs.image_names, headwise.runs.ray\n"
        "print(sorted({'torch', 'diffusers', 'transformers', 'matplotlib', 'ray'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
