"""The whole story on the built-in model: draw, measure, measure the control.

The control is a measurement in which names mean nothing: every concept draws its words from one pot that
holds the words of all. Heads still prefer words, but no concept owns any, so in truth every relevance is 1,
and whatever structure is found is noise. (Dealing the words out once would not do: a head that likes "dog"
would then like the concept that got it, in all pictures alike.)
"""

__all__ = ["demo", "null_concepts"]

from pathlib import Path
from typing import Any

from headwise.measuring.concepts import ConceptSet
from headwise.measuring.estimators import LEAN
from headwise.measuring.measure import measure
from headwise.measuring.relevance import Relevance
from headwise.model.pipelines import load_pipeline


def demo(
    out: str | Path,
    *,
    pipe: Any = None,
    concepts: ConceptSet | None = None,
    pictures: int = 160,
    samples: int = 48,
    num_inference_steps: int = LEAN.num_inference_steps,
    batch_size: int = 12,
    progress: bool = True,
) -> tuple[Relevance, Relevance]:
    """Measure the built-in model and its control. Called again, it goes on.

    Args:
        out: The folder, made if it is not there.
        pipe, concepts: Another pipeline and its concepts.
        pictures: How many are measured, and as many again for the control.
        samples: How many of the first are decoded for the page.
        num_inference_steps, batch_size, progress: As in `measure`.

    Returns:
        The relevance and the control's.
    """
    out = Path(out)
    pipe = load_pipeline("emoji") if pipe is None else pipe
    concepts = ConceptSet.load("emoji") if concepts is None else concepts
    same: dict[str, Any] = {
        "pictures": pictures,
        "num_inference_steps": num_inference_steps,
        "batch_size": batch_size,
    }
    relevance = measure(pipe, concepts, out=out, keep_pictures=samples, progress=progress, **same)
    control = measure(pipe, null_concepts(concepts), out=out / "control", progress=progress, **same)
    return relevance, control


def null_concepts(concepts: ConceptSet) -> ConceptSet:
    """The same names, each with the words of all."""
    words = {word.casefold(): word for name in concepts.names for word in concepts.words(name)}
    return ConceptSet({name: tuple(words.values()) for name in concepts.names})
