r"""Composable diffusion: one noise prediction for each part of a prompt, summed as guidance.

    ε = ε_∅ + Σ_i w_i (ε_i − ε_∅)

References:
    | Compositional Visual Generation with Composable Diffusion Models (Liu et al., 2022)
    | https://arxiv.org/abs/2206.01714
"""

import inspect
from collections.abc import Sequence
from typing import Any

import torch

from headwise.editing.support import require_support
from headwise.model.autoencoder import decoded
from headwise.model.generate import Key, start_of
from headwise.model.pipelines import quiet

__all__ = ["compose"]


@torch.no_grad()
def compose(
    pipe: Any,
    parts: Sequence[str],
    *,
    seeds: Sequence[Key],
    guidance_scale: float | int = 7.5,
    num_inference_steps: int = 50,
    negative_prompt: str | None = None,
    height: int | None = None,
    width: int | None = None,
    output_type: str = "pil",
) -> list[Any]:
    """Generate one image for each seed that shows all parts.

    Args:
        pipe: A pipeline whose denoiser is conditioned on text alone, such as StableDiffusionPipeline.
        parts: Prompts such as "a red cat", "a blue dog"; each has the weight w = guidance_scale / √(number of
            parts).
        seeds: The key of each image: (seed, image), or a seed s for (s, 0).
        guidance_scale, num_inference_steps, height, width: As in the pipeline's call.
        negative_prompt: The prompt that takes the place of the empty one.
        output_type: The form of the images, as in the pipeline's call; "latent" for latents.

    Raises:
        Unsupported: The denoiser is conditioned on more than text, or reads text by joint attention.
    """
    require_support(pipe, compose)
    device = pipe._execution_device
    negative = None if negative_prompt is None else [negative_prompt] * len(parts)
    prompted, empty = pipe.encode_prompt(list(parts), device, 1, True, negative)
    text = torch.cat([empty[:1], prompted])
    w = guidance_scale / len(parts) ** 0.5
    noise, generators = start_of(pipe, seeds, height=height, width=width)
    pipe.scheduler.set_timesteps(num_inference_steps, device=device)
    latents = noise.to(device) * pipe.scheduler.init_noise_sigma
    seeded = "generator" in inspect.signature(pipe.scheduler.step).parameters  # those that add noise
    drawing = {"generator": generators} if seeded else {}
    with quiet(pipe):
        for t in pipe.scheduler.timesteps:
            scaled = pipe.scheduler.scale_model_input(latents, t)
            rows = scaled.repeat_interleave(len(text), 0)
            predictions = pipe.unet(rows, t, encoder_hidden_states=text.repeat(len(latents), 1, 1)).sample
            ε_empty, ε = predictions.unflatten(0, (len(latents), -1)).split([1, len(parts)], 1)
            composed = ε_empty[:, 0] + w * (ε - ε_empty).sum(1)
            latents = pipe.scheduler.step(composed, t, latents, **drawing).prev_sample
        if output_type == "latent":
            return list(latents)
    return decoded(pipe, latents, output_type)
