"""Shards hold every number once; ranges add up like sets; launchers are understood."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwise.errors import HeadwiseError
from headwise.runs.shards import Shard, format_ranges, merge_ranges, ranges_of, shard_of, subrange, subtract

numbers = st.sets(st.integers(0, 40))


@given(st.integers(1, 300), st.integers(1, 40))
def test_shards_hold_every_number_once(count, n):
    parts = [Shard(i, n).of(count) for i in range(n)]
    assert [number for part in parts for number in part] == list(range(count))
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= 1


@given(numbers, numbers)
def test_ranges_are_sets(a, b):
    both = merge_ranges([*ranges_of(a), *ranges_of(b)])
    assert both.ranges == ranges_of(a | b)
    assert both.overlap == min(a & b, default=None)
    assert sorted(n for part in subtract(range(5, 35), ranges_of(a)) for n in part) == sorted(
        set(range(5, 35)) - a
    )


@pytest.mark.parametrize("text", ["8/8", "-1/8", "1", "1/", "/2", "a/b", "1/2/3", "0/0", "1.0/2", ""])
def test_what_is_no_shard(text):
    with pytest.raises(HeadwiseError, match="expected number/count, counted from 0, such as 0/8"):
        shard_of(text)


@pytest.mark.parametrize(
    ("environment", "shard"),
    [
        ({"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "3"}, Shard(3, 8)),
        (
            {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "8", "SLURM_ARRAY_TASK_MIN": "0"},
            Shard(3, 8),
        ),
        (
            {"SLURM_ARRAY_TASK_ID": "1", "SLURM_ARRAY_TASK_COUNT": "8", "SLURM_ARRAY_TASK_MIN": "1"},
            Shard(0, 8),
        ),
        (
            {
                "SLURM_ARRAY_TASK_ID": "14",
                "SLURM_ARRAY_TASK_COUNT": "8",
                "SLURM_ARRAY_TASK_MIN": "0",
                "SLURM_ARRAY_TASK_STEP": "2",
            },
            Shard(7, 8),
        ),
        ({"SLURM_PROCID": "5", "SLURM_NTASKS": "6"}, Shard(5, 6)),
        ({"RANK": "0", "WORLD_SIZE": "2", "SLURM_PROCID": "5", "SLURM_NTASKS": "6"}, Shard(0, 2)),
    ],
)
def test_launchers_say_which_shard_this_is(environment, shard):
    assert shard_of("auto", environment) == shard
    assert shard_of(str(shard)) == shard


@pytest.mark.parametrize(
    ("task", "tasks", "least", "most"), [("3", "1", "3", "3"), ("7", "2", "3", "7"), ("0", "2", "0", "5")]
)
def test_a_part_of_an_array_does_not_know_the_whole(task, tasks, least, most):
    names = ("ID", "COUNT", "MIN", "MAX")
    environment = {
        f"SLURM_ARRAY_TASK_{name}": said for name, said in zip(names, (task, tasks, least, most), strict=True)
    }
    with pytest.raises(
        HeadwiseError, match=rf"in task {task} of a job array of {tasks} .* Give --shard \$SLURM"
    ):
        shard_of("auto", environment | {"SLURM_PROCID": "0", "SLURM_NTASKS": "1"})


@pytest.mark.parametrize("environment", [{}, {"RANK": "0"}, {"RANK": "x", "WORLD_SIZE": "2"}])
def test_where_no_launcher_says_it(environment):
    with pytest.raises(HeadwiseError, match=r"no launcher set the variables: expected RANK and WORLD"):
        shard_of("auto", environment)


def test_ranges_in_words():
    assert format_ranges([range(3, 4)]) == "3"
    assert format_ranges([range(3, 4), range(64, 96)]) == "3 and 64 to 95"
    assert format_ranges([range(i, i + 1) for i in range(0, 20, 2)], 3) == "0, 2, 4 and 7 more ranges"


def test_numbers_are_among_those_there_are():
    assert (
        subrange(None, 5) == range(5)
        and subrange(range(2, 4), 5) == range(2, 4)
        and not subrange(range(3, 3), 5)
    )
    for wrong in (range(2, 6), range(-1, 2), range(0, 4, 2)):
        with pytest.raises(HeadwiseError, match=r"expected consecutive numbers within range\(0, 5\)"):
            subrange(wrong, 5)
