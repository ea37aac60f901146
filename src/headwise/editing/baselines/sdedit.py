r"""SDEdit: noise the source's image part of the way, and denoise it with the target's prompt.

References:
    | SDEdit: Guided Image Synthesis and Editing with Stochastic Differential Equations (Meng et al., 2021)
    | https://arxiv.org/abs/2108.01073
"""

import inspect
from collections.abc import Sequence
from typing import Any

from PIL import Image

from headwise.editing.support import require_support
from headwise.model.generate import Key, generators_of
from headwise.model.pipelines import quiet

__all__ = ["sdedit"]


def sdedit(
    pipe: Any,
    pictures: Sequence[Image.Image],
    targets: Sequence[str],
    *,
    strength: float | int = 0.5,
    seeds: Sequence[Key],
    height: int | None = None,
    width: int | None = None,
    **options: Any,
) -> Any:
    """Edit each image by its target prompt.

    Args:
        pipe: A text-to-image pipeline, whose components are used.
        pictures: The image to edit, for each edit.
        targets: The prompt to edit it into, for each edit.
        strength: The fraction of the schedule to noise the image by and to denoise again, 0 … 1.
        seeds: The key of each edit's noise: (seed, image), or a seed s for (s, 0).
        height, width: The size of the images, for pipelines that would scale them to their own (Stable
            Diffusion 3, FLUX); the others read it from the images.
        options: Passed to the pipeline: `num_inference_steps`, `guidance_scale` …

    Raises:
        Unsupported: diffusers has no image-to-image pipeline for this kind of model.
    """
    require_support(pipe, sdedit)
    from diffusers import AutoPipelineForImage2Image

    with quiet(pipe):
        image_to_image = AutoPipelineForImage2Image.from_pipe(pipe)
        known = inspect.signature(image_to_image.__call__).parameters
        size = {"height": height, "width": width}
        options |= {side: pixels for side, pixels in size.items() if pixels is not None and side in known}
        with quiet(image_to_image):
            return image_to_image(
                prompt=list(targets),
                image=list(pictures),
                strength=strength,
                generator=generators_of(seeds),
                **options,
            ).images
