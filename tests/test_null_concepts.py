"""The control: where names mean nothing, nothing is found."""

import numpy as np

from headwise.measuring.concepts import ConceptSet, choice
from headwise.measuring.measure import measure
from headwise.measuring.null_concepts import null_concepts

CONCEPTS = ConceptSet({"Animals": ["dog", "cat"], "Color": ["red", "Orange"], "Fruits": ["orange", "vase"]})


def test_the_null_control_gives_every_concept_all_words_once():
    control = null_concepts(CONCEPTS)
    assert control.names == CONCEPTS.names
    assert {control.words(name) for name in control.names} == {("dog", "cat", "red", "orange", "vase")}


def test_the_control_of_concepts_beside_a_background_has_both():
    beside = ConceptSet({"Color": ["red"]}).beside(CONCEPTS)
    control = null_concepts(beside)
    assert (
        control.names == beside.names
        and control.foreground == ("Color",)
        and control.settings == beside.settings
    )
    assert choice(null_concepts(CONCEPTS), "auto", None) == null_concepts(CONCEPTS)  # none stands beside it


def test_the_control_finds_nothing_where_the_measurement_finds_something(sd):
    options = {"beside": None, "pictures": 64, "num_inference_steps": 3, "batch_size": 16, "progress": False}
    measured, control = (measure(sd, concepts, **options) for concepts in (CONCEPTS, null_concepts(CONCEPTS)))
    assert np.median(measured.split_half) > 0.8
    assert abs(np.median(control.split_half)) < 0.4
    noise = 4 * control.standard_errors.max()
    assert np.abs(control.values - 1).max() < noise < np.abs(measured.values - 1).max()
