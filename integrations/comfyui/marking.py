"""Which values of a layer are a word's: those of its tokens, in the rows that carry the prompt."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from headwise.errors import HookMisuse

from .layers import LayerCall
from .words import WordTokens

__all__ = ["marked"]

COPY = 0.01  # repeated text differs by rounding alone, other text by its own length


def marked(
    word: WordTokens, value: Float[Tensor, "rows heads tokens dim"], call: LayerCall
) -> Bool[Tensor, "rows tokens"]:
    """The values of a word.

    In cross-attention, where a batch holds a longer text, ComfyUI repeats a shorter one until it is as long,
    and the word with it. Other text that was put behind it is left alone. In joint attention texts are not
    repeated, and pixels stand behind them.

    Raises:
        HookMisuse: The model is given another text than the one in which the word was found.
    """
    of_word = _positions(word, value, call) if call.joint else _copies(word, value)
    return of_word & call.prompted.to(value.device)[:, None]


def _positions(word: WordTokens, value: Tensor, call: LayerCall) -> Bool[Tensor, "#rows tokens"]:
    if call.text < word.tokens and call.prompted.any():
        raise _other_text(call.text, word)
    of_word = torch.zeros(1, value.shape[2], dtype=torch.bool, device=value.device)
    of_word[:, list(word.positions)] = True
    return of_word


def _copies(word: WordTokens, value: Tensor) -> Bool[Tensor, "#rows tokens"]:
    tokens = value.shape[2]
    if tokens % word.tokens:
        raise _other_text(tokens, word)
    once = torch.zeros(word.tokens, dtype=torch.bool, device=value.device)
    once[list(word.positions)] = True
    if tokens == word.tokens:
        return once[None]
    copies = value.transpose(1, 2).flatten(2).unflatten(1, (-1, word.tokens)).float()
    first = copies[:, :1]
    alike = (copies - first).norm(dim=(2, 3)) <= COPY * first.norm(dim=(2, 3))
    return (alike[..., None] & once).flatten(1)


def _other_text(tokens: int, word: WordTokens) -> HookMisuse:
    return HookMisuse(
        f"The model is given {tokens} tokens, but the text makes {word.tokens}. Give the node the text and "
        "CLIP that the positive prompt is made of."
    )
