"""Which heads drew a word in an image, with a map of each; and the image with the word muted in one head."""

from typing import Any

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

__all__ = ["explain", "mute"]


def explain(session: ModelSession, request: Explain, job: Job) -> None:
    """Generate an image and measure which heads drew a word of it, and where."""
    job.set_progress(0, request.num_inference_steps)
    with watched(session.pipe, job.step):
        explanation = evaluate(calls.explain(request), {"pipe": session.pipe}, progress=False)
    png = png_of(explanation.image, image_settings(session, request))
    job.add_result(png, column="picture", word=request.word, **_heads(explanation))


def _heads(explanation: Explanation) -> dict[str, Any]:
    """The heads of the one word that have a map, the largest share first, and all of them together."""
    (word,), (height, width) = explanation.words, explanation.word_maps.shape[1:]
    heads = [
        {**share._asdict(), "map": map_bytes(explanation.map_of(word, share.head))}
        for share in explanation.top(word, explanation.heads.shape[1])
    ]
    together = {"share": float(explanation.completeness[0]), "map": map_bytes(explanation.word_maps[0])}
    return {"height": height, "width": width, "heads": heads, "together": together}


def mute(session: ModelSession, request: Mute, job: Job) -> None:
    """Generate an image plain, and with a word muted in one head, from the same latents."""
    job.set_progress(0, 2 * request.num_inference_steps)
    for column, is_muted in (("plain", False), ("muted", True)):
        comparison = calls.mute(request, {"": is_muted})
        (image,) = cached_images(session, comparison, job, request.num_inference_steps)
        more = {"word": request.word, "head": request.head} if is_muted else {}
        job.add_result(png_of(image, image_settings(session, request, column=column, **more)), column=column)
