r"""What stands at a text-reading layer of a steered clone: values scaled, then the attention as it was.

For the tokens t of the word, in rows that carry the prompt, head h's value is multiplied by a factor,

    V'[row, t, h] = r[h] · V[row, t, h],

which is multiplying its attention to the word (steering/steer.py says why). Nothing else of the model or of
the sampler is touched: ComfyUI calls the layer, and its own attention function, or whatever another node has
put in its place, does the rest.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from headwise.errors import HookMisuse
from headwise.steering.steer import Steer

from .blocks import Block, slices_by_block
from .words import WordTokens, find

__all__ = ["Scaled", "steered"]

Attend = Callable[..., Tensor]
COPY = 0.01  # repeated text differs by rounding alone, other text by its own length


def steered(model: Any, clip: Any, text: str, steer: Steer) -> Any:
    """A clone of a model in which attention to a word of a prompt is scaled as a `Steer` says.

    Args:
        model: ComfyUI's model; it is left as it was.
        clip: The CLIP that encodes the positive prompt.
        text: The positive prompt.
        steer: A steering made by `strengthen`, `adjust` or `weaken`.

    Raises:
        WordNotInPrompt, HeadMapMismatch: The word is not in the prompt, or the model has different heads.
    """
    tokens = find(clip, text, None if steer.every else steer.word, steer.occurrence)
    clone = model.clone()
    places = slices_by_block(steer.head_map, clone.get_model_object("diffusion_model"))
    for block, place in places.items():
        factors = tuple(steer.factors[0, place].tolist())
        before = _standing(clone, block)
        clone.set_model_attn2_replace(Scaled(factors, tokens, steer.steps, before), *block)
    return clone


@dataclass(frozen=True, eq=False)
class Scaled:
    """One layer's attention, to scaled values.

    Args:
        factors: The factor r of each head of the layer.
        word: The tokens of the word.
        steps: The share of the denoiser calls that is steered, from 0 to 1.
        attend: The attention function that stood here before; ComfyUI's own if None.
    """

    factors: tuple[float, ...]
    word: WordTokens
    steps: tuple[float, float] = (0.0, 1.0)
    attend: Attend | None = None

    def __call__(
        self, query: Tensor, key: Tensor, value: Tensor, options: dict[str, Any], **more: Any
    ) -> Tensor:
        """Called by ComfyUI with projections "rows tokens width", in which heads stand side by side."""
        attend = self.attend or _own_attention
        if _active(self.steps, options):
            value = self.scaled(value, options.get("cond_or_uncond", [0]))
        return attend(query, key, value, options, **more)

    def scaled(
        self, value: Float[Tensor, "rows tokens width"], kinds: list[int]
    ) -> Float[Tensor, "rows tokens width"]:
        """Values with the word's scaled, in rows that carry the prompt.

        Args:
            value: The values of all rows of a batch.
            kinds: ComfyUI's `cond_or_uncond`: for each run of rows, 0 with the prompt, 1 without.
        """
        exact = torch.promote_types(value.dtype, torch.float32)
        factors = torch.tensor(self.factors, dtype=exact, device=value.device)
        of_word = self.of_word(value) & _with_prompt(value, kinds)[:, None]
        apart = value.unflatten(-1, (len(factors), -1))
        scaled = apart * torch.where(of_word[..., None], factors, 1.0)[..., None]
        return scaled.to(value.dtype).flatten(-2)

    def of_word(self, value: Float[Tensor, "rows tokens width"]) -> Bool[Tensor, "rows tokens"]:
        """Which tokens of each row are the word's.

        Where a batch holds a longer text, ComfyUI repeats a shorter one until it is as long, and the word
        with it. Other text that was put behind it is left alone.
        """
        rows, tokens, _ = value.shape
        if tokens % self.word.tokens:
            raise HookMisuse(
                f"The model is given {tokens} tokens, but the text makes {self.word.tokens}. Give the "
                "node the text and CLIP that the positive prompt is made of."
            )
        once = torch.zeros(self.word.tokens, dtype=torch.bool, device=value.device)
        once[list(self.word.positions)] = True
        if tokens == self.word.tokens:
            return once.expand(rows, -1)
        copies = value.unflatten(1, (-1, self.word.tokens)).float()
        first = copies[:, :1]
        alike = (copies - first).norm(dim=(2, 3)) <= COPY * first.norm(dim=(2, 3))
        return (alike[..., None] & once).flatten(1)

    # ComfyUI moves patches that can be moved, and loads the models of those that have some: what stood here
    # before may be of either kind.

    def to(self, *where: Any) -> "Scaled":
        """With what stood here before moved to a device."""
        return replace(self, attend=self.attend.to(*where)) if hasattr(self.attend, "to") else self

    def models(self) -> list[Any]:
        """The models of what stood here before."""
        return self.attend.models() if hasattr(self.attend, "models") else []


def _standing(model: Any, block: Block) -> Attend | None:
    """What other nodes have put at a block, looked for as ComfyUI looks for it."""
    replaced = model.model_options["transformer_options"].get("patches_replace", {}).get("attn2", {})
    return replaced.get(block, replaced.get(block[:2]))


def _own_attention(query: Tensor, key: Tensor, value: Tensor, options: dict[str, Any], **_: Any) -> Tensor:
    from comfy.ldm.modules.attention import optimized_attention

    precision = options.get("attn_precision")
    return optimized_attention(
        query, key, value, options["n_heads"], attn_precision=precision, transformer_options=options
    )


def _with_prompt(value: Tensor, kinds: list[int]) -> Bool[Tensor, " rows"]:
    prompted = torch.tensor([kind == 0 for kind in kinds], device=value.device)
    return prompted.repeat_interleave(len(value) // len(kinds))


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
