r"""Do heads cause what pictures show? Weakening and patching of the same pairs of prompts.

The prompts of a pair differ in one word. In the target, the first k heads of an order are

    weakened   their attention to the prompt's words is multiplied (steer.py): is the target's word lost?
    patched    they hand on what they hand on for the source (patching.py): does the source's word come?

and it is kept which of the texts the judge chooses for the picture. With m_o(k) the share of a pair's
pictures that show a word,

    area = ∫ (m_upper(k) − m_lower(k)) dk / H

between two orders is a number of each pair; means over pairs have intervals by bootstrap over them.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from headwise.benchmarks.clip_scorer import CLIPScorer
from headwise.benchmarks.prompts import EditPair
from headwise.benchmarks.weakening import LEAST, LEAST_LAYERS, MOST, MOST_LAYERS, orders_of
from headwise.editing.patch import Patch
from headwise.editing.prompt_to_prompt import generate_edits
from headwise.intervals import Interval, bootstrap
from headwise.measuring.estimators import LEAN
from headwise.measuring.relevance import Relevance
from headwise.model.attention import hooked
from headwise.model.generate import generate
from headwise.model.heads import HeadMap
from headwise.model.pipelines import quiet, settings_of_pictures
from headwise.runs.folder import Progress, RunFolder
from headwise.runs.scores import Axes, Scores
from headwise.steering.steer import Steer

__all__ = ["DRAWN", "FACTORS", "PARTS", "Interventions", "mean"]

DRAWN: dict[str, Any] = {"num_inference_steps": LEAN.num_inference_steps, "guidance_scale": 7.5}
PARTS = ((0.0, 0.3), (0.3, 0.7), (0.7, 1.0))  # of the denoiser calls
FACTORS = (0.5, 0.0, -1.0, -2.0, -4.0)
RANDOM = ("random 0", "random 1", "random 2")
EIGHTHS = (0, 1, 2, 4, 6, 8)
Word = Literal["target", "source"]
Row = tuple[Int[np.ndarray, "parts all_heads"], float]  # an order for each part of the calls, and a factor
Values = dict[str, Interval]


def mean(values: Float[np.ndarray, " cases"]) -> Interval:
    """The mean, with its interval by bootstrap over cases."""
    return Interval(*(float(end) for end in bootstrap(np.asarray(values, float), lambda mean: mean)))


@dataclass(frozen=True)
class _Chosen:
    """Which text the judge chose, along the axes order, k, seed and prompt; the target's is number 0."""

    scores: Scores
    pairs: list[EditPair]

    def area(self, lower: str, upper: str, word: Word = "target") -> Float[np.ndarray, " pairs"]:
        """Of each pair, between the curves of two orders."""
        orders, ks = self.scores.axes["order"], np.array(self.scores.axes["k"])
        of = [0 if word == "target" else pair.texts.index(pair.source) for pair in self.pairs]
        curves = (self.scores.values == of).mean(2)  # order, k, pair
        between = curves[orders.index(upper)] - curves[orders.index(lower)]
        return np.trapezoid(between, ks, axis=0) / ks[-1]


