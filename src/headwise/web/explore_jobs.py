"""A picture, where each head listens in it, and what drives a part of it; as numbers that a page can draw.

Maps travel as bytes, 255 at their own largest value, in base64.
"""

from base64 import b64encode
from typing import Any

import numpy as np
from jaxtyping import Float

from headwise.measuring.attention_maps import AttentionMaps, Box, WordMaps, region_relevance
from headwise.measuring.relevance import Relevance
from headwise.model.attention import hooked
from headwise.model.generate import generate
from headwise.model.pipelines import quiet, watched
from headwise.pictures import png_of
from headwise.web.jobs import Job
from headwise.web.picture_jobs import format_ranges, options_of
from headwise.web.requests import Explore
from headwise.web.session import Seen, Workbench

__all__ = ["explore", "map_of_head", "region_of"]


def explore(bench: Workbench, seen: Seen, ask: Explore, job: Job) -> None:
    """Draw a picture and keep where each head listens."""
    pipe, looking = bench.pipe, AttentionMaps()
    job.count(0, ask.num_inference_steps)
    with watched(pipe, job.step), quiet(pipe), hooked(pipe, looking):
        (picture,) = generate(pipe, [ask.prompt], ask.seed, [0], output_type="pil", **options_of(ask))
    maps = looking.take()
    seen.keep(job.id, maps)
    job.add(
        png_of(picture, format_ranges(bench, ask)), column="picture", words=[word.text for word in maps.words]
    )


def map_of_head(maps: WordMaps, head: int | None) -> dict[str, Any]:
    """Where a head, or all together if None, listens to each word."""
    found = maps.together() if head is None else maps.of(head)
    words = [
        {"text": word.text, "share": float(own.mean()), "most": float(own.max()), "map": _bytes(own)}
        for word, own in zip(maps.words, np.moveaxis(found, -1, 0), strict=True)
    ]
    address = "all heads" if head is None else maps.head_map.address(head)
    height, width = found.shape[:2]
    return {"head": head, "address": address, "height": height, "width": width, "words": words}


def region_of(maps: WordMaps, relevance: Relevance | None, box: Box) -> dict[str, Any]:
    """What drives a part of a picture: its words, and the concepts whose heads listen there."""
    here, everywhere = maps.within(box).mean(0), maps.within().mean(0)
    times = here / np.maximum(everywhere, np.finfo(np.float32).tiny)
    words = [
        {"text": word.text, "share": float(share), "times": float(t)}
        for word, share, t in zip(maps.words, here, times, strict=True)
    ]
    found: dict[str, Any] = {"box": list(box), "words": words, "concepts": []}
    if relevance is not None:
        of_all, of_words = region_relevance(maps, relevance, box)
        for word, own in zip(words, of_words.T, strict=True):
            word["concepts"] = _first(relevance, own, 3)
        found["concepts"] = _first(relevance, of_all, 8)
    return found


def _first(relevance: Relevance, pulls: Float[np.ndarray, " concepts"], count: int) -> list[dict[str, Any]]:
    order = np.argsort(-pulls, kind="stable")[:count]
    return [{"concept": relevance.concepts[c], "pull": float(pulls[c])} for c in order]


def _bytes(values: Float[np.ndarray, "height width"]) -> str:
    top = max(float(values.max()), np.finfo(np.float32).tiny)
    return b64encode((values / top * 255).round().astype(np.uint8).tobytes()).decode()
