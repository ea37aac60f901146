"""Narrow sums are the same integers."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from headwise.measuring.totals import Total

TYPES = (np.uint8, np.uint16, np.uint32, np.int64, np.int32)


@given(st.lists(st.tuples(st.sampled_from(TYPES), st.integers(0, 4)), max_size=12))
def test_mixed_types_and_lengths(kinds):
    generator = np.random.default_rng(len(kinds))
    total, expected = Total((2, 3)), np.zeros((4, 3), object)
    for kind, rows in kinds:
        array = generator.integers(0, min(np.iinfo(kind).max, 2**40), (rows, 3)).astype(kind)
        total.add(array)
        expected[:rows] += array
    found = total.taken()
    assert (
        found.dtype == np.int64
        and (found == expected[: len(found)]).all()
        and not expected[len(found) :].any()
    )


def test_nothing_overflows():
    total = Total((1, 2))
    for _ in range(1000):
        total.add(np.full((1, 2), 255, np.uint8))
    for _ in range(70000):
        total.add(np.full((1, 2), 65535, np.uint16))
    assert total.taken().tolist() == [[1000 * 255 + 70000 * 65535] * 2]
    total.add(np.full((1, 2), 1, np.uint8))
    assert total.taken().tolist() == [[1000 * 255 + 70000 * 65535 + 1] * 2]
