"""Two nodes that show what heads attend to: one records while the model is sampled, one draws afterwards."""

from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from headwise.errors import HookMisuse
from headwise.measuring.relevance import Relevance

from .inputs import concept_input, model_inputs, node_schema, word_inputs
from .overlay import concept_weights, overlay, table
from .recording import Recording, recorded

__all__ = ["RecordAttention", "ShowAttention"]

RecordingType = io.Custom("HEADWISE_RECORDING")
PIXELS = 8  # the side of a latent in the image


class RecordAttention(io.ComfyNode):
    """Records how much every head attends to a word while the clone is sampled."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Declares the node's inputs and outputs."""
        return node_schema(
            "RecordAttention",
            "Record attention",
            "Records how much every head attends to a word while the clone is sampled, which is as it was.",
            [*model_inputs(), *word_inputs()],
            [io.Model.Output(), RecordingType.Output(display_name="recording")],
        )

    @classmethod
    def execute(
        cls, model: Any, clip: Any, relevance: Relevance, text: str, word: str, occurrence: int
    ) -> io.NodeOutput:
        """Returns a clone of the model, and what it will record."""
        return io.NodeOutput(*recorded(model, clip, relevance, text, word, occurrence or None))


class ShowAttention(io.ComfyNode):
    """Which heads attended to the word, and where."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Declares the node's inputs and outputs."""
        return node_schema(
            "ShowAttention",
            "Show attention",
            "Where a concept's heads attended to the recorded word, over the image, and a table of heads.",
            [
                RecordingType.Input("recording", tooltip="From Record attention."),
                io.Latent.Input(
                    "samples", tooltip="What the sampler made with the model of Record attention."
                ),
                concept_input(tooltip="By whose heads the map is weighed; empty for all heads alike."),
                io.Int.Input(
                    "heads", default=10, min=1, max=10000, tooltip="How many heads the table lists."
                ),
                io.Image.Input("image", optional=True, tooltip="The decoded samples, to lay the map over."),
            ],
            [io.Image.Output(display_name="map"), io.String.Output(display_name="table")],
        )

    @classmethod
    def execute(
        cls,
        recording: Recording,
        samples: dict[str, Tensor],
        concept: str,
        heads: int,
        image: Tensor | None = None,
    ) -> io.NodeOutput:
        """Returns the map over each image, and a table for each."""
        latents = samples["samples"]
        pictures = _blank(latents) if image is None else image[..., :3]
        if len(pictures) != len(latents):
            raise HookMisuse(
                f"{len(pictures)} images were given for {len(latents)} latents. Give the image that these "
                "latents are decoded to."
            )
        weights = concept_weights(recording.relevance, concept)
        height, width = latents.shape[-2:]
        maps = [recording.maps((height, width), number) for number in range(len(latents))]
        shown = torch.stack(
            [overlay(*pair) for pair in zip(maps, [weights] * len(maps), pictures, strict=True)]
        )
        tables = [table(each, recording.relevance, concept, heads) for each in maps]
        return io.NodeOutput(shown, "\n\n".join(tables))


def _blank(latents: Tensor) -> Tensor:
    """White images of the size to which latents are decoded."""
    height, width = (PIXELS * side for side in latents.shape[-2:])
    return torch.ones(len(latents), height, width, 3)
