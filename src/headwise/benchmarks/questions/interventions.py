r"""Do heads cause what images show? Weakening and patching with the same pairs of prompts.

The prompts of a pair differ in one word. In the target, the first k heads of an order are

    weakened   their attention to the prompt's words is scaled (steer.py): is the target's word lost?
    patched    their outputs are replaced by those for the source (patch.py): does the source's word appear?

and the score is which of the texts the scorer chooses for the image. With m_o(k) the fraction of a pair's
images that show a word, each pair has for two orders an

    area = ∫ (m_upper(k) − m_lower(k)) dk / H

and the mean area over pairs has an interval by bootstrap over them.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from headwise.benchmarks.clip_scorer import CLIPScorer
from headwise.benchmarks.prompts.edit_pairs import EditPair
from headwise.benchmarks.results import LEAST, LEAST_LAYERS, MOST, MOST_LAYERS, Answer
from headwise.benchmarks.sweep import Call, Sweep, run_sweep
from headwise.benchmarks.weakening import orders_of
from headwise.benchmarks.weakening_sweeps import eighths
from headwise.editing.groups import generate_edits
from headwise.editing.patch import Patch
from headwise.intervals import Interval, mean
from headwise.measuring.estimators import LEAN
from headwise.measuring.relevance import Relevance
from headwise.model.attention import hooked
from headwise.model.generate import generate
from headwise.model.heads import HeadMap
from headwise.model.pipelines import settings_of_pictures
from headwise.runs.scores import Scores
from headwise.steering.steer import Steer

__all__ = ["FACTORS", "PARTS", "SAMPLING", "Choices", "Interventions", "unique_rows"]

SAMPLING: dict[str, Any] = {"num_inference_steps": LEAN.num_inference_steps, "guidance_scale": 7.5}
PARTS = ((0.0, 0.3), (0.3, 0.7), (0.7, 1.0))  # of the denoiser calls
FACTORS = (0.5, 0.0, -1.0, -2.0, -4.0)
RANDOM = ("random 0", "random 1", "random 2")
STEP_AWARE, SHIFTED_STEP = "moment", "another moment"  # the names of these orders in files
Word = Literal["target", "source"]
Row = tuple[Int[np.ndarray, "parts all_heads"], float]  # an order for each part of the calls, and a factor
Values = dict[str, Interval]


@dataclass(frozen=True)
class Choices:
    """Which text the scorer chose, along the axes order, k, seed and prompt; the target's is number 0.

    Args:
        scores: The number of the text chosen for each image.
        pairs: The pair of prompts for each label of the last axis.
    """

    scores: Scores
    pairs: list[EditPair]

    def area(self, lower: str, upper: str, word: Word = "target") -> Float[np.ndarray, " pairs"]:
        """The area between the curves of two orders, for each pair."""
        orders, ks = self.scores.axes["order"], np.array(self.scores.axes["k"])
        texts = [0 if word == "target" else pair.texts.index(pair.source) for pair in self.pairs]
        curves = (self.scores.values == texts).mean(2)  # order, k, pair
        between = curves[orders.index(upper)] - curves[orders.index(lower)]
        return np.trapezoid(between, ks, axis=0) / ks[-1]


@dataclass(frozen=True)
class Interventions:
    """What images show when heads are intervened on.

    Args:
        pipe: The user's pipeline, which is left unchanged.
        relevance: The measured relevance, with its votes by denoiser call.
        pairs: Prompts that differ in one word of an attribute that is a concept.
        scorer: A CLIP model that chooses the text that fits an image.
        seeds: Each pair is generated once from each seed.
        out: Folder of the sweeps; images scored there are not generated again.
        progress: Whether to show bars on stderr.
        size: `height` and `width` of the images, where they are not the model's own.
    """

    pipe: Any
    relevance: Relevance
    pairs: list[EditPair]
    scorer: CLIPScorer
    seeds: tuple[int, ...]
    out: Path
    progress: bool = True
    size: Mapping[str, int] = field(default_factory=dict)

    @property
    def ks(self) -> tuple[int, ...]:
        """The numbers of heads that are intervened on."""
        return eighths(self.relevance.values.shape[1])

    @property
    def _passed(self) -> dict[str, Any]:
        """Options of the pipeline call."""
        return SAMPLING | self.size

    def answers(self) -> dict[str, Answer]:
        """The questions that interventions answer."""
        by_layer, step_aware, lost = self.weakening()
        measure, pairs = "area between curves", f"{len(self.pairs)} pairs of prompts"
        return {
            "aware": Answer(
                "Is it better to weaken by step-aware relevance?",
                "The first k heads are weakened, in each part of the calls (three tenths, four, three) in "
                "the order of that part (step-aware), of all calls (averaged), or of the previous part "
                f"(shifted). Above 0, the step-aware order loses the target's word sooner. {pairs}.",
                measure,
                step_aware,
            ),
            "layers": Answer(
                "Is it heads, or only layers?",
                "How much sooner the target's word is lost with the most relevant weakened first than with "
                "the least relevant first: by heads, and by whole layers in order of mean relevance. "
                f"{pairs}.",
                measure,
                by_layer,
            ),
            "factor": Answer(
                "What should weakened attention be multiplied by?",
                "How much sooner the target's word is lost with the most relevant heads weakened first than "
                f"with the least relevant first, for each factor on their attention. {pairs}.",
                measure,
                self.factors(),
            ),
            "patching": Answer(
                "Do relevant heads carry a word?",
                "The outputs of the first k heads are replaced by those for a prompt with another word, the "
                "source's. Above 0, the source's word appears, or the target's is lost, sooner for the most "
                f"relevant heads. For comparison, the same heads weakened. {pairs}, three random orders.",
                measure,
                self.patching() | lost,
            ),
        }

    def weakening(self) -> tuple[Values, Values, Values]:
        """Losses of the target's word: by heads and layers, by step-aware orders, and by random orders."""
        choices = self._sweep("weakened", self._weakened, tuple(self._orders(self.pairs[0].attribute)))
        heads, layers = choices.area(MOST, LEAST), choices.area(MOST_LAYERS, LEAST_LAYERS)
        by_layer = {"heads": heads, "whole layers": layers, "heads − layers": heads - layers}
        step_aware = dict(self._by_attribute("averaged − step-aware", choices.area(STEP_AWARE, MOST)))
        step_aware["shifted-step − step-aware, all"] = choices.area(STEP_AWARE, SHIFTED_STEP)
        random = np.mean([choices.area(MOST, order) for order in RANDOM], 0)
        lost = {"least − most relevant": heads, "random − most relevant": random}
        lost = {f"target's word lost, weakened: {name}": values for name, values in lost.items()}
        return _means(by_layer), _means(step_aware), _means(lost)

    def factors(self) -> Values:
        """Losses of the target's word, by factor on attention."""
        choices = self._sweep("factors", self._by_factor, tuple(self._factor_rows(self.pairs[0].attribute)))
        return _means({f"× {f:g}": choices.area(f"most, × {f:g}", f"least, × {f:g}") for f in FACTORS})

    def patching(self) -> Values:
        """Gains of the source's word, and losses of the target's."""
        choices = self._sweep("patched", self._patched, (MOST, LEAST, *RANDOM))
        gained = -np.mean([choices.area(MOST, order, "source") for order in RANDOM], 0)
        lost = np.mean([choices.area(MOST, order) for order in RANDOM], 0)
        return _means(
            dict(self._by_attribute("source's word come, patched: most relevant − random", gained))
            | {
                "source's word come, patched: most − least relevant": -choices.area(MOST, LEAST, "source"),
                "target's word lost, patched: least − most relevant": choices.area(MOST, LEAST),
                "target's word lost, patched: random − most relevant": lost,
            }
        )

    def _by_attribute(
        self, name: str, values: Float[np.ndarray, " pairs"]
    ) -> Iterator[tuple[str, Float[np.ndarray, " some"]]]:
        attributes = [pair.attribute for pair in self.pairs]
        for attribute in dict.fromkeys(attributes):
            yield f"{name}, {attribute}", values[[each == attribute for each in attributes]]
        yield f"{name}, all", values

    def _orders(self, attribute: str) -> dict[str, Int[np.ndarray, "parts all_heads"]]:
        """The orders from all calls, and from each part of the calls."""
        orders = {
            name: np.tile(order, (len(PARTS), 1))
            for name, order in orders_of(self.relevance, attribute, len(RANDOM)).items()
        }
        by_part = [self.relevance.at_steps(*part)[attribute] for part in PARTS]
        step_aware = np.stack([np.argsort(-relevance, kind="stable") for relevance in by_part])
        return orders | {STEP_AWARE: step_aware, SHIFTED_STEP: np.roll(step_aware, 1, 0)}

    def _factor_rows(self, attribute: str) -> dict[str, Row]:
        orders = self._orders(attribute)
        named = {"most": orders[MOST], "least": orders[LEAST]}
        return {f"{name}, × {f:g}": (order, f) for f in FACTORS for name, order in named.items()}

    def _weakened(self, call: Call) -> list[Any]:
        orders = self._orders(self.pairs[call.label("prompt")].attribute)
        return self._steered(call, {name: (order, -2.0) for name, order in orders.items()})

    def _by_factor(self, call: Call) -> list[Any]:
        return self._steered(call, self._factor_rows(self.pairs[call.label("prompt")].attribute))

    def _steered(self, call: Call, rows: dict[str, Row]) -> list[Any]:
        by_order = np.stack([np.where(self._first(order), f, 1.0) for order, f in rows.values()])
        unique, back = unique_rows(by_order[call.index("order"), call.index("k")])
        head_map = HeadMap.of(self.pipe)
        steers = [
            Steer(unique[:, part], every=True, steps=steps, head_map=head_map)
            for part, steps in enumerate(PARTS)
        ]
        targets, numbers = [pair.target for pair in self.pairs], [call.label("prompt")] * len(unique)
        with hooked(self.pipe, *steers):
            images = generate(
                self.pipe, targets, call.label("seed"), numbers, output_type="pil", **self._passed
            )
        return [images[i] for i in back]

    def _patched(self, call: Call) -> list[Any]:
        pair = self.pairs[call.label("prompt")]
        orders = self._orders(pair.attribute)
        by_order = np.stack([self._first(orders[name][:1]) for name in (MOST, LEAST, *RANDOM)])
        unique, back = unique_rows(by_order[call.index("order"), call.index("k")])
        group, patch = [pair.source, *[pair.target] * len(unique)], Patch(unique[:, 0])
        (images,) = generate_edits(self.pipe, [group], [patch], seeds=[call.label("seed")], **self._passed)
        return [images[1 + i] for i in back]

    def _chosen(self, call: Call, images: Sequence[Any]) -> np.ndarray:
        texts = [self.pairs[n].texts for n in call.numbers]
        return np.asarray(self.scorer.choose(images, texts), float)

    def _first(self, order: Int[np.ndarray, "parts all_heads"]) -> Bool[np.ndarray, "ks parts all_heads"]:
        """Which heads are among the first k of the order, for every k."""
        return np.stack([np.argsort(order, -1) < k for k in self.ks])

    def _sweep(
        self, name: str, generate_images: Callable[[Call], list[Any]], orders: tuple[str, ...]
    ) -> Choices:
        """The scorer's choices for every order and k, pair and seed."""
        prompts = [prompt for pair in self.pairs for prompt in (pair.source, pair.target)]
        relevance = np.stack([self.relevance.values, *(self.relevance.at_steps(*p).values for p in PARTS)])
        settings = settings_of_pictures(self.pipe, prompts) | self._passed
        settings |= {"sweep": name, "seeds": list(self.seeds), "score": "number of the text chosen"}
        settings |= {"relevance": sha256(relevance.tobytes()).hexdigest()[:12]}
        settings |= {"noise": "seed"} if name == "patched" else {}
        sweep = Sweep(
            {"order": orders, "k": self.ks, "seed": self.seeds, "prompt": range(len(self.pairs))},
            settings,
            loops=("seed", "prompt"),
            batch_size=1,
            generate=generate_images,
            score=self._chosen,
        )
        scores = run_sweep(
            self.pipe, lambda pipe: sweep, kind="interventions", out=self.out / name, progress=self.progress
        )
        return Choices(scores, self.pairs)


def _means(values: dict[str, Float[np.ndarray, " cases"]]) -> Values:
    return {name: mean(each) for name, each in values.items()}


def unique_rows(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The unique rows, and the index of each row among them: with no head or all, orders do not differ."""
    _, first, back = np.unique(rows.reshape(len(rows), -1), axis=0, return_index=True, return_inverse=True)
    return rows[first], back
