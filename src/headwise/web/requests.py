"""What can be asked for: every field with its range, and nothing else.

A prompt is any printable text of a reasonable length. It is never a path, a format or markup; whoever shows
it shows it as text.
"""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints
from pydantic_core import PydanticCustomError

__all__ = [
    "Compose",
    "Drawing",
    "Edit",
    "Explore",
    "Generate",
    "Measure",
    "Prompt",
    "Prompts",
    "RunName",
    "Steering",
    "Strip",
    "Suggest",
    "Weaken",
]


def _name(text: str) -> str:
    if re.fullmatch(r"\w[\w .,+-]{0,79}", text):
        return text
    raise PydanticCustomError(
        "name", "expected up to 80 letters, digits, spaces and . , + - _, a letter or digit first"
    )


Prompt = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=1000, pattern=r"^[^\x00-\x08]*$")
]
Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]
RunName = Annotated[str, AfterValidator(_name)]
Strength = Annotated[float, Field(ge=-10, le=10)]
Seed = Annotated[int, Field(ge=0, lt=2**53)]  # what a browser counts to
Rival = Literal["prompt-to-prompt", "plug-and-play", "masactrl", "free-prompt", "sdedit"]


class _Ask(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Prompts(_Ask):
    """Prompts to be read, not drawn: a source and its target, or one alone."""

    prompt: Prompt
    source: Prompt | None = None


class Drawing(_Ask):
    """A picture: its prompt, its chance, its steps; and by which relevance ("" is the model's own)."""

    prompt: Prompt
    seed: Seed = 0
    num_inference_steps: Annotated[int, Field(ge=1, le=150)] = 10
    guidance_scale: Annotated[float, Field(ge=0, le=30)] = 5.0
    relevance: RunName | Literal[""] = ""


class Explore(Drawing):
    """A picture, with where each head attends to each of its words."""


class Suggest(Drawing):
    """Which concept does a word mean?"""

    word: Text


class Steering(_Ask):
    """A word to be strengthened by a concept's heads or, with `away`, adjusted from one to another."""

    word: Text
    concept: Text
    away: Text | None = None
    strength: Strength = 1.0
    occurrence: Annotated[int, Field(ge=1, le=50)] | None = None


class Generate(Drawing):
    """A picture plain and steered."""

    steering: Annotated[list[Steering], Field(min_length=1, max_length=6)]
    pictures: Annotated[int, Field(ge=1, le=4)] = 1


class Strip(Drawing):
    """One picture at several strengths."""

    steering: Annotated[list[Steering], Field(min_length=1, max_length=6)]
    strengths: Annotated[list[Strength], Field(min_length=1, max_length=12)]


class Edit(Drawing):
    """A picture edited by its prompt; the picture is drawn, or one that was sent."""

    target: Prompt
    concepts: dict[Text, Text] = {}
    strength: Strength = 1.0
    rivals: list[Rival] = []
    picture: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16}$")] | None = None
    skip: Annotated[float, Field(ge=0, le=0.9)] = 0.3


class Compose(Drawing):
    """A prompt of several subjects, each attended to."""

    words: Annotated[list[Text], Field(min_length=1, max_length=5)]
    concepts: dict[Text, Text] = {}
    parts: Annotated[list[Prompt], Field(max_length=5)] = []


class Weaken(_Ask):
    """A concept's heads weakened in order, a run of its own."""

    name: RunName
    concept: Text
    count: Annotated[int, Field(ge=1, le=100)] = 8
    factor: Annotated[float, Field(ge=-20, le=20)] = -2.0
    seed: Seed = 10
    num_inference_steps: Annotated[int, Field(ge=1, le=150)] = 10
    guidance_scale: Annotated[float, Field(ge=0, le=30)] = 5.0
    relevance: RunName | Literal[""] = ""


class Measure(_Ask):
    """A measurement, a run of its own."""

    name: RunName
    concepts: Literal["emoji", "paper34"] = "emoji"
    prompts: Annotated[list[Prompt], Field(max_length=1000)] = []
    pictures: Annotated[int, Field(ge=1, le=100_000)] = 64
    until: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Seed = 0
    batch_size: Annotated[int, Field(ge=1, le=32)] = 4
    keep_pictures: Annotated[int, Field(ge=0, le=200)] = 8
    num_inference_steps: Annotated[int, Field(ge=1, le=150)] = 10
    guidance_scale: Annotated[float, Field(ge=0, le=30)] = 5.0
