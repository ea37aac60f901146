"""What the nodes ask for, and how ComfyUI is told of it."""

from pathlib import Path
from typing import Any

import folder_paths
from comfy_api.latest import io

__all__ = [
    "FOLDER", "RelevanceFile", "concept_input", "model_inputs", "node_schema", "steps_inputs",
    "strength_input", "word_inputs",
]  # fmt: skip

CATEGORY = "headwise"
FOLDER = "headwise"  # relevance files are looked for in models/headwise
folder_paths.add_model_folder_path(FOLDER, str(Path(folder_paths.models_dir) / FOLDER))

RelevanceFile = io.Custom("HEADWISE_RELEVANCE")


def model_inputs() -> list[Any]:
    """The inputs that every node has first which makes a clone of a model."""
    return [
        io.Model.Input("model", tooltip="It is left as it was; the output is a clone."),
        io.Clip.Input("clip", tooltip="The one that the positive prompt is encoded with."),
        RelevanceFile.Input("relevance", tooltip="From Load relevance file, of a model with the same heads."),
        io.String.Input("text", multiline=True, tooltip="The positive prompt, word for word."),
    ]


def word_inputs() -> list[Any]:
    """A word of the prompt."""
    return [
        io.String.Input("word", tooltip="A word or phrase of the text, or an embedding:name."),
        io.Int.Input(
            "occurrence", default=0, min=0, max=99, tooltip="The number of the word's occurrence; 0 for all."
        ),
    ]


def concept_input(name: str = "concept", tooltip: str = "A concept of the relevance file.") -> Any:
    """A concept of the relevance file."""
    return io.String.Input(name, tooltip=tooltip)


def strength_input(tooltip: str) -> Any:
    """How strongly a word is steered."""
    return io.Float.Input("strength", default=1.0, min=-10.0, max=10.0, step=0.05, tooltip=tooltip)


def steps_inputs() -> list[Any]:
    """The share of the steps, last, because one seldom needs it."""
    ends = (
        ("start", 0.0, "The share of the steps after which steering begins."),
        ("stop", 1.0, "The share of the steps after which steering ends."),
    )
    return [
        io.Float.Input(name, default=default, min=0.0, max=1.0, step=0.01, tooltip=tooltip)
        for name, default, tooltip in ends
    ]


def node_schema(node: str, name: str, does: str, inputs: list[Any], outputs: list[Any]) -> io.Schema:
    """A node as ComfyUI knows it.

    Args:
        node: Its name in workflows, without the prefix that all nodes here have.
        name: The name that people see.
        does: What it does.
        inputs, outputs: In the order in which they stand.
    """
    return io.Schema(
        node_id=f"Headwise{node}",
        display_name=name,
        category=CATEGORY,
        description=does,
        inputs=inputs,
        outputs=outputs,
    )
