"""The published arrays become relevance; what is not one of them is refused."""

from pathlib import Path

import numpy as np
import pytest

from headwise.errors import UnreadableFile
from headwise.measuring.official import MODELS, find_official, head_map_of, read_official
from helpers import STEM

REFERENCE = Path(__file__).parents[2] / "shared/reference"


def test_head_maps_of_the_published_models():
    assert {tag: head_map_of(tag).all_heads for tag in MODELS} == {"sd_v1_4": 128, "sd_xl_base_1_0": 1300}


@pytest.mark.skipif(not REFERENCE.is_dir(), reason="the published arrays are not at hand")
def test_the_published_arrays():
    found = find_official(REFERENCE)
    assert set(found) == set(MODELS)
    for tag, path in found.items():
        relevance = read_official(path, tag)
        assert np.array_equal(relevance.values, np.load(path).astype(float))
        assert relevance.settings["model"] == MODELS[tag] and relevance.concepts[17] == "Color"
        assert relevance.top("Color", 1)[0].address.endswith("]")


def test_arrays_are_found_below_and_bad_ones_refused(tmp_path):
    (tmp_path / "a/b").mkdir(parents=True)
    file = tmp_path / "a/b" / f"{STEM}_sd_v1_4.npy"
    np.save(file, np.ones((34, 128), np.float32))
    assert find_official(tmp_path) == {"sd_v1_4": file}
    assert read_official(file, "sd_v1_4").values.sum() == 34 * 128
    np.save(file, np.ones((34, 100), np.float32))
    with pytest.raises(UnreadableFile, match=r"\(34, 100\); expected \(34, 128\)"):
        read_official(file, "sd_v1_4")
    file.write_bytes(b"nothing")
    with pytest.raises(UnreadableFile, match="cannot be read as an array"):
        read_official(file, "sd_v1_4")
    with pytest.raises(UnreadableFile, match="none of the published arrays.*Give a clone"):
        find_official(tmp_path / "a/b/c")


def test_a_pickle_is_never_loaded(tmp_path):
    file = tmp_path / f"{STEM}_sd_v1_4.npy"
    np.save(file, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(UnreadableFile, match="cannot be read"):
        read_official(file, "sd_v1_4")
