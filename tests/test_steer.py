"""Steering scales values, which is scaling maps; strength 0 is nothing; refusals say what to do."""

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from conftest import tiny_sd
from headwise.errors import (
    BadStrength,
    HeadMapMismatch,
    HookMisuse,
    UnknownConcept,
    UnreadableFile,
    WordNotInPrompt,
)
from headwise.measuring.relevance import Relevance
from headwise.model.attention import hooked
from headwise.model.heads import HeadMap, Layer
from headwise.model.tokens import token_positions, word_positions
from headwise.steering.steer import Steer, adjust, strengthen, weaken
from helpers import NAMES, call, relevance_for


def explicit(factors, words):
    """The naive twin: whole attention maps, one image, head and token at a time.

    `words`: for each image its prompt, tokenizer and word.
    """
    starts = {}

    def hook(attend, site, q, k, v):
        start = starts.setdefault(
            site.layer, sum(h for layer, h in starts_heads.items() if layer < site.layer)
        )
        maps = torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]), -1)
        for row in range(len(q))[site.conditional]:
            tokenizer, prompt, word = words[site.picture[row]]
            for token in token_positions(tokenizer, prompt, word) if word else ():
                for head in range(site.heads):
                    maps[row, head, :, token] *= factors[start + head]
        return maps @ v

    starts_heads = {}

    def with_map(head_map):
        starts_heads.update({i: layer.heads for i, layer in enumerate(head_map)})
        return hook

    return with_map


def difference(pipe, steer, twin, **options):
    with hooked(pipe, steer):
        ours = call(pipe, **options)
    with hooked(pipe, twin(HeadMap.of(pipe))):
        theirs = call(pipe, **options)
    assert not torch.equal(ours, call(pipe, **options))  # something was steered at all
    return float((ours - theirs).abs().max() / theirs.abs().max())


@pytest.mark.parametrize("guidance", [1.0, 5.0])
def test_scaled_values_are_scaled_maps(exact_pipe, guidance):
    relevance = relevance_for(exact_pipe)
    factors = 1 + 1.5 * (relevance["Color"] - 1)
    prompts, words = ["a red vase", "a lavender red cat", "a dog"], ["red", "lavender red", None]
    twin = explicit(factors, [(exact_pipe.tokenizer, p, w) for p, w in zip(prompts, words, strict=True)])
    options = {"prompt": prompts, "guidance_scale": guidance, "negative_prompt": ["red"] * 3}
    assert difference(exact_pipe, strengthen(relevance, words, "Color", 1.5), twin, **options) < 1e-12


def test_several_pictures_per_prompt_and_other_words_each(exact_pipe):
    relevance = relevance_for(exact_pipe)
    factors = 2 * relevance["Color"] - relevance["Food"]
    prompts, words = ["a red vase", "an orange cat"], ["red", "orange"]
    each = [(exact_pipe.tokenizer, p, w) for p, w in zip(prompts, words, strict=True) for _ in range(2)]
    steer = adjust(relevance, words, "Color", "Food")
    options = {"prompt": prompts, "num_images_per_prompt": 2, "num_inference_steps": 2}
    assert difference(exact_pipe, steer, explicit(factors, each), **options) < 1e-12


def test_several_words_with_several_concepts_at_once():
    pipe = tiny_sd(dtype=torch.float64)
    relevance, prompt = relevance_for(pipe), "a red dog"
    with hooked(pipe, strengthen(relevance, "red", "Color"), strengthen(relevance, "dog", "Animals")):
        both = call(pipe, prompt)
    of_red = explicit(relevance["Color"], [(pipe.tokenizer, prompt, "red")])(HeadMap.of(pipe))
    scaled = Steer(relevance["Animals"][None], "dog", head_map=relevance.head_map)
    with hooked(pipe, scaled, of_red):
        assert torch.allclose(both, call(pipe, prompt), rtol=0, atol=1e-12)


def test_strength_zero_changes_no_bit(pipe):
    relevance, stock = relevance_for(pipe), call(pipe)
    steers = (
        strengthen(relevance, "red", "Color", 0.0),
        adjust(relevance, "dog", "Animals", "Food", 0.0),
        weaken(HeadMap.of(pipe), []),
        weaken(HeadMap.of(pipe), range(4), factor=1.0),
    )
    with hooked(pipe, *steers):
        assert torch.equal(call(pipe), stock)
    with hooked(pipe, strengthen(relevance, "red", "Color")):
        assert not torch.equal(call(pipe), stock)
    assert torch.equal(call(pipe), stock)


