r"""Composable prompts: one prediction for each part of a prompt, added up as guidance.

    ε = ε_∅ + Σ_i w_i (ε_i − ε_∅)

References:
    | Compositional Visual Generation with Composable Diffusion Models (Liu et al., 2022)
    | https://arxiv.org/abs/2206.01714
"""

from collections.abc import Sequence
from typing import Any

import torch

from headwise.model.generate import generator_for, latent_shape
from headwise.model.heads import denoiser_of
from headwise.model.pipelines import quiet

__all__ = ["compose"]


@torch.no_grad()
def compose(
    pipe: Any,
    parts: Sequence[str],
    *,
    seeds: Sequence[int],
    guidance_scale: float | int = 7.5,
    num_inference_steps: int = 50,
) -> list[Any]:
    """Pictures of all parts at once, one for each seed.

    Args:
        pipe: A pipeline whose denoiser takes text alone, such as StableDiffusionPipeline.
        parts: "a red cat", "a blue dog"; each weighs guidance_scale divided by their number's square root.
        seeds: One for each picture.
        guidance_scale, num_inference_steps: As in the pipeline.
    """
    device, shape = pipe._execution_device, latent_shape(pipe, None, None)
    said, silent = pipe.encode_prompt(list(parts), device, 1, True)
    text = torch.cat([silent[:1], said])
    weight = guidance_scale / len(parts) ** 0.5
    generators = [generator_for(seed, 0) for seed in seeds]
    noise = torch.stack([torch.randn(shape, generator=generator) for generator in generators])
    pipe.scheduler.set_timesteps(num_inference_steps, device=device)
    latents = noise.to(device, denoiser_of(pipe).dtype) * pipe.scheduler.init_noise_sigma
    with quiet(pipe):
        for t in pipe.scheduler.timesteps:
            scaled = pipe.scheduler.scale_model_input(latents, t)
            rows = scaled.repeat_interleave(len(text), 0)
            predicted = pipe.unet(rows, t, encoder_hidden_states=text.repeat(len(latents), 1, 1)).sample
            empty, each = predicted.unflatten(0, (len(latents), -1)).split([1, len(parts)], 1)
            latents = pipe.scheduler.step(
                empty[:, 0] + weight * (each - empty).sum(1), t, latents
            ).prev_sample
        decoded = pipe.vae.decode(latents / pipe.vae.config.scaling_factor).sample
    return pipe.image_processor.postprocess(decoded, output_type="pil")
