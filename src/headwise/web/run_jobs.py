"""Runs, which go to a folder: measurements, and the weakening of a concept's heads.

Their progress lies on the disk, so they step aside for a picture that somebody waits for, and go on after a
cancel, a crash or a restart with the same votes or scores as if nothing had happened.
"""

from pathlib import Path
from typing import Any

from headwise.benchmarks.clip_scorer import scoring
from headwise.benchmarks.prompts import eval_prompts, evaluated_concepts
from headwise.benchmarks.weakening import LEAST, MOST, Weakening, measure_weakening
from headwise.errors import HeadwiseError
from headwise.intervals import Interval
from headwise.measuring.concepts import ConceptSet
from headwise.measuring.measure import measure as count_votes
from headwise.measuring.relevance import Relevance
from headwise.model.pipelines import watched
from headwise.runs.scores import Scores
from headwise.web.jobs import Job
from headwise.web.picture_jobs import options_of
from headwise.web.requests import Measure, Weaken
from headwise.web.session import Workbench

__all__ = ["concepts_to_weaken", "curves", "ks_of", "measure", "weaken"]

SHARES = (0, 1, 2, 4, 8, 12, 16)  # sixteenths of all heads
BATCH = 8
SHOWN = 3  # prompts whose pictures are kept


def measure(bench: Workbench, folder: Path, ask: Measure, job: Job) -> None:
    """Count votes into a folder."""
    with watched(bench.pipe, job.go_on):
        relevance = count_votes(
            bench.pipe,
            ConceptSet.load(ask.concepts),
            prompts=ask.prompts or None,
            pictures=ask.pictures,
            until=ask.until,
            seed=ask.seed,
            out=folder,
            batch_size=ask.batch_size,
            keep_pictures=ask.keep_pictures,
            checkpoint_every=2,
            progress=job.count_run,
            **options_of(ask),
        )
    job.add(pictures=relevance.settings["pictures"])


def weaken(bench: Workbench, relevance: Relevance, folder: Path, ask: Weaken, job: Job) -> None:
    """Weaken a concept's heads in order, into a folder."""
    own = bench.judge_name == "emoji"
    with watched(bench.pipe, job.go_on):
        measure_weakening(
            bench.pipe,
            relevance,
            ask.concept,
            eval_prompts(source_of(bench), ask.concept, ask.count),
            scoring(bench.judge, "choice" if own else "similarity"),
            ks=ks_of(relevance),
            random_orders=1,
            factor=ask.factor,
            seeds=(ask.seed,),
            out=folder,
            batch_size=BATCH,
            keep_prompts=SHOWN,
            checkpoint_every=2,
            progress=job.count_run,
            **options_of(ask),
        )
    job.add(run=folder.name)


def ks_of(relevance: Relevance) -> tuple[int, ...]:
    """Numbers of heads to weaken, closer together where most is lost."""
    heads = relevance.values.shape[1]
    return tuple(sorted({heads * share // 16 for share in SHARES}))


def source_of(bench: Workbench) -> str:
    """Whose prompts a model is tried with."""
    return "emoji" if bench.model == "emoji" else "paper"


def concepts_to_weaken(bench: Workbench, relevance: Relevance) -> list[str]:
    """The concepts that were measured and that there are prompts of; none where nobody judges."""
    if bench.judge_name is None:
        return []
    return [name for name in evaluated_concepts(source_of(bench)) if name in relevance.concepts]


def curves(folder: Path) -> dict[str, Any]:
    """What a weakening found: the score over k in each order, areas, and which pictures were kept.

    Raises:
        HeadwiseError: It is not finished.
    """
    scores = Scores.load(folder / "scores.safetensors")
    if len(scores) < scores.values.size:
        raise HeadwiseError(
            f"{len(scores)} of {scores.values.size} pictures are scored. Go on with the run first."
        )
    found = Weakening(scores)
    orders = {}
    for order in found.orders:
        mean, low, high = (values.tolist() for values in found.curve(order))
        orders[order] = {"mean": mean, "low": low, "high": high, "height": list(found.height(order))}
    return {
        "concept": scores.settings.get("concept", ""),
        "factor": scores.settings.get("factor"),
        "score": scores.settings.get("score", ""),
        "prompts": scores.values.shape[-1],
        "ks": list(found.ks),
        "orders": orders,
        "area": _finite(found.area()) if {MOST, LEAST} <= set(found.orders) else None,
        "random": _finite(found.random()) if MOST in found.orders else None,
        "pictures": _kept(folder, found),
    }


def _kept(folder: Path, found: Weakening) -> list[dict[str, Any]]:
    """For each prompt whose pictures were kept, the file of each order and k."""
    from headwise.pictures import settings_in

    files = {file.stem: file for file in sorted((folder / "pictures").glob("*.png"))}
    kept = []
    for number in dict.fromkeys(name.partition(" ")[0] for name in files):
        shared = found.orders[0]  # with none or all heads weakened the order does not matter
        orders = {
            order: [f"{number} {shared if k in (0, found.ks[-1]) else order} {k:04d}" for k in found.ks]
            for order in found.orders
        }
        if all(stem in files for stems in orders.values() for stem in stems):
            prompt = settings_in(files[orders[shared][0]]).get("prompt", "")
            named = {order: [f"{stem}.png" for stem in stems] for order, stems in orders.items()}
            kept.append({"prompt": prompt, "files": named})
    return kept


def _finite(interval: Interval) -> list[float] | None:
    return list(interval) if interval.value == interval.value else None
