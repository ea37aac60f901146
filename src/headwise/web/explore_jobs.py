"""An image, the attention of each head to each word in it, and what drives a region of it, for the browser.

Maps travel as bytes, 255 at their own largest value, in base64.
"""

from base64 import b64encode
from typing import Any

import numpy as np
from jaxtyping import Float

from headwise.errors import HeadwiseError
from headwise.measuring.attention_maps import AttentionMaps, Box, WordMaps, region_relevance
from headwise.measuring.relevance import Relevance
from headwise.model.attention import hooked
from headwise.model.pipelines import quiet, watched
from headwise.pictures import png_of
from headwise.web import calls
from headwise.web.expressions import evaluate
from headwise.web.jobs import Job
from headwise.web.picture_jobs import image_settings
from headwise.web.requests import Explore
from headwise.web.session import MapCache, ModelSession

__all__ = ["explore", "map_bytes", "map_of_head", "region_of"]


def explore(session: ModelSession, request: Explore, job: Job, maps: MapCache) -> None:
    """Generate an image and keep the attention of each head to each word."""
    pipe, recorder = session.pipe, AttentionMaps()
    job.set_progress(0, request.num_inference_steps)
    with watched(pipe, job.step), quiet(pipe), hooked(pipe, recorder):
        (image,) = evaluate(calls.explore(request), {"pipe": pipe})
    recorded = recorder.take()
    maps.put(job.id, recorded)
    png = png_of(image, image_settings(session, request))
    job.add_result(png, column="picture", words=[word.text for word in recorded.words])


def map_of_head(maps: WordMaps, head: int | None, layer: int | None = None) -> dict[str, Any]:
    """The attention to each word: of a head, else of a layer's heads together, else of all heads together."""
    attention, address = _attention(maps, head, layer)
    words = [
        {"text": word.text, "share": float(map.mean()), "most": float(map.max()), "map": map_bytes(map)}
        for word, map in zip(maps.words, np.moveaxis(attention, -1, 0), strict=True)
    ]
    height, width = attention.shape[:2]
    return {"head": head, "address": address, "height": height, "width": width, "words": words}


def _attention(
    maps: WordMaps, head: int | None, layer: int | None
) -> tuple[Float[np.ndarray, "height width words"], str]:
    """The maps, and the address of the head or layer they belong to."""
    if head is not None:
        return maps.of(head), maps.head_map.address(head)
    if layer is None:
        return maps.together(), "all heads"
    if not 0 <= layer < len(maps.layers):
        raise HeadwiseError(f"Layer {layer} was given; expected a number from 0 to {len(maps.layers) - 1}.")
    return maps.layers[layer].mean(0), list(maps.head_map)[layer].address


def region_of(maps: WordMaps, relevance: Relevance | None, box: Box) -> dict[str, Any]:
    """What drives a region of an image: its words, and the concepts whose heads attend to them there."""
    here, everywhere = maps.within(box).mean(0), maps.within().mean(0)
    times = here / np.maximum(everywhere, np.finfo(np.float32).tiny)
    words = [
        {"text": word.text, "share": float(share), "times": float(t)}
        for word, share, t in zip(maps.words, here, times, strict=True)
    ]
    region: dict[str, Any] = {"box": list(box), "words": words, "concepts": []}
    if relevance is not None:
        of_all, of_words = region_relevance(maps, relevance, box)
        for word, of_word in zip(words, of_words.T, strict=True):
            word["concepts"] = _largest(relevance, of_word, 3)
        region["concepts"] = _largest(relevance, of_all, 8)
    return region


def _largest(
    relevance: Relevance, values: Float[np.ndarray, " concepts"], count: int
) -> list[dict[str, Any]]:
    order = np.argsort(-values, kind="stable")[:count]
    return [{"concept": relevance.concepts[c], "pull": float(values[c])} for c in order]


def map_bytes(values: Float[np.ndarray, "height width"]) -> str:
    """A map for the browser."""
    top = max(float(values.max()), np.finfo(np.float32).tiny)
    return b64encode((values / top * 255).round().astype(np.uint8).tobytes()).decode()
