"""Jobs that write to a folder of runs: measurements, and the weakening of a concept's heads.

Their progress lies on the disk, so they yield to a short job, and continue after a cancel, a crash or a
restart with the same votes or scores as an undisturbed run.
"""

from pathlib import Path
from typing import Any

from headwise.benchmarks.defaults import defaults_of
from headwise.benchmarks.prompts.evaluation import evaluated_concepts
from headwise.measuring.relevance import Relevance
from headwise.model.pipelines import watched
from headwise.web import calls
from headwise.web.expressions import Call, evaluate
from headwise.web.jobs import Job
from headwise.web.requests import Measure, Weaken
from headwise.web.session import ModelSession

__all__ = ["concepts_to_weaken", "ks_of", "measure", "weaken"]

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