@given(strength=st.floats(-100, 100), concept=st.sampled_from(NAMES))
def test_the_dial_is_a_line_through_nothing_and_the_paper(strength, concept):
    relevance = relevance_for(SimpleHeads(6))
    factors = strengthen(relevance, "red", concept, strength).factors
    assert np.allclose(factors, 1 + strength * (relevance[concept] - 1))
    assert np.array_equal(strengthen(relevance, "red", concept, 0).factors, np.ones((1, 6)))
    assert np.allclose(strengthen(relevance, "red", concept, 1).factors, relevance[concept])


def SimpleHeads(heads):
    """Something that HeadMap.of reads: one attention layer of so many heads."""
    attention = torch.nn.Module()
    attention.heads, attention.processor, attention.is_cross_attention = heads, None, True
    holder = torch.nn.Module()
    holder.add_module("down_blocks", torch.nn.ModuleList([attention]))
    return holder


def test_rows_of_one_batch_may_be_weakened_at_other_heads(sd):
    """The image with k heads weakened is the same alone and beside others."""
    head_map = HeadMap.of(sd)
    masks = np.arange(head_map.all_heads) < np.array([0, 1, 3, head_map.all_heads])[:, None]
    noise = torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(3))
    options = {"num_inference_steps": 2, "output_type": "latent"}
    with hooked(sd, weaken(head_map, masks)):
        together = sd(["a red dog"] * 4, latents=noise.expand(4, -1, -1, -1).clone(), **options).images
    for mask, picture in zip(masks, together, strict=True):
        with hooked(sd, weaken(head_map, np.flatnonzero(mask))):
            alone = sd("a red dog", latents=noise[None].clone(), **options).images[0]
        assert torch.allclose(alone, picture, atol=1e-4)
    plain = sd("a red dog", latents=noise[None].clone(), **options).images[0]
    assert torch.allclose(together[0], plain, atol=1e-4)


def test_weakening_leaves_start_end_and_padding_alone(sd):
    seen = []

    def look(attend, site, q, k, v):
        seen.append(v.clone())
        return attend(q, k, v)

    with hooked(sd, look):
        call(sd, num_inference_steps=1, guidance_scale=1.0)
    plain = seen.pop(0)
    seen.clear()
    with hooked(sd, weaken(HeadMap.of(sd), range(2)), look):
        call(sd, num_inference_steps=1, guidance_scale=1.0)
    words = list(word_positions(sd.tokenizer, "a red dog"))
    assert words == [1, 2, 3]
    expected = plain.clone()
    expected[:, :2, words] *= -2
    assert torch.equal(seen[0], expected)


def test_a_window_of_steps(sd):
    relevance = relevance_for(sd)
    stock, whole = [], []

    def keep(where):
        def hook(attend, site, q, k, v):
            if site.layer == 0:
                where.append(v.clone())
            return attend(q, k, v)

        return hook

    options = {"num_inference_steps": 10, "guidance_scale": 1.0}
    with hooked(sd, keep(stock)):
        call(sd, **options)
    with hooked(sd, strengthen(relevance, "red", "Color", steps=(0.2, 0.5)), keep(whole)):
        call(sd, **options)
    steered = [not torch.equal(a, b) for a, b in zip(stock, whole, strict=True)]
    total = len(stock)  # PNDM makes one call more than it has steps
    assert steered == [0.2 <= i / total < 0.5 for i in range(total)]


def test_one_occurrence_or_all(sd):
    relevance, pictures = relevance_for(sd), []
    for occurrence in (None, 1, 2):
        with hooked(sd, strengthen(relevance, "dog", "Animals", occurrence=occurrence)):
            pictures.append(call(sd, "a dog in a dog"))
    assert not any(torch.equal(a, b) for a, b in ((pictures[0], pictures[1]), (pictures[1], pictures[2])))


