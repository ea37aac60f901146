"""Inversion: the image comes back, by the first way exactly; pipeline and scheduler are left alone."""

import warnings

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler
from PIL import Image

from conftest import BUILD, TRANSFORMERS, ddim, pndm, tiny_sd, tiny_sdxl
from headwise.benchmarks.prompts.given_pictures import given_pairs
from headwise.editing.inversion import edit_picture, invert, psnr
from headwise.editing.local_blend import LocalBlend
from headwise.editing.prompt_to_prompt import PromptToPrompt
from headwise.editing.walks import Replaying, walk_of
from headwise.errors import HeadwiseError, NotFinite
from headwise.model.autoencoder import decoded, encoded
from headwise.model.pipelines import load_pipeline
from headwise.pictures import read_picture


def picture(size=(16, 16)):
    x = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(x)


def calm(pipe):
    """A random denoiser is no contraction; one that says little is."""
    with torch.no_grad():
        pipe.unet.conv_out.weight.mul_(0.02)
    return pipe


@pytest.mark.parametrize("name", BUILD)
def test_edit_friendly_is_exact(name):
    pipe = BUILD[name](dtype=torch.float64)
    found = invert(pipe, picture(), "a red dog", num_inference_steps=6)
    assert found.error < 1e-9 and found.psnr == pytest.approx(found.limit)
    assert found.path.shape == (7, 4, 8, 8) and found.residuals.shape == (6, 4, 8, 8)


def test_a_transformer_gives_a_picture_back_and_edits_it():
    pipe, [pair] = load_pipeline("emoji-dit"), given_pairs("emoji", 1)[:1]
    found = invert(pipe, pair.picture, pair.source, num_inference_steps=6)
    assert found.error < 1e-4 and found.psnr == pytest.approx(found.limit, abs=0.01) and found.limit > 30
    source, edited = edit_picture(pipe, found, [pair.target], [PromptToPrompt()], skip=0.36)
    assert psnr(source, found.picture) == pytest.approx(found.limit, abs=0.01)
    assert psnr(edited, found.picture) < found.limit - 3


@pytest.mark.parametrize("scheduler", [pndm, ddim])
def test_fixed_points_walk_back_where_the_naive_way_does_not(scheduler):
    pipe = calm(tiny_sd(dtype=torch.float64, scheduler=scheduler()))

    def error(iterations):
        options = {"method": "ddim", "num_inference_steps": 8, "iterations": iterations}
        return invert(pipe, picture(), "a dog", **options).error

    assert error(20) < 1e-3 and error(20) < error(1) / 10


def test_velocity_prediction_too():
    scheduler = ddim()
    scheduler.register_to_config(prediction_type="v_prediction", rescale_betas_zero_snr=True)
    scheduler = type(scheduler).from_config(scheduler.config, timestep_spacing="trailing")
    pipe = calm(tiny_sd(dtype=torch.float64, scheduler=scheduler))
    for method in ("edit friendly", "ddim"):
        found = invert(pipe, picture(), "a dog", method=method, num_inference_steps=8, iterations=20)
        assert found.error < 1e-3, method


