"""The baselines by name. A new one is a file of its own and a line here.

Every baseline edits images by `edit(pipe, sources, targets, pictures, seeds=…)`. Most are hooks, which
generate source and target side by side in one batch; `make()` returns a new hook.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from headwise.editing.baselines.composable import compose
from headwise.editing.baselines.free_prompt import FreePrompt
from headwise.editing.baselines.masactrl import MasaCtrl
from headwise.editing.baselines.plug_and_play import PlugAndPlay
from headwise.editing.baselines.sdedit import sdedit
from headwise.editing.prompt_to_prompt import PromptToPrompt, generate_edits
from headwise.model.generate import Key
from headwise.model.hooks import Hook

__all__ = ["BASELINES", "COMPOSING_BASELINES", "HookBaseline", "SDEditBaseline"]


@dataclass(frozen=True)
class HookBaseline:
    """A method that is a hook.

    Args:
        make: Makes the hook, for one target per source.
    """

    make: Callable[[], Hook]

    def edit(
        self,
        pipe: Any,
        sources: Sequence[str],
        targets: Sequence[str],
        pictures: Sequence[Image.Image],
        *,
        seeds: Sequence[Key],
        **options: Any,
    ) -> list[Image.Image]:
        """Generate each target beside its source; see `SDEditBaseline.edit`."""
        groups = list(zip(sources, targets, strict=True))
        return [edit for _, edit in generate_edits(pipe, groups, [self.make()], seeds=seeds, **options)]


@dataclass(frozen=True)
class SDEditBaseline:
    """SDEdit, which edits finished images.

    Args:
        strength: The share of the schedule that is noised and denoised again, 0 … 1.
    """

    strength: float

    def edit(
        self,
        pipe: Any,
        sources: Sequence[str],
        targets: Sequence[str],
        pictures: Sequence[Image.Image],
        *,
        seeds: Sequence[Key],
        **options: Any,
    ) -> list[Image.Image]:
        """Edit images.

        Args:
            pipe: The user's pipeline.
            sources: The prompt of each image.
            targets: The prompt to edit each image into.
            pictures: The images, generated from the same keys.
            seeds: The key of each image: (seed, picture), or a seed s for (s, 0).
            options: Passed to the pipeline: `num_inference_steps`, `guidance_scale` …
        """
        return sdedit(pipe, pictures, targets, strength=self.strength, seeds=seeds, **options)


BASELINES: Mapping[str, HookBaseline | SDEditBaseline] = {
    "sdedit 0.5": SDEditBaseline(0.5),
    "sdedit 0.7": SDEditBaseline(0.7),
    "prompt-to-prompt": HookBaseline(PromptToPrompt),
    "plug-and-play": HookBaseline(PlugAndPlay),
    "masactrl": HookBaseline(MasaCtrl),
    "free-prompt": HookBaseline(FreePrompt),
}
COMPOSING_BASELINES: Mapping[str, Callable[..., list[Any]]] = {"composable": compose}
