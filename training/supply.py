"""Batches made ahead by other processes, or here: the same batches in both cases, since a batch is a function of its number.

supply = Supply(make, sprites, workers=15)
batch = supply(7)        make(painter, 7), begun when batch 7 - AHEAD was asked for
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path
from typing import Any

import sprites
from drawing import Painter

__all__ = ["Supply"]

AHEAD = 4  # batches in the making, for each worker
_painter: Painter | None = None


def _begin(file: Path) -> None:
    global _painter
    _painter = Painter(sprites.load(file))


def _made(make: Callable[[Painter, int], Any], number: int) -> Any:
    return make(_painter, number)


class Supply:
    """Calls `make(painter, number)`, which must be a function that other processes can import."""

    def __init__(self, make: Callable[[Painter, int], Any], file: Path, workers: int = 0) -> None:
        self.make, self.ahead = make, AHEAD * workers
        self.waiting: dict[int, Future] = {}
        if workers:
            context = multiprocessing.get_context("spawn")
            self.pool = ProcessPoolExecutor(workers, context, initializer=_begin, initargs=(file,))
        else:
            self.painter = Painter(sprites.load(file))

    def __call__(self, number: int) -> Any:
        """The batch of this number; batches are asked for in order."""
        if not self.ahead:
            return self.make(self.painter, number)
        for later in range(number, number + self.ahead):
            if later not in self.waiting:
                self.waiting[later] = self.pool.submit(_made, self.make, later)
        return self.waiting.pop(number).result()
