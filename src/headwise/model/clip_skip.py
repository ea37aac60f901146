"""Clip skip: the prompt is read before CLIP's last layers, as some models were trained to read it.

Counted as A1111 and the pages of models count: 1 is the whole encoder, 2 leaves out its last layer. (The
argument `clip_skip` of diffusers' calls is 1 less, and leaves the negative prompt as it was.) The layers are
taken out of the encoder, so that prompts, negative prompts and the words of concepts are all read alike.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from headwise.errors import HeadwiseError

__all__ = ["clip_skip_of", "highest_clip_skip", "layers_skipped", "skip_layers"]


def skip_layers(pipe: Any, clip_skip: int) -> None:
    """Take the last layers out of the text encoder of a Stable Diffusion 1 or 2.

    Args:
        pipe: The pipeline, which is changed.
        clip_skip: From 1, which changes nothing, to the number of the encoder's layers.

    Raises:
        HeadwiseError: The pipeline has no CLIP of its own, or more than one; or there are not so many layers.
    """
    encoder = _encoder_of(pipe)
    layers = _layers_of(encoder)
    count = len(layers.layers)
    if not 1 <= clip_skip <= count:
        raise HeadwiseError(
            f"A clip skip of {clip_skip} was given; expected 1, which skips nothing, to {count} "
            "for this model."
        )
    layers.layers = layers.layers[: count + 1 - clip_skip]
    encoder.config.num_hidden_layers = count + 1 - clip_skip
    encoder.config.clip_skip = clip_skip  # for whoever asks, and saved with the encoder


@contextmanager
def layers_skipped(pipe: Any, clip_skip: int) -> Iterator[None]:
    """Take the last layers out until the context is left.

    Raises:
        HeadwiseError: As `skip_layers`.
    """
    encoder = _encoder_of(pipe)
    layers, config = _layers_of(encoder), encoder.config
    every, count, before = layers.layers, config.num_hidden_layers, getattr(config, "clip_skip", None)
    skip_layers(pipe, clip_skip)
    try:
        yield
    finally:
        layers.layers, config.num_hidden_layers, config.clip_skip = every, count, before


def clip_skip_of(pipe: Any) -> int:
    """The clip skip of a pipeline; 1 where nothing is skipped."""
    return getattr(getattr(getattr(pipe, "text_encoder", None), "config", None), "clip_skip", None) or 1


def highest_clip_skip(pipe: Any) -> int:
    """The number of layers of a pipeline's one CLIP; 1 where it has no CLIP of its own, or several."""
    return len(_layers_of(pipe.text_encoder).layers) if _has_one_clip(pipe) else 1


def _has_one_clip(pipe: Any) -> bool:
    encoder = getattr(pipe, "text_encoder", None)
    return type(encoder).__name__ == "CLIPTextModel" and getattr(pipe, "text_encoder_2", None) is None


def _encoder_of(pipe: Any) -> Any:
    if not _has_one_clip(pipe):
        raise HeadwiseError(
            f"A clip skip was given, but {type(pipe).__name__} does not read its prompt by one CLIP, as "
            "Stable Diffusion 1 and 2 do. Leave it out."
        )
    return pipe.text_encoder


def _layers_of(encoder: Any) -> Any:
    """What holds the encoder's layers."""
    return getattr(encoder, "text_model", encoder).encoder