def test_positions_stand_in_for_words_where_there_is_no_text(sd):
    relevance, prompt = relevance_for(sd), "a red dog"
    embeds, negative = sd.encode_prompt(prompt, "cpu", 1, True)
    with hooked(sd, strengthen(relevance, "red", "Color")):
        by_word = call(sd, prompt)
    with hooked(sd, strengthen(relevance, (2,), "Color")):
        by_position = call(sd, None, prompt_embeds=embeds, negative_prompt_embeds=negative)
    assert torch.equal(by_word, by_position)
    with pytest.raises(HookMisuse, match="without text, so no word can be found"):
        with hooked(sd, strengthen(relevance, "red", "Color")):
            call(sd, None, prompt_embeds=embeds, negative_prompt_embeds=negative)
    with pytest.raises(HookMisuse, match=r"positions \(99,\) were given, but there are 24 tokens"):
        with hooked(sd, strengthen(relevance, (99,), "Color")):
            call(sd, prompt)


def test_a_bare_denoiser_is_steered_by_positions(sd):
    relevance = relevance_for(sd)
    sample, text = torch.randn(2, 4, 8, 8), torch.randn(2, 24, 32)
    stock = sd.unet(sample, 1, text).sample
    with hooked(sd.unet, strengthen(relevance, (2, 3), "Color")):
        assert not torch.equal(sd.unet(sample, 1, text).sample, stock)
    with pytest.raises(HookMisuse, match="number is unknown outside a pipeline call"):
        with hooked(sd.unet, strengthen(relevance, (2, 3), "Color", steps=(0, 0.5))):
            sd.unet(sample, 1, text)


def test_only_the_top_heads(sd):
    factors = strengthen(relevance_for(sd), "red", "Color", top=3).factors[0]
    full = strengthen(relevance_for(sd), "red", "Color").factors[0]
    assert (factors != 1).sum() == 3
    assert np.abs(full - 1)[factors != 1].min() >= np.abs(full - 1)[factors == 1].max()


def test_the_clamp_is_the_papers_for_many_heads_only():
    few, many = (relevance_of_one_head(heads) for heads in (128, 1300))
    assert strengthen(few, "red", "Color").factors.max() == 128
    assert strengthen(many, "red", "Color").factors.max() == 9
    assert strengthen(many, "red", "Color", clamp=math.inf).factors.max() == 1300
    assert strengthen(few, "red", "Color", clamp=2).factors.max() == 2


def relevance_of_one_head(heads):
    votes = np.zeros((1, heads), np.int64)
    votes[0, 3] = 7
    return Relevance.from_votes(votes, ("Color",), HeadMap((Layer("a", heads),)))


def test_controls_keep_what_they_should():
    head_map = HeadMap((Layer("a", 2), Layer("b", 3)))
    votes = np.array([[1, 3, 2, 2, 8]])
    steer = strengthen(Relevance.from_votes(votes, ("Color",), head_map), "red", "Color")
    r = steer.factors[0]
    assert np.allclose(steer.control("uniform").factors, np.sqrt((r**2).mean()))
    dealt = steer.control("random heads", 1).factors[0]
    assert sorted(dealt) == sorted(r)
    assert np.array_equal(dealt, steer.control("random heads", 1).factors[0])
    means = steer.control("layer means").factors[0]
    assert np.allclose(means, [*[r[:2].mean()] * 2, *[r[2:].mean()] * 3])


def test_half_precision_keeps_its_type():
    pipe = tiny_sd(dtype=torch.bfloat16)
    with hooked(pipe, strengthen(relevance_for(pipe), "red", "Color")):
        assert call(pipe).dtype == torch.bfloat16


