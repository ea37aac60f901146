"""The contexts that are open on one denoiser, which may overlap and be left in any order.

Each context replaces what the one before it has put in place, so they are taken out last first: a context
that is left while a later one is in place stays where it is, passes everything on, and goes with that one.
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
    """What contexts know of each other.

    Attributes:
        passed: The hooks, as the user passed them.
        left: Whether the context has been left, so that it passes everything on.
        undo: How to take out what it has put in place, in the order in which it was put there.
    """

    passed: tuple[AttentionHook, ...]
    left: bool
    undo: list[Undo]


class Contexts:
    """What all contexts that are open on one denoiser have in common.

    Attributes:
        in_side_pass: The context whose hook has the denoiser run beside its calls; others stand aside.
        beginning: The context that only begins a pipeline call, to learn the first denoiser call.
    """

    _of_denoisers: "WeakKeyDictionary[nn.Module, Contexts]" = WeakKeyDictionary()
    _lock = threading.RLock()  # contexts are put in place and taken out one at a time

    def __init__(self) -> None:
        self.in_side_pass: Any = None
        self.beginning: Any = None
        self._in_place: list[tuple[Context, int]] = []  # with their threads, the last on top

    @classmethod
    def of(cls, denoiser: nn.Module) -> "Contexts":
        """Those of this denoiser."""
        return cls._of_denoisers.setdefault(denoiser, cls())

    def enter(self, context: Context) -> None:
        """Let a context put its hooks in place, above the others.

        Raises:
            HookMisuse: A hook is in use already, or another thread has a context open.
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
        """Take out what a context has put in place, as soon as none that is open lies above it.

        Returns:
            The addresses whose forward something else had replaced meanwhile.
        """
        with self._lock:
            context.left = True
            overwritten: list[str | None] = []
            while self._in_place and self._in_place[-1][0].left:
                overwritten += [undo() for undo in reversed(self._in_place.pop()[0].undo)]
            return [address for address in overwritten if address is not None]
