"""The subject that is attended to least, found and turned up without a gradient."""

import numpy as np
import pytest
import torch

from conftest import TRANSFORMERS, ddim, tiny_sd
from headwise.editing.neglected import StrengthenNeglected
from headwise.errors import BadStrength, HeadwiseError, HookMisuse
from headwise.model.attention import hooked
from headwise.steering.steer import Steer, strengthen
from helpers import NAMES, call, relevance_for

CONCEPTS = {"dog": NAMES[0], "tree": NAMES[1], "red": NAMES[1]}
FAMILIES = {"sd": lambda: tiny_sd(scheduler=ddim()), **{n: TRANSFORMERS[n] for n in ("sd3", "flux-dev")}}


def hook_for(pipe, words=(("dog", "red"),), **options):
    return StrengthenNeglected(words, relevance_for(pipe), CONCEPTS, **options)


class Looking:
    """The attention of every head to every token, softmax written out in float64, at some steps."""

    def __init__(self, steps):
        self.steps, self.peaks = steps, {}

    def __call__(self, attend, site, query, key, value):
        if site.call.step < self.steps:
            q, k = query[site.conditional].double(), key[site.conditional].double()
            shares = torch.softmax(q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5, -1)[..., site.text]
            self.peaks.setdefault(site.layer, []).append(shares.amax(2))
            self.positions = {word: site.call.positions(0, word)[-1] for word in ("red", "dog")}
        return attend(query, key, value)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_neglected_subject_is_the_one_whose_heads_attend_to_it_least(family):
    pipe, looking = FAMILIES[family](), Looking(2)
    hook, relevance = hook_for(pipe, after=0.5), relevance_for(pipe)
    with hooked(pipe, hook, looking):
        call(pipe, "a red dog", num_inference_steps=4)
    peaks = torch.cat([torch.stack(looking.peaks[layer]).mean(0) for layer in sorted(looking.peaks)], 1)[0]
    attended = {}
    for word, position in looking.positions.items():
        weights = torch.tensor(relevance[CONCEPTS[word]])
        attended[word] = float(weights @ peaks[:, position] / weights.sum())
    assert hook.neglected == [min(attended, key=attended.get)]


def test_the_rest_of_the_calls_are_steered_as_strengthen_steers_them(sd):
    """Two steps of four are as they were, and two have the neglected word turned up."""
    hook = hook_for(sd, after=0.5, dial=0.5)
    with hooked(sd, hook):
        found = call(sd, "a red dog", num_inference_steps=4)
    (word,) = hook.neglected
    same = strengthen(relevance_for(sd), word, CONCEPTS[word], 0.5, steps=(0.5, 1.0))
    with hooked(sd, same):
        expected = call(sd, "a red dog", num_inference_steps=4)
    assert torch.equal(found, expected)
    assert not torch.equal(found, call(sd, "a red dog", num_inference_steps=4))


def test_a_dial_of_zero_leaves_images_as_they_are(pipe):
    options = {"num_inference_steps": 2}
    with hooked(pipe, hook_for(pipe, after=0.5, dial=0)):
        found = call(pipe, "a red dog", **options)
    assert torch.equal(found, call(pipe, "a red dog", **options))


def test_each_image_of_a_batch_has_subjects_and_a_neglected_one_of_its_own(sd):
    prompts, words = ["a red dog", "a tree"], [["red", "dog"], ["tree"]]
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(5))
    hook, options = hook_for(sd, words, after=0.5), {"num_inference_steps": 2, "output_type": "latent"}
    with hooked(sd, hook):
        together = sd(prompts, latents=latents, **options).images
    both = hook.neglected
    assert both[0] in ("red", "dog") and both[1] == "tree"
    for n in range(2):
        alone = hook_for(sd, words[n : n + 1], after=0.5)
        with hooked(sd, alone):
            image = sd(prompts[n], latents=latents[n : n + 1], **options).images
        assert alone.neglected == both[n : n + 1] and torch.allclose(image, together[n : n + 1], atol=1e-4)


def test_the_control_has_the_same_factors_at_other_heads(sd):
    hook = hook_for(sd)
    control = hook.at_random_heads()
    for found, expected in zip(control._factors.values(), hook._factors.values(), strict=True):
        assert not np.array_equal(found, expected) and np.array_equal(np.sort(found), np.sort(expected))
    with hooked(sd, control):
        call(sd, "a red dog")
    assert control.neglected and not hook.neglected and isinstance(control._steer, Steer)


def test_a_hook_serves_one_image_after_another(sd):
    hook = hook_for(sd, after=0.5)
    with hooked(sd, hook):
        first, again = call(sd), call(sd)
    assert torch.equal(first, again)


def test_what_cannot_be_is_refused(sd):
    with pytest.raises(HeadwiseError, match="No subject was given"):
        hook_for(sd, [])
    with pytest.raises(HeadwiseError, match="No concept was given for 'cat'"):
        hook_for(sd, [["cat"]])
    with pytest.raises(BadStrength, match="after=1"):
        hook_for(sd, after=1)
    with pytest.raises(HookMisuse, match="Subjects of 2 images"), hooked(sd, hook_for(sd, [["dog"]] * 2)):
        call(sd)
