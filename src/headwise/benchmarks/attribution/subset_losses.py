r"""What was lost when random subsets of heads were weakened, and how well something predicts it.

An estimator gives every head a value v[h]; it predicts that a subset S of k heads loses Σ_{h ∈ S} v[h]. Large
subsets lose more whatever their heads, so prediction and loss are compared given the size: their agreement is
the partial correlation (partial_correlation.py). A regression on k alone leaves what is curved in k, which no
sum over heads can predict and which both halves share; `degree` adds powers of k.

The losses themselves give the values that predict best, at their cost: ridge regression, with what all heads
share not penalised. It is scored on subsets that it has not seen, but on the same prompts, so it may come
above the ceiling, which is that of other prompts.

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

SMALLEST, LARGEST = 0.05, 0.5  # shares of the heads
PENALTIES = np.logspace(-3, 4, 29)  # of ridge regression, in mean squared singular values
DIGITS = 5  # to which scores are the same in batches of any size


def random_subsets(all_heads: int, count: int = 200, seed: int = 0) -> Bool[np.ndarray, "subsets all_heads"]:
    """Random subsets of heads, with sizes log-uniform from 5 % to 50 % of the heads.

    Args:
        all_heads: The number of heads of the model.
        count: The number of subsets; the first n of more are those of `count=n`.
        seed: The only source of chance.
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
    """What the images of a concept's prompts lost when subsets of heads were weakened.

    Args:
        subsets: Which heads each subset has.
        loss: The score of the plain image less that of the image with the subset weakened.
        plain: The score of the plain image.
        settings: How the images were made and scored.
    """

    subsets: Bool[np.ndarray, "subsets all_heads"]
    loss: Float[np.ndarray, "subsets prompts"]
    plain: Float[np.ndarray, " prompts"]
    settings: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, scores: Scores) -> "SubsetLosses":
        """The losses of the subsets that are scored for all prompts; none before the plain images are.

        Args:
            scores: Along the axes seed, prompt and subset, of which number 0 is the plain image.
        """
        values, settings = scores.values.mean(0).T, scores.settings
        plain, loss = values[0], values[0] - values[1:]
        there = np.isfinite(loss).all(1)
        subsets = random_subsets(settings["all_heads"], len(loss), settings["subset_seed"])
        return cls(subsets[there], loss[there], plain, settings)

    @property
    def sizes(self) -> Int[np.ndarray, " subsets"]:
        """The number of heads of each subset."""
        return self.subsets.sum(1)

    @property
    def mean(self) -> Float[np.ndarray, " subsets"]:
        """The loss of each subset, the mean over prompts."""
        return self.loss.mean(1)

    def agreement(self, values: Float[np.ndarray, " all_heads"], degree: int = 1) -> Interval:
        """The partial correlation of the predicted and the true loss given the size.

        Args:
            values: What an estimator gives each head, such as the concept's row of a relevance.
            degree: The highest power of the size that is given.
        """
        return partial_correlation(self.subsets @ values, self.mean, self.sizes, degree)

    def split_half(self, degree: int = 1) -> Interval:
        """How well the losses of half of the prompts agree with those of the other half (`split_half`)."""
        return split_half(self.loss, self.sizes, degree)

    def ridge(self) -> Float[np.ndarray, " subsets"]:
        """The predicted loss of each subset, by ridge regression on every second subset, without itself."""
        require_enough(self.subsets)
        predicted, even = np.empty(len(self.subsets)), np.arange(len(self.subsets)) % 2 == 0
        for half in (even, ~even):
            predicted[half] = self.subsets[half] @ ridge_values(self.subsets[~half], self.mean[~half])
        return predicted

    def as_json(self) -> dict[str, Any]:
        """JSON-able: subsets as hexadecimal masks, the first head in the highest bit; five decimals."""
        return {
            "all_heads": self.subsets.shape[1],
            "subsets": [np.packbits(subset).tobytes().hex() for subset in self.subsets],
            "loss": np.round(self.loss, DIGITS).tolist(),
            "plain": np.round(self.plain, DIGITS).tolist(),
            "settings": self.settings,
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any], path: str | Path = "The JSON") -> "SubsetLosses":
        """Read what `as_json` returned.

        Args:
            content: The JSON object.
            path: Where it came from, for the error.

        Raises:
            UnreadableFile: Something is missing, or of another shape.
        """
        try:
            heads, plain = int(content["all_heads"]), np.array(content["plain"], float)
            packed = np.array([list(bytes.fromhex(subset)) for subset in content["subsets"]], np.uint8)
            subsets = np.unpackbits(packed.reshape(-1, -(-heads // 8)), axis=1, count=heads).astype(bool)
            loss = np.array(content["loss"], float).reshape(len(subsets), len(plain))
            return cls(subsets, loss, plain, dict(content.get("settings", {})))
        except (KeyError, TypeError, ValueError) as error:
            raise UnreadableFile(
                f"{path} holds no subset losses ({error!r}). Give what `SubsetLosses.save` wrote."
            ) from None

    def save(self, path: str | Path) -> None:
        """Write a JSON file, completely or not at all."""
        write_whole(path, (json.dumps(self.as_json()) + "\n").encode())

    @classmethod
    def load(cls, path: str | Path) -> "SubsetLosses":
        """Read what `save` wrote; UnreadableFile if it is something else."""
        try:
            content = json.loads(read_whole(path, "subset losses"))
        except ValueError as error:
            raise UnreadableFile(
                f"{path} is not JSON ({error}). Give what `SubsetLosses.save` wrote."
            ) from None
        return cls.from_json(content if isinstance(content, dict) else {}, path)


def ridge_values(
    subsets: Bool[np.ndarray, "subsets all_heads"], loss: Float[np.ndarray, " subsets"]
) -> Float[np.ndarray, " all_heads"]:
    """The value of each head by ridge regression of the losses on which heads the subsets have.

    With Z = (1, size) not penalised, so that heads are shrunk to their common value and not to zero, w
    minimises |y − Zβ − Xw|² + λ|w|². The penalty λ has the least squared error of leaving out one subset,
    (y − ŷ)ᵢ / (1 − hatᵢᵢ).

    Args:
        subsets: Which heads each subset has.
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
