r"""Inversion: the noise from which the pipeline generates a real image again.

Both ways run the user's own pipeline with another scheduler, so that guidance, text and sizes are its own.
With μ_t(x) the mean of a denoising step at x,

    edit friendly   x_t = √ᾱ_t x_0 + √(1−ᾱ_t) ε_t, each with noise of its own, and r_t = x_{t−1} − μ_t(x_t);
                    generating again adds r_t at every step: exact for the image's own prompt and guidance
    ddim            x_t solves x_{t−1} = ddim_t(x_t), by fixed-point iterations; without guidance, as it does
                    not converge with it

An edit starts from the same noise; in the first way r_t is added for every image of the group, and in both
the source is held to its path, so that its maps are those of the real image.

References:
    | An Edit Friendly DDPM Noise Space: Inversion and Manipulations (Huberman-Spiegelglas et al., 2023)
    | https://arxiv.org/abs/2304.06140
    | Null-text Inversion for Editing Real Images (Mokady et al., 2022) https://arxiv.org/abs/2211.09794
    | On Exact Inversion of DPM-Solvers, AIDI: fixed points (Pan et al., 2023) https://arxiv.org/abs/2309.04907
"""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from diffusers import DDIMScheduler
from diffusers.schedulers.scheduling_ddim import DDIMSchedulerOutput
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from headwise.editing.groups import generate_edits
from headwise.editing.support import require_support
from headwise.errors import HeadwiseError
from headwise.model.autoencoder import decoded, encoded
from headwise.model.generate import Key, generators_of, image_size
from headwise.model.noised_image import scheduled
from headwise.model.sites import AttentionHook
from headwise.pictures import cropped, fitted, read_picture

__all__ = ["Inversion", "edit_picture", "invert"]

Method = Literal["edit friendly", "ddim"]
_Ddim: Any = DDIMScheduler  # diffusers has no types
POOR = 20.0  # decibels: below, what is generated again is a different image


@dataclass(frozen=True, eq=False)
class Inversion:
    """A real image, and what generates it again.

    Args:
        picture: The image, of the size at which the pipeline generates.
        prompt: The prompt that describes it.
        path: The latents x_T … x_0.
        residuals: The residuals r_T … r_1 where the method is edit friendly.
        num_inference_steps, guidance_scale: The settings of the pipeline that generate it again.
        error: The root mean square error of the latents generated again, relative to the image's latents.
        psnr: The peak signal-to-noise ratio of the image generated again, in decibels.
        limit: The ratio of the image when it is only encoded and decoded, in decibels.
    """

    picture: Image.Image
    prompt: str
    path: Float[Tensor, "steps_and_one channels height width"]
    residuals: Float[Tensor, "steps channels height width"] | None
    num_inference_steps: int
    guidance_scale: float | int
    error: float
    psnr: float
    limit: float


def invert(
    pipe: Any,
    picture: Image.Image | str | Path,
    prompt: str,
    *,
    method: Method = "edit friendly",
    num_inference_steps: int = 50,
    guidance_scale: float | int = 3.5,
    iterations: int = 5,
    seed: Key = 0,
) -> Inversion:
    """Find the noise of an image, and generate it again to measure how well that works.

    Args:
        pipe: The user's pipeline; it is left as it was.
        picture: An image, or its file, of any kind. It is kept at its own size where that is one at which the
            pipeline generates, up to twice the model's own width and height; its middle is scaled otherwise,
            with a warning if something is left out.
        prompt: A prompt that describes the image.
        method: "edit friendly" or "ddim", as described in this module.
        num_inference_steps: The number of steps of the inversion and of edits.
        guidance_scale: The guidance of the inversion, where the method is edit friendly.
        iterations: The number of fixed-point iterations per step, where the method is ddim.
        seed: The key of the noise, where the method is edit friendly: (seed, picture), or a seed s for
            (s, 0).

    Raises:
        HeadwiseError: The pipeline's schedule has no noise levels ᾱ, as that of flow matching.
    """
    require_support(pipe, invert)
    picture = _fitting(pipe, read_picture(picture))
    start = encoded(pipe, picture)
    common: dict[str, Any] = {"num_inference_steps": num_inference_steps, "output_type": "latent"}
    size = {"height": picture.height, "width": picture.width}
    scale = guidance_scale if method == "edit friendly" else 1.0
    if method == "edit friendly":
        record: Any = _scheduler(pipe, _Recording)
        record.clean, record.seed = start, seed
        first = start  # replaced by the scheduler's own noisy latents
    else:
        record = _scheduler(pipe, _FixedPoint)
        record.iterations, first = iterations, start
    with scheduled(pipe, record):
        pipe(prompt, latents=first, guidance_scale=scale, **common, **size)
    path = record.path()
    residuals = torch.cat(record.residuals) if method == "edit friendly" else None
    inverted = Inversion(picture, prompt, path, residuals, num_inference_steps, scale, 0.0, 0.0, 0.0)
    regenerated = _regenerated(pipe, inverted, size)
    return replace(
        inverted,
        error=float((regenerated - start).norm() / start.norm()),
        psnr=psnr(picture, decoded(pipe, regenerated)[0]),
        limit=psnr(picture, decoded(pipe, start)[0]),
    )


