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
    negative_prompt: str | None = None,
    **options: Any,
) -> Any:
    """Edit each image by its target prompt.

    Args:
        pipe: A text-to-image pipeline, whose components are used.
        pictures: The image to edit, for each edit.
        targets: The prompt to edit it into, for each edit.
        strength: The fraction of the schedule to noise the image by and to denoise again, 0 … 1.
        seeds: The key of each edit's noise: (seed, image), or a seed s for (s, 0).
        negative_prompt: What the edits should not show.
        height, width: The size of the images, for pipelines that would scale them to their own (Stable
            Diffusion 3, FLUX); that of the first image if not given.
        options: Passed to the pipeline: `num_inference_steps`, `guidance_scale` …

    Raises:
        Unsupported: diffusers has no image-to-image pipeline for this kind of model.
    """
    require_support(pipe, sdedit)
    from diffusers import AutoPipelineForImage2Image

    with quiet(pipe):
        image_to_image = AutoPipelineForImage2Image.from_pipe(pipe)
        known = inspect.signature(type(image_to_image).__call__).parameters
        if negative_prompt is not None:
            options["negative_prompt"] = [negative_prompt] * len(targets)
        if "height" in known:  # which would scale images to the model's own size
            options |= {"height": height or pictures[0].height, "width": width or pictures[0].width}
        with quiet(image_to_image):
            return image_to_image(
                prompt=list(targets),
                image=list(pictures),
                strength=strength,
                generator=generators_of(seeds),
                **options,
            ).images
