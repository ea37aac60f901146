"""The same picture with and without: one column for each steering, one row for each picture.

Pictures of a row start from the same latents, so whatever differs between columns is the steering's doing.
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
    """Draw a prompt under several steerings.

    Args:
        pipe: The user's pipeline; it is left as it was.
        prompt: What to draw.
        columns: By name, the hooks of each column; none for the plain picture.
        seed: Picture i of a seed is the same in every column, and in every call.
        pictures: How many rows.
        batch_size: Pictures per pipeline call.
        progress: Show a bar on stderr.
        options: Passed to the pipeline: `num_inference_steps`, `guidance_scale`, `negative_prompt` …

    Returns:
        By name, the pictures of each column.
    """
    drawn: dict[str, list[Any]] = {}
    bar = tqdm(total=len(columns) * pictures, unit="picture", disable=not progress)
    with quiet(pipe), bar:
        for name, hooks in columns.items():
            drawn[name] = []
            for numbers in batches(0, pictures, batch_size):
                with hooked(pipe, *hooks):
                    drawn[name] += generate(pipe, [prompt], seed, numbers, output_type="pil", **options)
                bar.update(len(numbers))
    return drawn