@pytest.mark.parametrize("method", ["edit friendly", "ddim"])
@pytest.mark.parametrize("skip", [0, 0.5])
def test_the_source_of_an_edit_is_the_picture(sd, method, skip):
    scheduler, weights = sd.scheduler, sd.unet.conv_in.weight.clone()
    found = invert(sd, picture(), "a red dog", method=method, num_inference_steps=6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        drawn = edit_picture(
            sd, found, ["a red cat", "a lavender dog"], [PromptToPrompt(targets=2)], skip=skip
        )
    assert len(drawn) == 3 and psnr(drawn[0], found.picture) == pytest.approx(found.limit, abs=0.3)
    assert psnr(drawn[1], drawn[0]) < 60
    assert sd.scheduler is scheduler and torch.equal(weights, sd.unet.conv_in.weight)


def test_other_sizes(sd):
    found = invert(sd, picture((32, 16)), "a dog", num_inference_steps=4)
    assert found.path.shape[1:] == (4, 8, 16)


@pytest.mark.parametrize("mode", ["RGBA", "P", "LA", "CMYK", "L", "1", "I;16"])
def test_pictures_of_every_kind_are_inverted_as_the_command_line_reads_them(sd, mode, tmp_path):
    grey = Image.fromarray(np.full((16, 16), 32768, np.uint16))
    given = grey if mode == "I;16" else picture().convert("L").convert(mode)
    file = tmp_path / ("one.tif" if mode == "CMYK" else "one.png")
    given.save(file)
    for source in (given, file, str(file)):
        found = invert(sd, source, "a dog", num_inference_steps=1)
        assert found.picture.mode == "RGB"
        assert np.array_equal(np.asarray(found.picture), np.asarray(read_picture(file)))


def test_a_photo_is_turned_upright_and_what_is_cropped_is_said(sd, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # held on its side
    picture((30, 50)).save(tmp_path / "held.jpg", exif=exif)
    with Image.open(tmp_path / "held.jpg") as photo:
        with pytest.warns(UserWarning, match=r"middle 30 × 30 of the image's 50 × 30 pixels"):
            found = invert(sd, photo, "a dog", num_inference_steps=1)
    assert found.picture.size == (16, 16)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert invert(sd, picture((64, 64)), "a dog", num_inference_steps=1).picture.size == (16, 16)


def test_moving_pictures_and_points_are_refused(sd, tmp_path):
    frames = [Image.new("L", (16, 16), grey) for grey in (0, 128)]
    frames[0].save(tmp_path / "two.gif", save_all=True, append_images=frames[1:])
    with Image.open(tmp_path / "two.gif") as moving, pytest.raises(HeadwiseError, match="2 frames"):
        invert(sd, moving, "a dog")
    with pytest.raises(HeadwiseError, match="The image is 4 × 4 pixels"):
        invert(sd, picture((4, 4)), "a dog")


def test_a_picture_that_does_not_come_back_warns(sd):
    found = invert(sd, picture(), "a dog", num_inference_steps=2)
    assert found.psnr < 20  # a random autoencoder
    with pytest.warns(UserWarning, match="reconstructed poorly .* dB; autoencoder alone"):
        edit_picture(sd, found, ["a cat"], [PromptToPrompt()])


def test_a_schedule_without_noise_levels_is_refused(sd):
    from diffusers import FlowMatchEulerDiscreteScheduler

    sd.scheduler = FlowMatchEulerDiscreteScheduler()
    with pytest.raises(
        HeadwiseError, match="FlowMatchEulerDiscreteScheduler. Use a Stable Diffusion, PixArt"
    ):
        invert(sd, picture(), "a dog")
    assert isinstance(sd.scheduler, FlowMatchEulerDiscreteScheduler)


def test_a_schedule_that_starts_from_noise_alone_is_inverted_in_any_number_of_steps():
    zero_snr = {
        "rescale_betas_zero_snr": True,
        "timestep_spacing": "trailing",
        "beta_schedule": "scaled_linear",
        "steps_offset": 1,
    }
    scheduler = DDIMScheduler(
        prediction_type="v_prediction", clip_sample=False, beta_start=0.00085, beta_end=0.012, **zero_snr
    )
    sample, pipe = torch.randn(1, 4, 2, 2), tiny_sd(scheduler=scheduler)
    walk = walk_of(pipe, Replaying)
    for steps in range(5, 60):
        walk.set_timesteps(steps)
        assert walk.mean(sample, 0, sample).isfinite().all(), steps


def test_an_autoencoder_that_overflows_in_half_precision_is_widened():
    pipe = tiny_sdxl()
    with torch.no_grad():  # activations beyond 65504, which the norms bring back
        for part in (pipe.vae.encoder, pipe.vae.decoder):
            part.conv_in.weight *= 3e5
            part.conv_in.bias *= 3e5
    pipe.to(torch.float16)
    before = [parameter.clone() for parameter in pipe.vae.parameters()]
    found = invert(pipe, picture(), "a red dog", num_inference_steps=4)
    # residuals are exact in half precision too
    assert found.error == 0 and found.psnr == found.limit and found.path.dtype == torch.float16
    assert pipe.vae.dtype == torch.float16
    assert all(torch.equal(a, b) for a, b in zip(before, pipe.vae.parameters(), strict=True))
    pipe.vae.register_to_config(force_upcast=False)
    with pytest.raises(NotFinite, match="not finite in torch.float16. Load the pipeline in bfloat16"):
        invert(pipe, picture(), "a red dog", num_inference_steps=4)


def test_latents_are_normalised_as_the_autoencoder_says(sd):
    plain = encoded(sd, picture())
    factor = sd.vae.config.scaling_factor
    sd.vae.register_to_config(latents_mean=[0.5, 0, 0, 0], latents_std=[1, 2, 1, 1])
    scaled = encoded(sd, picture())
    assert torch.allclose(scaled[:, 0], plain[:, 0] - 0.5 * factor, atol=1e-6)
    assert torch.allclose(scaled[:, 1], plain[:, 1] / 2, atol=1e-6)
    image = decoded(sd, scaled, "pt")
    sd.vae.register_to_config(latents_mean=None, latents_std=None)
    assert torch.allclose(image, decoded(sd, plain, "pt"), atol=1e-5)


FLOWS = {name: TRANSFORMERS[name] for name in ("sd3", "flux-dev", "sana")}
SHORT = {"num_inference_steps": 4}


def flowing(name, dtype=torch.float64, little=1.0):
    """A pipeline of flow matching, whose denoiser says less the smaller `little` is."""
    pipe = FLOWS[name](dtype=dtype, scheduler=FlowMatchEulerDiscreteScheduler(shift=2.0))
    with torch.no_grad():
        pipe.transformer.proj_out.weight.mul_(little)
    return pipe


@pytest.mark.filterwarnings("ignore:.*clean_caption.*")
@pytest.mark.parametrize("name", FLOWS)
def test_with_flow_matching_too_a_picture_comes_back_and_is_edited(name):
    """Exactly, up to the float32 in which Sana's pipeline keeps its latents."""
    pipe, size = flowing(name), (32, 32) if name == "sana" else (16, 24)  # whose sides are multiples of 32
    scheduler = pipe.scheduler
    found = invert(pipe, picture(size), "a red dog", **SHORT)
    assert found.error < (1e-6 if name == "sana" else 1e-12) and found.psnr == pytest.approx(found.limit)
    shape = (4, size[1] // 2, size[0] // 2)
    assert found.path.shape == (5, *shape) and found.residuals.shape == (4, *shape)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        drawn = edit_picture(pipe, found, ["a red cat"], [PromptToPrompt(), LocalBlend()], skip=0.25)
    assert psnr(drawn[0], found.picture) == pytest.approx(found.limit, abs=1e-6)
    assert drawn[1].size == size and not np.array_equal(np.asarray(drawn[1]), np.asarray(drawn[0]))
    assert pipe.scheduler is scheduler


@pytest.mark.filterwarnings("ignore:.*clean_caption.*")
@pytest.mark.parametrize("name", FLOWS)
def test_fixed_points_of_eulers_step_are_its_inverse(name):
    pipe, options = flowing(name, little=0.1), {"method": "ddim", **SHORT}
    given = picture((32, 32) if name == "sana" else (16, 16))
    once, often = (invert(pipe, given, "a dog", iterations=n, **options).error for n in (1, 12))
    assert often < 1e-6 and often < once / 100


def test_edit_friendly_residuals_of_flow_matching_edit_as_flow_edit_does():
    """Without hooks, against the equation of its paper, with one noise per step."""
    pipe, source, target = flowing("sd3"), "a red dog", "a lavender cat"
    found = invert(pipe, picture(), source, guidance_scale=2.0, **SHORT)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ours = edit_picture(pipe, found, [target], [], guidance_scale=5.0, output_type="latent")[1]

    def velocity(prompt, latents, timestep, scale):
        text, no_text, pooled, no_pooled = pipe.encode_prompt(prompt, None, None)
        states = {"encoder_hidden_states": torch.cat([no_text, text])}
        states["pooled_projections"] = torch.cat([no_pooled, pooled])
        both = pipe.transformer(latents.expand(2, -1, -1, -1), timestep=timestep.expand(2), **states).sample
        return both[:1] + scale * (both[1:] - both[:1])

    schedule = FlowMatchEulerDiscreteScheduler(shift=2.0)
    schedule.set_timesteps(**SHORT)
    clean = edited = found.path[-1:]
    with torch.no_grad():
        for i, t in enumerate(schedule.timesteps):
            noisy = found.path[i : i + 1]
            change = velocity(target, edited + noisy - clean, t, 5.0) - velocity(source, noisy, t, 2.0)
            edited = edited + (float(schedule.sigmas[i + 1]) - float(schedule.sigmas[i])) * change
    assert (ours - edited[0]).abs().max() < 1e-12 * edited.abs().max()


def test_other_solvers_of_a_flow_are_inverted_by_eulers_steps_with_their_shift():
    flow = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}
    pipe = FLOWS["sana"](scheduler=DPMSolverMultistepScheduler(**flow))
    found = invert(pipe, picture((32, 32)), "a dog", **SHORT)
    assert found.error < 1e-5
    assert walk_of(pipe, Replaying).config.shift == 3.0


def test_a_flow_that_does_not_start_from_noise_alone_is_refused():
    pipe = flowing("sd3")
    pipe.scheduler = FlowMatchEulerDiscreteScheduler(invert_sigmas=True)
    with pytest.raises(HeadwiseError, match="first level is 0.000; expected 1"):
        invert(pipe, picture(), "a dog", **SHORT)


def test_a_size_that_patches_do_not_fill_is_fitted():
    with pytest.warns(UserWarning, match="Only the middle 16 × 16"):
        found = invert(flowing("flux-dev"), picture((18, 16)), "a dog", **SHORT)
    assert found.picture.size == (16, 16)
