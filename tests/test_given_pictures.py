"""Pairs to edit with given pictures: their files, and the drawings that come with the package."""

import numpy as np
import pytest
from PIL import Image

from given_helpers import mapping_file, write_drawings
from headwise.benchmarks.prompts.given_pictures import given_pairs
from headwise.errors import UnreadablePrompts


@pytest.fixture
def drawings(tmp_path):
    return write_drawings(tmp_path)


def test_pairs_are_read_with_their_pictures(drawings):
    color, animal = given_pairs(drawings)
    assert color.picture == drawings.parent / "a.png" and color.truth == drawings.parent / "truth.png"
    assert animal.texts == ("a red cat", "a red dog") and animal.region == ()
    assert color.mask((16, 16)).any(1).tolist() == [True] * 8 + [False] * 8
    assert given_pairs(drawings, 1) == [color, animal], "one of each attribute"


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("attribute =", "attributes =", "number 0 of \\[\\[pictures\\]\\] lacks or misspells 'attribute'"),
        ('word = "orange"', 'word = "blue"', '"blue" is not a word of "a orange dog" that "a red dog" lacks'),
        ('word = "orange"', 'word = "dog"', '"dog" is not a word of'),
        ('texts = ["a orange dog", ', "texts = [", "the first of the texts"),
        ("[[pictures]]", "[[images]]", "it has no \\[\\[pictures\\]\\]"),
    ],
)
def test_a_file_with_a_fault_is_refused(drawings, before, after, said):
    drawings.write_text(drawings.read_text().replace(before, after))
    with pytest.raises(UnreadablePrompts, match=said):
        given_pairs(drawings)


def test_a_mask_that_says_nothing_is_refused(drawings):
    Image.new("L", (16, 16)).save(drawings.parent / "mask.png")
    with pytest.raises(UnreadablePrompts, match="entirely black .* white where the image may change"):
        given_pairs(drawings)[0].mask((16, 16))


def test_the_drawings_of_the_package_keep_in_truth_what_the_mask_says():
    pairs = given_pairs("emoji")
    counts = {pair.attribute: 0 for pair in pairs}
    for pair in pairs:
        counts[pair.attribute] += 1
        source, truth = (np.asarray(Image.open(file).convert("RGB")) for file in (pair.picture, pair.truth))
        changed, mask = (source != truth).any(-1), pair.mask((64, 64))
        assert changed.mean() > 0.03, pair
        if pair.attribute in ("Color", "Material", "Geometric Patterns"):
            assert 0.1 < mask.mean() < 0.7 and not (changed & ~mask).any(), pair
        assert mask.any() == (pair.attribute != "Image Style")
    assert set(counts.values()) == {12} and len(counts) == 5


def test_pie_bench_is_read_too(tmp_path):
    [pair] = given_pairs(mapping_file(tmp_path))
    assert (pair.attribute, pair.concept, pair.word) == ("change color", "Color", "orange")
