"""The nodes, in ComfyUI's V3 schema. Each parses, calls one function, and hands on what it returned."""

from pathlib import Path
from typing import Any

import folder_paths
from comfy_api.latest import ComfyExtension, io

from headwise.benchmarks.weakening import LEAST, MOST, orders_of
from headwise.measuring.relevance import Relevance
from headwise.steering.spelling import steering_rule
from headwise.steering.steer import weaken

from .attention import steered
from .explain_nodes import RecordAttention, ShowAttention
from .inputs import (
    FOLDER,
    RelevanceFile,
    concept_input,
    model_inputs,
    node_schema,
    steps_inputs,
    strength_input,
    word_inputs,
)

__all__ = ["Adjust", "Headwise", "LoadRelevance", "Strengthen", "WeakenHeads", "comfy_entrypoint"]


class LoadRelevance(io.ComfyNode):
    """Reads a relevance file of `headwise measure` from models/headwise."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The relevance files in models/headwise."""
        files = [name for name in folder_paths.get_filename_list(FOLDER) if name.endswith(".safetensors")]
        return node_schema(
            "LoadRelevance",
            "Load relevance file",
            "Which heads carry which concept, as measured by `headwise measure`, by votes or by effect.",
            [io.Combo.Input("file", options=files, tooltip="A file in models/headwise.")],
            [
                RelevanceFile.Output(display_name="relevance"),
                io.String.Output(display_name="concepts"),
                io.String.Output(display_name="about"),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, file: str) -> int:
        """The file's time of change, by which ComfyUI runs the node again."""
        return Path(folder_paths.get_full_path_or_raise(FOLDER, file)).stat().st_mtime_ns

    @classmethod
    def execute(cls, file: str) -> io.NodeOutput:
        """Returns the relevance, the names of its concepts, one per line, and how they were measured."""
        relevance = Relevance.load(folder_paths.get_full_path_or_raise(FOLDER, file))
        return io.NodeOutput(relevance, "\n".join(relevance.concepts), _about(relevance))


def _about(relevance: Relevance) -> str:
    heads = f"{relevance.values.shape[1]} heads" if relevance.head_map is None else relevance.head_map
    model = relevance.settings.get("model", "a model that the file does not name")
    return f"Relevance by {relevance.kind}, measured on {model}: {heads}.\n\n{relevance}"


class Strengthen(io.ComfyNode):
    """Raises the attention of a concept's heads to a word."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Declares the node's inputs and outputs."""
        return node_schema(
            "Strengthen",
            "Strengthen",
            "Raises the attention of a concept's heads to a word of the prompt.",
            [
                *model_inputs(),
                *word_inputs(),
                concept_input(),
                strength_input(
                    "0 changes nothing. By votes 1 is the paper's, and negative strengths turn away. By "
                    "effect it is a dose: 0.5 asks for half as much again of what the word does, -1 mutes it."
                ),
                *steps_inputs(),
            ],
            [io.Model.Output()],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        clip: Any,
        relevance: Relevance,
        text: str,
        word: str,
        occurrence: int,
        concept: str,
        strength: float,
        start: float,
        stop: float,
    ) -> io.NodeOutput:
        """Returns a steered clone of the model."""
        rule = steering_rule(relevance.kind, two_senses=False)
        steer = rule(relevance, word, concept, strength, occurrence=occurrence or None, steps=(start, stop))
        return io.NodeOutput(steered(model, clip, text, steer))


class Adjust(io.ComfyNode):
    """Turns a misread word from one concept toward another."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Declares the node's inputs and outputs."""
        senses = [
            concept_input("toward", "The concept that is meant."),
            concept_input("away", "The concept that is generated instead."),
            strength_input(
                "0 changes nothing. By votes 1 is the paper's, and negative strengths turn back. By effect, "
                "from 0 to 2, it also turns down the heads of the other concept."
            ),
        ]
        return node_schema(
            "Adjust",
            "Adjust",
            "A misread word is turned from one concept toward another.",
            [*model_inputs(), *word_inputs(), *senses, *steps_inputs()],
            [io.Model.Output()],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        clip: Any,
        relevance: Relevance,
        text: str,
        word: str,
        occurrence: int,
        toward: str,
        away: str,
        strength: float,
        start: float,
        stop: float,
    ) -> io.NodeOutput:
        """Returns a steered clone of the model."""
        rule = steering_rule(relevance.kind, two_senses=True)
        steer = rule(
            relevance, word, toward, away, strength, occurrence=occurrence or None, steps=(start, stop)
        )
        return io.NodeOutput(steered(model, clip, text, steer))


class WeakenHeads(io.ComfyNode):
    """Weakens the first k heads of a concept, for all words: what is then lost is what they carry."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Declares the node's inputs and outputs."""
        heads = [
            concept_input(),
            io.Combo.Input(
                "order",
                options=[MOST, LEAST],
                tooltip="By effect, the least relevant heads are those that work against the concept.",
            ),
            io.Int.Input("heads", default=16, min=0, max=10000, tooltip="The number of heads to weaken."),
            io.Float.Input(
                "factor",
                default=-2.0,
                min=-10.0,
                max=10.0,
                step=0.05,
                tooltip="What their attention is multiplied by: 1 changes nothing, -2 is the paper's.",
            ),
        ]
        return node_schema(
            "WeakenHeads",
            "Weaken heads",
            "Some heads attend less, or inversely, to all words of the prompt: what is lost they carry.",
            [*model_inputs(), *heads, *steps_inputs()],
            [io.Model.Output()],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        clip: Any,
        relevance: Relevance,
        text: str,
        concept: str,
        order: str,
        heads: int,
        factor: float,
        start: float,
        stop: float,
    ) -> io.NodeOutput:
        """Returns a clone of the model with weakened heads."""
        chosen = orders_of(relevance, concept, random_orders=0)[order][:heads]
        weakened = weaken(relevance.head_map, chosen, factor=factor, steps=(start, stop))
        return io.NodeOutput(steered(model, clip, text, weakened))


class Headwise(ComfyExtension):
    """The nodes of this folder."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Lists the nodes of this folder."""
        return [LoadRelevance, Strengthen, Adjust, WeakenHeads, RecordAttention, ShowAttention]


async def comfy_entrypoint() -> Headwise:
    """ComfyUI's entry point."""
    return Headwise()
