r"""Sweeps: a grid of scores that is filled call by call, continues where it stopped, and can be shared.

    axes → missing entries → calls → generate → keep some images → score → checkpoint

The last axis numbers the prompts or pairs, the other axes are what is compared; an axis "measure" has the
metrics that images are scored by. `loops` sets how the grid is split into calls, outermost loop first:

    ("seed",)                   a call has one seed, and mixes prompts with all other axes
    ("method", "seed")          a call has one method and one seed, and several prompts
    ("seed", "pair", "method")  all methods on the same pairs, before the next pairs

A function of the pipeline makes a sweep, so that workers can share one:

    def brightness(pipe): return Sweep(…)
    scores = run_sweep(pipe, brightness, out="runs/brightness")
"""

import itertools
import json
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

import numpy as np
from jaxtyping import Bool, Float, Int

from headwise.measuring.announcement import announce
from headwise.model.pipelines import quiet
from headwise.runs.folder import Progress, ProgressCallback, RunFolder
from headwise.runs.image_names import ImageName
from headwise.runs.scores import Axes, Label, Scores
from headwise.runs.shards import subrange
from headwise.runs.workers import Job, Keep

__all__ = ["Call", "KeptImage", "RunOptions", "Sweep", "run_sweep"]

METRICS_AXIS = "measure"  # its name in files


class KeptImage(NamedTuple):
    """An image to save, with the prompt to record in its file."""

    name: ImageName
    image: Any
    prompt: str


@dataclass(frozen=True)
class Call:
    """The entries of the grid that one call fills.

    Args:
        axes: The sweep's axes without the axis of metrics.
        rows: The index of each image along each axis.
    """

    axes: Mapping[str, Sequence[Label]]
    rows: Int[np.ndarray, "images axes"]

    @property
    def numbers(self) -> list[int]:
        """The number of each image's prompt."""
        return self.rows[:, -1].tolist()

    def index(self, axis: str) -> list[int]:
        """The index of each image along an axis."""
        return self.rows[:, list(self.axes).index(axis)].tolist()

    def labels(self, axis: str) -> list[Any]:
        """The label of each image on an axis."""
        return [self.axes[axis][i] for i in self.index(axis)]

    def label(self, axis: str) -> Any:
        """The common label of all images on an axis that is among the sweep's `loops`."""
        return self.axes[axis][self.rows[0, list(self.axes).index(axis)]]


@dataclass(frozen=True)
class Sweep:
    """A grid of scores, and how to fill it.

    Args:
        axes: Names and labels. The last axis is `range(prompts)`.
        settings: The settings that determine the scores, which must be writable as JSON.
        loops: The axes of which a call has one label each, outermost first. If the last axis is among them, a
            call has all remaining entries of `batch_size` prompts.
        batch_size: Images per call; or prompts per call, if the last axis is among the loops.
        generate: From a call to its images, one for each of its rows.
        score: From a call and its images to one number per image, or to one row of numbers per metric.
        keep: From a call and its images to those to save.
        same: For each entry of the grid, the flat index of the entry whose score it shares (its own if it is
            scored itself); None if all are scored.
    """

    axes: Axes
    settings: dict[str, Any]
    loops: tuple[str, ...]
    batch_size: int
    generate: Callable[[Call], Sequence[Any]]
    score: Callable[[Call, Sequence[Any]], np.ndarray]
    keep: Callable[[Call, Sequence[Any]], Iterable[KeptImage]] = lambda call, images: ()
    same: Int[np.ndarray, "..."] | None = field(default=None, repr=False)

    @property
    def grid(self) -> dict[str, tuple[Label, ...]]:
        """The axes without the axis of metrics."""
        return {name: tuple(labels) for name, labels in self.axes.items() if name != METRICS_AXIS}

    def by_metric(self, values: Float[np.ndarray, "..."]) -> Float[np.ndarray, "metrics *grid"]:
        """The values with the axis of metrics first; one row if the sweep has no axis of metrics."""
        if METRICS_AXIS not in self.axes:
            return values[None]
        return np.moveaxis(values, list(self.axes).index(METRICS_AXIS), 0)

    def calls(self, missing: Bool[np.ndarray, "*grid"], numbers: Sequence[int]) -> Iterator[Call]:
        """The calls that fill the missing entries of these prompts."""
        last = list(self.grid)[-1]
        step = self.batch_size if last in self.loops else max(1, len(numbers))
        blocks = [numbers[start : start + step] for start in range(0, len(numbers), step)]
        loops = [
            blocks if name == last else [[i] for i in range(len(self.grid[name]))] for name in self.loops
        ]
        for chosen in itertools.product(*loops):
            fixed = dict(zip(self.loops, chosen, strict=True))
            index = [
                list(fixed.get(name, numbers if name == last else range(len(labels))))
                for name, labels in self.grid.items()
            ]
            rows = self._rows(missing, index)
            size = len(rows) if last in self.loops else self.batch_size
            for start in range(0, len(rows), max(1, size)):
                yield Call(self.grid, rows[start : start + size])

    def _rows(
        self, missing: Bool[np.ndarray, "*grid"], index: list[list[int]]
    ) -> Int[np.ndarray, "images axes"]:
        """The missing entries among these, grouped by prompt."""
        by_prompt = np.moveaxis(missing[np.ix_(*index)], -1, 0)
        places = np.argwhere(by_prompt)
        places = np.concatenate([places[:, 1:], places[:, :1]], 1)
        return np.stack([np.array(along, int)[places[:, i]] for i, along in enumerate(index)], 1)

    def missing(self, so_far: Scores) -> Bool[np.ndarray, "*grid"]:
        """Which entries have yet to be scored, without those that share the score of another."""
        missing = np.isnan(self.by_metric(so_far.values)).any(0)
        if self.same is None:
            return missing
        return missing & (self.same == np.arange(missing.size).reshape(missing.shape))

    def scores(self, call: Call, values: Float[np.ndarray, "*metrics images"]) -> Scores:
        """The scores of one call, and of the entries that share them."""
        part = Scores.empty(self.axes, self.settings)
        by_metric = self.by_metric(part.values)
        values = np.atleast_2d(values)
        for row, image_scores in zip(call.rows, values.T, strict=True):
            if self.same is None:
                by_metric[(slice(None), *row)] = image_scores
            else:
                flat = np.ravel_multi_index(tuple(row), by_metric.shape[1:])
                by_metric[:, self.same == flat] = image_scores[:, None]
        return part


