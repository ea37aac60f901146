"""Work for Ray that needs no model, so that its workers start in a second or two."""

import os
import signal
from contextlib import nullcontext
from functools import partial

import numpy as np

from headwise.benchmarks.sweep import Sweep, run_sweep

SQUARES = np.arange(40.0) ** 2


def first(mark):
    """Whether nobody has made this file before; who asks makes it."""
    try:
        mark.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def squares(folder, pipe):
    """A sweep of numbers. A file `deadly 20 *` kills the worker of number 20, as often as there are such."""

    def generate(call):
        for mark in folder.glob(f"deadly {call.numbers[0]} *"):
            if first(folder / f"death of {mark.name}"):
                os.kill(os.getpid(), signal.SIGKILL)
        return call.numbers

    sweep = {"axes": {"number": range(len(SQUARES))}, "settings": {}, "loops": ("number",), "batch_size": 4}
    return Sweep(**sweep, generate=generate, score=lambda call, numbers: np.square(numbers))


def count(workers, folder, out):
    """Square the numbers, four at a time."""
    options = {"together": 4, "checkpoint_every": 0, "progress": False}
    return run_sweep(workers, partial(squares, folder), out=out, **options).values


def nothing():
    """In place of a pipeline."""
    return nullcontext()
