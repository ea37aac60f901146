"""The requests of the page: every field with its range, and no further field.

A prompt is any printable text of a reasonable length. It is never a path, a format or markup, and is shown
as text.
"""

import re
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)
from pydantic_core import PydanticCustomError

from headwise.editing.baselines.table import OFFERED
from headwise.model.samplers import SAMPLERS

__all__ = [
    "Compose", "Drawing", "Edit", "Explain", "Explore", "Generate", "Measure", "Mute", "Picture", "Prompt",
    "Prompts", "RunName", "Steering", "Strip", "Suggest", "Weaken",
]  # fmt: skip


def _name(text: str) -> str:
    if re.fullmatch(r"\w[\w .,+-]{0,79}", text):
        return text
    raise PydanticCustomError(
        "name", "expected up to 80 letters, digits, spaces and . , + - _, a letter or digit first"
    )


def _baseline(name: str) -> str:
    if name in OFFERED:
        return name
    raise PydanticCustomError("baseline", f"expected some of: {', '.join(OFFERED)}")


def _sampler(name: str) -> str:
    if name in SAMPLERS:
        return name
    raise PydanticCustomError("sampler", f"expected one of: {', '.join(SAMPLERS)}")


Prompt = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=1000, pattern=r"^[^\x00-\x08]*$")
]
Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]
RunName = Annotated[str, AfterValidator(_name)]
RelevanceName = RunName | Literal["", ":effect", ":votes"]  # a run, the model's, or one of a built-in model
Strength = Annotated[float, Field(ge=-10, le=10)]
Seed = Annotated[int, Field(ge=0, lt=2**53)]  # what a browser counts to
Baseline = Annotated[str, AfterValidator(_baseline)]
Sampler = Annotated[str, AfterValidator(_sampler)]
LoraName = Annotated[str, StringConstraints(max_length=200, pattern=r"^[^/\\\x00-\x1f]+$")]
Side = Annotated[int, Field(ge=8, le=4096)]  # pixels


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Prompts(_Request):
    """Prompts whose words are read, with their concepts: a target and its source, or one alone."""

    prompt: Prompt
    source: Prompt | None = None
    relevance: RelevanceName = ""


class Drawing(_Request):
    """A generated image: its prompt, seed, steps, and the relevance that is used.

    `relevance` names a run, or ":effect" or ":votes" of a built-in model; "" is that of the model.

    `scheduler`, `clip_skip` and `loras`, files of the server's folder with their scales, set up the model.
    """

    prompt: Prompt
    seed: Seed = 0
    num_inference_steps: Annotated[int, Field(ge=1, le=150)] = 50
    guidance_scale: Annotated[float, Field(ge=0, le=30)] = 7.5
    relevance: RelevanceName = ""
    scheduler: Sampler | None = None
    clip_skip: Annotated[int, Field(ge=1, le=100)] | None = None
    loras: Annotated[dict[LoraName, Strength], Field(max_length=8)] = {}


class Picture(Drawing):
    """An image of a size in pixels, the model's own if not given, that does not show the negative prompt."""

    negative_prompt: Prompt | None = None
    height: Side | None = None
    width: Side | None = None

    @model_validator(mode="after")
    def _both_sides(self) -> "Picture":
        if (self.height is None) != (self.width is None):
            raise PydanticCustomError("size", "expected both height and width, or neither")
        return self


class Explore(Picture):
    """An image, with the attention of each head to each word of its prompt."""


class Explain(Picture):
    """An image, and the heads that carry each of some words of its prompt."""

    words: Annotated[list[Text], Field(min_length=1, max_length=12)]


class Mute(Picture):
    """An image, plain and with a word muted in one head."""

    word: Text
    head: Annotated[int, Field(ge=0, lt=2**31)]


class Suggest(Drawing):
    """The concepts that a word of a prompt may mean."""

    word: Text


class Steering(_Request):
    """A word to be strengthened by the heads of a concept or, with `away`, adjusted away from another."""

    word: Text
    concept: Text
    away: Text | None = None
    strength: Strength = 1.0
    occurrence: Annotated[int, Field(ge=1, le=50)] | None = None


class Generate(Picture):
    """An image, plain and steered."""

    steering: Annotated[list[Steering], Field(min_length=1, max_length=6)]
    pictures: Annotated[int, Field(ge=1, le=4)] = 1


class Strip(Picture):
    """One image at several multiples of the steering's strength."""

    steering: Annotated[list[Steering], Field(min_length=1, max_length=6)]
    strengths: Annotated[list[Strength], Field(min_length=1, max_length=12)]


class Edit(Picture):
    """An edit by prompt, of a generated image or of the uploaded one with the id `picture`.

    An uploaded image has the model's size, so it takes no height and width.
    """

    target: Prompt
    concepts: dict[Text, Text] = {}
    strength: Strength = 1.0
    baselines: Annotated[list[Baseline], Field(validation_alias=AliasChoices("baselines", "rivals"))] = []
    picture: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16}$")] | None = None
    skip: Annotated[float, Field(ge=0, le=0.9)] = 0.3

    @model_validator(mode="after")
    def _size_of_upload(self) -> "Edit":
        if self.picture is not None and self.height is not None:
            raise PydanticCustomError(
                "size",
                "expected no height and width with an uploaded image, which is cut to the model's size",
            )
        return self


class Compose(Picture):
    """A prompt of several subjects, each of which must be attended to."""

    words: Annotated[list[Text], Field(min_length=1, max_length=5)]
    concepts: dict[Text, Text] = {}
    parts: Annotated[list[Prompt], Field(max_length=5)] = []


class Weaken(_Request):
    """A run that weakens the heads of a concept in order."""

    name: RunName
    concept: Text
    count: Annotated[int, Field(ge=1, le=100)] = 8
    factor: Annotated[float, Field(ge=-20, le=20)] = -2.0
    seed: Seed = 10
    num_inference_steps: Annotated[int, Field(ge=1, le=150)] = 20
    guidance_scale: Annotated[float, Field(ge=0, le=30)] = 7.5
    relevance: RelevanceName = ""


class Measure(_Request):
    """A run that measures a concept set: by votes with so many images in all, by effect of each concept."""

    name: RunName
    by: Literal["votes", "effect"] = "votes"
    concepts: Literal["emoji", "paper34"] = "emoji"
    prompts: Annotated[list[Prompt], Field(max_length=1000)] = []
    pictures: Annotated[int, Field(ge=1, le=100_000)] = 64
    until: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Seed = 0
    batch_size: Annotated[int, Field(ge=1, le=32)] = 4
    keep_pictures: Annotated[int, Field(ge=0, le=200)] = 8
    num_inference_steps: Annotated[int, Field(ge=1, le=150)] = 10
    guidance_scale: Annotated[float, Field(ge=0, le=30)] = 7.5
