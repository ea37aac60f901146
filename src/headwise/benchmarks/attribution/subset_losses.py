r"""What images lose when random subsets of heads are weakened, and how well values of heads predict it.

An estimator gives every head a value v[h]; it predicts that a subset S of k heads loses Σ_{h ∈ S} v[h]. Large
subsets lose more whichever heads they have, so prediction and loss are compared given the size: their
agreement is the partial correlation (partial_correlation.py). A regression on k alone leaves a part that is
curved in k, which no sum over heads can predict and which both halves share; `degree` adds powers of k.

The values that predict best come from the losses themselves, at their cost: by ridge regression, in which the
part common to all heads is not penalised. It is scored on unseen subsets but on the same prompts, so it may
exceed the ceiling, which is for other prompts.

References:
    | Ridge regression: biased estimation for nonorthogonal problems (Hoerl and Kennard, 1970)
    | https://doi.org/10.1080/00401706.1970.10488634
    | Datamodels: predicting predictions from training data (Ilyas et al., 2022)
    | https://arxiv.org/abs/2202.00622
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from headwise.benchmarks.attribution.partial_correlation import (
    partial_correlation,
    require_enough,
    split_half,
)
from headwise.errors import UnreadableFile
from headwise.files import read_whole, write_whole
from headwise.intervals import Interval
from headwise.runs.scores import Scores

__all__ = ["SubsetLosses", "random_subsets", "ridge_values"]

SMALLEST, LARGEST = 0.05, 0.5  # fractions of the heads
PENALTIES = np.logspace(-3, 4, 29)  # of ridge regression, in mean squared singular values
DIGITS = 5  # decimals to which scores do not depend on the batch size


def random_subsets(all_heads: int, count: int = 200, seed: int = 0) -> Bool[np.ndarray, "subsets all_heads"]:
    """Random subsets of heads, with sizes log-uniform from 5 % to 50 % of the heads.

    Args:
        all_heads: The number of heads of the model.
        count: The number of subsets; a larger count adds subsets after the same first ones.
        seed: The random seed.
    """
    generator = np.random.Generator(np.random.Philox(seed))
    log_sizes = np.log(SMALLEST * all_heads), np.log(LARGEST * all_heads)
    subsets = np.zeros((count, all_heads), bool)
    for subset in subsets:
        size = max(1, round(np.exp(generator.uniform(*log_sizes))))
        subset[generator.permutation(all_heads)[:size]] = True
    return subsets


@dataclass(frozen=True, eq=False)
class SubsetLosses:
    """What the images of a concept's prompts lose when subsets of heads are weakened.

    Args:
        subsets: Which heads are in each subset.
        loss: The score of the plain image minus that of the image with the subset weakened.
        plain: The score of the plain image.
        settings: How the images were generated and scored.
    """

    subsets: Bool[np.ndarray, "subsets all_heads"]
    loss: Float[np.ndarray, "subsets prompts"]
    plain: Float[np.ndarray, " prompts"]
    settings: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, scores: Scores) -> "SubsetLosses":
        """The losses of the subsets scored for all prompts; none until the plain images are scored.

        Args:
            scores: Along the axes seed, prompt and subset; subset 0 is the plain image.
        """
        values, settings = scores.values.mean(0).T, scores.settings
        plain, loss = values[0], values[0] - values[1:]
        scored = np.isfinite(loss).all(1)
        subsets = random_subsets(settings["all_heads"], len(loss), settings["subset_seed"])
        return cls(subsets[scored], loss[scored], plain, settings)

    @property
    def sizes(self) -> Int[np.ndarray, " subsets"]:
        """The number of heads of each subset."""
        return self.subsets.sum(1)

    @property
    def mean(self) -> Float[np.ndarray, " subsets"]:
        """The loss of each subset, averaged over prompts."""
        return self.loss.mean(1)

    def agreement(self, values: Float[np.ndarray, " all_heads"], degree: int = 1) -> Interval:
        """The partial correlation of the predicted and the true loss given the size.

        Args:
            values: An estimator's value for each head, such as the concept's row of a relevance.
            degree: The highest power of the size to control for.
        """
        return partial_correlation(self.subsets @ values, self.mean, self.sizes, degree)

    def split_half(self, degree: int = 1) -> Interval:
        """The agreement of the losses of two halves of the prompts (`split_half`)."""
        return split_half(self.loss, self.sizes, degree)

    def ridge(self) -> Float[np.ndarray, " subsets"]:
        """The predicted loss of each subset, by ridge regression on the half of the subsets without it."""
        require_enough(self.subsets)
        predicted, even = np.empty(len(self.subsets)), np.arange(len(self.subsets)) % 2 == 0
        for half in (even, ~even):
            predicted[half] = self.subsets[half] @ ridge_values(self.subsets[~half], self.mean[~half])
        return predicted

    def as_json(self) -> dict[str, Any]:
        """The losses as JSON: subsets as hexadecimal masks, first head in the highest bit; five decimals."""
        return {
            "all_heads": self.subsets.shape[1],
            "subsets": [np.packbits(subset).tobytes().hex() for subset in self.subsets],
            "loss": np.round(self.loss, DIGITS).tolist(),
            "plain": np.round(self.plain, DIGITS).tolist(),
            "settings": self.settings,
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any], path: str | Path = "The JSON") -> "SubsetLosses":
        """The inverse of `as_json`.

        Args:
            content: The JSON object.
            path: Its origin, for the error message.

        Raises:
            UnreadableFile: Something is missing or has the wrong shape.
        """
        try:
            heads, plain = int(content["all_heads"]), np.array(content["plain"], float)
            packed = np.array([list(bytes.fromhex(subset)) for subset in content["subsets"]], np.uint8)
            subsets = np.unpackbits(packed.reshape(-1, -(-heads // 8)), axis=1, count=heads).astype(bool)
            loss = np.array(content["loss"], float).reshape(len(subsets), len(plain))
            return cls(subsets, loss, plain, dict(content.get("settings", {})))
        except (KeyError, TypeError, ValueError) as error:
            raise UnreadableFile(
                f"{path} holds no subset losses ({error!r}). Give a file that `SubsetLosses.save` wrote."
            ) from None

    def save(self, path: str | Path) -> None:
        """Write a JSON file atomically."""
        write_whole(path, (json.dumps(self.as_json()) + "\n").encode())

    @classmethod
    def load(cls, path: str | Path) -> "SubsetLosses":
        """Read a file that `save` wrote.

        Raises:
            UnreadableFile: The file is something else.
        """
        try:
            content = json.loads(read_whole(path, "subset losses"))
        except ValueError as error:
            raise UnreadableFile(
                f"{path} is not JSON ({error}). Give a file that `SubsetLosses.save` wrote."
            ) from None
        return cls.from_json(content if isinstance(content, dict) else {}, path)


def ridge_values(
    subsets: Bool[np.ndarray, "subsets all_heads"], loss: Float[np.ndarray, " subsets"]
) -> Float[np.ndarray, " all_heads"]:
    """The value of each head by ridge regression of the losses y on the subsets' indicators X of heads.

    With Z = (1, size) not penalised, so that heads are shrunk to their common value and not to zero, w
    minimises |y − Zβ − Xw|² + λ|w|². The penalty λ minimises the squared leave-one-out error,
    (y − ŷ)ᵢ / (1 − hatᵢᵢ).

    Args:
        subsets: Which heads are in each subset.
        loss: The loss of each subset.
    """
    x = subsets.astype(float)
    z = np.stack([np.ones(len(x)), x.sum(1)], 1)
    of_z, _ = np.linalg.qr(z)
    left_x, left_y = (each - of_z @ (of_z.T @ each) for each in (x, loss))
    u, singular, vt = np.linalg.svd(left_x, full_matrices=False)
    along, squares = u.T @ left_y, singular**2
    best, w = math.inf, np.zeros(x.shape[1])
    for penalty in PENALTIES * squares.mean():
        kept = squares / (squares + penalty)
        hat = (of_z**2).sum(1) + (u**2) @ kept
        error = float(np.mean(((left_y - u @ (kept * along)) / (1 - hat)) ** 2))
        if error < best:
            best, w = error, vt.T @ (singular / (squares + penalty) * along)
    common = np.linalg.lstsq(z, loss - x @ w, rcond=None)[0][1]
    return w + common
