"""Editing and multi-concept benchmarks on a tiny pipeline: every method, pair and seed; and on again."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from headwise.benchmarks.clip_scorer import CLIPScorer
from headwise.benchmarks.editing import EDITING, MEASURES, benchmark_editing
from headwise.benchmarks.multi_concept import COMPOSING, benchmark_multi_concept
from headwise.benchmarks.prompts import (
    EditPair,
    EvalPrompt,
    MultiSubjectPrompt,
    PolysemyPrompt,
    edit_pairs,
    multi_subject_prompts,
)
from headwise.benchmarks.questions.scales import benchmark_scales
from headwise.errors import HeadwiseError, UnreadablePrompts
from headwise.report.measurement import report
from test_steer import relevance_for

BOX = (0.25, 0.25, 0.75, 0.75)
ORANGE = ("a orange dog", "a red dog")
PAIRS = [
    EditPair("Color", "a red dog", ORANGE[0], "orange", ORANGE, ("a dog", "a cat"), BOX),
    EditPair(
        "Animals", "a dog on a vase", "a cat on a vase", "cat", ("a cat", "a dog"), ("a vase", "a"), BOX, True
    ),
    EditPair("Color", "a red vase", "a lavender vase", "lavender", ("a lavender vase",), ("a vase",)),
]
BOTH = {"dog": "Animals", "cat": "Animals"}
SEVERAL = [
    MultiSubjectPrompt("type1", "a dog and a cat", ("a dog", "a cat"), ("dog", "cat"), BOTH),
    MultiSubjectPrompt("type2", "a red dog and a cat", ("a red dog", "a cat"), ("dog", "cat"), BOTH),
]


class Stub(CLIPScorer):
    """A judge of bytes."""

    def __init__(self):
        self.looked = 0

    def embed_images(self, pictures):
        self.looked += len(pictures)
        means = torch.tensor(np.array([np.asarray(p.convert("RGB"), float).mean((0, 1)) for p in pictures]))
        return torch.nn.functional.normalize(means.float() + 1, dim=-1)

    def embed_texts(self, texts):
        seeds = [sum(map(ord, text)) for text in texts]
        made = torch.stack([torch.rand(3, generator=torch.Generator().manual_seed(s)) for s in seeds])
        return torch.nn.functional.normalize(made, dim=-1)


@pytest.mark.filterwarnings("ignore")
def test_every_editing_method_draws_every_pair_from_every_seed(sd, tmp_path):
    from diffusers.models.resnet import ResnetBlock2D

    assert dict(sd.unet.named_modules()).get("up_blocks.1.resnets.1").__class__ is ResnetBlock2D
    options = {"seeds": (0, 1), "num_inference_steps": 2, "batch_size": 4, "progress": False}
    judge = Stub()
    found = benchmark_editing(sd, relevance_for(sd), PAIRS, judge, out=tmp_path, keep_pairs=1, **options)
    assert found.methods == tuple(EDITING)
    assert (
        found.scores.values.shape == (len(EDITING), len(MEASURES), 2, 3)
        and np.isfinite(found.scores.values).all()
    )
    for measure in ("accuracy", "identity"):
        assert set(np.unique(found.scores.values[:, MEASURES.index(measure)])) <= {0.0, 1.0}
    color = found.of("relevance", "alignment", "Color")
    assert color.low <= color.value <= color.high
    kept = sorted(file.stem for file in (tmp_path / "pictures").glob("*.png"))
    assert kept == sorted(["000 source", *(f"000 {method}" for method in EDITING)])
    page = report(tmp_path).read_text()
    assert (
        "Which way of editing" in page and "relevance × 2" in page and page.count("<img") == 1 + len(EDITING)
    )
    again = Stub()
    same = benchmark_editing(sd, relevance_for(sd), PAIRS, again, out=tmp_path, **options)
    assert again.looked == 0 and np.array_equal(same.scores.values, found.scores.values)


def test_a_method_that_changes_nothing_preserves_everything(sd):
    from headwise.benchmarks.editing import measured
    from headwise.editing.prompt_to_prompt import generate_edits

    sources = [[pair.source] for pair in PAIRS]
    drawn = [group[0] for group in generate_edits(sd, sources, [], seeds=[0, 1, 2], num_inference_steps=2)]
    assert np.allclose(measured(Stub(), PAIRS, drawn, drawn)[MEASURES.index("preservation")], 1)


def test_every_composing_method_draws_every_prompt(sd, tmp_path):
    options = {
        "seeds": (0, 1),
        "num_inference_steps": 2,
        "progress": False,
        "out": tmp_path,
        "keep_prompts": 1,
    }
    found = benchmark_multi_concept(sd, relevance_for(sd), SEVERAL, Stub(), **options)
    assert found.methods == tuple(COMPOSING) and np.isfinite(found.scores.values).all()
    for kind in ("type1", "type2"):
        full, minimum = (found.of("plain", m, kind).value for m in ("full", "minimum"))
        assert -1 <= minimum <= 1 and -1 <= full <= 1
        assert found.of("plain", "caption", kind).value == pytest.approx(
            1
        )  # one caption of its type, its own


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


def test_the_built_in_prompts_of_two():
    prompts = multi_subject_prompts("emoji", 30)
    assert {p.kind for p in prompts} == {"type1", "type2"} and len(prompts) == 60
    for several in prompts:
        assert all(subject in several.prompt for subject in several.subjects)
        assert set(several.words) == set(several.concepts)


def test_pairs_of_a_csv(tmp_path):
    file = tmp_path / "pairs.csv"
    file.write_text("source_prompt,target_prompt,attribute\na blue car,a brown car,Color\n")
    (pair,) = edit_pairs(file)
    assert (pair.word, pair.attribute, pair.texts) == ("brown", "Color", ("a brown car", "a blue car"))
    file.write_text("source_prompt,target_prompt\na blue car,a brown car\n")
    with pytest.raises(UnreadablePrompts, match="line 2 lacks"):
        edit_pairs(file)


def test_refusals(sd):
    with pytest.raises(HeadwiseError, match="expected a pair or more"):
        benchmark_editing(sd, relevance_for(sd), [], Stub())
    with pytest.raises(HeadwiseError, match="some of: plain"):
        benchmark_multi_concept(sd, relevance_for(sd), SEVERAL, Stub(), methods=["magic"])


def test_pairs_share_a_call_where_no_word_is_taken_for_anothers():
    from headwise.benchmarks.editing import _together

    red, orange = PAIRS[0]._replace(target="a red dog", word="red"), PAIRS[0]
    again = red._replace(target="a red cat")
    fruit = red._replace(attribute="Food")  # the same word, meant otherwise
    in_it = orange._replace(target="a red orange")
    assert _together([red, orange, again, fruit, in_it]) == [[0, 1, 2], [3], [4]]


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
