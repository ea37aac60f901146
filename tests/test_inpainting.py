"""Image-to-image and inpainting models are measured and steered as text-to-image models of the same parts."""

import json

import pytest
import torch
from diffusers import (
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLPipeline,
)
from PIL import Image

from conftest import SD1, tiny_sd, tiny_sdxl
from headwise.errors import ModelNotLoaded
from headwise.measuring.measure import measure
from headwise.model.attention import hooked
from headwise.model.generate import generate
from headwise.model.heads import HeadMap
from headwise.model.inpainting import paint_everything
from headwise.model.pipelines import load_pipeline
from headwise.steering.doctor import examine
from headwise.steering.steer import strengthen
from helpers import SHORT, call, relevance_for


def saved_as(kind, pipe, folder, **options):
    """The parts of a pipeline, saved as another kind of pipeline."""
    kind(**pipe.components, **options).save_pretrained(folder)
    return folder


def tiny_inpainting():
    """A UNet of nine channels, which takes a mask and a masked image beside the latents."""
    pipe = tiny_sd(SD1 | {"in_channels": 9, "out_channels": 4})
    with torch.no_grad():  # so that what the encoder samples is its mean
        pipe.vae.quant_conv.weight[4:], pipe.vae.quant_conv.bias[4:] = 0, -30
    return pipe


@pytest.fixture
def inpainting(tmp_path):
    folder = tmp_path / "inpainting"
    return saved_as(StableDiffusionInpaintPipeline, tiny_inpainting(), folder, requires_safety_checker=False)


@pytest.mark.parametrize("kind", [StableDiffusionImg2ImgPipeline, StableDiffusionInpaintPipeline])
def test_models_with_the_parts_of_a_text_to_image_model_are_that_model(kind, sd, tmp_path):
    pipe = load_pipeline(saved_as(kind, sd, tmp_path / "model", requires_safety_checker=False))
    assert type(pipe) is StableDiffusionPipeline and HeadMap.of(pipe) == HeadMap.of(sd)
    pipe.set_progress_bar_config(disable=True)
    assert torch.equal(call(pipe), call(sd))


def test_sdxl_for_image_to_image_is_loaded_and_its_refiner_is_not(tmp_path):
    xl = tiny_sdxl()
    folder = saved_as(StableDiffusionXLImg2ImgPipeline, xl, tmp_path / "model", add_watermarker=False)
    assert type(load_pipeline(folder)) is StableDiffusionXLPipeline
    options = {"add_watermarker": False, "requires_aesthetics_score": True}
    refiner = saved_as(StableDiffusionXLImg2ImgPipeline, xl, tmp_path / "refiner", **options)
    with pytest.raises(
        ModelNotLoaded, match=r"refiner is a StableDiffusionXLImg2ImgPipeline, which takes an"
    ):
        load_pipeline(refiner)


def test_with_a_mask_over_everything_it_is_what_diffusers_paints(inpainting):
    """A second way: diffusers' own inpainting, of an image all of which is masked."""
    own = StableDiffusionInpaintPipeline(**tiny_inpainting().components, requires_safety_checker=False)
    own.set_progress_bar_config(disable=True)
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    options = {"num_inference_steps": 3, "output_type": "latent", "latents": noise, "height": 16, "width": 16}
    picture, mask = Image.new("RGB", (16, 16), "orange"), Image.new("L", (16, 16), 255)
    painted = own("a red dog", image=picture, mask_image=mask, strength=1.0, **options).images
    pipe = load_pipeline(inpainting)
    pipe.set_progress_bar_config(disable=True)
    assert torch.allclose(pipe("a red dog", **options).images, painted, atol=1e-4)


def test_it_is_measured_steered_and_left_as_it_was(inpainting):
    pipe = load_pipeline(inpainting)
    pipe.set_progress_bar_config(disable=True)
    before = call(pipe)
    relevance = measure(pipe, {"Color": ["red"], "Animals": ["dog"]}, pictures=2, **SHORT)
    assert relevance.values.shape == (2, HeadMap.of(pipe).all_heads)
    with hooked(pipe, strengthen(relevance_for(pipe), "red", "Color")):
        assert not torch.equal(call(pipe), before)
    assert torch.equal(call(pipe), before)


def test_the_doctor_and_effect_find_it_whole(inpainting):
    checkup = examine(load_pipeline(inpainting))
    assert checkup.covered and checkup.bit_exact and checkup.steered and not checkup.effect.error


def test_images_of_other_sizes(inpainting):
    images = generate(
        load_pipeline(inpainting), ["a red dog"], 0, [0, 1], num_inference_steps=2, height=24, width=32
    )
    assert [image.size for image in images] == [(32, 24)] * 2


def test_a_command_takes_it(run, inpainting, monkeypatch):
    monkeypatch.chdir(inpainting.parent)
    measuring = ("measure", "-m", "inpainting", "--concepts", "emoji", "-n", 2, "--num-inference-steps", 2)
    assert run(*measuring)[0] == 0
    code, out, _ = run(
        "generate", "a red dog", "-m", "inpainting", "-n", 1, "--num-inference-steps", 2, "--json"
    )
    assert code == 0 and json.loads(out)["files"]


def test_a_unet_that_takes_something_else_is_refused():
    with pytest.raises(ModelNotLoaded, match="UNet of 8 channels for latents of 4; expected 4, or 9 as for"):
        paint_everything(tiny_sd(SD1 | {"in_channels": 8, "out_channels": 4}))
