"""The baselines by name. A new one needs its own file and one line here.

Most are hooks, which generate source and target side by side in one batch; SDEdit edits finished images.
`BASELINES[name].edit(pipe, sources, targets, pictures, seeds=…)` is the same call for all of them. The table
itself imports none of them, so that a page can offer their names before torch is loaded.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

__all__ = ["BASELINES", "OFFERED", "Baseline"]


@dataclass(frozen=True)
class Baseline:
    """A method that edits images by prompts.

    Args:
        title: Its name as its authors write it.
        path: The path of the hook or function below `headwise`, with its module.
        options: The arguments it is called with.
        is_hook: Whether it is a hook, or a function of pipeline, finished images and prompts.
    """

    title: str
    path: str
    options: Mapping[str, Any] = field(default_factory=dict)
    is_hook: bool = True

    @property
    def object(self) -> Any:
        """The hook class or the function."""
        module, _, name = self.path.rpartition(".")
        return getattr(import_module(f"headwise.{module}"), name)

    def edit(
        self,
        pipe: Any,
        sources: Sequence[str],
        targets: Sequence[str],
        pictures: Sequence[Any],
        *,
        seeds: Sequence[Any],
        **options: Any,
    ) -> list[Any]:
        """Edit images.

        Args:
            pipe: The user's pipeline; it is left unchanged.
            sources: The prompt of each image.
            targets: The prompt to edit each image into.
            pictures: The images, generated from the same keys; only functions read them.
            seeds: The key of each image: (seed, image), or a seed s for (s, 0).
            options: Passed to the pipeline: `num_inference_steps`, `guidance_scale` …
        """
        if not self.is_hook:
            return list(self.object(pipe, pictures, targets, seeds=seeds, **self.options, **options))
        from headwise.editing.groups import generate_edits

        groups, hook = list(zip(sources, targets, strict=True)), self.object(**self.options)
        return [target for _, target in generate_edits(pipe, groups, [hook], seeds=seeds, **options)]


_SDEDIT = "editing.baselines.sdedit.sdedit"
BASELINES: Mapping[str, Baseline] = {
    "sdedit 0.5": Baseline("SDEdit", _SDEDIT, {"strength": 0.5}, is_hook=False),
    "sdedit 0.7": Baseline("SDEdit", _SDEDIT, {"strength": 0.7}, is_hook=False),
    "prompt-to-prompt": Baseline("prompt-to-prompt", "editing.prompt_to_prompt.PromptToPrompt"),
    "plug-and-play": Baseline("plug-and-play", "editing.baselines.plug_and_play.PlugAndPlay"),
    "masactrl": Baseline("MasaCtrl", "editing.baselines.masactrl.MasaCtrl"),
    "free-prompt": Baseline("free-prompt", "editing.baselines.free_prompt.FreePrompt"),
}
# Each method once, hooks first, by its name without the options: the choices offered to users.
OFFERED: dict[str, Baseline] = {}
for _name, _baseline in sorted(BASELINES.items(), key=lambda item: not item[1].is_hook):
    OFFERED.setdefault(_name.split()[0], _baseline)