class RunOptions(TypedDict, total=False):
    """Options of `run_sweep` that every benchmark passes on."""

    numbers: range | None
    out: str | Path | None
    checkpoint_every: float | int
    progress: ProgressCallback


Make = Callable[[Any], Sweep]
"""From a pipeline to the sweep over it. It is pickled for workers, so it must not hold a pipeline."""


def run_sweep(
    pipe: Any,
    make: Make,
    *,
    kind: str = "scores",
    numbers: range | None = None,
    out: str | Path | None = None,
    together: int = 1,
    checkpoint_every: float | int = 10,
    progress: ProgressCallback = True,
) -> Scores:
    """Fill a grid of scores; with the same `out` it continues where it stopped.

    Args:
        pipe: The user's pipeline, which is left unchanged; or workers, which share the prompts (runs/ray.py).
        make: From a pipeline to the sweep over it; it must be picklable, because workers call it.
        kind: The kind of run in run.json: "weakening", "polysemy", … or a name of your own.
        numbers: Which prompts to generate here, such as `range(0, 8)`, if other processes generate the rest.
        out: Folder for checkpoints, scores and images; None writes nothing to disk.
        together: The number of prompts that a worker gets at once.
        checkpoint_every: Seconds between checkpoints.
        progress: Whether to show a bar on stderr; or a progress function like that of `measure`.
    """
    job = Job(pipe, _SweepTask(make, out is not None))
    nothing = job.nothing
    wanted = subrange(numbers, nothing.values.shape[-1])
    share = max(1, min(together, -(-len(wanted) // job.size)))  # at most an equal share for each worker
    with RunFolder(out, nothing.settings, nothing, "scores", None, job.versions, kind) as folder:
        if progress is True:
            announce(pipe, _images_missing(folder.so_far, wanted), folder.so_far.settings)
        with (
            closing(job.count_missing(folder, wanted, share)) as counts,
            Progress(folder, nothing.values[..., wanted].size, checkpoint_every, progress) as done,
        ):
            for scores in counts:
                done(scores)
        return folder.so_far


def _images_missing(so_far: Scores, wanted: range) -> int:
    """The number of images of these prompts that have no scores yet."""
    return int(np.isnan(so_far.values[..., wanted]).sum()) // len(so_far.axes.get(METRICS_AXIS, (0,)))


@dataclass(frozen=True)
class _SweepTask:
    """The work of every pipeline that takes part in a sweep, here or in a worker."""

    make: Make
    keeps: bool

    def __call__(self, pipe: Any) -> "_ScoreCounter":
        sweep = self.make(pipe)
        settings = json.loads(json.dumps(sweep.settings))  # as files and other processes read them
        return _ScoreCounter(replace(sweep, settings=settings), pipe, self.keeps)


class _ScoreCounter:
    """Scores images with one pipeline, for its part of a sweep."""

    def __init__(self, sweep: Sweep, pipe: Any, keeps: bool) -> None:
        self.sweep, self.pipe, self.keeps = sweep, pipe, keeps
        self.nothing = Scores.empty(sweep.axes, sweep.settings)

    def counts(self, missing: Sequence[range], so_far: Scores, keep: Keep) -> Generator[Scores, None, None]:
        """Generate the scores call by call."""
        sweep, kept = self.sweep, set[ImageName]()
        numbers = [number for numbers in missing for number in numbers]
        with quiet(self.pipe):
            for call in sweep.calls(sweep.missing(so_far), numbers):
                images = sweep.generate(call)
                for name, image, prompt in sweep.keep(call, images) if self.keeps else ():
                    if name not in kept:
                        keep(str(name), image, prompt)
                        kept.add(name)
                yield sweep.scores(call, np.asarray(sweep.score(call, images), float))
