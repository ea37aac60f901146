"""Agreement: 1 with oneself, 0 with chance, never more than the two measurements' own reliability allows."""

from dataclasses import replace

import numpy as np
import pytest

from headwise.errors import HeadMapMismatch, HeadwiseError
from headwise.measuring.agreement import agreement, differences
from headwise.measuring.relevance import Relevance
from headwise.model.heads import HeadMap, Layer

MAP = HeadMap((Layer("a.attn2", 64), Layer("b.attn2", 64)))


def measured(votes, names=("Color", "Animals"), head_map=MAP):
    return Relevance.from_votes(votes, names, head_map)


def votes(seed):
    return np.random.default_rng(seed).integers(1, 1000, (2, 128))


def test_with_itself_and_with_another():
    one = measured(votes(0))
    assert all(a.correlation == pytest.approx(1) and a.shared == 10 for a in agreement(one, one).values())
    assert all(abs(a.correlation) < 0.3 for a in agreement(one, measured(votes(1))).values())


def test_the_ceiling_is_what_both_allow():
    one = replace(measured(votes(0)), split_half=np.array([0.5, 1.0]))
    other = replace(one, split_half=np.array([0.5, np.nan]))
    found = agreement(one, other)
    assert found["Color"].ceiling == pytest.approx(2 / 3) and found["Animals"].ceiling == 1


def test_it_says_in_what_the_concepts_differ(tmp_path):
    one, other = measured(votes(0)), measured(votes(1), ("Color", "Food"))
    words = (
        [["Color", ["red", "blue"]], ["Animals", ["dog"]]],
        [["Color", ["Blue", "green"]], ["Food", ["pie"]]],
    )
    one = replace(
        one, settings={"concepts": words[0], "foreground": ["Color"], "beside": "1 concept of emoji"}
    )
    other = replace(other, settings={"concepts": words[1]})
    assert differences(one, other) == [
        "Heads could choose Animals only in the first.",
        "Heads could choose Food only in the second.",
        "Color has 2 words in the first and 2 in the second, 1 of them in common.",
        "The background concepts of the first measurement are 1 concept of emoji, those of the second none.",
    ]
    assert differences(one, one) == [] and differences(one, replace(one, settings={})) == [
        "The background concepts of the first measurement are 1 concept of emoji, those of the second none."
    ]
    one.save(tmp_path / "relevance.safetensors")
    assert agreement(tmp_path, one)["Color"].correlation == pytest.approx(1)


def test_measurements_of_different_kinds_are_not_compared_in_what_one_of_them_lacks():
    one = replace(measured(votes(0)), settings={"beside": "1 concept of emoji"})
    by_effect = {"by": "effect", "against": "nothing", "window": [0.0, 1.0]}
    other = replace(measured(votes(1), ("Color", "Food")), settings=by_effect)
    assert differences(one, other) == [
        "The first was measured by votes, what heads attend to; the second by effect, what heads do with the "
        "words."
    ]
    early = replace(other, settings=by_effect | {"window": [0.0, 0.3]})
    assert differences(other, early) == [
        "The first was measured with window [0.0, 1.0], the second with window [0.0, 0.3]."
    ]
    assert differences(other, other) == []


def test_only_common_concepts_of_common_heads():
    one, other = measured(votes(0)), measured(votes(1), ("Color", "Food"))
    with pytest.warns(UserWarning, match=r"^Heads could choose (Animals|Food) only in the (first|second)\.$"):
        assert list(agreement(one, other)) == ["Color"]
    with pytest.raises(HeadwiseError, match="no concept in common"):
        agreement(one, measured(votes(1), ("A", "B")))
    with pytest.raises(HeadMapMismatch, match="The first has 128 heads"):
        agreement(one, measured(votes(1), head_map=HeadMap((Layer("c.attn2", 128),))))
