"""Shared code of benchmarks that compare methods: choosing methods and prompts, and keeping images."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from headwise.benchmarks.sweep import Call, KeptImage
from headwise.errors import HeadwiseError, HookMisuse, Unsupported
from headwise.measuring.relevance import Relevance
from headwise.runs.image_names import ImageName

__all__ = [
    "Comparison",
    "given_options",
    "keep_methods",
    "known_methods",
    "spread_evenly",
    "supported_methods",
]


@dataclass(frozen=True)
class Comparison:
    """What is compared, on which prompts; with a pipeline, a benchmark turns it into a sweep.

    Args:
        relevance: The measured relevance, with its head map.
        prompts: The prompts, or pairs of prompts, with the texts that their images are scored by.
        methods: The names of the methods that are compared.
        seeds: Each prompt is generated once from each seed.
        batch_size: The batch size of the sweep.
        keep_prompts: The number of prompts whose images are saved.
        passed: Options of the pipeline call.
        by_name: Whether the user named the methods.
    """

    relevance: Relevance
    prompts: tuple[Any, ...]
    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    batch_size: int
    keep_prompts: int
    passed: dict[str, Any]
    by_name: bool = True

    def of(self, call: Call) -> list[Any]:
        """The prompt of each image of a call."""
        return [self.prompts[n] for n in call.numbers]


def given_options(**options: Any) -> dict[str, Any]:
    """Options of the pipeline call, without those that are None, which are left to the pipeline.

    Args:
        options: By the names that the pipeline gives them, such as `height` and `width`.
    """
    return {name: value for name, value in options.items() if value is not None}


def known_methods(
    methods: Sequence[str] | None,
    known: Iterable[str],
    prompts: Sequence[Any],
    prompt: str,
    lacking: Mapping[str, str] = MappingProxyType({}),
) -> tuple[str, ...]:
    """The methods to compare.

    Args:
        methods: Their names; None for all known methods that lack nothing.
        known: The names of all methods.
        prompts: The prompts they are compared on.
        prompt: What the error calls one of the prompts.
        lacking: By method, the argument that it needs but that was not given.

    Raises:
        HeadwiseError: One of the methods is unknown or lacks an argument, or no prompt was given.
    """
    known = tuple(known)
    unknown = [method for method in methods or () if method not in known]
    if unknown:
        raise HeadwiseError(f"{unknown[0]!r} is not a method. The methods are: {', '.join(known)}.")
    if not prompts:
        raise HeadwiseError(f"No {prompt} was given. Give one or more.")
    if methods is None:
        return tuple(method for method in known if method not in lacking)
    for method in methods:
        if method in lacking:
            raise HeadwiseError(f"The method {method!r} needs `{lacking[method]}`, which was not given.")
    return tuple(methods)


def supported_methods(
    methods: Sequence[str], require: Callable[[str], None], by_name: bool
) -> tuple[str, ...]:
    """The methods that work on a pipeline.

    Args:
        methods: The names of the methods.
        require: Raises an error if the method of a name does not work on the pipeline.
        by_name: Whether the user named the methods; if not, those that do not work are left out with a
            warning.

    Raises:
        Unsupported, HookMisuse: A method that the user named does not work on the pipeline.
    """
    working = []
    for method in methods:
        try:
            require(method)
        except (Unsupported, HookMisuse) as error:
            if by_name:
                raise
            warnings.warn(f"{method} is left out: {error}", stacklevel=2)
        else:
            working.append(method)
    return tuple(working)


def spread_evenly(count: int, of: int) -> range:
    """About `count` of the numbers below `of`, evenly spaced from 0; none if `count` is 0."""
    return range(0, of if count else 0, max(1, -(-of // count) if count else 1))


def keep_methods(
    prompts: Sequence[str], kept: Iterable[int]
) -> Callable[[Call, Sequence[Any]], Iterator[KeptImage]]:
    """A function that keeps the images of every method for some prompts, of the first seed.

    Args:
        prompts: The prompts, by number.
        kept: The numbers of the prompts whose images are saved.
    """
    chosen = frozenset(kept)

    def keep(call: Call, images: Sequence[Any]) -> Iterator[KeptImage]:
        rows = zip(call.numbers, call.labels("method"), call.index("seed"), images, strict=True)
        for number, method, seed, image in rows:
            if seed == 0 and number in chosen:
                yield KeptImage(ImageName(number, method), image, prompts[number])

    return keep
