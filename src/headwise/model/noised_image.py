r"""An existing image at every noise level, for hooks that record what the denoiser does with it.

    x_t = √ᾱ_t x_0 + √(1−ᾱ_t) ε,   or for flow matching   x_t = (1−t) x_0 + t ε

with x_0 the latents of the image and one noise ε for all levels. The user's own pipeline and scheduler step
from level to level; whatever the denoiser predicts, the next latents are the image's again. So no inversion
is needed to find where heads attend in an image that the model did not generate.

References:
    | Emergent Correspondence from Image Diffusion (Tang et al., 2023): features of noised images
    | https://arxiv.org/abs/2306.03881
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from headwise.model.autoencoder import encoded
from headwise.model.generate import Key, generate_keys, generators_of, image_size, packed
from headwise.model.pipelines import quiet
from headwise.pictures import fitted

__all__ = ["denoise_image", "scheduled"]


def denoise_image(
    pipe: Any,
    image: Image.Image,
    prompt: str,
    *,
    key: Key = 0,
    num_inference_steps: int = 10,
    guidance_scale: float | int = 1.0,
    **options: Any,
) -> None:
    """Call the denoiser on an existing image at every noise level, for hooks to record.

        recorder = AttentionMaps()
        with hooked(pipe, recorder):
            denoise_image(pipe, drawing, "a dog and a cat")
        recorder.take().together()          # where in the drawing heads attend to each word

    Args:
        pipe: The user's pipeline; it is left as it was.
        image: An image; cropped to its middle and scaled if it does not have the model's size.
        prompt: A prompt that describes it.
        key: The key of the noise: (seed, image), or a seed s for (s, 0).
        num_inference_steps: The number of noise levels, spaced as the pipeline spaces its steps.
        guidance_scale: As the pipeline takes it; 1 leaves out the rows without the prompt.
        options: Passed to the pipeline.
    """
    clean = encoded(pipe, fitted(image, image_size(pipe)))
    [generator] = generators_of([key])
    noise = torch.randn(clean.shape, generator=generator).to(clean)
    kind: Any = type("Held", (_Held, type(pipe.scheduler)), {})
    held = kind.from_config(pipe.scheduler.config)
    held.clean, held.noise, held.steps_taken = packed(pipe, clean), packed(pipe, noise), 0
    first = noise
    if not hasattr(held, "scale_noise"):  # the first level of flow matching is pure noise
        held.set_timesteps(num_inference_steps)
        first = held.noised(held.timesteps[:1]) / held.init_noise_sigma
    with scheduled(pipe, held):
        generate_keys(
            pipe,
            [prompt],
            [key],
            latents=first,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            output_type="latent",
            **options,
        )


class _Held:
    """A mixin before a scheduler's own class, which keeps the latents at those of an image."""

    clean: Tensor
    noise: Tensor
    steps_taken: int
    timesteps: Tensor

    def step(self, model_output: Tensor, timestep: Any, sample: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Take the scheduler's own step, which keeps its count, and return the image at the next level."""
        own: Any = super()
        stepped = own.step(model_output, timestep, sample, *args, **kwargs)
        self.steps_taken += 1
        level = self.timesteps[self.steps_taken : self.steps_taken + 1]
        held = (self.noised(level) if len(level) else self.clean).to(sample)
        return (held,) if isinstance(stepped, tuple) else type(stepped)(prev_sample=held)

    def noised(self, level: Tensor) -> Tensor:
        """The latents of the image at a noise level."""
        own: Any = super()
        if hasattr(self, "scale_noise"):
            return own.scale_noise(self.clean, level, self.noise)
        return own.add_noise(self.clean, self.noise, level)


@contextmanager
def scheduled(pipe: Any, scheduler: Any) -> Iterator[None]:
    """Give the pipeline another scheduler, quietly; its own is restored at the end."""
    before, pipe.scheduler = pipe.scheduler, scheduler
    try:
        with quiet(pipe):
            yield
    finally:
        pipe.scheduler = before
