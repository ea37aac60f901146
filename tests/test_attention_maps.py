"""The maps of words, number for number, beside a softmax written out; and what regions say of concepts."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from conftest import TRANSFORMERS, tiny_sd
from headwise.errors import HeadMapMismatch, HeadwiseError, HookMisuse
from headwise.measuring.attention_maps import AttentionMaps, WordMaps, region_relevance
from headwise.measuring.relevance import Relevance
from headwise.model.attention import hooked
from headwise.model.heads import HeadMap, Layer
from headwise.model.tokens import Word
from headwise.steering.steer import strengthen
from helpers import relevance_for

OPTIONS = {"num_inference_steps": 2, "output_type": "latent"}


class Naive:
    """Softmax over all keys in float64, then the columns of one word."""

    def __init__(self, row, word):
        self.row, self.word, self.maps = row, word, {}

    def __call__(self, attend, site, query, key, value):
        q, k = (tensor[site.conditional][self.row].double() for tensor in (query, key))
        positions = [site.text.start + p for p in site.call.positions(self.row, self.word)]
        map_ = torch.softmax(q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5, -1)[..., positions].sum(-1)
        self.maps.setdefault(site.layer, []).append(map_.unflatten(1, (site.height, site.width)))
        return attend(query, key, value)


@pytest.mark.parametrize("build", [tiny_sd, *(TRANSFORMERS[name] for name in ("sd3", "flux-dev"))])
def test_maps_are_those_of_a_softmax(build):
    pipe, naive, seen = build(), Naive(1, "red"), AttentionMaps(picture=1)
    with hooked(pipe, seen, naive):
        pipe(["a dog", "a red car"], **OPTIONS)
    maps = seen.take()
    assert [word.text for word in maps.words] == ["a", "red", "car"]
    for layer, found in enumerate(maps.layers):
        expected = torch.stack(naive.maps[layer]).mean(0)
        assert np.allclose(found[..., 1], expected.numpy(), atol=1e-5)


def test_looking_leaves_the_picture_as_it_was(pipe):
    def draw(*hooks):
        with hooked(pipe, *hooks):
            return pipe("a red dog", generator=torch.Generator().manual_seed(0), **OPTIONS).images

    assert torch.equal(draw(), draw(AttentionMaps()))


def test_a_strengthened_word_has_a_stronger_map(sd):
    """At the first layer of the first call nothing but the factor has changed."""
    relevance = relevance_for(sd)
    found = []
    for hooks in ([], [strengthen(relevance, "red", "Color", 2.0)]):
        seen = AttentionMaps()
        with hooked(sd, seen, *hooks):
            noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
            sd("a red dog", latents=noise, num_inference_steps=1, output_type="latent")
        found.append(seen.take())
    factors = strengthen(relevance, "red", "Color", 2.0).factors[0]
    assert np.allclose(found[1].of(0)[..., 1], factors[0] * found[0].of(0)[..., 1], atol=1e-6)
    assert np.allclose(found[1].of(0)[..., 2], found[0].of(0)[..., 2], atol=1e-6)


def made(maps, relevance=None):
    head_map = HeadMap((Layer("a.attn2", 1), Layer("b.attn2", 1)))
    words = tuple(Word(text, 1, (text,), (n + 1,)) for n, text in enumerate(("red", "car")))
    return WordMaps(words, tuple(np.array(m, np.float32) for m in maps), head_map)


@pytest.fixture
def two_heads():
    """The first hears "red" on the left, the second "car" everywhere, on a coarser grid."""
    return made([[[[[1, 0], [0, 0]], [[1, 0], [0, 0]]]], [[[[0, 0.5]]]]])


def test_a_region_is_the_mean_of_its_positions_in_part_where_they_are_in_it_in_part(two_heads):
    assert np.allclose(two_heads.within(), [[0.5, 0], [0, 0.5]])
    assert np.allclose(two_heads.within((0, 0, 0.5, 1)), [[1, 0], [0, 0.5]])
    assert np.allclose(two_heads.within((0.25, 0.1, 0.75, 0.2)), [[0.5, 0], [0, 0.5]])
    with pytest.raises(HeadwiseError, match="expected left < right and top < bottom"):
        two_heads.within((0.5, 0, 0.5, 1))
    with pytest.raises(HeadMapMismatch):
        two_heads.of(2)


def test_all_heads_together_are_their_mean_at_the_finest_grid(two_heads):
    together = two_heads.together()
    assert together.shape == (2, 2, 2)
    assert np.allclose(together[..., 0], [[0.5, 0], [0.5, 0]]) and np.allclose(together[..., 1], 0.25)


def test_a_concept_pulls_where_its_heads_attend(two_heads):
    relevance = Relevance.from_votes(np.array([[3, 1], [1, 3]]), ("Color", "Things"), two_heads.head_map)
    of_all, of_words = region_relevance(two_heads, relevance, (0, 0, 0.5, 1))
    assert np.allclose(of_words, [[1.5, 0.5], [0.5, 1.5]])
    assert np.allclose(of_all, [(1.5 + 0.25) / 1.5, (0.5 + 0.75) / 1.5])
    everywhere = Relevance.from_votes(np.ones((1, 2)), ("All",), two_heads.head_map)
    assert np.allclose(region_relevance(two_heads, everywhere)[0], 1)
    other = Relevance.from_votes(np.ones((1, 2)), ("All",), HeadMap((Layer("c.attn2", 2),)))
    with pytest.raises(HeadMapMismatch):
        region_relevance(two_heads, other)


def test_nothing_seen_is_said(sd):
    with pytest.raises(HookMisuse, match="No image was generated"):
        AttentionMaps().take()
    with pytest.raises(HookMisuse, match="Image 3 cannot be recorded: the batch has 1 prompts"):
        with hooked(sd, AttentionMaps(picture=3)):
            sd("a dog", **OPTIONS)


def test_together_is_weighted_by_the_relevance_of_each_words_concept(sd):
    """Beside the sum written out; a head below 0 is left out, and a word without a concept has all heads."""
    values = relevance_for(sd).values.copy()
    values[0, 1] = -2.0
    relevance = replace(relevance_for(sd), values=values)
    concept = relevance.concepts[0]
    seen = AttentionMaps(by=relevance, concepts={"red": concept})
    with hooked(sd, seen):
        sd("a red dog", **OPTIONS)
    maps = seen.take()
    total, weights = 0, np.maximum(0, relevance[concept])
    for head, weight in enumerate(weights):
        of_head = torch.from_numpy(maps.of(head)[..., 1])[None, None].double()
        total = total + weight * torch.nn.functional.interpolate(of_head, (8, 8), mode="bilinear")[0, 0]
    assert weights[1] == 0 and maps.weights[0].tolist() == [1.0] * len(weights)
    assert np.allclose(maps.together()[..., 1], (total / weights.sum()).numpy(), atol=1e-6)
    assert np.allclose(maps.together(np.ones_like(maps.weights))[..., 0], maps.together()[..., 0], atol=1e-6)


def test_relevance_and_concepts_are_given_together(sd):
    with pytest.raises(HeadwiseError, match="Only one of `by` and `concepts` was given"):
        AttentionMaps(by=relevance_for(sd))
    with pytest.raises(HeadwiseError, match="Only one of `by` and `concepts` was given"):
        AttentionMaps(concepts={"red": "Color"})