@dataclass(frozen=True)
class Interventions:
    """Heads on trial.

    Args:
        pipe: Who draws.
        relevance: Of which the orders are, with the votes by call.
        pairs: Prompts that differ in one word of an attribute that is a concept.
        judge: Says which text a picture shows.
        seeds: Each pair is drawn once from each.
        out: Folder; what is in it is not drawn again.
        progress: Show bars on stderr.
    """

    pipe: Any
    relevance: Relevance
    pairs: list[EditPair]
    judge: CLIPScorer
    seeds: tuple[int, ...]
    out: Path
    progress: bool = True

    @property
    def ks(self) -> tuple[int, ...]:
        """How many heads are meddled with."""
        heads = self.relevance.values.shape[1]
        return tuple(heads * eighth // 8 for eighth in EIGHTHS)

    def weakening(self) -> tuple[Values, Values, Values]:
        """The words lost: by heads and layers; by the relevance of the moment; by heads and random orders."""
        found = self._swept("weakened", self._weakened, tuple(self._orders(self.pairs[0].attribute)))
        heads, layers = found.area(MOST, LEAST), found.area(MOST_LAYERS, LEAST_LAYERS)
        by_layer = {"heads": heads, "whole layers": layers, "heads − layers": heads - layers}
        aware = dict(self._by_attribute("averaged − moment", found.area("moment", MOST)))
        aware["another moment − moment, all"] = found.area("moment", "another moment")
        random = np.mean([found.area(MOST, order) for order in RANDOM], 0)
        plain = {"least − most relevant": heads, "random − most relevant": random}
        of = {f"target's word lost, weakened: {name}": values for name, values in plain.items()}
        return _means(by_layer), _means(aware), _means(of)

    def factors(self) -> Values:
        """The words lost, by what attention is multiplied by."""
        found = self._swept("factors", self._by_factor, tuple(self._factor_rows(self.pairs[0].attribute)))
        return _means({f"× {f:g}": found.area(f"most, × {f:g}", f"least, × {f:g}") for f in FACTORS})

    def patching(self) -> Values:
        """The source's word come, and the target's lost."""
        found = self._swept("patched", self._patched, (MOST, LEAST, *RANDOM))
        came = -np.mean([found.area(MOST, order, "source") for order in RANDOM], 0)
        lost = np.mean([found.area(MOST, order) for order in RANDOM], 0)
        return _means(
            dict(self._by_attribute("source's word come, patched: most relevant − random", came))
            | {
                "source's word come, patched: most − least relevant": -found.area(MOST, LEAST, "source"),
                "target's word lost, patched: least − most relevant": found.area(MOST, LEAST),
                "target's word lost, patched: random − most relevant": lost,
            }
        )

    def _by_attribute(
        self, name: str, values: Float[np.ndarray, " pairs"]
    ) -> Iterator[tuple[str, Float[np.ndarray, " some"]]]:
        attributes = [pair.attribute for pair in self.pairs]
        for attribute in dict.fromkeys(attributes):
            yield f"{name}, {attribute}", values[[one == attribute for one in attributes]]
        yield f"{name}, all", values

    def _orders(self, attribute: str) -> dict[str, Int[np.ndarray, "parts all_heads"]]:
        """The orders of all calls, and those of each part of them."""
        orders = {
            name: np.tile(order, (len(PARTS), 1))
            for name, order in orders_of(self.relevance, attribute, len(RANDOM)).items()
        }
        parts = [self.relevance.at_steps(*part)[attribute] for part in PARTS]
        moments = np.stack([np.argsort(-part, kind="stable") for part in parts])
        return orders | {"moment": moments, "another moment": np.roll(moments, 1, 0)}

    def _factor_rows(self, attribute: str) -> dict[str, Row]:
        orders = self._orders(attribute)
        named = {"most": orders[MOST], "least": orders[LEAST]}
        return {f"{name}, × {f:g}": (order, f) for f in FACTORS for name, order in named.items()}

    def _weakened(self, at: int, seed: int) -> np.ndarray:
        rows: dict[str, Row] = {
            n: (order, -2.0) for n, order in self._orders(self.pairs[at].attribute).items()
        }
        return self._steered(at, seed, rows)

    def _by_factor(self, at: int, seed: int) -> np.ndarray:
        return self._steered(at, seed, self._factor_rows(self.pairs[at].attribute))

    def _steered(self, at: int, seed: int, rows: dict[str, Row]) -> np.ndarray:
        factors = np.concatenate([np.where(self._first(order), f, 1.0) for order, f in rows.values()])
        unique, back = _unique(factors)
        head_map = HeadMap.of(self.pipe)
        steers = [
            Steer(unique[:, part], every=True, steps=steps, head_map=head_map)
            for part, steps in enumerate(PARTS)
        ]
        targets = [pair.target for pair in self.pairs]
        with hooked(self.pipe, *steers):
            images = generate(self.pipe, targets, seed, [at] * len(unique), output_type="pil", **DRAWN)
        return self._judged(at, images)[back]

    def _patched(self, at: int, seed: int) -> np.ndarray:
        pair, orders = self.pairs[at], self._orders(self.pairs[at].attribute)
        chosen = np.concatenate([self._first(orders[name][:1]) for name in (MOST, LEAST, *RANDOM)])
        unique, back = _unique(chosen)
        group = [pair.source, *[pair.target] * len(unique)]
        own = seed * len(self.pairs) + at
        (drawn,) = generate_edits(self.pipe, [group], [Patch(unique[:, 0])], seeds=[own], **DRAWN)
        return self._judged(at, drawn[1:])[back]

    def _judged(self, at: int, images: list[Any]) -> np.ndarray:
        return np.asarray(self.judge.choose(images, [self.pairs[at].texts] * len(images)))

    def _first(self, order: Int[np.ndarray, "parts all_heads"]) -> Bool[np.ndarray, "ks parts all_heads"]:
        """Which heads are the first k of the order, for every k."""
        return np.stack([np.argsort(order, -1) < k for k in self.ks])

    def _swept(self, name: str, draw: Callable[[int, int], np.ndarray], orders: tuple[str, ...]) -> _Chosen:
        """What the judge chose, for every pair and seed; it goes on where it was."""
        prompts = [prompt for pair in self.pairs for prompt in (pair.source, pair.target)]
        relevance = np.stack([self.relevance.values, *(self.relevance.at_steps(*p).values for p in PARTS)])
        settings = settings_of_pictures(self.pipe, prompts) | DRAWN
        settings |= {"sweep": name, "seeds": list(self.seeds), "score": "number of the text chosen"}
        settings |= {"relevance": sha256(relevance.tobytes()).hexdigest()[:12]}
        axes: Axes = {"order": orders, "k": self.ks, "seed": self.seeds, "prompt": range(len(self.pairs))}
        nothing = Scores.empty(axes, settings)
        with (
            RunFolder(self.out / name, settings, nothing, "scores") as folder,
            quiet(self.pipe),
            Progress(folder, nothing.values.size, 10, self.progress) as done,
        ):
            left = np.isnan(done.so_far.values).any((0, 1))
            for seed, at in np.argwhere(left).tolist():
                part = Scores.empty(axes, settings)
                part.values[:, :, seed, at] = draw(at, self.seeds[seed]).reshape(len(orders), len(self.ks))
                done(part)
        return _Chosen(folder.so_far, self.pairs)


def _means(values: dict[str, Float[np.ndarray, " cases"]]) -> Values:
    return {name: mean(each) for name, each in values.items()}


def _unique(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows that differ, and where each row is among them: with no head or all, orders do not differ."""
    _, first, back = np.unique(rows.reshape(len(rows), -1), axis=0, return_index=True, return_inverse=True)
    return rows[first], back
