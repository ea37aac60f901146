r"""Seeded generation: image i of seed s is the same on any worker, in any batch.

All randomness of an image comes from one generator, made from its key (seed, image) alone. It samples the
first latents and then, for schedulers that add noise on the way, the noise of every step. Latents are sampled
in float32 on the CPU, whatever the model's data type and device, so the same key gives the same image on a
laptop and on a GPU, up to rounding.
"""

import inspect
from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from headwise.errors import HeadwiseError, ModelNotLoaded
from headwise.model.families import family_of
from headwise.model.heads import denoiser_of
from headwise.model.inputs import patch_side

__all__ = [
    "Key", "generate", "generate_keys", "generator_for", "generators_of", "image_size", "latent_shape",
    "latents_for", "packed", "require_size", "side_step", "start_of", "unpacked",
]  # fmt: skip

_INSTEAD = {
    "generator": "all randomness of an image comes from its key. Give another seed instead.",
    "num_images_per_prompt": "each image has a key of its own. Repeat the prompt, with a key for each image.",
    "return_dict": "the images are returned as they are. Leave it out.",
}
Key = int | tuple[int, int]  # (seed, image); a seed s alone means (s, 0)


def generator_for(seed: int, picture: int) -> torch.Generator:
    """The generator of one image: a CPU generator seeded with a hash of (seed, image)."""
    digest = sha256(f"headwise picture {seed} {picture}".encode()).digest()
    return torch.Generator("cpu").manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def generators_of(keys: Iterable[Key]) -> list[torch.Generator]:
    """The generator of each key."""
    return [generator_for(*(key if isinstance(key, tuple) else (key, 0))) for key in keys]


def latents_for(
    pipe: Any, seed: int, picture: int, height: int | None = None, width: int | None = None
) -> Float[Tensor, "channels height width"]:
    """The float32 unit noise that an image starts from; height and width are those of the image in pixels."""
    return torch.randn(latent_shape(pipe, height, width), generator=generator_for(seed, picture))


def start_of(
    pipe: Any,
    keys: Sequence[Key],
    *,
    latents: Sequence[Tensor] | Tensor | None = None,
    height: int | None = None,
    width: int | None = None,
) -> tuple[Tensor, list[torch.Generator]]:
    """The first latents of each key, as the pipeline takes them, and the generators of later noise.

    Args:
        pipe: The user's pipeline.
        keys: The key of each image.
        latents: Unit noise of each image, "channels height width", in place of that of its key.
        height, width: The size of the images in pixels; the model's own if None.
    """
    shape, generators = latent_shape(pipe, height, width), generators_of(keys)
    # Sampled even if latents are passed: the noise of later steps must not repeat that of the first.
    noise = torch.stack([torch.randn(shape, generator=generator) for generator in generators])
    start = noise if latents is None else torch.stack(list(latents))
    return packed(pipe, start).to(denoiser_of(pipe).dtype), generators


def packed(pipe: Any, latents: Float[Tensor, "n channels height width"]) -> Float[Tensor, "n ..."]:
    """Latents in the layout that the pipeline is called with: patches of 2 × 2 for FLUX."""
    if _packs(pipe) and hasattr(pipe, "_patchify_latents"):  # FLUX.2 makes rows of the patches itself
        return pipe._patchify_latents(latents)
    return pipe._pack_latents(latents, *latents.shape) if _packs(pipe) else latents


def unpacked(
    pipe: Any, latents: Float[Tensor, "n ..."], height: int, width: int
) -> Float[Tensor, "n channels latent_height latent_width"]:
    """The inverse of `packed`, for images of this height and width in pixels."""
    return pipe._unpack_latents(latents, height, width, pipe.vae_scale_factor) if _packs(pipe) else latents


def generate_keys(
    pipe: Any,
    prompts: Sequence[str],
    keys: Sequence[Key],
    *,
    latents: Sequence[Tensor] | Tensor | None = None,
    height: int | None = None,
    width: int | None = None,
    negative_prompt: str | None = None,
    **options: Any,
) -> Any:
    """Generate the images of these keys in one call of the pipeline, in the form of its `output_type`.

    Args:
        pipe: The user's pipeline.
        prompts: The prompt of each image.
        keys: The key of each image: (seed, image), or a seed s for (s, 0).
        latents: Unit noise of each image; sampled from its key if None.
        height, width, negative_prompt, options: Passed to the pipeline as they are.
    """
    _refuse(options)
    start, generators = start_of(pipe, keys, latents=latents, height=height, width=width)
    negative = None if negative_prompt is None else [negative_prompt] * len(keys)
    optional = {"negative_prompt": negative, "height": height, "width": width}
    return pipe(
        prompt=list(prompts),
        latents=start,
        generator=generators,
        # None is not passed on: pipelines differ in what it means.
        **{name: value for name, value in optional.items() if value is not None},
        **options,
    ).images


