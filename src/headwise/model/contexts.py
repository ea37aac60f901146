"""The contexts that are open on one denoiser, which may overlap and be left in any order.

Each context replaces what the one before it has put in place, so they are removed in reverse order: a
context that is left while a later one is in place stays there, passes everything on, and is removed with the
later one.
"""

import threading
from typing import Any, Protocol, runtime_checkable
from weakref import WeakKeyDictionary

from torch import nn

from headwise.errors import HookMisuse
from headwise.model.replacing import Undo
from headwise.model.sites import AttentionHook

__all__ = ["Context", "Contexts"]


@runtime_checkable
class Context(Protocol):
    """What contexts know about each other.

    Attributes:
        passed: The hooks, as the user passed them.
        left: Whether the context has been left, so that it passes everything on.
        undo: How to remove what it has put in place, in the order in which it did so.
    """

    passed: tuple[AttentionHook, ...]
    left: bool
    undo: list[Undo]


class Contexts:
    """The state shared by all contexts that are open on one denoiser.

    Attributes:
        in_side_pass: The context whose hook runs the denoiser beside its calls; the others are inactive then.
        beginning: The context that only begins a pipeline call, to see its first denoiser call.
    """

    _of_denoisers: "WeakKeyDictionary[nn.Module, Contexts]" = WeakKeyDictionary()
    _lock = threading.RLock()  # contexts are put in place and removed one at a time

    def __init__(self) -> None:
        self.in_side_pass: Any = None
        self.beginning: Any = None
        self._in_place: list[tuple[Context, int]] = []  # with their threads; the last is on top

    @classmethod
    def of(cls, denoiser: nn.Module) -> "Contexts":
        """The contexts of this denoiser."""
        return cls._of_denoisers.setdefault(denoiser, cls())

    def enter(self, context: Context) -> None:
        """Let a context put its hooks in place, above the others.

        Raises:
            HookMisuse: A hook is already in use, or another thread has a context open.
        """
        thread = threading.get_ident()
        with self._lock:
            open_ones = [(other, its) for other, its in self._in_place if not other.left]
            in_use = [hook for other, _ in open_ones for hook in other.passed]
            for i, hook in enumerate(context.passed):
                if any(hook is other for other in (*in_use, *context.passed[:i])):
                    raise HookMisuse(
                        f"{hook!r} is already hooked into this pipeline. Leave the first context before "
                        "entering again, or make a second hook."
                    )
            if any(its != thread for _, its in open_ones):
                raise HookMisuse(
                    "Another thread has hooked this pipeline. Enter `hooked` and call it under one lock, or "
                    "give each thread a pipeline with a denoiser of its own."
                )
            self._in_place.append((context, thread))

    def leave(self, context: Context) -> list[str]:
        """Remove what a context has put in place, once no open context is above it.

        Returns:
            The addresses of layers whose forward other code replaced in the meantime.
        """
        with self._lock:
            context.left = True
            overwritten: list[str | None] = []
            while self._in_place and self._in_place[-1][0].left:
                overwritten += [undo() for undo in reversed(self._in_place.pop()[0].undo)]
            return [address for address in overwritten if address is not None]
