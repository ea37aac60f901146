r"""Inversion: the noise from which the pipeline regenerates a real image.

Both methods run the user's own pipeline with another scheduler (walks.py), so that guidance, text and sizes
are the pipeline's own. With μ_i(x) the mean of a denoising step at x,

    edit friendly   x_i = √ᾱ x_0 + √(1−ᾱ) ε_i, or with flow matching (1−σ_i) x_0 + σ_i ε_i, with independent
                    noise at each level, and r_i = x_{i+1} − μ_i(x_i); regeneration adds r_i at every step,
                    and is exact for the same prompt and guidance
    ddim            x_i solves x_{i+1} = step_i(x_i), DDIM's step or with flow matching Euler's, by
                    fixed-point iterations; without guidance, with which they do not converge

An edit starts from the same noise. "Edit friendly" adds r_i to every image of the group; both methods keep
the source on its path, so that its maps are those of the real image.

References:
    | An Edit Friendly DDPM Noise Space: Inversion and Manipulations (Huberman-Spiegelglas et al., 2023)
    | https://arxiv.org/abs/2304.06140
    | FlowEdit: Inversion-Free Text-Based Editing Using Pre-Trained Flow Models (Kulikov et al., 2024), the
    | edit-friendly method with flow matching https://arxiv.org/abs/2412.08629
    | Null-text Inversion for Editing Real Images (Mokady et al., 2022) https://arxiv.org/abs/2211.09794
    | On Exact Inversion of DPM-Solvers, AIDI: fixed points (Pan et al., 2023) https://arxiv.org/abs/2309.04907
"""

import inspect
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from headwise.editing.groups import generate_edits
from headwise.editing.support import require_support
from headwise.editing.walks import FixedPoint, Recording, Replaying, is_flow, walk_of
from headwise.errors import HeadwiseError
from headwise.model.autoencoder import decoded, encoded
from headwise.model.generate import Key, generators_of, image_size, packed, side_step, unpacked
from headwise.model.noised_image import scheduled
from headwise.model.sites import AttentionHook
from headwise.pictures import cropped, fitted, read_picture

__all__ = ["Inversion", "edit_picture", "invert"]

Method = Literal["edit friendly", "ddim"]
POOR = 20.0  # decibels: below this, the reconstruction is a different image