def edit_picture(
    pipe: Any,
    inverted: Inversion,
    targets: Sequence[str],
    hooks: Sequence[AttentionHook],
    *,
    guidance_scale: float | int = 7.5,
    skip: float | int = 0.0,
    **options: Any,
) -> list[Image.Image]:
    """Generate the image again, and its edits.

    Args:
        pipe: The user's pipeline; it is left as it was.
        inverted: The result of `invert`.
        targets: The prompts to edit the image into.
        hooks: The hooks that make targets resemble the source, as in `edit`.
        guidance_scale: The guidance of the edit.
        skip: The share of the first steps that are left out, so that more of the image stays, 0 … 1.
        options: Passed to the pipeline: `negative_prompt`, `callback_on_step_end` …
    """
    if inverted.psnr < POOR:
        warnings.warn(
            f"The image cannot be generated again well ({inverted.psnr:.1f} dB; encoded and decoded alone "
            f"{inverted.limit:.1f} dB), so its edit will be of a different image. Describe it better, take "
            "more steps, or use a model that was trained on such images.",
            stacklevel=2,
        )
    replay = _scheduler(pipe, _Replaying)
    skipped = int(skip * inverted.num_inference_steps)
    replay.inverted, replay.group, replay.skipped = inverted, 1 + len(targets), skipped
    with scheduled(pipe, replay):
        images = generate_edits(
            pipe,
            [[inverted.prompt, *targets]],
            hooks,
            seeds=[0],
            latents=inverted.path[skipped : skipped + 1],
            height=inverted.picture.height,
            width=inverted.picture.width,
            num_inference_steps=inverted.num_inference_steps,
            guidance_scale=guidance_scale,
            **options,
        )
    return images[0]


def psnr(a: Image.Image, b: Image.Image) -> float:
    """The peak signal-to-noise ratio of two images, in decibels."""
    x, y = (np.asarray(picture.convert("RGB"), np.float64) / 255 for picture in (a, b))
    error = float(((x - y) ** 2).mean())
    return float("inf") if error == 0 else -10 * float(np.log10(error))


class _Recording(_Ddim):
    """Walks from noise along a path fixed beforehand, and records the residual of each step."""

    clean: Tensor
    seed: Key

    def set_timesteps(self, *args: Any, **kwargs: Any) -> None:
        """Set the timesteps, and fix the path: the clean latents with noise of its own at each."""
        super().set_timesteps(*args, **kwargs)
        [generator] = generators_of([self.seed])
        self.noisy = []
        for t in self.timesteps:
            noise = torch.randn(self.clean.shape, generator=generator).to(self.clean)
            self.noisy.append(self.add_noise(self.clean, noise, t[None]))
        self.noisy.append(self.clean)
        self.residuals: list[Tensor] = []

    def scale_model_input(self, sample: Tensor, timestep: Any = None) -> Tensor:
        """Replace the latents that the pipeline passes by those of the path."""
        noisy = self.noisy[len(self.residuals)].to(sample)
        return noisy.expand_as(sample)

    def step(self, model_output: Tensor, timestep: Any, sample: Tensor, return_dict: bool = True) -> Any:
        """Go to the next latents of the path, and record how far the step's mean is from them."""
        at = len(self.residuals)
        mean = _mean(super().step, model_output, timestep, self.noisy[at].to(sample))
        # in float32, so that in half precision too a step with its residual is the next latents exactly
        wide = torch.promote_types(mean.dtype, torch.float32)
        self.residuals.append(self.noisy[at + 1].to(mean.device, wide) - mean.to(wide))
        return _stepped(self.noisy[at + 1].to(sample), return_dict)

    def path(self) -> Tensor:
        return torch.cat(self.noisy)


