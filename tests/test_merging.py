"""Shards add up to what one process counted, or one sentence says why not."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headwise.errors import (
    PictureCountedTwice,
    PicturesMissing,
    RunMismatch,
    UnreadableFile,
    UnwritableFolder,
    VotesMismatch,
)
from headwise.measuring import shard_files
from headwise.measuring.concepts import ConceptSet
from headwise.measuring.measure import measure
from headwise.measuring.merge import _add, merge
from headwise.measuring.relevance import Relevance
from headwise.measuring.votes import Votes
from headwise.model.heads import HeadMap, Layer
from headwise.runs.scores import Scores
from headwise.runs.shards import Shard, ranges_of
from helpers import SHORT, counted, votes_of


@pytest.fixture
def shards(tmp_path):
    """Five shards of 23 images, each in the folder of its run."""
    for i in range(5):
        folder = Shard(i, 5).folder(tmp_path)
        folder.mkdir(parents=True)
        counted(Shard(i, 5).of(23)).save(folder / "votes.safetensors")
        (folder / "run.json").write_text(json.dumps({"settings": {}, "stretches": [], "pictures": 23}))
    return tmp_path


def file_of(shards, i):
    return Shard(i, 5).folder(shards) / "votes.safetensors"


@settings(deadline=None, max_examples=30)
@given(st.permutations(range(23)), st.lists(st.integers(0, 23), max_size=6))
def test_any_split_in_any_order_is_the_whole(tmp_path_factory, order, cuts):
    folder = tmp_path_factory.mktemp("split")
    edges = [0, *sorted(cuts), 23]
    for i, (start, stop) in enumerate(zip(edges, edges[1:], strict=False)):
        counted(sorted(order[start:stop])).save(folder / f"{i}.safetensors")
    (merged,) = merge(sorted(folder.glob("*.safetensors"), reverse=True), folder / "out")
    assert (merged.shards, merged.counted, merged.missing) == (len(edges) - 1, 23, ())
    counted(range(23)).save(folder / "whole")
    assert (folder / "whole").read_bytes() == merged.file.read_bytes()


def test_merged_shards_are_the_folder_of_one_process(sd, concepts, tmp_path):
    same = SHORT | {"pictures": 7, "keep_pictures": 2, "beside": concepts}
    concepts = ConceptSet({"Color": ["red", "vase"]})
    measure(sd, concepts, out=tmp_path / "one", **same)
    for i in range(3):
        measure(sd, concepts, numbers=Shard(i, 3).of(7), out=Shard(i, 3).folder(tmp_path / "many"), **same)
    merge([tmp_path / "many"], tmp_path / "many")
    assert votes_of(tmp_path / "one") == votes_of(tmp_path / "many")
    for name in ("relevance.safetensors", "pictures/00000.png", "pictures/00001.png"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "many" / name).read_bytes()
    settings = [json.loads((tmp_path / of / "run.json").read_text())["settings"] for of in ("one", "many")]
    assert settings[0] == settings[1]
    sd.unet.forward = None  # nothing is left to generate
    assert measure(sd, concepts, out=tmp_path / "many", **same) == Relevance.load(
        tmp_path / "one" / "relevance.safetensors"
    )


def test_what_the_shards_were_counted_with_is_kept(shards):
    for i, version in enumerate(["2.6.0", "2.13.0", "2.6.0", "2.6.0", "2.13.0"]):
        said = {
            "settings": {},
            "stretches": [],
            "pictures": 23,
            "versions": {"torch": version, "numpy": "2.0"},
        }
        (file_of(shards, i).parent / "run.json").write_text(json.dumps(said))
    merge([shards], shards / "whole")
    wanted = {"torch": "2.6.0, 2.13.0", "numpy": "2.0"}
    assert json.loads((shards / "whole" / "run.json").read_text())["versions"] == wanted
    assert Relevance.load(shards / "whole" / "relevance.safetensors").settings["versions"] == wanted


def test_a_shard_that_still_counts_is_not_called_damaged(shards, monkeypatch):
    """Its file is replaced between the look at its header and the reading of its numbers."""
    read = shard_files.read_header

    def read_then_replaced(path):
        header = read(path)
        if path == file_of(shards, 2):
            counted(range(9, 11)).save(path)
        return header

    monkeypatch.setattr(shard_files, "read_header", read_then_replaced)
    with pytest.raises(RunMismatch, match=r"00002-of-00005.* changed during the merge: its shard is still"):
        merge([shards], shards / "whole")


def test_a_lost_shard_is_named_by_its_pictures_and_its_number(shards):
    for lost, said in ((1, "4 to 8"), (4, "18 to 22"), (0, "0 to 3")):
        content = file_of(shards, lost).read_bytes()
        file_of(shards, lost).unlink()
        with pytest.raises(
            PicturesMissing,
            match=rf"Of 23 images, these are in none of the 4 files: {said}\. Run shard {lost}/5 ",
        ):
            merge([shards], shards)
        assert not (shards / "votes.safetensors").exists()
        file_of(shards, lost).write_bytes(content)
    merge([shards], shards)


def test_an_unfinished_shard_is_named(shards):
    counted(range(4, 6)).save(file_of(shards, 1))
    with pytest.raises(PicturesMissing, match=r"in none of the 5 files: 6 to 8\. Run shard 1/5 again"):
        merge([shards], shards)


def test_what_there_is_may_be_taken_and_the_rest_measured_later(sd, concepts, tmp_path):
    same = SHORT | {"pictures": 9}
    for i in (0, 2):
        measure(sd, concepts, numbers=Shard(i, 3).of(9), out=Shard(i, 3).folder(tmp_path / "many"), **same)
    (merged,) = merge([tmp_path / "many"], tmp_path / "many", partial=True)
    assert merged.missing == (range(3, 6),) and merged.counted == 6
    assert Votes.load(merged.file).pictures == ((0, 3), (6, 9))
    measure(sd, concepts, out=tmp_path / "many", **same)
    measure(sd, concepts, out=tmp_path / "one", **same)
    assert votes_of(tmp_path / "one") == votes_of(tmp_path / "many")


def test_a_shard_given_twice_or_overlapping_is_refused(shards):
    files = [file_of(shards, i) for i in range(5)]
    with pytest.raises(
        PictureCountedTwice, match=r"00001-of-00005.* and .*00001-of-00005.* both count image 4"
    ):
        merge([*files, files[1]], shards / "out")
    counted(range(8, 10)).save(shards / "more.safetensors")
    with pytest.raises(
        PictureCountedTwice, match=r"00001-of-00005.*more\.safetensors both count image 8\. Each"
    ):
        merge([*files, shards / "more.safetensors"], shards / "out")
    assert not (shards / "out").exists()


def test_other_models_settings_and_concepts_are_refused(shards):
    good = counted(range(4, 9))
    for other, said in (
        (
            replace(good, settings={"model": "other", "seed": 0}),
            "model is 'other' in the former and 'tiny' in the latter",
        ),
        (replace(good, settings={"model": "tiny", "seed": 1}), "seed is 1 in the former and 0 in the latter"),
        (
            replace(good, concepts=ConceptSet({"A": ["a"], "B": ["b"], "C": ["c"]})),
            "concepts is .* in the former",
        ),
        (replace(good, head_map=HeadMap((Layer("elsewhere", 5),))), "head_map is .*elsewhere"),
    ):
        other.save(file_of(shards, 1))
        with pytest.raises(
            VotesMismatch, match=rf"00001-of-00005/.* is from a different run than .*: {said}"
        ):
            merge([shards], shards)


def test_damaged_shards_are_named(shards):
    path = file_of(shards, 3)
    whole = path.read_bytes()
    for broken in (b"", whole[:60], whole[:-1], whole + b"x", b"\xff" * len(whole)):
        path.write_bytes(broken)
        with pytest.raises(
            UnreadableFile, match=r"00003-of-00005/votes\.safetensors is not a complete safetensors file"
        ):
            merge([shards], shards)
    generator = np.random.default_rng(0)
    data = 8 + int.from_bytes(whole[:8], "little")
    for place in generator.integers(data, len(whole), 20):
        path.write_bytes(
            whole[:place] + bytes([whole[place] ^ 1 << generator.integers(8)]) + whole[place + 1 :]
        )
        with pytest.raises(UnreadableFile, match="00003-of-00005.*its checksum does not match its contents"):
            merge([shards], shards)
    path.write_bytes(whole.replace(b"[13, 18]", b"[13, 17]"))
    with pytest.raises((UnreadableFile, PicturesMissing)):
        merge([shards], shards, partial=True)
    assert not (shards / "votes.safetensors").exists()


def test_what_is_nothing_to_merge(shards, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        UnreadableFile, match=r"No votes\.safetensors, .* or scores\.safetensors was found in .*empty"
    ):
        merge([tmp_path / "empty"], tmp_path / "out")
    with pytest.raises(UnreadableFile, match="in an empty list of paths"):
        merge([], tmp_path / "out")
    with pytest.raises(UnreadableFile, match="cannot be read: No such file"):
        merge([tmp_path / "nothing"], tmp_path / "out")
    Relevance.from_votes(counted(range(3))).save(tmp_path / "r.safetensors")
    with pytest.raises(UnreadableFile, match="holds relevance; expected votes, effects or scores"):
        merge([tmp_path / "r.safetensors"], tmp_path / "out")


def test_bare_files_say_no_number_so_one_may_be_given(tmp_path):
    counted(range(5)).save(tmp_path / "a")
    assert merge([tmp_path / "a"], tmp_path / "out")[0].counted == 5
    with pytest.raises(
        PicturesMissing, match=r"Of 8 images, .* in none of the 1 files: 5 to 7\. Count them;"
    ):
        merge([tmp_path / "a"], tmp_path / "other", pictures=8)
    with pytest.raises(RunMismatch, match="The shards count at least 5 images, but the run should have 4"):
        merge([tmp_path / "a"], tmp_path / "other", pictures=4)


def test_a_folder_that_knows_more_is_left_alone(shards, tmp_path):
    counted(range(20, 25)).save(shards / "votes.safetensors")
    before = votes_of(shards)
    with pytest.raises(RunMismatch, match="already counts 23 to 24, which none of the shards has"):
        merge([shards], shards)
    assert votes_of(shards) == before
    replace(counted(range(3)), settings={"model": "other"}).save(shards / "votes.safetensors")
    with pytest.raises(VotesMismatch, match="These votes are of different runs"):
        merge([shards], shards)


def test_merged_again_it_is_the_same(shards):
    counted(range(3)).save(shards / "votes.safetensors")
    merge([shards], shards)
    first = votes_of(shards)
    merge([shards], shards)
    assert votes_of(shards) == first


def test_a_full_disk_leaves_what_was_there(shards, monkeypatch):
    counted(range(3)).save(shards / "votes.safetensors")
    before = votes_of(shards)

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(UnwritableFolder, match="No space left on device"):
        merge([shards], shards)
    assert votes_of(shards) == before


def test_files_of_before_there_were_checksums_and_narrow_types(tmp_path):
    import safetensors.numpy

    for i in range(2):
        votes = counted(range(3 * i, 3 * i + 3))
        said = json.dumps({"format": 1, "kind": "votes", **votes._metadata()}, sort_keys=True)
        arrays = {"counts": votes.counts, "blocks": votes.blocks}
        safetensors.numpy.save_file(arrays, tmp_path / f"{i}", metadata={"headwise": said})
    assert Votes.load(tmp_path / "0") == counted(range(3))
    merge([tmp_path / "0", tmp_path / "1"], tmp_path / "out")
    assert Votes.load(tmp_path / "out" / "votes.safetensors") == counted(range(6))


@given(st.lists(st.tuples(st.sampled_from(["u1", "u2", "u4", "u8", "i4", "i8"]), st.integers(0, 4))))
def test_sums_are_exact_for_every_type_and_length(kinds):
    generator = np.random.default_rng(len(kinds))
    total, expected = np.zeros((2, 3), np.int64), np.zeros((4, 3), object)
    for kind, rows in kinds:
        array = generator.integers(0, min(np.iinfo(kind).max, 2**40), (rows, 3), endpoint=True).astype(kind)
        total = _add(total, array)
        expected[:rows] += array.astype(object)
    assert total.dtype == np.int64 and (total == expected[: len(total)]).all()
    assert not expected[len(total) :].any()


AXES = {"method": ("plain", "adjust"), "prompt": (0, 1, 2, 3, 4)}


def scores(prompts, **settings):
    found = Scores.empty(AXES, {"model": "tiny"} | settings)
    found.values[:, prompts] = np.random.default_rng(0).normal(size=(2, 5))[:, prompts]
    return found


def test_scores_fill_each_others_gaps(tmp_path):
    for name, prompts in {"a": [0, 1], "b": [3], "c": [2, 4]}.items():
        (tmp_path / "shards" / name).mkdir(parents=True)
        scores(prompts).save(tmp_path / "shards" / name / "scores.safetensors")
    (merged,) = merge([tmp_path], tmp_path)
    assert np.array_equal(Scores.load(merged.file).values, scores(range(5)).values) and merged.counted == 10
    scores([1]).save(tmp_path / "shards" / "b" / "scores.safetensors")
    with pytest.raises(PictureCountedTwice, match=r"a/scores.* and .*b/scores.* both score prompt 1\."):
        merge([tmp_path], tmp_path / "out")
    scores([]).save(tmp_path / "shards" / "b" / "scores.safetensors")
    with pytest.raises(PicturesMissing, match="Of 5 prompts, these are in none of the 3 files: 3"):
        merge([tmp_path], tmp_path / "out")
    assert merge([tmp_path], tmp_path / "out", partial=True)[0].missing == (range(3, 4),)
    with pytest.raises(RunMismatch, match="already counts 3, which none of the shards has"):
        merge([tmp_path], tmp_path, partial=True)
    scores([3], model="other").save(tmp_path / "shards" / "b" / "scores.safetensors")
    with pytest.raises(VotesMismatch, match="model is 'other' in the former and 'tiny' in the latter"):
        merge([tmp_path], tmp_path / "out")


def test_ranges_of_a_shard_may_have_holes(tmp_path):
    counted([0, 2, 4]).save(tmp_path / "even")
    counted([1, 3]).save(tmp_path / "odd")
    assert ranges_of([0, 2, 4]) == ((0, 1), (2, 3), (4, 5))
    merge([tmp_path / "even", tmp_path / "odd"], tmp_path / "out")
    assert Votes.load(tmp_path / "out" / "votes.safetensors") == counted(range(5))