@dataclass(frozen=True, eq=False)
class Inversion:
    """A real image, with the latents and settings that regenerate it.

    Args:
        picture: The image, at a size at which the pipeline generates.
        prompt: The prompt that describes it.
        path: The latents x_T … x_0.
        residuals: The residuals r_T … r_1 if the method is edit friendly, else None.
        num_inference_steps, guidance_scale: The pipeline settings that regenerate it.
        error: The root mean square error of the regenerated latents, relative to the image's latents.
        psnr: The peak signal-to-noise ratio of the reconstruction, in decibels.
        limit: The same ratio for the image only encoded and decoded, in decibels.
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
    """Find the noise of an image, and regenerate the image to measure how well that works.

    Args:
        pipe: The user's pipeline; it is left unchanged.
        picture: An image of any format, or its file. It keeps its size if the pipeline can generate at that
            size, up to twice the model's own width and height; otherwise its centre is cropped and resized,
            with a warning if parts are cut off.
        prompt: A prompt that describes the image.
        method: "edit friendly" or "ddim", as described in this module.
        num_inference_steps: The number of steps of the inversion and of edits.
        guidance_scale: The guidance of the inversion, for "edit friendly".
        iterations: The number of fixed-point iterations per step, for "ddim".
        seed: The key of the noise, for "edit friendly": (seed, image), or a seed s for (s, 0).

    Raises:
        HeadwiseError: The pipeline's schedule has neither noise levels ᾱ nor those of flow matching.
        Unsupported: The method does not work on this model.
    """
    require_support(pipe, invert)
    walk_of(pipe, Replaying)  # refuses unsuitable schedules before the image is read
    picture = _fitting(pipe, read_picture(picture))
    start = encoded(pipe, picture)
    size = _size(pipe, picture)
    scale = guidance_scale if method == "edit friendly" else 1.0
    options: dict[str, Any] = {"num_inference_steps": num_inference_steps, "guidance_scale": scale, **size}
    if method == "edit friendly":
        walk = _recorded(pipe, prompt, start, seed, options)
    else:
        walk = walk_of(pipe, FixedPoint)
        walk.iterations = iterations
        _walk(pipe, walk, prompt, packed(pipe, start), options)
    in_pixels = picture.height, picture.width
    residuals = unpacked(pipe, torch.cat(walk.residuals), *in_pixels) if hasattr(walk, "residuals") else None
    path = unpacked(pipe, walk.path(), *in_pixels)
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
) -> list[Any]:
    """Regenerate the image and generate its edits, as images or in the form that `output_type` names.

    Args:
        pipe: The user's pipeline; it is left unchanged.
        inverted: The result of `invert`.
        targets: The prompts to edit the image into.
        hooks: The hooks that make targets resemble the source, as in `edit`.
        guidance_scale: The guidance of the edit.
        skip: The fraction of the steps to skip at the beginning, which keeps more of the image, 0 … 1.
        options: Passed to the pipeline: `negative_prompt`, `output_type`, `callback_on_step_end` …
    """
    if inverted.psnr < POOR:
        warnings.warn(
            f"The image is reconstructed poorly ({inverted.psnr:.1f} dB; autoencoder alone "
            f"{inverted.limit:.1f} dB), so its edit will be of a different image. Describe it better, take "
            "more steps, or use a model that was trained on such images.",
            stacklevel=2,
        )
    replay = _replay(pipe, inverted)
    skipped = int(skip * inverted.num_inference_steps)
    replay.group, replay.skipped = 1 + len(targets), skipped
    with scheduled(pipe, replay):
        images = generate_edits(
            pipe,
            [[inverted.prompt, *targets]],
            hooks,
            seeds=[0],
            latents=inverted.path[skipped : skipped + 1],
            num_inference_steps=inverted.num_inference_steps,
            guidance_scale=guidance_scale,
            **_size(pipe, inverted.picture) | options,
        )
    return images[0]


def psnr(a: Image.Image, b: Image.Image) -> float:
    """The peak signal-to-noise ratio of two images, in decibels."""
    x, y = (np.asarray(picture.convert("RGB"), np.float64) / 255 for picture in (a, b))
    error = float(((x - y) ** 2).mean())
    return float("inf") if error == 0 else -10 * float(np.log10(error))


def _recorded(pipe: Any, prompt: str, start: Tensor, seed: Key, options: dict[str, Any]) -> Any:
    """A scheduler that has recorded the residuals of an image with noise."""
    walk = walk_of(pipe, Recording)
    walk.clean, walk.seed = packed(pipe, start), seed
    # pipelines let the scheduler replace the latents of each step only with noise levels, not flow matching
    [generator] = generators_of([seed])
    noise = torch.randn(walk.clean.shape, generator=generator).to(walk.clean)
    _walk(pipe, walk, prompt, noise, options)
    if is_flow(pipe) and not torch.equal(noise, walk.noisy[0]):
        raise HeadwiseError(
            f"The schedule's first level is {float(walk.sigmas[0]):.3f}; expected 1, pure noise. Use the "
            "schedule that the model was trained for."
        )
    return walk


def _walk(pipe: Any, walk: Any, prompt: str, latents: Tensor, options: dict[str, Any]) -> Tensor:
    """The final latents of a pipeline call with this scheduler."""
    with scheduled(pipe, walk):
        return pipe(prompt, latents=latents, output_type="latent", **options).images


def _replay(pipe: Any, inverted: Inversion) -> Any:
    """The scheduler that regenerates the image, with latents in the pipeline's own form."""
    replay, residuals = walk_of(pipe, Replaying), inverted.residuals
    replay.way = packed(pipe, inverted.path)
    replay.residuals = None if residuals is None else packed(pipe, residuals)
    return replay


def _regenerated(pipe: Any, inverted: Inversion, size: dict[str, Any]) -> Tensor:
    replay, steps = _replay(pipe, inverted), inverted.num_inference_steps
    options: dict[str, Any] = {
        "num_inference_steps": steps,
        "guidance_scale": inverted.guidance_scale,
        **size,
    }
    latents = _walk(pipe, replay, inverted.prompt, replay.way[:1], options)
    return unpacked(pipe, latents, inverted.picture.height, inverted.picture.width)


def _size(pipe: Any, picture: Image.Image) -> dict[str, Any]:
    """The arguments that make a pipeline generate at exactly the size of an image."""
    size = {"height": picture.height, "width": picture.width}
    binned = "use_resolution_binning" in inspect.signature(type(pipe).__call__).parameters
    return size | ({"use_resolution_binning": False} if binned else {})


def _fitting(pipe: Any, picture: Image.Image) -> Image.Image:
    """The image, cropped and resized unless the pipeline can generate at its size."""
    size, factor = image_size(pipe), side_step(pipe)
    if not any(side % factor for side in picture.size) and math.prod(picture.size) <= 4 * math.prod(size):
        return picture
    left_out = cropped(picture, size)
    if left_out:
        warnings.warn(left_out, stacklevel=3)
    return fitted(picture, size)
