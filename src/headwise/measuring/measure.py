r"""Measuring relevance by votes: generate images, let every head vote, and add up the votes.

With the same folder a measurement continues where it stopped. It is a task for `runs.workers.Job`: given
workers in place of a pipeline, it is shared among them and counts the same votes.
"""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from headwise.errors import HeadwiseError
from headwise.measuring.concepts import ConceptSet, choice
from headwise.measuring.counting import batches_of, check, check_steps, count
from headwise.measuring.estimators import Estimator, Named, estimator_of
from headwise.measuring.probe import ConceptProbe
from headwise.measuring.prompts import read_prompts
from headwise.measuring.relevance import Relevance
from headwise.measuring.votes import BLOCKS, Votes
from headwise.model.attention import hooked
from headwise.model.generate import generate, latent_shape
from headwise.model.heads import HeadMap
from headwise.model.pipelines import digest_of, quiet, settings_of_pictures
from headwise.runs.folder import ProgressCallback
from headwise.runs.shards import subrange
from headwise.runs.workers import Job, Keep

__all__ = ["Concepts", "measure", "settings_of"]

Concepts = ConceptSet | Mapping[str, Sequence[str]] | str | Path


def measure(
    pipe: Any,
    concepts: Concepts,
    *,
    beside: Concepts | None = "auto",
    pictures: int = 1000,
    numbers: range | None = None,
    prompts: Sequence[str] | str | Path | None = None,
    latents: Float[Tensor, "images channels height width"] | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    batch_size: int = 1,
    estimator: Estimator | Named = "lean",
    num_inference_steps: int | None = None,
    guidance_scale: float | int = 7.5,
    negative_prompt: str | None = None,
    height: int | None = None,
    width: int | None = None,
    until: float | int | None = None,
    checkpoint_every: float | int = 10,
    keep_pictures: int = 0,
    progress: ProgressCallback = True,
) -> Relevance:
    """Generate images, count votes and return relevance; with the same `out` it continues where it stopped.

    The rows of the result are the user's concepts, followed by the background concepts.

    Args:
        pipe: The user's pipeline, which is left unchanged; or workers, which share the work (runs/ray.py).
        concepts: The concepts that heads choose between: a set, a mapping of names to words, a name or path.
        beside: A background set of further concepts that heads can choose, see `ConceptSet.beside`; None for
            none. "auto" adds the model's packaged set to fewer than 24 concepts, because the votes of heads
            with few concepts to choose from do not show which heads matter for them.
        pictures: The maximum number of images. A finished run may be called again with more.
        numbers: Which of them to count here, such as `range(500, 1000)`, if other runs count the rest.
        prompts: A list, a text file with one prompt per line, or None for the packaged ones; image i has
            prompt i, starting over at the end.
        latents: Unit noise for every image; generated from the seed if None.
        seed: Determines, with an image's number, its latents and its word samples.
        out: Folder for checkpoints and the result, see runs/folder.py; None writes nothing to disk.
        batch_size: Images per pipeline call. It changes the time, not the votes.
        estimator: How many votes an image contributes (estimators.py), or its name: "lean" or "paper".
        num_inference_steps: Passed to the pipeline; None takes the estimator's number.
        guidance_scale, negative_prompt, height, width: Passed to the pipeline.
        until: Stop at the multiple of 32 images at which the median split-half correlation is this high.
        checkpoint_every: Seconds between checkpoints; 0 writes one after every batch.
        keep_pictures: How many of the first images to decode and save in `out`/pictures.
        progress: Whether to show a bar on stderr; or a function called after each batch with the number of
            images counted so far and the total. If it raises, the run ends and keeps what it has counted.
    """
    check(pictures, numbers, batch_size, keep_pictures if out is None else 0, until)
    check_steps(num_inference_steps)
    passed: dict[str, Any] = {"num_inference_steps": num_inference_steps, "guidance_scale": guidance_scale}
    passed |= {"negative_prompt": negative_prompt, "height": height, "width": width}
    task = _Measurement(
        ConceptSet.of(concepts),
        beside if beside is None or beside == "auto" else ConceptSet.of(beside),
        None if prompts is None else read_prompts(prompts, pipe),
        latents, pictures, seed, estimator_of(estimator), passed, batch_size, keep_pictures, until,
    )  # fmt: skip
    return count(Job(pipe, task), task, subrange(numbers, pictures), out, checkpoint_every, progress)


