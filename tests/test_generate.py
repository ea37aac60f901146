"""Image i of seed s is the same on any worker, in any batch."""

import pytest
import torch
from diffusers import EulerAncestralDiscreteScheduler
from hypothesis import given
from hypothesis import strategies as st

from conftest import BUILD, TRANSFORMERS
from headwise.model.generate import generate, generator_for, image_size, latents_for, side_step
from headwise.runs.shards import batches

GOLDEN = [-0.0416, -1.3566, 0.7037, -0.4608]


def test_the_generator_is_that_of_seed_and_picture():
    draw = lambda seed, picture: torch.randn(4, generator=generator_for(seed, picture))  # noqa: E731
    assert torch.equal(draw(1, 2), draw(1, 2))
    assert not torch.equal(draw(1, 2), draw(2, 1))
    assert not torch.equal(draw(0, 12), draw(0, 1))
    assert not torch.equal(draw(1, 12), draw(11, 2))
    # Golden, so that yesterday's images can be drawn tomorrow.
    assert [round(x, 4) for x in draw(0, 0).tolist()] == GOLDEN


def test_latents_have_the_models_size_or_the_pictures(sd):
    assert latents_for(sd, 0, 0).shape == (4, 8, 8)
    assert latents_for(sd, 0, 0, height=16, width=24).shape == (4, 8, 12)
    assert torch.equal(latents_for(sd, 3, 4), torch.randn(4, 8, 8, generator=generator_for(3, 4)))


def test_the_size_of_the_models_images(pipe, sd):
    (image,) = generate(pipe, ["a red dog"], 0, [0], output_type="pil", num_inference_steps=1)
    assert image_size(pipe) == image.size
    sd.unet.register_to_config(sample_size=(8, 12))  # height, width
    assert image_size(sd) == (12 * sd.vae_scale_factor, 8 * sd.vae_scale_factor)


SIDES = {"bria": 16, "ovis-image": 16, "z-image": 1024, "krea2": 1024, "ernie-image": 1024}


@pytest.mark.parametrize("name", [name for name in SIDES if name in TRANSFORMERS])
def test_the_size_where_pipelines_tell_it_in_different_ways(name):
    pipe = TRANSFORMERS[name]()
    assert image_size(pipe) == (SIDES[name], SIDES[name]) and side_step(pipe) == 8
    options = {"num_inference_steps": 1, "output_type": "pil", "height": 16, "width": 24}
    (image,) = generate(pipe, ["a red dog"], 0, [0], **options)
    assert image.size == (24, 16)


@given(st.integers(0, 50), st.integers(0, 50), st.integers(1, 9), st.lists(st.integers(0, 50), max_size=4))
def test_batches_cover_all_pictures_once_and_stop_at_cuts(start, stop, size, cuts):
    made = list(batches(start, stop, size, cuts))
    assert [i for batch in made for i in batch] == list(range(start, stop))
    assert all(len(batch) <= size for batch in made)
    assert not any(batch[0] < cut <= batch[-1] for batch in made for cut in cuts)


@pytest.mark.parametrize("name", BUILD)
def test_a_picture_is_the_same_in_any_batch_even_if_noise_is_added_on_the_way(name):
    pipe = BUILD[name](dtype=torch.float64, scheduler=EulerAncestralDiscreteScheduler())
    options = {"num_inference_steps": 3, "output_type": "latent", "negative_prompt": "red"}
    prompts = ["a dog", "a cat", "a red car"]
    together = generate(pipe, prompts, 5, range(4), **options)
    for i in range(4):
        alone = generate(pipe, prompts, 5, [i], **options)[0]
        assert torch.allclose(together[i], alone, atol=1e-9)
    given_latents = torch.stack([latents_for(pipe, 5, i) for i in range(4)])
    again = generate(pipe, prompts, 5, range(4), latents=given_latents, **options)
    assert torch.equal(again, together)
    other = generate(pipe, prompts, 6, range(4), **options)
    assert not torch.allclose(other, together)


def test_a_picture_is_that_of_the_pipeline_itself(sd):
    ours = generate(sd, ["a dog"], 5, [3], num_inference_steps=3, output_type="latent")
    theirs = sd("a dog", generator=generator_for(5, 3), num_inference_steps=3, output_type="latent").images
    assert torch.equal(ours, theirs)
