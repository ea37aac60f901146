"""What weakenings have given, read from files alone, without the model.

A run's curves and images; what the card of a built-in model says of each concept; and the finished weakening
that comes with a built-in model, for a first look.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from headwise import emoji
from headwise.benchmarks.results import LEAST, MOST, Weakening
from headwise.errors import HeadwiseError
from headwise.pictures import settings_in
from headwise.runs.image_names import ImageName, kept_images
from headwise.runs.scores import Scores
from headwise.web.run_store import NotFound
from headwise.web.session import ModelSession

__all__ = ["curves", "example", "example_picture", "has_example", "known"]


def curves(folder: Path) -> dict[str, Any]:
    """The results of a weakening: the score over k in each order, areas, and the images that were kept.

    Raises:
        HeadwiseError: The run is not finished.
    """
    scores = Scores.load(folder / "scores.safetensors")
    if len(scores) < scores.values.size:
        raise HeadwiseError(f"{len(scores)} of {scores.values.size} images are scored. Resume the run first.")
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
        "by": scores.settings.get("by", ""),
        "steps": scores.settings.get("num_inference_steps"),
        "prompts": scores.values.shape[-1],
        "ks": list(weakening.ks),
        "orders": orders,
        "area": _finite(weakening.area()) if {MOST, LEAST} <= set(weakening.orders) else None,
        "random": random if random[0] is not None else None,
        "pictures": _kept_images(folder, weakening),
    }


def known(session: ModelSession) -> dict[str, Any]:
    """The areas of each concept that the card of a built-in model holds, by the names of its relevance."""
    if session.model not in emoji.MODELS:
        return {}
    card = emoji.MODELS[session.model].card()
    kinds = {name: session.built_in(file) for name, file in session.relevance_files.items()}
    return {name: card[f"weakening_{kind}_reporting"] for name, kind in kinds.items() if kind is not None}


def has_example(model: str) -> bool:
    """Whether a finished weakening comes with this model."""
    return model in emoji.MODELS and emoji.MODELS[model].weakening.is_dir()


def example(model: str) -> Path:
    """The folder of the finished weakening that comes with a model.

    Raises:
        NotFound: None comes with it.
    """
    if not has_example(model):
        raise NotFound(f"No finished weakening comes with {model}.")
    return emoji.MODELS[model].weakening


def example_picture(model: str, file: str) -> bytes:
    """An image of that weakening, by the name of its file."""
    images = {path.name: path for path in kept_images(example(model)).values()}
    if file not in images:
        raise NotFound("The example has no such image.")
    return images[file].read_bytes()


def _kept_images(folder: Path, weakening: Weakening) -> list[dict[str, Any]]:
    """For each prompt whose images were kept, the file of each order and k."""
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
