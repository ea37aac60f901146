r"""SDEdit: noise the source's picture to a share of the schedule, and denoise it under the target's prompt.

References:
    | SDEdit: Guided Image Synthesis and Editing with Stochastic Differential Equations (Meng et al., 2021)
    | https://arxiv.org/abs/2108.01073
"""

from collections.abc import Sequence
from typing import Any

from PIL import Image

from headwise.model.generate import generator_for
from headwise.model.pipelines import quiet

__all__ = ["sdedit"]


def sdedit(
    pipe: Any,
    pictures: Sequence[Image.Image],
    targets: Sequence[str],
    *,
    strength: float | int = 0.5,
    seeds: Sequence[int],
    **options: Any,
) -> list[Image.Image]:
    """Each picture under its target.

    Args:
        pipe: A text-to-image pipeline, whose parts are used.
        pictures, targets, seeds: One of each for each edit.
        strength: How far the noise goes, 0 … 1.
        options: Passed to the pipeline.
    """
    from diffusers import AutoPipelineForImage2Image

    with quiet(pipe):
        image_to_image = AutoPipelineForImage2Image.from_pipe(pipe)
        with quiet(image_to_image):
            return image_to_image(
                prompt=list(targets),
                image=list(pictures),
                strength=strength,
                generator=[generator_for(seed, 0) for seed in seeds],
                **options,
            ).images
