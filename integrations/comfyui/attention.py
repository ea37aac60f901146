r"""Steering a clone: values are scaled, then the attention is as it was.

For the tokens t of the word, in rows that carry the prompt, head h's value is multiplied by a factor,

    V'[row, h, t] = r[h] · V[row, h, t],

which is multiplying its attention to the word (steering/steer.py says why). Nothing else of the model or of
the sampler is touched.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from headwise.errors import HookMisuse
from headwise.steering.steer import Steer

from .layers import Attend, LayerCall, with_actions
from .marking import marked
from .words import WordTokens, find

__all__ = ["Scaled", "steered"]


def steered(model: Any, clip: Any, text: str, steer: Steer) -> Any:
    """A clone of a model in which attention to a word of a prompt is scaled as a `Steer` says.

    Args:
        model: ComfyUI's model; it is left as it was.
        clip: The CLIP that encodes the positive prompt.
        text: The positive prompt.
        steer: A steering made by one of the functions of `headwise.steering`.

    Raises:
        WordNotInPrompt, HeadMapMismatch: The word is not in the prompt, or the model has different heads.
    """
    tokens = find(clip, text, None if steer.every else steer.word, steer.occurrence)

    def scaled_at(_: int, place: slice) -> Scaled:
        """The action of a layer."""
        return Scaled(tuple(steer.factors[0, place].tolist()), tokens, steer.steps)

    return with_actions(model, steer.head_map, scaled_at)


@dataclass(frozen=True, eq=False)
class Scaled:
    """One layer's attention, to scaled values.

    Args:
        factors: The factor r of each head of the layer.
        word: The tokens of the word.
        steps: The share of the denoiser calls that is steered, from 0 to 1.
    """

    factors: tuple[float, ...]
    word: WordTokens
    steps: tuple[float, float] = (0.0, 1.0)

    def __call__(self, attend: Attend, value: Tensor, call: LayerCall) -> Tensor:
        """Attend to scaled values in the steered share of the calls, and unchanged in the others."""
        changes = any(factor != 1 for factor in self.factors) and _active(self.steps, call.options)
        return attend(self.scaled(value, call) if changes else value)

    def scaled(
        self, value: Float[Tensor, "rows heads tokens dim"], call: LayerCall
    ) -> Float[Tensor, "rows heads tokens dim"]:
        """Values with the word's scaled, in rows that carry the prompt."""
        exact = torch.promote_types(value.dtype, torch.float32)  # factors are not rounded to half precision
        factors = torch.tensor(self.factors, dtype=exact, device=value.device)[:, None]
        scale = torch.where(marked(self.word, value, call)[:, None], factors, 1.0)
        return (value * scale[..., None]).to(value.dtype)


def _active(steps: tuple[float, float], options: dict[str, Any]) -> bool:
    """Is this denoiser call in the steered share? Sigmas only fall, so they tell how far it has come."""
    if steps == (0, 1):
        return True
    if "sample_sigmas" not in options:
        raise HookMisuse(
            f"Steering of the steps {steps} asks for the sampler's sigmas, which this sampler does not pass. "
            "Use start 0 and stop 1, or another sampler."
        )
    sigmas, now = options["sample_sigmas"], options["sigmas"].max()
    passed = int((sigmas > now * (1 + 1e-6)).sum())
    return steps[0] <= passed / max(1, len(sigmas) - 1) < steps[1]