def test_refusals(sd):
    relevance = relevance_for(sd)
    for strength in (math.nan, math.inf, 1e9, -101):
        with pytest.raises(BadStrength, match="A strength of .* from -100 to 100. 0 changes nothing"):
            strengthen(relevance, "red", "Color", strength)
        with pytest.raises(BadStrength, match=r"A factor of .* from -100 to 100\.$"):
            weaken(relevance.head_map, [0], "red", strength)
    with pytest.raises(BadStrength, match="clamp=-1"):
        strengthen(relevance, "red", "Color", clamp=-1)
    with pytest.raises(BadStrength, match="expected a start below an end"):
        strengthen(relevance, "red", "Color", steps=(0.5, 0.5))
    with pytest.raises(BadStrength, match="top=0"):
        strengthen(relevance, "red", "Color", top=0)
    with pytest.raises(UnknownConcept, match="Did you mean 'Color'"):
        strengthen(relevance, "red", "Colour")
    with pytest.raises(HeadMapMismatch, match="0 to "):
        weaken(HeadMap.of(sd), [999])
    with (
        pytest.raises(WordNotInPrompt, match="'blue' is not a word of"),
        hooked(sd, strengthen(relevance, "blue", "Color")),
    ):
        call(sd)
    with (
        pytest.raises(HookMisuse, match="2 words were given for 1 images"),
        hooked(sd, strengthen(relevance, ["red", "dog"], "Color")),
    ):
        call(sd)


def test_first_tries_work_or_are_refused_in_a_sentence(sd, tmp_path):
    relevance = relevance_for(sd)
    relevance.save(tmp_path / "relevance.safetensors")
    for steering in (strengthen(tmp_path, "red", "Color"), strengthen(str(tmp_path), "red", "Color")):
        assert np.array_equal(steering.factors, strengthen(relevance, "red", "Color").factors)
    assert adjust(tmp_path, "red", "Food", "Color").head_map == relevance.head_map
    with pytest.raises(UnreadableFile, match="runs/nowhere does not exist"):
        strengthen("runs/nowhere", "red", "Color")
    head_map, top = relevance.head_map, relevance.top("Color", 3)
    by_rank, by_index = weaken(head_map, top), weaken(head_map, [head.index for head in top])
    assert np.array_equal(by_rank.factors, by_index.factors) and (by_rank.factors == -2).sum() == 3
    assert (weaken(head_map, []).factors == 1).all()
    for wrong in (["mid_block.attn2[0]"], [0.5], top[0]):
        with pytest.raises(HeadMapMismatch, match="expected head indices, the result of `Relevance.top`"):
            weaken(head_map, wrong)
    with pytest.raises(HeadMapMismatch, match="A mask of 3 heads was given; there are 8"):
        weaken(head_map, np.ones((1, 3), bool))


def test_relevance_of_another_model_is_refused_and_of_nobody_too(sd):
    other = tiny_sd()  # the same architecture is accepted
    with hooked(other, strengthen(relevance_for(sd), "red", "Color")):
        call(other)
    strange = relevance_of_one_head(7)
    with (
        pytest.raises(HeadMapMismatch, match="these are different heads"),
        hooked(sd, strengthen(strange, "red", "Color")),
    ):
        call(sd)
    silent = Relevance.from_votes(np.array([[0, 0], [1, 2]]), ("Color", "Food"))
    with pytest.raises(UnknownConcept, match="'Color' has a relevance of 0 at every head"):
        strengthen(silent, "red", "Color")


COMPILED = """
import torch
from conftest import tiny_sd
from helpers import call, relevance_for
from headwise.model.attention import hooked
from headwise.steering.steer import strengthen

pipe = tiny_sd()
relevance = relevance_for(pipe)
with hooked(pipe, strengthen(relevance, "red", "Color", 2.0)):
    eager = call(pipe, num_inference_steps=6)
pipe.unet = torch.compile(pipe.unet, backend="eager", fullgraph=True)
with hooked(pipe, steer := strengthen(relevance, "red", "Color", 0.5)):
    call(pipe, num_inference_steps=2)
    with torch.compiler.set_stance("fail_on_recompile"):
        steer.factors = strengthen(relevance, "red", "Color", 2.0).factors
        compiled = call(pipe, num_inference_steps=6)
assert torch.allclose(compiled, eager, atol=1e-5)
with torch.compiler.set_stance("fail_on_recompile"), hooked(pipe, strengthen(relevance, "red", "Color", 2.0)):
    again = call(pipe, num_inference_steps=6)
assert torch.equal(again, compiled)
"""


def test_a_compiled_denoiser_is_not_compiled_anew_for_another_strength():
    """In a process of its own: the shape checks of this test run are what torch.compile cannot read."""
    subprocess.run([sys.executable, "-W", "ignore", "-c", COMPILED], check=True, cwd=Path(__file__).parent)
