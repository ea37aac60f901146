"""The demo: measure the built-in model, and measure the null control.

The control is a measurement in which names mean nothing: every concept samples from the words of all
concepts. Heads still prefer words, but no concept has any of its own, so in truth every relevance is 1, and
any structure that shows is noise. (Dealing the words out to concepts once would not do: a head that prefers
"dog" would then prefer the concept that got it, in all pictures alike.)
"""

import sys
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from headwise.measuring.concepts import ConceptSet, choice
from headwise.measuring.estimators import LEAN
from headwise.measuring.measure import measure
from headwise.measuring.relevance import Relevance
from headwise.model.pipelines import load_pipeline

__all__ = ["demo", "null_concepts"]


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
    """Measure the built-in model and its control; called again with the same folder, it goes on.

    Args:
        out: The folder of the run; it is made if it is missing.
        pipe: Another pipeline; None loads the built-in model.
        concepts: Another concept set; None takes the one of the built-in model.
        pictures: How many pictures are measured, and again for the control.
        samples: How many of the first pictures are decoded for the page.
        num_inference_steps: Denoiser calls per picture.
        batch_size: Pictures per pipeline call.
        progress: Whether to show a bar on stderr.

    Returns:
        The relevance, and the relevance of the control.
    """
    out = Path(out)
    pipe = load_pipeline("emoji") if pipe is None else pipe
    concepts = choice(concepts or "emoji", "auto", pipe)
    options: dict[str, Any] = {
        "pictures": pictures,
        "num_inference_steps": num_inference_steps,
        "batch_size": batch_size,
    }
    if progress:
        tqdm.write("The model:", file=sys.stderr)
    relevance = measure(pipe, concepts, out=out, keep_pictures=samples, progress=progress, **options)
    if progress:
        tqdm.write("The control, in which the names of concepts mean nothing:", file=sys.stderr)
    control = measure(pipe, null_concepts(concepts), out=out / "control", progress=progress, **options)
    return relevance, control


def null_concepts(concepts: ConceptSet) -> ConceptSet:
    """The null control of a concept set: the same names, each with the words of all concepts.

    The control of concepts beside a background is `null_concepts(concepts.beside(background))`.
    """
    words = {word.casefold(): word for name in concepts.names for word in concepts.words(name)}
    null = ConceptSet({name: tuple(words.values()) for name in concepts.names})
    return null.marked(concepts.name, concepts.foreground or concepts.names)
