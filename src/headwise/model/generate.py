r"""Seeded generation: picture i of seed s is the same on any worker, in any batch.

All chance of a picture comes from one generator made from (seed, picture) alone. It draws the first latents,
then, for schedulers that add noise on the way, the noise of every step. Latents are drawn in float32 on the
CPU whatever the model's type and device, so the same seed is the same picture on a laptop and on a GPU, up to
rounding.
"""

from collections.abc import Sequence
from hashlib import sha256
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from headwise.model.heads import denoiser_of

__all__ = ["generate", "generator_for", "latent_shape", "latents_for"]


def generator_for(seed: int, picture: int) -> torch.Generator:
    """The generator of one picture: a CPU generator seeded with a hash of (seed, picture)."""
    digest = sha256(f"headwise picture {seed} {picture}".encode()).digest()
    return torch.Generator("cpu").manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def latents_for(
    pipe: Any, seed: int, picture: int, height: int | None = None, width: int | None = None
) -> Float[Tensor, "channels height width"]:
    """The unit noise that a picture starts from, float32; height and width are those of the picture."""
    return torch.randn(latent_shape(pipe, height, width), generator=generator_for(seed, picture))


def generate(
    pipe: Any,
    prompts: Sequence[str],
    seed: int,
    numbers: Sequence[int],
    *,
    latents: Float[Tensor, "pictures channels height width"] | None = None,
    height: int | None = None,
    width: int | None = None,
    negative_prompt: str | None = None,
    **options: Any,
) -> Any:
    """The pictures of these numbers in one call of the pipeline, as its `output_type` asks.

    Args:
        pipe: The user's pipeline.
        prompts: Picture i has the prompt i modulo their number.
        seed: With the picture's number, the whole source of chance.
        numbers: Which pictures; `runs.shards.batches` cuts many into calls.
        latents: Unit noise of pictures 0, 1, …; drawn from the seed if None.
        height, width, negative_prompt, options: Passed to the pipeline as they are.
    """
    shape, dtype = latent_shape(pipe, height, width), denoiser_of(pipe).dtype
    generators = [generator_for(seed, i) for i in numbers]
    # Drawn even where latents are given: the noise of later steps must not repeat that of the first.
    noise = torch.stack([torch.randn(shape, generator=generator) for generator in generators])
    start = noise if latents is None else torch.stack([latents[i] for i in numbers])
    if _packs(pipe):
        start = pipe._pack_latents(start, len(start), *shape)
    negative = None if negative_prompt is None else [negative_prompt] * len(numbers)
    asked = {"negative_prompt": negative, "height": height, "width": width}
    return pipe(
        prompt=[prompts[i % len(prompts)] for i in numbers],
        latents=start.to(dtype),
        generator=generators,
        # What is None is not passed: pipelines differ in what they take None for.
        **{name: value for name, value in asked.items() if value is not None},
        **options,
    ).images


def latent_shape(pipe: Any, height: int | None, width: int | None) -> tuple[int, int, int]:
    """Channels, height and width of the latents of a picture of this size, the model's own size if None."""
    config, factor = denoiser_of(pipe).config, pipe.vae_scale_factor
    own = getattr(config, "sample_size", None) or pipe.default_sample_size
    size = own if isinstance(own, list | tuple) else (own,) * 2
    return (
        config.in_channels // (4 if _packs(pipe) else 1),
        height // factor if height else size[0],
        width // factor if width else size[1],
    )


def _packs(pipe: Any) -> bool:
    """Does the pipeline take its latents in patches of 2 × 2, as FLUX does?"""
    return hasattr(pipe, "_pack_latents")