class _FixedPoint(_Ddim):
    """Walks from the picture to noise: at each timestep the x_t whose DDIM step is x_{t−1}, by iteration."""

    iterations: int
    timesteps: Tensor

    def set_timesteps(self, *args: Any, **kwargs: Any) -> None:
        """Set the timesteps in reverse, each once for every iteration."""
        super().set_timesteps(*args, **kwargs)
        self.timesteps = self.timesteps.flip(0).repeat_interleave(self.iterations)
        self.calls = 0
        self.walked: list[Tensor] = []

    def step(self, model_output: Tensor, timestep: Any, sample: Tensor, return_dict: bool = True) -> Any:
        """Solve for the latents before the step, with the denoiser's output at the last solution."""
        if self.calls % self.iterations == 0:
            self.walked.append(sample)
        self.calls += 1
        # A step is linear in x_t and in the denoiser's output: x_{t−1} = a x_t + b output.
        unit, zero = torch.ones((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
        a = super().step(zero, timestep, unit).prev_sample.item()
        b = super().step(unit, timestep, zero).prev_sample.item()
        self.last = (self.walked[-1] - b * model_output) / a
        return _stepped(self.last, return_dict)

    def path(self) -> Tensor:
        return torch.cat([self.last, *reversed(self.walked)])


class _Replaying(_Ddim):
    """Generates again: adds the residuals, and holds the source to its path."""

    inverted: Inversion
    group: int
    skipped: int = 0
    timesteps: Tensor

    def set_timesteps(self, *args: Any, **kwargs: Any) -> None:
        """Set the timesteps without those that are skipped."""
        super().set_timesteps(*args, **kwargs)
        self.timesteps, self.at = self.timesteps[self.skipped :], self.skipped

    def step(self, model_output: Tensor, timestep: Any, sample: Tensor, return_dict: bool = True) -> Any:
        """Take a step with the residual added, and put the source of each group back on its path."""
        residuals = self.inverted.residuals
        if residuals is not None:
            mean = _mean(super().step, model_output, timestep, sample)
            stepped = (mean + residuals[self.at].to(mean.device)).to(sample.dtype)
        else:
            stepped = super().step(model_output, timestep, sample).prev_sample
        self.at += 1
        if self.group > 1:
            stepped[:: self.group] = self.inverted.path[self.at].to(stepped)
        return _stepped(stepped, return_dict)


def _mean(step: Any, model_output: Tensor, timestep: Any, sample: Tensor) -> Tensor:
    """The mean of a step that adds noise."""
    # not quite 1: from ᾱ = 0, rounding takes 1 − ᾱ − σ² below 0 there, and its root is not a number
    return step(
        model_output, timestep, sample, eta=0.999, variance_noise=torch.zeros_like(sample)
    ).prev_sample


def _stepped(latents: Tensor, return_dict: bool) -> Any:
    return DDIMSchedulerOutput(prev_sample=latents) if return_dict else (latents,)


def _scheduler(pipe: Any, kind: Any) -> Any:
    config = pipe.scheduler.config
    if not hasattr(config, "prediction_type") or not hasattr(pipe.scheduler, "alphas_cumprod"):
        raise HeadwiseError(
            f"Images can be inverted by a schedule with noise levels; this pipeline has a "
            f"{type(pipe.scheduler).__name__}. Use a Stable Diffusion 1, 2, XL or PixArt pipeline."
        )
    return kind.from_config(config, clip_sample=False, thresholding=False)


def _regenerated(pipe: Any, inverted: Inversion, size: dict[str, int]) -> Tensor:
    replay = _scheduler(pipe, _Replaying)
    replay.inverted, replay.group = inverted, 1  # alone, it is not held to its path
    with scheduled(pipe, replay):
        return pipe(
            inverted.prompt,
            latents=inverted.path[:1],
            num_inference_steps=inverted.num_inference_steps,
            guidance_scale=inverted.guidance_scale,
            output_type="latent",
            **size,
        ).images


def _fitting(pipe: Any, picture: Image.Image) -> Image.Image:
    """The image at a size at which the pipeline generates."""
    size, factor = image_size(pipe), pipe.vae_scale_factor
    if not any(side % factor for side in picture.size) and math.prod(picture.size) <= 4 * math.prod(size):
        return picture
    left_out = cropped(picture, size)
    if left_out:
        warnings.warn(left_out, stacklevel=3)
    return fitted(picture, size)
