"""What checks shapes and types in a test run: beartype, asked once for each function that is written down.

A function within a function is made anew whenever the outer one is called, some at every attention layer of
every step. What beartype writes for it depends on its name and annotations alone, and is kept.
"""

from collections.abc import Callable
from typing import Any

from beartype import beartype

KEPT: dict[Any, Callable[..., Any]] = {}


def once(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, checked. What jaxtyping gives here has a signature and no work of its own."""
    if "<locals>" not in function.__qualname__:
        return beartype(function)
    names = function.__code__.co_varnames
    key = (function.__module__, function.__qualname__, names, tuple(function.__annotations__.items()))
    try:
        return KEPT[key]
    except KeyError:
        return KEPT.setdefault(key, beartype(function))
    except TypeError:  # an annotation that cannot be a key
        return beartype(function)
