"""Which heads carry words of an image, with a map of each; and the image with a word muted in one head."""

from typing import Any

import numpy as np

from headwise.measuring.explanation import Explanation
from headwise.model.pipelines import watched
from headwise.pictures import png_of
from headwise.web import calls
from headwise.web.explore_jobs import map_bytes
from headwise.web.expressions import evaluate
from headwise.web.jobs import Job
from headwise.web.picture_jobs import cached_images, image_settings
from headwise.web.requests import Explain, Mute
from headwise.web.session import ModelSession

__all__ = ["explain", "explanation_to_json", "mute"]


def explain(session: ModelSession, request: Explain, job: Job) -> None:
    """Generate an image and measure which heads carry some words of it, at which steps, and where."""
    job.set_progress(0, request.num_inference_steps)
    with watched(session.pipe, job.step):
        explanation = evaluate(calls.explain(request), {"pipe": session.pipe}, progress=False)
    png = png_of(explanation.image, image_settings(session, request))
    job.add_result(png, column="picture", **explanation_to_json(explanation))


def explanation_to_json(explanation: Explanation) -> dict[str, Any]:
    """The words, the shares of their heads and layers, and maps: of all steps together, and of each step."""
    height, width = explanation.word_maps.shape[1:]
    words = [_word(explanation, w) for w in range(len(explanation.words))]
    return {"height": height, "width": width, "steps": list(explanation.steps), "words": words}


def _word(explanation: Explanation, w: int) -> dict[str, Any]:
    word, addresses = explanation.words[w], [layer.address for layer in explanation.head_map]
    heads = [
        {**share._asdict(), **_maps(explanation.maps[w, place], explanation.maps_by_step[w, place])}
        for place, share in enumerate(explanation.top(word, explanation.heads.shape[1]))
    ]
    layers = [
        {"address": address, "share": float(share)}
        for address, share in zip(addresses, explanation.by_layer[w], strict=True)
    ]
    together = _maps(explanation.word_maps[w], explanation.word_maps_by_step[w])
    share = float(explanation.completeness[w])
    return {"word": word, "share": share, **together, "heads": heads, "layers": layers}


def _maps(mean: np.ndarray, by_step: np.ndarray) -> dict[str, Any]:
    return {"map": map_bytes(mean), "by_step": [map_bytes(each) for each in by_step]}


def mute(session: ModelSession, request: Mute, job: Job) -> None:
    """Generate an image plain, and with a word muted in one head, from the same latents."""
    job.set_progress(0, 2 * request.num_inference_steps)
    for column, is_muted in (("plain", False), ("muted", True)):
        comparison = calls.mute(request, {"": is_muted})
        (image,) = cached_images(session, comparison, job, request.num_inference_steps)
        more = {"word": request.word, "head": request.head} if is_muted else {}
        job.add_result(png_of(image, image_settings(session, request, column=column, **more)), column=column)
