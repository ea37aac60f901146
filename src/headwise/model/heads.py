r"""The heads of a denoiser that read text, in one fixed order.

A head is identified by its layer's module path and its place in the layer, `down_blocks.0.….attn2[3]`, and
by its index

    index = Σ (heads of the layers before) + head,      layers in the order down, mid, up.

diffusers lists a UNet's modules as down, **up**, mid, so the order is defined here and nowhere else. Results
may be combined only if their head maps are equal.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from typing import Any, Literal

from headwise.errors import HeadMapMismatch, ModelNotLoaded
from headwise.model.families import family_of, heads_in, named_families

__all__ = ["HeadMap", "Layer", "denoiser_of", "self_attention_beside", "wrapped_denoiser_of"]

_PLACES = ("down_blocks", "mid_block", "up_blocks")


@dataclass(frozen=True)
class Layer:
    """One attention module that reads text.

    Args:
        address: The module path in the denoiser, as diffusers names it.
        heads: The number of heads, read from the module.
        kind: "cross" (image queries, text keys) or "joint" (text and image in one sequence).
    """

    address: str
    heads: int
    kind: Literal["cross", "joint"] = "cross"


@dataclass(frozen=True)
class HeadMap:
    """All heads that read text (the paper's head positions), index ↔ (layer, head)."""

    layers: tuple[Layer, ...]

    @classmethod
    def of(cls, model: Any) -> "HeadMap":
        """The head map of a pipeline or of a denoiser; the meta device is enough, as no weight is read."""
        denoiser = denoiser_of(model)
        family = family_of(denoiser)
        layers = [
            Layer(name, heads_in(module) or 0, kind)
            for name, module in denoiser.named_modules()
            if (kind := family.kind_of(name, module)) is not None
        ]
        if not layers:
            raise ModelNotLoaded(
                f"{type(denoiser).__name__} has no attention layer known to read text, so there is no "
                f"head to hook. Expected the denoiser of a model such as {named_families()}."
            )
        # sorted() keeps ties in order
        return cls(tuple(sorted(layers, key=lambda layer: _place(layer.address))))

    @property
    def all_heads(self) -> int:
        """The number of heads, the paper's H."""
        return sum(layer.heads for layer in self.layers)

    @property
    def slices(self) -> tuple[tuple[int, int], ...]:
        """(start, stop) of each layer's heads."""
        stops = [sum(layer.heads for layer in self.layers[: i + 1]) for i in range(len(self.layers))]
        return tuple((stop - layer.heads, stop) for layer, stop in zip(self.layers, stops, strict=True))

    def __len__(self) -> int:
        return len(self.layers)

    def __iter__(self) -> Iterator[Layer]:
        return iter(self.layers)

    def index(self, address: str, head: int) -> int:
        """The index of one head of the layer at `address`."""
        for layer, (start, _) in zip(self.layers, self.slices, strict=True):
            if layer.address == address:
                if not 0 <= head < layer.heads:
                    raise HeadMapMismatch(
                        f"{address} has heads 0 to {layer.heads - 1}; {head} was asked for."
                    )
                return start + head
        raise HeadMapMismatch(
            f"{address!r} is not a layer of this head map. Its first is {self.layers[0].address!r}."
        )

    def head(self, address: str) -> int:
        """The index of the head at an address, the inverse of `address`.

        Raises:
            HeadMapMismatch: No head of this map has the address.
        """
        layer, _, number = address.removesuffix("]").rpartition("[")
        layers = [each.address for each in self.layers]
        if layer in layers and number.isdecimal():
            return self.index(layer, int(number))
        if address in layers:
            raise HeadMapMismatch(f"{address!r} is a layer. Name one of its heads, as in '{address}[0]'.")
        every = [f"{each.address}[{head}]" for each in self.layers for head in range(each.heads)]
        near = get_close_matches(address, every, n=1) or every[:1]
        raise HeadMapMismatch(f"{address!r} is not the address of a head. Did you mean {near[0]!r}?")

    def address(self, index: int) -> str:
        """The address of a head, such as `down_blocks.0.attentions.0.transformer_blocks.0.attn2[3]`."""
        for layer, (start, stop) in zip(self.layers, self.slices, strict=True):
            if start <= index < stop:
                return f"{layer.address}[{index - start}]"
        raise HeadMapMismatch(
            f"There are {self.all_heads} heads, 0 to {self.all_heads - 1}; {index} was asked for."
        )

    def require(self, other: "HeadMap", name: str, other_name: str) -> None:
        """Raise HeadMapMismatch, naming the owners of both, unless the two maps are equal."""
        if self != other:
            raise HeadMapMismatch(
                f"{name} has {self}, {other_name} has {other}: these are different heads. "
                "Use results that were measured on the same model architecture."
            )

    def to_json(self) -> str:
        """As a JSON string."""
        return json.dumps([asdict(layer) for layer in self.layers])

    @classmethod
    def from_json(cls, text: str) -> "HeadMap":
        """The inverse of `to_json`."""
        return cls(tuple(Layer(**layer) for layer in json.loads(text)))

    def __str__(self) -> str:
        ends = f"{self.layers[0].address} … {self.layers[-1].address}"
        return f"{self.all_heads} heads in {len(self)} layers ({ends})"


def denoiser_of(model: Any) -> Any:
    """`pipe.unet`, `pipe.transformer`, or the denoiser itself, without any `torch.compile` wrapping."""
    denoiser = wrapped_denoiser_of(model)
    return getattr(denoiser, "_orig_mod", denoiser)


def wrapped_denoiser_of(model: Any) -> Any:
    """The denoiser as the pipeline calls it, with any `torch.compile` wrapping."""
    if any(cls.__name__ == "ModularPipeline" for cls in type(model).__mro__):
        raise ModelNotLoaded(
            f"{type(model).__name__} is a modular pipeline, whose steps are not known in advance. "
            "Load the model as a pipeline of its family, such as StableDiffusionXLPipeline."
        )
    for denoiser in (getattr(model, "unet", None), getattr(model, "transformer", None), model):
        if hasattr(denoiser, "named_modules"):
            return denoiser
    raise ModelNotLoaded(
        f"{type(model).__name__} holds neither a `unet` nor a `transformer`. "
        "Expected a text-to-image pipeline."
    )


def _place(address: str) -> int:
    place = address.split(".")[0]
    return _PLACES.index(place) if place in _PLACES else len(_PLACES)


def self_attention_beside(address: str) -> str:
    """The address of the self-attention beside a layer that reads text.

    Blocks of diffusers have self-attention in `attn1` and text in `attn2`, or both in `attn`. Some blocks of
    Stable Diffusion 3.5 have a second self-attention, in `attn2` beside `attn`.
    """
    return address[:-1] + "1" if address.endswith("attn2") else address + "2"
