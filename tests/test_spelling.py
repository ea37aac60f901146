"""Steering in one line: what is meant is found, what is not says how to write it."""

import numpy as np
import pytest

from headwise.errors import BadStrength, HeadwiseError, UnknownConcept
from headwise.measuring.relevance import Relevance
from headwise.model.heads import HeadMap, Layer
from headwise.steering.spelling import parse_steering
from headwise.steering.steer import adjust, strengthen

NAMES = ("Color", "Plants", "Geo-locations", "Image Style", "Fruits and Vegetables")
RELEVANCE = Relevance.from_votes(
    np.random.default_rng(0).integers(1, 9, (5, 4)), NAMES, HeadMap((Layer("a", 4),))
)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("red:Color", strengthen(RELEVANCE, "red", "Color")),
        ("red:color*1.5", strengthen(RELEVANCE, "red", "Color", 1.5)),
        ("red#2:Color * -1", strengthen(RELEVANCE, "red", "Color", -1, occurrence=2)),
        ("cubist painting:Image Style", strengthen(RELEVANCE, "cubist painting", "Image Style")),
        ("lavender:Color-Plants", adjust(RELEVANCE, "lavender", "Color", "Plants")),
        (
            "orange:Color - Fruits and Vegetables*2",
            adjust(RELEVANCE, "orange", "Color", "Fruits and Vegetables", 2),
        ),
        ("Paris:Geo-locations", strengthen(RELEVANCE, "Paris", "Geo-locations")),
        ("Paris:Geo-locations-Image Style", adjust(RELEVANCE, "Paris", "Geo-locations", "Image Style")),
        ("3:1:Color", strengthen(RELEVANCE, "3:1", "Color")),
    ],
)
def test_what_is_meant(text, meant):
    found = parse_steering(text, RELEVANCE)
    assert np.array_equal(found.factors, meant.factors)
    assert (found.word, found.occurrence) == (meant.word, meant.occurrence)


def test_times_multiplies_the_strength():
    assert np.array_equal(parse_steering("red:Color*2", RELEVANCE, 0).factors, np.ones((1, 4)))
    twice = parse_steering("red:Color", RELEVANCE, 2).factors
    assert np.array_equal(twice, strengthen(RELEVANCE, "red", "Color", 2).factors)


@pytest.mark.parametrize(
    ("text", "error", "said"),
    [
        ("red", HeadwiseError, "'red' is not a steering. Write WORD:CONCEPT"),
        (":Color", HeadwiseError, "is not a steering"),
        (
            "red:Colour",
            UnknownConcept,
            "'Colour' in 'Colour' is not a concept that was measured. Did you mean 'Color'?",
        ),
        ("red:Color-Planets", UnknownConcept, "Did you mean 'Plants'?"),
        ("red:Color*much", BadStrength, "'much' in 'red:Color\\*much' is not a number"),
        ("red:Color*nan", BadStrength, "A strength of nan was given"),
        ("red:Color*1e9", BadStrength, "expected a number from -100 to 100"),
    ],
)
def test_what_is_not(text, error, said):
    with pytest.raises(error, match=said):
        parse_steering(text, RELEVANCE)