@dataclass(frozen=True)
class _Measurement:
    """The work of every pipeline that takes part in a measurement, here or in a worker."""

    concepts: ConceptSet
    beside: ConceptSet | str | None
    prompts: tuple[str, ...] | None
    latents: Float[Tensor, "images channels height width"] | None
    pictures: int
    seed: int
    estimator: Estimator
    passed: dict[str, Any]
    batch_size: int
    keep_pictures: int
    until: float | int | None

    def __call__(self, pipe: Any) -> "_VoteCounter":
        return _VoteCounter(self, pipe)

    @property
    def round_of(self) -> int:
        """A run may stop where all blocks have equally many images."""
        return BLOCKS

    @property
    def extra_calls(self) -> float:
        """0: votes are counted within the calls that generate the image."""
        return 0.0

    @property
    def options(self) -> dict[str, Any]:
        """The arguments passed to the pipeline."""
        steps = self.passed["num_inference_steps"] or self.estimator.num_inference_steps
        return self.passed | {"num_inference_steps": steps}


class _VoteCounter:
    """Counts votes with one pipeline, for its part of a measurement."""

    def __init__(self, task: _Measurement, pipe: Any) -> None:
        self.task, self.pipe, self.texts = task, pipe, read_prompts(task.prompts, pipe)
        head_map = HeadMap.of(pipe)
        self.concepts = choice(task.concepts, task.beside, pipe)
        _check_latents(pipe, task)
        settings = settings_of(pipe, self.concepts, self.texts, task.latents, task.seed) | task.options
        if task.estimator.samples_per_call > 1:  # files of earlier versions lack the key
            settings |= {"draws": task.estimator.samples_per_call}
        self.nothing = Votes.empty(head_map, self.concepts, settings)
        self.probe: ConceptProbe | None = None

    def counts(self, missing: Sequence[range], so_far: Votes, keep: Keep) -> Generator[Votes, None, None]:
        """Generate the votes batch by batch."""
        task, settings = self.task, self.nothing.settings
        self.probe = probe = self.probe or ConceptProbe(
            self.pipe, self.concepts, task.seed, samples_per_call=task.estimator.samples_per_call
        )
        with hooked(self.pipe, probe), quiet(self.pipe):
            for numbers in batches_of(task, missing):
                probe.begin(numbers)
                self._generate(numbers, keep)
                yield Votes.of_pictures(probe.take(), numbers, probe.head_map, self.concepts, settings)

    def _generate(self, numbers: range, keep: Keep) -> None:
        task, texts = self.task, self.texts
        kept = numbers[0] < task.keep_pictures
        options = task.options | {"output_type": "pil" if kept else "latent"}
        images = generate(self.pipe, texts, task.seed, numbers, latents=task.latents, **options)
        for number, image in zip(numbers, images if kept else (), strict=kept):
            keep(f"{number:05d}", image, texts[number % len(texts)])


def _check_latents(pipe: Any, task: _Measurement) -> None:
    shape = latent_shape(pipe, task.passed["height"], task.passed["width"])
    latents = task.latents
    if latents is not None and (len(latents) < task.pictures or tuple(latents.shape[1:]) != shape):
        raise HeadwiseError(
            f"The latents have shape {tuple(latents.shape)}; expected {(task.pictures, *shape)}, "
            "unit noise for every image. Give such an array, or none."
        )


def settings_of(
    pipe: Any, concepts: ConceptSet, prompts: Sequence[str], latents: Tensor | None, seed: int
) -> dict[str, Any]:
    """The settings that determine the votes, other than the arguments passed to the pipeline."""
    words = sum(len(concepts.words(name)) for name in concepts)
    return settings_of_pictures(pipe, prompts) | {
        "concept_set": f"{len(concepts)} concepts, {words} words, {digest_of(repr(concepts))}",
        "latents": None if latents is None else digest_of(latents.cpu().double().numpy().tobytes()),
        "seed": seed,
        **concepts.settings,
    }
