"""CLIP skip: CLIP's last layers are left out in encoding the prompt, as in the training of some models.

It is counted as by A1111 and on model pages: 1 is the whole encoder, 2 leaves out its last layer. (The
argument `clip_skip` of diffusers' calls is less by 1, and does not affect the negative prompt.) The layers
are removed from the encoder, so that prompts, negative prompts and the words of concepts are encoded alike.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from headwise.errors import HeadwiseError

__all__ = ["clip_skip_of", "highest_clip_skip", "layers_skipped", "skip_layers"]


def skip_layers(pipe: Any, clip_skip: int) -> None:
    """Remove the last layers of the text encoder of Stable Diffusion 1 or 2.

    Args:
        pipe: The pipeline, which is changed.
        clip_skip: From 1, which changes nothing, to the number of the encoder's layers.

    Raises:
        HeadwiseError: The pipeline does not have exactly one CLIP, or its CLIP has too few layers.
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
    encoder.config.clip_skip = clip_skip  # for `clip_skip_of`, and saved with the encoder


@contextmanager
def layers_skipped(pipe: Any, clip_skip: int) -> Iterator[None]:
    """Remove the last layers until the context is left.

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
    """The CLIP skip of a pipeline; 1 if nothing is skipped."""
    return getattr(getattr(getattr(pipe, "text_encoder", None), "config", None), "clip_skip", None) or 1


def highest_clip_skip(pipe: Any) -> int:
    """The number of layers of a pipeline's one CLIP; 1 if it has no CLIP, or several."""
    return len(_layers_of(pipe.text_encoder).layers) if _has_one_clip(pipe) else 1


def _has_one_clip(pipe: Any) -> bool:
    encoder = getattr(pipe, "text_encoder", None)
    return type(encoder).__name__ == "CLIPTextModel" and getattr(pipe, "text_encoder_2", None) is None


def _encoder_of(pipe: Any) -> Any:
    if not _has_one_clip(pipe):
        raise HeadwiseError(
            f"A clip skip was given, but {type(pipe).__name__} does not encode its prompt with one CLIP, "
            "as Stable Diffusion 1 and 2 do. Leave it out."
        )
    return pipe.text_encoder


def _layers_of(encoder: Any) -> Any:
    """The module that holds the encoder's layers."""
    return getattr(encoder, "text_model", encoder).encoder
