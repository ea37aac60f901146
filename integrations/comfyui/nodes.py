"""The nodes, in ComfyUI's V3 schema. Each parses, calls one function, and hands on what it returned."""

from pathlib import Path
from typing import Any

import folder_paths
from comfy_api.latest import ComfyExtension, io

from headwise.benchmarks.weakening import LEAST, MOST, orders_of
from headwise.measuring.relevance import Relevance
from headwise.steering.steer import adjust, strengthen, weaken

from .attention import steered

__all__ = ["Adjust", "Headwise", "LoadRelevance", "Strengthen", "WeakenHeads", "comfy_entrypoint"]

FOLDER = "headwise"  # relevance files are looked for in models/headwise
folder_paths.add_model_folder_path(FOLDER, str(Path(folder_paths.models_dir) / FOLDER))

RelevanceFile = io.Custom("HEADWISE_RELEVANCE")


def _common() -> list[Any]:
    """The inputs that every steering node has first."""
    return [
        io.Model.Input("model", tooltip="It is left as it was; the output is a steered clone."),
        io.Clip.Input("clip", tooltip="The one that the positive prompt is encoded with."),
        RelevanceFile.Input("relevance"),
        io.String.Input("text", multiline=True, tooltip="The positive prompt, word for word."),
    ]


def _word() -> list[Any]:
    return [
        io.String.Input("word", tooltip="A word or phrase of the text, or an embedding:name."),
        io.Int.Input(
            "occurrence", default=0, min=0, max=99, tooltip="The number of the word's occurrence; 0 for all."
        ),
    ]


def _strength() -> Any:
    return io.Float.Input(
        "strength",
        default=1.0,
        min=-10.0,
        max=10.0,
        step=0.05,
        tooltip="0 changes nothing, 1 is the paper's, negative strengths turn away.",
    )


def _steps() -> list[Any]:
    """The share of the steps, last, because one seldom needs it."""
    return [
        io.Float.Input(
            name, default=default, min=0.0, max=1.0, step=0.01, tooltip="Share of the steps steered."
        )
        for name, default in (("start", 0.0), ("stop", 1.0))
    ]


def _schema(node: str, name: str, does: str, inputs: list[Any], outputs: list[Any]) -> io.Schema:
    return io.Schema(
        node_id=f"Headwise{node}",
        display_name=name,
        category="headwise",
        description=does,
        inputs=inputs,
        outputs=outputs,
    )


class LoadRelevance(io.ComfyNode):
    """Reads a relevance file of `headwise measure` from models/headwise."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The relevance files in models/headwise."""
        files = [name for name in folder_paths.get_filename_list(FOLDER) if name.endswith(".safetensors")]
        return _schema(
            "LoadRelevance",
            "Load relevance file",
            "Which heads carry which concept, as measured by `headwise measure`. From models/headwise.",
            [io.Combo.Input("file", options=files)],
            [RelevanceFile.Output(display_name="relevance"), io.String.Output(display_name="concepts")],
        )

    @classmethod
    def fingerprint_inputs(cls, file: str) -> int:
        """The file's time of change, by which ComfyUI runs the node again."""
        return Path(folder_paths.get_full_path_or_raise(FOLDER, file)).stat().st_mtime_ns

    @classmethod
    def execute(cls, file: str) -> io.NodeOutput:
        """Returns the relevance, and the names of its concepts, one per line."""
        relevance = Relevance.load(folder_paths.get_full_path_or_raise(FOLDER, file))
        return io.NodeOutput(relevance, "\n".join(relevance.concepts))


class Strengthen(io.ComfyNode):
    """Raises the attention of a concept's heads to a word."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Declares the node's inputs and outputs."""
        return _schema(
            "Strengthen",
            "Strengthen",
            "Raises the attention of a concept's heads to a word of the prompt.",
            [*_common(), *_word(), io.String.Input("concept"), _strength(), *_steps()],
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
        options = {"occurrence": occurrence or None, "steps": (start, stop)}
        return io.NodeOutput(
            steered(model, clip, text, strengthen(relevance, word, concept, strength, **options))
        )


class Adjust(io.ComfyNode):
    """Turns a misread word from one concept toward another."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Declares the node's inputs and outputs."""
        concepts = [
            io.String.Input("toward", tooltip="The concept that is meant."),
            io.String.Input("away", tooltip="The concept that is generated instead."),
        ]
        return _schema(
            "Adjust",
            "Adjust",
            "A misread word is turned from one concept toward another.",
            [*_common(), *_word(), *concepts, _strength(), *_steps()],
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
        options = {"occurrence": occurrence or None, "steps": (start, stop)}
        return io.NodeOutput(
            steered(model, clip, text, adjust(relevance, word, toward, away, strength, **options))
        )


class WeakenHeads(io.ComfyNode):
    """Weakens the first k heads of a concept, for all words: what is then lost is what they carry."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Declares the node's inputs and outputs."""
        heads = [
            io.String.Input("concept"),
            io.Combo.Input("order", options=[MOST, LEAST]),
            io.Int.Input("heads", default=16, min=0, max=10000, tooltip="The number of heads to weaken."),
            io.Float.Input("factor", default=-2.0, min=-10.0, max=10.0, step=0.05),
        ]
        return _schema(
            "WeakenHeads",
            "Weaken heads",
            "Some heads attend less, or inversely, to all words of the prompt: what is lost they carry.",
            [*_common(), *heads, *_steps()],
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
        return [LoadRelevance, Strengthen, Adjust, WeakenHeads]


async def comfy_entrypoint() -> Headwise:
    """ComfyUI's entry point."""
    return Headwise()
