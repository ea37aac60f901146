"""The baselines by name. A new one is a file of its own and a line here.

Most are hooks, which generate source and target side by side in one batch; SDEdit edits finished images.
`BASELINES[name].edit(pipe, sources, targets, pictures, seeds=…)` is the same call for all of them.
"""

import functools
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

__all__ = ["BASELINES", "COMPOSING_BASELINES", "Baseline"]


@dataclass(frozen=True)
class Baseline:
    """A method that edits images by prompts: a hook, or a function of finished images.

    Args:
        make: Makes the hook, for one target per source; None if the method is a function.
        edit_pictures: The function of pipeline, images and targets; None if the method is a hook.
    """

    make: Callable[[], Hook] | None = None
    edit_pictures: Callable[..., Any] | None = None

    def edit(
        self,
        pipe: Any,
        sources: Sequence[str],
        targets: Sequence[str],
        pictures: Sequence[Image.Image],
        *,
        seeds: Sequence[Key],
        **options: Any,
    ) -> list[Any]:
        """Edit images.

        Args:
            pipe: The user's pipeline; it is left as it was.
            sources: The prompt of each image.
            targets: The prompt to edit each image into.
            pictures: The images, generated from the same keys; read where the method is a function.
            seeds: The key of each image: (seed, picture), or a seed s for (s, 0).
            options: Passed to the pipeline: `num_inference_steps`, `guidance_scale` …
        """
        if self.edit_pictures is not None:
            return list(self.edit_pictures(pipe, pictures, targets, seeds=seeds, **options))
        assert self.make is not None
        groups = list(zip(sources, targets, strict=True))
        return [target for _, target in generate_edits(pipe, groups, [self.make()], seeds=seeds, **options)]


BASELINES: Mapping[str, Baseline] = {
    "sdedit 0.5": Baseline(edit_pictures=functools.partial(sdedit, strength=0.5)),
    "sdedit 0.7": Baseline(edit_pictures=functools.partial(sdedit, strength=0.7)),
    "prompt-to-prompt": Baseline(make=PromptToPrompt),
    "plug-and-play": Baseline(make=PlugAndPlay),
    "masactrl": Baseline(make=MasaCtrl),
    "free-prompt": Baseline(make=FreePrompt),
}
COMPOSING_BASELINES: Mapping[str, Callable[..., list[Any]]] = {"composable": compose}
