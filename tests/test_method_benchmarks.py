"""Editing and multi-concept benchmarks on a tiny pipeline: metrics by hand, every method, pair and seed."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from headwise.benchmarks.editing import EDITING, METRICS, Edits, benchmark_editing, edit_scores, together
from headwise.benchmarks.method_results import MultiConcept
from headwise.benchmarks.multi_concept import (
    COMPOSING,
    benchmark_multi_concept,
    subject_atoms,
    subject_scores,
)
from headwise.benchmarks.prompts.edit_pairs import edit_pairs
from headwise.benchmarks.prompts.evaluation import EvalPrompt, PolysemyPrompt, multi_subject_prompts
from headwise.benchmarks.prompts.nouns import COLORS, COMMON_THINGS, with_articles
from headwise.benchmarks.questions.scales import benchmark_scales
from headwise.benchmarks.results import kind_of
from headwise.editing.groups import generate_edits
from headwise.editing.prompt_to_prompt import PromptToPrompt, edit
from headwise.errors import HeadwiseError, RunMismatch, UnreadablePrompts
from headwise.report.measurement import report
from headwise.steering.steer import strengthen
from helpers import PAIRS, SEVERAL, Stub, relevance_for, text


@pytest.mark.filterwarnings("ignore")
def test_every_editing_method_draws_every_pair_from_every_seed(sd, tmp_path):
    from diffusers.models.resnet import ResnetBlock2D

    assert dict(sd.unet.named_modules()).get("up_blocks.1.resnets.1").__class__ is ResnetBlock2D
    options = {"seeds": (0, 1), "num_inference_steps": 2, "batch_size": 4, "progress": False}
    judge = Stub()
    found = benchmark_editing(sd, relevance_for(sd), PAIRS, judge, out=tmp_path, keep_pairs=1, **options)
    assert found.methods == tuple(EDITING)
    assert (
        found.scores.values.shape == (len(EDITING), len(METRICS), 2, 3)
        and np.isfinite(found.scores.values).all()
    )
    for measure in ("accuracy", "identity"):
        assert set(np.unique(found.scores.values[:, METRICS.index(measure)])) <= {0.0, 1.0}
    color = found.of("relevance", "alignment", "Color")
    assert np.isnan(color.low) and np.isnan(color.high) and 0 <= color.value <= 1  # of two pairs
    kept = sorted(file.stem for file in (tmp_path / "pictures").glob("*.png"))
    assert kept == sorted(["000 source", *(f"000 {method}" for method in EDITING)])
    page = report(tmp_path).read_text()
    assert (
        "Which editing method" in page and "relevance × 2" in page and page.count("<img") == 1 + len(EDITING)
    )
    again = Stub()
    same = benchmark_editing(sd, relevance_for(sd), PAIRS, again, out=tmp_path, **options)
    assert again.looked == 0 and np.array_equal(same.scores.values, found.scores.values)


def images(count, seed=0, size=8):
    rng = np.random.default_rng(seed)
    return [Image.fromarray(rng.integers(0, 256, (size, size, 3), np.uint8)) for _ in range(count)]


def cosine(a, b):
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return a @ b / np.sqrt((a @ a) * (b @ b))


def colour(pixels):
    return np.asarray(pixels, np.float64).reshape(-1, 3).mean(0) + 1


def naive_edit_scores(pairs, sources, edited):
    """The four metrics pair by pair, in float64, from what `Stub` sees."""
    rows = []
    for pair, source, image in zip(pairs, sources, edited, strict=True):
        seen = colour(image)
        fits = {words: cosine(seen, text(words)) for words in (*pair.texts, *pair.things, pair.target)}
        covered = []
        for pixels in (np.array(source), np.array(image)):
            height, width = pixels.shape[:2]
            outside = np.ones((height, width), bool)
            if pair.box is not None:
                left, top, right, bottom = (round(edge * width) for edge in pair.box)
                outside[top:bottom, left:right] = False
                outside = ~outside if pair.keeps_object else outside
            background = pixels[outside].mean(0).round()
            covered.append(colour(np.where(outside[..., None], pixels, background)))
        rows.append(
            [
                fits[pair.target],
                float(max(pair.texts, key=fits.get) == pair.texts[0]),
                cosine(*covered),
                float(max(pair.things, key=fits.get) == pair.things[0]),
            ]
        )
    return np.array(rows).T


def test_the_metrics_of_editing_are_those_computed_one_by_one():
    pairs = PAIRS * 8
    sources, edited = images(len(pairs), 0), images(len(pairs), 1)
    scores = edit_scores(Stub(), pairs, sources, edited)
    assert np.allclose(scores, naive_edit_scores(pairs, sources, edited), atol=1e-6)
    # And these images tell apart what might be mistaken for one another.
    assert (scores[METRICS.index("accuracy")] != scores[METRICS.index("identity")]).any()
    swapped = [pair._replace(target=pair.source) for pair in pairs]
    alignment = edit_scores(Stub(), swapped, sources, edited)[METRICS.index("alignment")]
    assert not np.allclose(alignment, scores[METRICS.index("alignment")], atol=1e-3)
    unmasked = [pair._replace(box=None) for pair in pairs]
    preservation = edit_scores(Stub(), unmasked, sources, edited)[METRICS.index("preservation")]
    assert not np.allclose(preservation, scores[METRICS.index("preservation")], atol=1e-4)


def test_a_method_that_changes_nothing_preserves_everything(sd):
    texts = [[pair.source] for pair in PAIRS]
    sources = [group[0] for group in generate_edits(sd, texts, [], seeds=[0, 1, 2], num_inference_steps=2)]
    assert np.allclose(edit_scores(Stub(), PAIRS, sources, sources)[METRICS.index("preservation")], 1)


def test_the_metrics_of_several_subjects_are_those_computed_one_by_one():
    prompts = [
        *SEVERAL,
        SEVERAL[0]._replace(
            prompt="a vase and a frog", subjects=("a vase", "a frog"), words=("vase", "frog")
        ),
        SEVERAL[0]._replace(prompt="a tree and a red dog", subjects=("a tree", "a red dog")),
    ] * 5
    pictures = images(len(prompts))
    captions = {"type1": [prompts[n].prompt for n in (0, 2, 3)], "type2": [prompts[1].prompt]}
    scores = subject_scores(Stub(), prompts, pictures, captions, subject_atoms(prompts))
    naive = []
    for prompt, picture in zip(prompts, pictures, strict=True):
        seen = colour(picture)
        best = max(captions[prompt.kind], key=lambda caption: cosine(seen, text(caption)))
        naive.append(
            [
                cosine(seen, text(prompt.prompt)),
                min(cosine(seen, text(subject)) for subject in prompt.subjects),
                cosine(text(best), text(prompt.prompt)),
            ]
        )
    assert np.allclose(scores[:, :3], naive, atol=1e-6)
    caption = scores[:, MultiConcept.METRICS.index("caption")]
    assert (caption > 1 - 1e-6).any() and (caption < 0.999).any(), "some fit another caption best"
    assert np.allclose(caption[1::4], 1), "of one caption, that one fits best"


def test_subjects_are_asked_for_one_by_one_and_colours_only_of_things_that_are_there():
    """By hand: softmax of the cosines; a colour whose thing does not hold counts nothing."""
    prompts = [SEVERAL[1], SEVERAL[0]._replace(prompt="a vase", subjects=("a vase",), words=("vase",))]
    atoms = subject_atoms(prompts)
    kinds = [(atom.kind, atom.word, atom.parents) for atom in atoms[0].atoms]
    assert kinds == [("thing", "dog", ()), ("thing", "cat", ()), ("color", "red", (0,))]
    assert [set(atom.texts[1:]) for atom in atoms[0].atoms[:2]] == [{"a vase"}] * 2
    assert set(atoms[0].atoms[2].texts) == {with_articles(f"a {color} dog") for color in COLORS}
    assert atoms[0].atoms[2].texts[0] == "a red dog"
    picture = images(1)
    am, gm = subject_scores(Stub(), prompts[:1], picture, {"type2": [prompts[0].prompt]}, atoms[:1])[0, 3:]
    seen, q, holds = colour(picture[0]), [], []
    for atom in atoms[0].atoms:
        logits = np.exp(np.exp(3.0) * np.array([cosine(seen, text(each)) for each in atom.texts]))
        right = logits[0] / logits.sum()
        q.append(right if all(holds[j] for j in atom.parents) else 0.0)
        holds.append(logits[0] >= logits.max())
    assert np.isclose(am, np.mean(q), atol=1e-5) and np.isclose(gm, np.prod(q) ** (1 / 3), atol=1e-5)


def test_prompts_of_two_things_are_told_from_common_ones():
    [both, _] = subject_atoms(SEVERAL)
    assert set(both.atoms[0].texts[1:]) == {f"a {thing}" for thing in COMMON_THINGS}


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0, 2.0])
def test_each_strength_of_relevance_has_its_own_factors(sd, monkeypatch, strength):
    """Each is 1 + s (R − 1), read from the hook that the method of that name puts into the pipeline."""
    relevance, hooks = relevance_for(sd), []
    monkeypatch.setattr(
        "headwise.benchmarks.editing.generate_edits",
        lambda pipe, groups, given, **options: hooks.extend(given) or [[None, None]] * len(groups),
    )
    name = "relevance" if strength == 1 else f"relevance × {strength:g}"
    EDITING[name](Edits(sd, relevance, PAIRS[:1], [0], [], {}))
    expected = strengthen(relevance, "orange", "Color", strength).factors[0]
    assert np.array_equal(hooks[0].factors["orange"], expected)
    assert np.allclose(expected, 1 + strength * (relevance["Color"] - 1))
    assert (strength == 0) == np.allclose(expected, 1)


@pytest.mark.filterwarnings("ignore")
def test_strength_zero_is_the_edit_with_factors_of_one(sd):
    relevance, passed = relevance_for(sd), {"num_inference_steps": 3, "output_type": "np"}
    batch = Edits(sd, relevance, PAIRS[:1], [4], [], passed)
    of = {s: EDITING[f"relevance × {s}"](batch)[0] for s in ("0", "0.5", "2")} | {
        "1": EDITING["relevance"](batch)[0]
    }
    flat = replace(relevance, values=np.ones_like(relevance.values))
    hook = PromptToPrompt(relevance=flat, concepts={"orange": "Color"})
    ((_, ones),) = generate_edits(sd, [[PAIRS[0].source, PAIRS[0].target]], [hook], seeds=[4], **passed)
    assert np.array_equal(of["0"], ones)
    assert len({image.tobytes() for image in of.values()}) == 4


@pytest.mark.filterwarnings("ignore")
def test_the_picture_of_a_pair_and_seed_is_the_same_with_any_count_and_is_that_of_edit(sd, tmp_path):
    options = {"methods": ["prompt-to-prompt"], "num_inference_steps": 2, "progress": False, "batch_size": 2}
    pairs = [*PAIRS, PAIRS[0], PAIRS[2]]
    for count in (4, 5):
        out, keep = tmp_path / str(count), {"keep_pairs": count}
        benchmark_editing(
            sd, relevance_for(sd), pairs[:count], Stub(), seeds=(1, 0), out=out, **keep, **options
        )
    names = ("003 source.png", "003 prompt-to-prompt.png")
    few, many = ([np.asarray(Image.open(tmp_path / c / "pictures" / n)) for n in names] for c in "45")
    (one,) = edit(
        sd,
        pairs[3].source,
        [pairs[3].target],
        PromptToPrompt(),
        seeds=[1],
        num_inference_steps=2,
        progress=False,
    )
    for a, b, c in zip(few, many, one, strict=True):
        assert np.array_equal(a, b) and np.abs(a.astype(int) - np.asarray(c)).max() <= 1
    assert kind_of(tmp_path / "4") == "editing"


def test_runs_from_before_pictures_came_from_the_seed_are_refused(sd, tmp_path):
    options = {"methods": ["plain"], "seeds": (0,), "num_inference_steps": 2, "progress": False}
    benchmark_multi_concept(sd, relevance_for(sd), SEVERAL, Stub(), out=tmp_path, **options)
    described = json.loads((tmp_path / "run.json").read_text())
    del described["settings"]["noise"]
    (tmp_path / "run.json").write_text(json.dumps(described))
    with pytest.raises(RunMismatch, match="noise is None there and 'seed' here"):
        benchmark_multi_concept(sd, relevance_for(sd), SEVERAL, Stub(), out=tmp_path, **options)


def test_a_run_does_not_go_on_with_another_judge(sd, tmp_path):
    class Other(Stub):
        def __init__(self):
            super().__init__()
            self.model.projection = torch.nn.Linear(3, 3)

    relevance = relevance_for(sd)
    options = {"num_inference_steps": 2, "methods": ["target alone"], "progress": False}
    benchmark_editing(sd, relevance, PAIRS, Stub(), seeds=(0,), out=tmp_path / "run", **options)
    with pytest.raises(RunMismatch, match="scorer"):
        benchmark_editing(sd, relevance, PAIRS, Other(), seeds=(0, 1), out=tmp_path / "run", **options)


def test_every_composing_method_generates_every_prompt(sd, tmp_path):
    options = {"seeds": (0, 1), "num_inference_steps": 2, "progress": False, "out": tmp_path}
    found = benchmark_multi_concept(sd, relevance_for(sd), SEVERAL, Stub(), keep_prompts=1, **options)
    assert found.methods == tuple(COMPOSING) and np.isfinite(found.scores.values).all()
    values = found.scores.values[found.methods.index("plain"), MultiConcept.METRICS.index("full")]
    assert found.of("plain", "full", "type1").value == pytest.approx(values[:, 0].mean())
    assert found.of("plain", "full", "type2").value == pytest.approx(values[:, 1].mean())
    assert kind_of(tmp_path) == "multi-concept"


def test_masks_cover_what_may_change():
    size = (8, 4)
    assert PAIRS[0].mask(size).sum() == 4 * 2 and PAIRS[1].mask(size).sum() == 32 - 8
    assert not PAIRS[2].mask(size).any()
    assert np.array_equal(PAIRS[0].mask(size), ~PAIRS[1].mask(size))


def test_the_built_in_pairs():
    pairs = edit_pairs("emoji", 20)
    assert len({p.attribute for p in pairs}) == 5 and len(pairs) == 100
    for pair in pairs:
        assert pair.source != pair.target and pair.texts[0] == pair.target and pair.source in pair.texts
        assert pair.word in pair.target and pair.things[0].split()[-1] in pair.target
        assert len(set(pair.texts)) == len(pair.texts)


def test_the_built_in_prompts_of_several_subjects():
    prompts = multi_subject_prompts("emoji", 30)
    subjects = {p.kind: len(p.subjects) for p in prompts}
    assert subjects == {"type1": 2, "type2": 2, "three": 3, "four": 4} and len(prompts) == 120
    for several in prompts:
        assert all(subject in several.prompt for subject in several.subjects)
        assert set(several.words) == set(several.concepts)
    assert len({concept for several in prompts for concept in several.concepts.values()}) > 1


def test_pairs_of_a_csv(tmp_path):
    file = tmp_path / "pairs.csv"
    file.write_text("source_prompt,target_prompt,attribute\na blue car,a brown car,Color\n")
    (pair,) = edit_pairs(file)
    assert (pair.word, pair.attribute, pair.texts) == ("brown", "Color", ("a brown car", "a blue car"))
    file.write_text("source_prompt,target_prompt\na blue car,a brown car\n")
    with pytest.raises(UnreadablePrompts, match="line 2 lacks"):
        edit_pairs(file)


def test_refusals(sd):
    with pytest.raises(HeadwiseError, match="No pair of prompts was given"):
        benchmark_editing(sd, relevance_for(sd), [], Stub())
    with pytest.raises(HeadwiseError, match="'magic' is not a method. The methods are: plain"):
        benchmark_multi_concept(sd, relevance_for(sd), SEVERAL, Stub(), methods=["magic"])


def test_pairs_share_a_call_where_no_word_is_taken_for_anothers():
    red, orange = PAIRS[0]._replace(target="a red dog", word="red"), PAIRS[0]
    again = red._replace(target="a red cat")
    fruit = red._replace(attribute="Food")  # the same word, meant otherwise
    in_it = orange._replace(target="a red orange")
    assert together([red, orange, again, fruit, in_it]) == [[0, 1, 2], [3], [4]]


def test_scales_of_relevance_are_put_to_the_same_questions(sd, tmp_path):
    senses = [
        PolysemyPrompt(
            "orange", "Color", "Food", EvalPrompt("an orange dog", ("a dog", "a cat")), "a dog in orange"
        )
    ]
    cases = {
        "Color": [
            EvalPrompt("a red dog", ("a red dog", "a dog")),
            EvalPrompt("a red cat", ("a red cat", "a cat")),
        ]
    }
    options = {"seeds": (0,), "num_inference_steps": 2, "batch_size": 4, "progress": False}
    scales = ("sum", "clamp 2", "maximum")
    given = (sd, relevance_for(sd), cases, senses, PAIRS)
    found = benchmark_scales(*given, Stub(), tmp_path, scales=scales, **options)
    numbers = found.numbers()
    assert list(numbers) == ["plain", *scales] and found.orders == dict.fromkeys(scales, 1.0)
    assert numbers["plain"]["preservation"] == pytest.approx([1, 1, 1])
    assert numbers["sum"]["preservation"][0] < 1 and numbers["clamp 2"]["largest"] <= 2
    assert not (tmp_path / "weaken" / "clamp 2").exists()  # the same order of heads
    assert numbers["clamp 2"]["areas"] == numbers["sum"]["areas"]
    page = report(tmp_path).read_text()
    assert "On which scale" in page and "clamp 2" in page
    again = Stub()
    same = benchmark_scales(*given, again, tmp_path, scales=scales, **options)
    assert again.looked == 0 and same.numbers() == numbers


def test_a_scale_that_changes_the_order_is_weakened_by(sd):
    from headwise.benchmarks.questions.scales import _order

    measured = relevance_for(sd)
    turned = replace(measured, values=measured.values.max() - measured.values)
    assert _order(measured, measured) == 1 and _order(measured, turned) == pytest.approx(-1)
