"""The same images with and without steering: one column for each steering, one row for each image.

Images of a row start from the same latents, so all differences between columns come from the steering.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from tqdm.auto import tqdm

from headwise.model.attention import hooked
from headwise.model.generate import generate
from headwise.model.pipelines import quiet
from headwise.model.sites import AttentionHook
from headwise.runs.shards import batches

__all__ = ["compare"]


def compare(
    pipe: Any,
    prompt: str,
    columns: Mapping[str, Sequence[AttentionHook]],
    *,
    seed: int = 0,
    pictures: int = 4,
    batch_size: int = 4,
    progress: bool = True,
    **options: Any,
) -> dict[str, list[Any]]:
    """Generate images of a prompt under several steerings.

    Args:
        pipe: The user's pipeline; it is left unchanged.
        prompt: The prompt of all images.
        columns: The hooks of each column, by its name; an empty list for plain images.
        seed: The seed; image i of a seed starts from the same latents in every column and every call.
        pictures: The number of images per column.
        batch_size: Images per pipeline call.
        progress: Whether to show a bar on stderr.
        options: Passed to the pipeline: `num_inference_steps`, `guidance_scale`, `negative_prompt` …

    Returns:
        The images of each column, by its name.
    """
    generated: dict[str, list[Any]] = {}
    bar = tqdm(total=len(columns) * pictures, unit="image", disable=not progress)
    with quiet(pipe), bar:
        for name, hooks in columns.items():
            generated[name] = []
            for numbers in batches(0, pictures, batch_size):
                with hooked(pipe, *hooks):
                    generated[name] += generate(pipe, [prompt], seed, numbers, output_type="pil", **options)
                bar.update(len(numbers))
    return generated
