r"""Measuring relevance: generate pictures, let every head vote, add the votes up.

With the same folder a measurement continues where it ended. It is a task for `runs.workers.Job`, so workers
in the place of a pipeline share it, and count the same votes.
"""

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from headwise.errors import HeadwiseError, RunMismatch
from headwise.measuring.concepts import ConceptSet, choice
from headwise.measuring.estimators import Estimator, Named, estimator_of
from headwise.measuring.probe import ConceptProbe
from headwise.measuring.prompts import read_prompts
from headwise.measuring.relevance import Relevance
from headwise.measuring.reliability import median_split_half
from headwise.measuring.votes import BLOCKS, Votes
from headwise.model.attention import hooked
from headwise.model.generate import generate, latent_shape
from headwise.model.heads import HeadMap
from headwise.model.pipelines import digest_of, quiet, settings_of_pictures
from headwise.runs.folder import Progress, ProgressCallback, RunFolder
from headwise.runs.shards import batches, format_ranges, subrange
from headwise.runs.workers import Job, Keep

__all__ = ["measure", "save_relevance", "settings_of"]

CHUNK = 32  # pictures that a worker counts at a time, where several share a run

Concepts = ConceptSet | Mapping[str, Sequence[str]] | str | Path


def measure(
    pipe: Any,
    concepts: Concepts,
    *,
    beside: Concepts | None = "auto",
    pictures: int = 1000,
    numbers: range | None = None,
    prompts: Sequence[str] | str | Path | None = None,
    latents: Float[Tensor, "pictures channels height width"] | None = None,
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
    """Generate pictures, count votes, return relevance; with the same `out` it goes on where it ended.

    The rows of the result are the user's concepts, then their background.

    Args:
        pipe: The user's pipeline, which is left as it was; or workers, which share the work (runs/ray.py).
        concepts: The concepts that heads choose between: a set, a mapping of names to words, a name or path.
        beside: A background set that stands beside these concepts to be chosen, see `ConceptSet.beside`; None
            for none. "auto" takes the packaged set of the model for fewer than 24 concepts, because heads
            that have little to choose from are not those that matter for what they choose.
        pictures: How many pictures to generate at most. A finished run may be called again with more.
        numbers: Which of them to count here, such as `range(500, 1000)`, where others count the rest.
        prompts: A list, a text file with one per line, or None for the package's own; picture i has prompt i.
        latents: Unit noise of every picture; generated from the seed if None.
        seed: With a picture's number, the source of its latents and of its word samples.
        out: Folder for checkpoints and result, see runs/folder.py; None keeps nothing on disk.
        batch_size: Pictures per pipeline call. It changes the time, not the votes.
        estimator: How many votes a picture contributes (estimators.py), or its name: "lean" or "paper".
        num_inference_steps: Passed to the pipeline; the estimator's own if None.
        guidance_scale, negative_prompt, height, width: Passed to the pipeline.
        until: Stop at a multiple of 32 pictures where the median split-half correlation is this high.
        checkpoint_every: Seconds between checkpoints; 0 writes one after every batch.
        keep_pictures: How many of the first pictures to decode and save in `out`/pictures.
        progress: Whether to show a bar on stderr; or a function that is called after each batch with how many
            pictures are counted, and of how many. What it raises ends the run; what was counted is kept.
    """
    _check(pictures, numbers, batch_size, keep_pictures if out is None else 0, until)
    _check_steps(num_inference_steps)
    passed: dict[str, Any] = {"num_inference_steps": num_inference_steps, "guidance_scale": guidance_scale}
    passed |= {"negative_prompt": negative_prompt, "height": height, "width": width}
    texts = prompts if prompts is None else read_prompts(prompts, pipe)
    task = _Measurement(
        ConceptSet.of(concepts),
        beside if beside is None or beside == "auto" else ConceptSet.of(beside),
        texts, latents, pictures, seed, estimator_of(estimator), passed, batch_size, keep_pictures, until,
    )  # fmt: skip
    return _count(Job(pipe, task), task, subrange(numbers, pictures), out, checkpoint_every, progress)


def _count(
    job: Job, task: "_Measurement", wanted: range, out: str | Path | None, every: float | int,
    progress: ProgressCallback,
) -> Relevance:  # fmt: skip
    """Count the votes of the pictures that are wanted, as far as the folder lacks them."""
    options: dict[str, Any] = {"most": CHUNK, "cuts": task.cuts, "in_order": task.until is not None}
    with RunFolder(out, job.nothing.settings, job.nothing, "votes", task.pictures, job.versions) as folder:
        _require_among(folder, wanted)
        if _enough(folder.so_far, len(wanted), task.until):
            return save_relevance(folder)
        with (
            closing(job.count_missing(folder, wanted, task.batch_size, **options)) as counts,
            Progress(folder, len(wanted), every, progress, _reliability) as counting,
        ):
            for votes in counts:
                counting(votes)
                if _enough(counting.so_far, len(wanted), task.until):
                    break
        return save_relevance(folder)


@dataclass(frozen=True)
class _Measurement:
    """What every pipeline that takes part in a measurement is to do, here or in a worker."""

    concepts: ConceptSet
    beside: ConceptSet | str | None
    prompts: tuple[str, ...] | None
    latents: Float[Tensor, "pictures channels height width"] | None
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
    def cuts(self) -> tuple[int, ...]:
        """No batch reaches across a place where the run may stop, or where it stops decoding."""
        return self.keep_pictures, *(range(0, self.pictures, BLOCKS) if self.until is not None else ())

    @property
    def options(self) -> dict[str, Any]:
        """What is passed to the pipeline."""
        steps = self.passed["num_inference_steps"] or self.estimator.num_inference_steps
        return self.passed | {"num_inference_steps": steps}

    def batches(self, todo: Iterable[range]) -> Iterator[range]:
        """These pictures by pipeline calls."""
        for numbers in todo:
            yield from batches(numbers.start, numbers.stop, self.batch_size, self.cuts)


class _VoteCounter:
    """One pipeline at its share of a measurement."""

    def __init__(self, task: _Measurement, pipe: Any) -> None:
        self.task, self.pipe, self.texts = task, pipe, read_prompts(task.prompts, pipe)
        head_map = HeadMap.of(pipe)
        self.concepts = choice(task.concepts, task.beside, pipe)
        _check_latents(pipe, task)
        settings = settings_of(pipe, self.concepts, self.texts, task.latents, task.seed) | task.options
        if task.estimator.samples_per_call > 1:  # files from before there was a choice lack the key
            settings |= {"draws": task.estimator.samples_per_call}
        self.nothing = Votes.empty(head_map, self.concepts, settings)
        self.probe: ConceptProbe | None = None

    def counts(self, missing: Sequence[range], so_far: Votes, keep: Keep) -> Generator[Votes, None, None]:
        """The votes of each batch, as it is done."""
        task, settings = self.task, self.nothing.settings
        self.probe = probe = self.probe or ConceptProbe(
            self.pipe, self.concepts, task.seed, samples_per_call=task.estimator.samples_per_call
        )
        with hooked(self.pipe, probe), quiet(self.pipe):
            for numbers in task.batches(missing):
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


def save_relevance(folder: RunFolder[Votes]) -> Relevance:
    """The relevance of all votes so far, which is saved beside them."""
    relevance = Relevance.from_votes(folder.so_far)
    relevance = replace(
        relevance, settings=relevance.settings | {"versions": folder.versions or dict(folder.counted_with)}
    )
    if folder.path is not None:
        relevance.save(folder.path / "relevance.safetensors")
    return relevance


def _reliability(votes: Votes) -> str:
    return f"split-half {median_split_half(votes):.2f}"


def _enough(votes: Votes, pictures: int, until: float | int | None) -> bool:
    """Whether the run is over; it ends early at multiples of 32 pictures only, whatever the batches."""
    if len(votes) >= pictures:
        return True
    if until is None or len(votes.pictures) != 1 or len(votes) % BLOCKS:
        return False
    return median_split_half(votes) >= until


def _check(
    pictures: int, numbers: range | None, batch_size: int, not_kept: int, until: float | int | None
) -> None:
    if pictures < 1 or batch_size < 1:
        raise HeadwiseError(
            f"pictures={pictures} and batch_size={batch_size} were given; expected 1 or more of each."
        )
    if until is not None and not 0 < until <= 1:
        raise HeadwiseError(f"until={until} was given; expected a correlation above 0 and up to 1.")
    if not_kept:
        raise HeadwiseError(f"keep_pictures={not_kept} pictures need a folder to go to. Give out=…")
    if numbers is not None and not numbers:
        raise HeadwiseError(
            f"numbers={numbers} holds no picture. Make fewer shards: at most as many as there are pictures."
        )
    if numbers is not None and until is not None:
        raise HeadwiseError(
            f"until={until} looks at all pictures, but only {format_ranges([numbers])} are counted here. "
            "Leave it out, or let workers share the run."
        )


def _check_steps(num_inference_steps: int | None) -> None:
    if num_inference_steps is not None and num_inference_steps < 1:
        raise HeadwiseError(f"num_inference_steps={num_inference_steps} was given; expected 1 or more.")


def _require_among(folder: RunFolder[Votes], wanted: range) -> None:
    counted = folder.so_far.pictures
    if counted and wanted.start == 0 and counted[-1][1] > wanted.stop:
        raise RunMismatch(
            f"{folder.path} already counts {len(folder.so_far)} pictures, more than the {len(wanted)} asked "
            "for. Ask for as many or more, or give another folder."
        )
    if counted and not (wanted.start <= counted[0][0] and counted[-1][1] <= wanted.stop):
        raise RunMismatch(
            f"{folder.path} already counts {format_ranges([range(*pair) for pair in counted])}, not all of "
            f"them among {format_ranges([wanted])}. Ask for what it counts too, or give another folder."
        )


def _check_latents(pipe: Any, task: _Measurement) -> None:
    shape = latent_shape(pipe, task.passed["height"], task.passed["width"])
    latents = task.latents
    if latents is not None and (len(latents) < task.pictures or tuple(latents.shape[1:]) != shape):
        raise HeadwiseError(
            f"The latents have shape {tuple(latents.shape)}; expected {(task.pictures, *shape)}, "
            "unit noise for every picture."
        )


def settings_of(
    pipe: Any, concepts: ConceptSet, prompts: Sequence[str], latents: Tensor | None, seed: int
) -> dict[str, Any]:
    """What decides the votes beside the arguments that are passed to the pipeline."""
    words = sum(len(concepts.words(name)) for name in concepts)
    return settings_of_pictures(pipe, prompts) | {
        "concept_set": f"{len(concepts)} concepts, {words} words, {digest_of(repr(concepts))}",
        "latents": None if latents is None else digest_of(latents.cpu().double().numpy().tobytes()),
        "seed": seed,
        **concepts.settings,
    }