def generate(
    pipe: Any,
    prompts: Sequence[str],
    seed: int,
    numbers: Sequence[int],
    *,
    latents: Float[Tensor, "images channels height width"] | None = None,
    **options: Any,
) -> Any:
    """Generate the images of one seed with these numbers in one call, in the form of its `output_type`.

    Args:
        pipe: The user's pipeline.
        prompts: The prompts; image i has the prompt i modulo their number.
        seed: The random seed; image i depends only on (seed, i).
        numbers: The numbers of the images; `runs.shards.batches` splits many into calls.
        latents: Unit noise of images 0, 1, …; sampled from the seed if None.
        options: Passed to the pipeline as they are: `height`, `width`, `negative_prompt` …
    """
    return generate_keys(
        pipe,
        [prompts[i % len(prompts)] for i in numbers],
        [(seed, i) for i in numbers],
        latents=None if latents is None else [latents[i] for i in numbers],
        **options,
    )


def latent_shape(pipe: Any, height: int | None, width: int | None) -> tuple[int, int, int]:
    """Channels, height and width of the latents of an image of this size, the model's own size if None."""
    config, factor = denoiser_of(pipe).config, getattr(pipe, "vae_scale_factor", None)
    if factor is None:
        raise ModelNotLoaded(
            f"{type(pipe).__name__} has no vae_scale_factor, so the size of its latents is unknown; expected "
            "a pipeline that generates still images in the latents of an autoencoder."
        )
    sample_size = getattr(config, "sample_size", None) or _default_side(pipe)
    size = sample_size if isinstance(sample_size, list | tuple) else (sample_size,) * 2
    times = family_of(denoiser_of(pipe)).latents_factor
    return (
        config.in_channels // (4 if _packs(pipe) else 1),
        (height // factor if height else size[0]) * times,
        (width // factor if width else size[1]) * times,
    )


def image_size(pipe: Any) -> tuple[int, int]:
    """Width and height, in pixels, of the images that a model generates by default."""
    _, height, width = latent_shape(pipe, None, None)
    times = family_of(denoiser_of(pipe)).latents_factor
    return width * pipe.vae_scale_factor // times, height * pipe.vae_scale_factor // times


def side_step(pipe: Any) -> int:
    """The number of pixels that an image's sides must be multiples of: whole patches of whole latents."""
    patch = 2 if _packs(pipe) else patch_side(denoiser_of(pipe))
    step = pipe.vae_scale_factor * patch // family_of(denoiser_of(pipe)).latents_factor
    return max(8, step)  # pipelines require 8 whatever the autoencoder


def require_size(pipe: Any, height: int | None, width: int | None) -> None:
    """Refuse a size that the pipeline cannot generate, before it is called.

    Raises:
        HeadwiseError: A side is not a multiple of `side_step`.
    """
    if height is None or width is None or not hasattr(pipe, "vae_scale_factor"):
        return
    step = side_step(pipe)
    if height % step or width % step:
        near = [max(1, round(side / step)) * step for side in (height, width)]
        raise HeadwiseError(
            f"A height of {height} and a width of {width} were given; expected multiples of {step} for "
            f"{type(pipe).__name__}, such as {near[0]} and {near[1]}."
        )


def _refuse(options: dict[str, Any]) -> None:
    """Raise HeadwiseError for options of the pipeline's call that keys replace."""
    refused = {
        "generator": options.get("generator") is not None,
        "num_images_per_prompt": options.get("num_images_per_prompt", 1) not in (1, None),
        "return_dict": not options.get("return_dict", True),
    }
    for name, given in refused.items():
        if given:
            raise HeadwiseError(f"{name} was given, but {_INSTEAD[name]}")
        options.pop(name, None)


def _default_side(pipe: Any) -> int:
    """The default side of an image in units of `vae_scale_factor`, if the configuration has none."""
    size = getattr(pipe, "default_sample_size", None)
    if size is not None:
        return size
    height = inspect.signature(type(pipe).__call__).parameters["height"].default
    return (height or family_of(denoiser_of(pipe)).image_side) // pipe.vae_scale_factor


def _packs(pipe: Any) -> bool:
    """Whether the pipeline takes its latents in patches of 2 × 2, as FLUX does."""
    return hasattr(pipe, "_pack_latents")
