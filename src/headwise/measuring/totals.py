r"""Sums of very many arrays of small integers, exact and quick.

Adding a byte to a 64-bit number moves nine times the memory that the byte needs. So arrays are added to one
of twice their own width, as many as cannot overflow it (257 of bytes: 257 · 255 = 2¹⁶ − 1), and only that is
added to the 64-bit sum.
"""

from typing import Any

import numpy as np

__all__ = ["Total"]

Type = np.dtype[Any]
WIDER: dict[Type, Type] = {np.dtype(a): np.dtype(b) for a, b in (("u1", "u2"), ("u2", "u4"))}


class Total:
    """A sum of integer arrays, in 64 bits.

    Args:
        shape: Of the sum; an array with more rows makes it longer.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.sum = np.zeros(shape, np.int64)
        self.narrow: dict[Type, np.ndarray] = {}  # of the arrays of each type
        self.room: dict[Type, int] = {}  # how many more it takes

    def add(self, array: np.ndarray) -> None:
        """One more."""
        if array.dtype not in WIDER:
            self._carry(array)
            return
        if not self.room.get(array.dtype) or len(self.narrow[array.dtype]) < len(array):
            self._begin(array)
        self.narrow[array.dtype][: len(array)] += array
        self.room[array.dtype] -= 1

    def taken(self) -> np.ndarray:
        """The sum so far."""
        for narrow in self.narrow.values():
            self._carry(narrow)
        self.narrow, self.room = {}, {}
        return self.sum

    def _begin(self, array: np.ndarray) -> None:
        kind, wider = array.dtype, WIDER[array.dtype]
        if kind in self.narrow:
            self._carry(self.narrow[kind])
        self.narrow[kind] = np.zeros((max(len(self.sum), len(array)), *array.shape[1:]), wider)
        self.room[kind] = (2 ** (8 * wider.itemsize) - 1) // (2 ** (8 * kind.itemsize) - 1)

    def _carry(self, array: np.ndarray) -> None:
        more = max(0, len(array) - len(self.sum))
        if more:
            self.sum = np.concatenate([self.sum, np.zeros((more, *self.sum.shape[1:]), np.int64)])
        self.sum[: len(array)] += array.astype(np.int64)
