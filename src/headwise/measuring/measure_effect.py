r"""Measuring relevance by effect: generate images whose prompts contain the words, and take gradients.

Each concept has its own images, whose prompts contain its words in turn. At a call of the denoiser one
gradient gives the share of the word's whole effect that passes through each head (effect.py); relevance is
the mean over calls and images (effect_samples.py). It needs neither other concepts to choose from nor a
scorer.

With the same folder a measurement continues where it stopped, and workers can share it, as in measure.py.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from headwise.errors import HeadwiseError
from headwise.measuring.concepts import ConceptSet
from headwise.measuring.counting import batches_of, check, check_steps, count
from headwise.measuring.effect import Against, EffectProbe
from headwise.measuring.effect_samples import EffectSamples
from headwise.measuring.measure import Concepts, settings_of
from headwise.measuring.relevance import Relevance
from headwise.measuring.word_prompts import WordPrompt, WordPrompts, replaced, word_prompts
from headwise.model.attention import hooked
from headwise.model.generate import generate_keys
from headwise.model.heads import HeadMap
from headwise.model.pipelines import quiet
from headwise.runs.folder import ProgressCallback
from headwise.runs.shards import subrange
from headwise.runs.workers import Job, Keep

__all__ = ["BATCH_SIZE", "PICTURES_OF_CONCEPT", "STEPS", "measure_effect"]

PICTURES_OF_CONCEPT, STEPS, BATCH_SIZE = 100, 4, 4
ROUND = 4  # images per concept after which a run may stop


def measure_effect(
    pipe: Any, concepts: Concepts, *, prompts: WordPrompts | Sequence[str] | str | Path | None = None,
    pictures: int = PICTURES_OF_CONCEPT, numbers: range | None = None, against: Against = "nothing",
    points: int = 1, calls: int | None = 1, window: tuple[float | int, float | int] = (0, 1), seed: int = 0,
    out: str | Path | None = None, batch_size: int = BATCH_SIZE, num_inference_steps: int = STEPS,
    guidance_scale: float | int = 7.5, negative_prompt: str | None = None, height: int | None = None,
    width: int | None = None, until: float | int | None = None, checkpoint_every: float | int = 10,
    keep_pictures: int = 0, checkpointing: bool | None = None, progress: ProgressCallback = True,
) -> Relevance:  # fmt: skip
    """Measure the heads' effect with the words of each concept; the same `out` continues an earlier run.

        relevance = hw.measure_effect(pipe, {"Color": ["red", "blue"]})
        relevance["Color"]     # H times each head's share; negative if a head works against the words

    With guidance an image takes 2 rows of the denoiser per step, and 2 + 3 · `points` for each measured call.

    Args:
        pipe: The user's pipeline, which is left unchanged; or workers, which share the work (runs/ray.py).
        concepts: The concepts: a set, a mapping of names to words, a name or path.
        prompts: Prompts that contain the words: by concept, each with its word, such as
            `{"Color": [("a red car", "red")]}`; or a list, or a text file with one prompt per line, that is
            searched for the words. None takes the templates in the concepts' file, or else the packaged ones
            (word_prompts.py).
        pictures: The maximum number of images *per concept*.
        numbers: Which of all images to measure here, if other runs measure the rest: with C concepts, image
            n has a word of concept n mod C.
        against: "nothing" measures the word's whole effect; "sibling" its difference to another word of the
            concept in the same prompt, at twice the cost.
        points: The number of quadrature points of the integral; `settings["completeness"]` shows how exact
            it is.
        calls: How many calls of each image are measured, sampled at random within the window; None for all.
        window: The part of the calls that is measured, such as (0, 0.3).
        seed: Determines, with an image's number, its latents.
        out: Folder for checkpoints and the result, see runs/folder.py; None writes nothing to disk.
        batch_size: Images per pipeline call; memory grows with it.
        num_inference_steps, guidance_scale, negative_prompt, height, width: Passed to the pipeline.
        until: Stop at the multiple of 4 images per concept at which the median split-half is this high.
        checkpoint_every: Seconds between checkpoints; 0 writes one after every batch.
        keep_pictures: How many of the first images to decode and save in `out`/pictures.
        checkpointing: As in `EffectProbe`: recompute activations to save memory.
        progress: As in `measure`.

    Raises:
        HeadwiseError: An argument is out of range, or a concept has one word and `against` is "sibling".
        UnreadablePrompts: A concept has no prompt that contains one of its words.
        RunMismatch: The folder holds a different run.
    """
    concept_set = ConceptSet.of(concepts)
    total = pictures * len(concept_set)
    check(total, numbers, batch_size, keep_pictures if out is None else 0, until)
    check_steps(num_inference_steps)
    passed: dict[str, Any] = {"num_inference_steps": num_inference_steps, "guidance_scale": guidance_scale}
    passed |= {"negative_prompt": negative_prompt, "height": height, "width": width}
    probing: dict[str, Any] = {"points": points, "against": against, "window": window, "calls": calls}
    EffectProbe("", **probing)  # raises if an argument is out of range
    task = _EffectMeasurement(
        concept_set, concepts if isinstance(concepts, str | Path) else None, prompts, total, seed, probing,
        checkpointing, passed, batch_size, keep_pictures, until,
    )  # fmt: skip
    return count(Job(pipe, task), task, subrange(numbers, total), out, checkpoint_every, progress)


@dataclass(frozen=True)
class _EffectMeasurement:
    """The work of every pipeline that takes part in a measurement, here or in a worker."""

    concepts: ConceptSet
    source: str | Path | None
    prompts: Any
    pictures: int
    seed: int
    probing: dict[str, Any]
    checkpointing: bool | None
    passed: dict[str, Any]
    batch_size: int
    keep_pictures: int
    until: float | int | None

    def __call__(self, pipe: Any) -> "_EffectCounter":
        return _EffectCounter(self, pipe)

    @property
    def round_of(self) -> int:
        """A run may stop where all concepts have equally many images."""
        return ROUND * len(self.concepts)

    @property
    def extra_calls(self) -> float:
        """Two more rows per measured call and a gradient per point; a sibling adds a second image."""
        steps = self.passed["num_inference_steps"]
        calls = steps if self.probing["calls"] is None else min(steps, self.probing["calls"])
        images = 1 + (self.probing["against"] == "sibling")
        return calls * images * (1.0 + 2.0 * self.probing["points"]) + (images - 1) * steps


class _EffectCounter:
    """Measures effects with one pipeline, for its part of a measurement."""

    def __init__(self, task: _EffectMeasurement, pipe: Any) -> None:
        self.task, self.pipe = task, pipe
        self.prompts = word_prompts(task.concepts, task.source, task.prompts, pipe)
        sibling = task.probing["against"] == "sibling"
        alone = [name for name in task.concepts if sibling and len(task.concepts.words(name)) < 2]
        if alone:
            raise HeadwiseError(
                f"{alone[0]!r} has one word, which has no sibling. Add words to the concept, or measure with "
                "against='nothing'."
            )
        texts = [each.prompt for name in task.concepts for each in self.prompts[name]]
        settings = settings_of(pipe, task.concepts, texts, None, task.seed) | task.passed
        settings |= {
            "by": "effect",
            **task.probing,
            "window": [float(edge) for edge in task.probing["window"]],
        }
        self.nothing = EffectSamples.empty(HeadMap.of(pipe), task.concepts, settings)

    def counts(
        self, missing: Sequence[range], so_far: EffectSamples, keep: Keep
    ) -> Generator[EffectSamples, None, None]:
        """Generate the effects batch by batch."""
        task = self.task
        for numbers in batches_of(task, missing):
            pictures = [self._prompts_of(number) for number in numbers]
            images = len(pictures[0])  # per number: one, or two that are each other's siblings
            prompted = [each for picture in pictures for each in picture]
            keys = [(task.seed, number) for number in numbers for _ in range(images)]
            probe = EffectProbe(
                [each.word for each in prompted],
                phases=[self._chance(number).random() for number in numbers for _ in range(images)],
                batch_size=task.batch_size,
                checkpointing=task.checkpointing,
                **task.probing,
            )
            kept = numbers[0] < task.keep_pictures
            options = task.passed | {"output_type": "pil" if kept else "latent"}
            with hooked(self.pipe, probe), quiet(self.pipe):
                results = generate_keys(self.pipe, [each.prompt for each in prompted], keys, **options)
            if kept:
                for number, result, (first, *_) in zip(numbers, results[::images], pictures, strict=True):
                    keep(f"{number:05d}", result, first.prompt)
            effect = probe.take()
            through, whole = (
                array[:, :, 0].reshape(len(numbers), images, *array.shape[1:2], *array.shape[3:]).sum(1)
                for array in (effect.through, effect.whole)
            )
            yield EffectSamples.of_pictures(through, whole, numbers, self.nothing)

    def _prompts_of(self, number: int) -> tuple[WordPrompt, ...]:
        """The prompt of an image and, against siblings, the same prompt with another word of the concept."""
        names, prompts = self.task.concepts.names, self.prompts
        concept, turn = names[number % len(names)], number // len(names)
        this = prompts[concept][turn % len(prompts[concept])]
        if self.task.probing["against"] == "nothing":
            return (this,)
        others = sorted({each.word for each in prompts[concept]} - {this.word})
        others = others or [w for w in self.task.concepts.words(concept) if w.lower() != this.word.lower()]
        other = others[int(self._chance(number).integers(len(others)))]
        return this, WordPrompt(replaced(this.prompt, this.word, other), other)

    def _chance(self, number: int) -> np.random.Generator:
        """The generator for an image's random choices other than its latents; seeded by its number."""
        return np.random.Generator(np.random.Philox(key=[self.task.seed % 2**64, number]))
