r"""The explanation of one image: each head's share in each word's effect, and where in the image it acts.

Arrays only, without torch; explain.py measures them.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from PIL import Image

from headwise.display import colour_limit, html_image, html_strip, html_table
from headwise.errors import HeadwiseError
from headwise.files import write_whole
from headwise.model.heads import HeadMap
from headwise.model.words import folded

__all__ = ["Explanation", "HeadShare"]


class HeadShare(NamedTuple):
    """A head and its share in a word's effect.

    Args:
        head: The index of the head.
        address: The layer's module path, with the head's index in the layer.
        share: Its share e[h]; negative where it works against the word.
    """

    head: int
    address: str
    share: float


@dataclass(frozen=True, eq=False)
class Explanation:
    """Through which heads each word of a prompt acts in one image, and where.

        explanation.top("red", 3)                 # heads with their addresses and shares
        explanation.map_of("red", 12)             # where head 12 changes the image by this word
        hw.plots.explanation(explanation)

    Args:
        image: The image, bit-identical to the one that is generated without an explanation.
        prompt: The prompt.
        words: The words that are explained.
        shares: The share e[h] of each head in a word's effect, averaged over the measured calls.
        by_step: The same for each measured call of the denoiser; 0 where a word had no effect.
        steps: The indices of the measured calls.
        strengths: The whole effect of each word, ‖d‖ over the measured calls, relative to the strongest word.
        heads: The heads of each word that have maps, the largest absolute share first.
        maps: Σ over channels of |D(1) − D(word muted in this head alone)| at each position of the latents
            (of 2 × 2 latents in FLUX), averaged over the measured calls.
        word_maps: The same with the word muted in all heads.
        maps_by_step: The maps of each measured call; `maps` is their mean.
        word_maps_by_step: The same with the word muted in all heads.
        head_map: The heads of the model.
        settings: How the image was generated.
    """

    image: Image.Image | Any
    prompt: str
    words: tuple[str, ...]
    shares: Float[np.ndarray, "words all_heads"]
    by_step: Float[np.ndarray, "words calls all_heads"]
    steps: tuple[int, ...]
    strengths: Float[np.ndarray, " words"]
    heads: Int[np.ndarray, "words shown"]
    maps: Float[np.ndarray, "words shown height width"]
    word_maps: Float[np.ndarray, "words height width"]
    maps_by_step: Float[np.ndarray, "words shown calls height width"]
    word_maps_by_step: Float[np.ndarray, "words calls height width"]
    head_map: HeadMap
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def completeness(self) -> Float[np.ndarray, " words"]:
        """Σ over heads of the shares of each word; closer to 1 the more exact the integral is (`points`)."""
        return self.shares.sum(1)

    @property
    def by_layer(self) -> Float[np.ndarray, "words layers"]:
        """The summed shares of the heads of each layer."""
        return np.stack([self.shares[:, a:b].sum(1) for a, b in self.head_map.slices], 1)

    def index(self, word: str) -> int:
        """The index of a word among those explained.

        Raises:
            HeadwiseError: The word was not explained.
        """
        plain = [folded(each).casefold() for each in self.words]
        if folded(word).casefold() not in plain:
            raise HeadwiseError(
                f"{word!r} was not explained; {', '.join(self.words)} were. Pass it in `words`."
            )
        return plain.index(folded(word).casefold())

    def top(self, word: str, k: int = 5) -> list[HeadShare]:
        """The k heads with the largest absolute shares in a word, the largest first."""
        shares = self.shares[self.index(word)]
        order = np.argsort(-np.abs(shares), kind="stable")[:k]
        return [HeadShare(int(h), self.head_map.address(int(h)), float(shares[h])) for h in order]

    def map_of(self, word: str, head: int | None = None) -> Float[np.ndarray, "height width"]:
        """Where a word changes the image through one head, or through all heads together if None.

        Raises:
            HeadwiseError: The head has no map of this word.
        """
        w = self.index(word)
        if head is None:
            return self.word_maps[w]
        shown = self.heads[w].tolist()
        if head not in shown:
            raise HeadwiseError(
                f"Head {head} has no map of {word!r}; heads {', '.join(map(str, shown))} do. "
                "Explain with a larger `maps_of`."
            )
        return self.maps[w, shown.index(head)]

    def to_json(self) -> dict[str, Any]:
        """Everything but the image, as plain lists and numbers."""
        words = []
        for w, word in enumerate(self.words):
            shown = zip(self.heads[w], self.maps[w], strict=True)
            words.append(
                {
                    "word": word,
                    "strength": _rounded(self.strengths[w]),
                    "completeness": _rounded(self.completeness[w]),
                    "shares": _rounded(self.shares[w]),
                    "by_layer": _rounded(self.by_layer[w]),
                    "by_step": _rounded(self.by_step[w]),
                    "top": [share._asdict() for share in self.top(word)],
                    "map": _rounded(self.word_maps[w]),
                    "maps": [{"head": int(head), "map": _rounded(map_)} for head, map_ in shown],
                }
            )
        layers = [{"address": layer.address, "heads": layer.heads} for layer in self.head_map]
        about = {"prompt": self.prompt, "settings": self.settings, "steps": list(self.steps)}
        return about | {"layers": layers, "words": words}

    def save(self, path: str | Path) -> None:
        """Write what `to_json` returns to a file; the image is not in it."""
        write_whole(path, json.dumps(self.to_json(), ensure_ascii=False).encode())

    def _repr_html_(self) -> str:
        limit = colour_limit(self.shares) or 1.0
        rows = [
            (
                word,
                f"{self.strengths[w]:.2f}",
                html_strip(self.shares[w], limit, True, f"the shares of all heads in {word}"),
                ", ".join(f"{share.head} ({share.share:+.2f})" for share in self.top(word, 3)),
                self.top(word, 1)[0].address,
            )
            for w, word in enumerate(self.words)
        ]
        columns = ("word", "strength", "shares of all heads", "largest shares", "address of the first")
        table = html_table(f"“{self.prompt}”: the share of each head in each word", columns, rows)
        if not isinstance(self.image, Image.Image):
            return table
        return html_image(self.image, self.prompt, "max-width:16em") + table

    def __repr__(self) -> str:
        strongest = (f"{word}: {self.top(word, 1)[0].address}" for word in self.words)
        return f'Explanation("{self.prompt}", {"; ".join(strongest)})'


def _rounded(values: Any) -> Any:
    """Rounded to six significant digits: more would be noise, in a file four times as large."""
    if np.ndim(values):
        return [_rounded(value) for value in values]
    return float(f"{float(values):.6g}")
