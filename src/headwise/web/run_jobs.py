"""Jobs that write to a folder of runs: measurements, and the weakening of a concept's heads.

Their progress lies on the disk, so they yield to a short job, and continue after a cancel, a crash or a
restart with the same votes or scores as an undisturbed run.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from headwise.benchmarks.defaults import defaults_of
from headwise.benchmarks.prompts.evaluation import evaluated_concepts
from headwise.benchmarks.results import LEAST, MOST, Weakening
from headwise.errors import HeadwiseError
from headwise.measuring.relevance import Relevance
from headwise.model.pipelines import watched
from headwise.runs.image_names import ImageName, kept_images
from headwise.runs.scores import Scores
from headwise.web import calls
from headwise.web.expressions import Call, evaluate
from headwise.web.jobs import Job
from headwise.web.requests import Measure, Weaken
from headwise.web.session import ModelSession

__all__ = ["concepts_to_weaken", "curves", "ks_of", "measure", "weaken"]

SIXTEENTHS = (0, 1, 2, 4, 8, 12, 16)  # of all heads
CHECKPOINT_SECONDS = 2


def measure(session: ModelSession, request: Measure, job: Job, folder: Path) -> None:
    """Count votes into a folder."""
    relevance = _run(session, calls.measure(request, folder), job, {})
    job.add_result(pictures=relevance.settings["pictures"])


def weaken(session: ModelSession, request: Weaken, job: Job, relevance: Relevance, folder: Path) -> None:
    """Weaken a concept's heads in order, into a folder."""
    weakening = calls.weaken(request, folder, ks_of(relevance), session.model, session.scorer_name)
    _run(session, weakening, job, {"relevance": relevance, "scorer": session.scorer})
    job.add_result(run=folder.name)


def _run(session: ModelSession, call: Call, job: Job, variables: dict[str, Any]) -> Any:
    options = {"checkpoint_every": CHECKPOINT_SECONDS, "progress": job.set_run_progress}
    with watched(session.pipe, job.raise_if_cancelled):
        return evaluate(call, {"pipe": session.pipe, **variables}, **options)


def ks_of(relevance: Relevance) -> tuple[int, ...]:
    """The numbers of heads to weaken, closer together where most is lost."""
    heads = relevance.values.shape[1]
    return tuple(sorted({heads * count // 16 for count in SIXTEENTHS}))


def concepts_to_weaken(session: ModelSession, relevance: Relevance) -> list[str]:
    """The measured concepts that have evaluation prompts; none where no CLIP model scores the images."""
    if session.scorer_name is None:
        return []
    cases = defaults_of(session.model).cases
    return [name for name in evaluated_concepts(cases) if name in relevance.concepts]


def curves(folder: Path) -> dict[str, Any]:
    """The results of a weakening: the score over k in each order, areas, and the images that were kept.

    Raises:
        HeadwiseError: The run is not finished.
    """
    scores = Scores.load(folder / "scores.safetensors")
    if len(scores) < scores.values.size:
        raise HeadwiseError(
            f"{len(scores)} of {scores.values.size} images are scored. Go on with the run first."
        )
    weakening = Weakening(scores)
    orders = {}
    for order in weakening.orders:
        mean, low, high = map(_finite, weakening.curve(order))
        height = _finite(weakening.height(order))
        orders[order] = {"mean": mean, "low": low, "high": high, "height": height}
    random = _finite(weakening.random()) if MOST in weakening.orders else [None]
    return {
        "concept": scores.settings.get("concept", ""),
        "factor": scores.settings.get("factor"),
        "score": scores.settings.get("score", ""),
        "prompts": scores.values.shape[-1],
        "ks": list(weakening.ks),
        "orders": orders,
        "area": _finite(weakening.area()) if {MOST, LEAST} <= set(weakening.orders) else None,
        "random": random if random[0] is not None else None,
        "pictures": _kept_images(folder, weakening),
    }


def _kept_images(folder: Path, weakening: Weakening) -> list[dict[str, Any]]:
    """For each prompt whose images were kept, the file of each order and k."""
    from headwise.pictures import settings_in

    files = kept_images(folder)
    first = weakening.orders[0]  # with no heads or all heads weakened the order does not matter
    ends = (0, weakening.ks[-1])
    kept = []
    for number in dict.fromkeys(name.number for name in files):
        names = {
            order: [ImageName(number, first if k in ends else order, k) for k in weakening.ks]
            for order in weakening.orders
        }
        if all(name in files for of_order in names.values() for name in of_order):
            prompt = settings_in(files[names[first][0]]).get("prompt", "")
            named = {order: [f"{name}.png" for name in of_order] for order, of_order in names.items()}
            kept.append({"prompt": prompt, "files": named})
    return kept


def _finite(values: Iterable[float]) -> list[float | None]:
    """For JSON, which has no NaN."""
    return [float(value) if np.isfinite(value) else None for value in values]
