"""Votes add exactly; relevance is what the paper's arrays say; files say what is wrong with them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from headwise.errors import (
    BadStrength,
    HeadMapMismatch,
    HeadwiseError,
    PictureCountedTwice,
    UnknownConcept,
    UnreadableFile,
    UnwritableFolder,
    VotesMismatch,
)
from headwise.files import write_arrays
from headwise.measuring.concepts import ConceptSet
from headwise.measuring.relevance import Relevance
from headwise.measuring.reliability import normalise, ranks
from headwise.measuring.votes import Votes
from headwise.model.heads import HeadMap, Layer
from helpers import CONCEPTS, HEADS, SETTINGS, counted

REFERENCE = Path(__file__).parents[2] / "shared/reference"


@st.composite
def parted(draw, parts=3):
    """Disjoint sets of images."""
    owners = draw(st.lists(st.integers(0, parts - 1), max_size=40))
    return [[i for i, owner in enumerate(owners) if owner == part] for part in range(parts)]


@given(parted(2))
def test_adding_votes_commutes(parts):
    a, b = map(counted, parts)
    assert a + b == b + a


@given(parted(3))
def test_adding_votes_associates_and_equals_counting_at_once(parts):
    a, b, c = map(counted, parts)
    assert (a + b) + c == a + (b + c)
    everything = sorted(i for part in parts for i in part)
    assert a + b + c == counted(everything)


def test_no_votes_change_nothing():
    votes = counted(range(5))
    assert Votes.empty(HEADS, CONCEPTS, SETTINGS) + votes == votes
    assert len(votes) == 5
    assert votes.totals.sum() == votes.counts.sum() == 5 * 2 * HEADS.all_heads


@given(st.sets(st.integers(0, 60), min_size=1), st.sets(st.integers(0, 60), min_size=1))
def test_no_picture_is_counted_twice(ours, theirs):
    a, b, common = counted(sorted(ours)), counted(sorted(theirs)), ours & theirs
    if not common:
        assert len(a + b) == len(ours) + len(theirs)
        return
    with pytest.raises(PictureCountedTwice, match=f"counted image {min(common)}. "):
        _ = a + b


def test_votes_of_another_kind_are_refused():
    votes, others = counted(range(2)), counted(range(2, 4))
    with pytest.raises(HeadMapMismatch, match=r"the first votes has 5 heads .* the second votes has 5 heads"):
        _ = votes + replace(others, head_map=HeadMap((Layer("x", 5),)))
    with pytest.raises(VotesMismatch, match=r"'seed' is 0 in one and 1 in the other"):
        _ = votes + replace(others, settings=SETTINGS | {"seed": 1})
    concepts = ConceptSet({"Color": ["blue"], "Animals": ["dog"], "Plants": ["tree"]})
    with pytest.raises(VotesMismatch, match=r"'Color' is \['red'\] in one and \['blue'\] in the other"):
        _ = votes + replace(others, concepts=concepts)


@given(parted(1))
def test_saving_votes_and_loading_is_the_identity(tmp_path_factory, parts):
    path = tmp_path_factory.mktemp("votes") / "votes.safetensors"
    votes = counted(parts[0])
    votes.save(path)
    first = path.read_bytes()
    assert Votes.load(path) == votes
    Votes.load(path).save(path)
    assert path.read_bytes() == first
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@given(arrays.arrays(np.int64, (4, 7), elements=st.integers(0, 10**6)))
def test_a_row_sums_to_the_number_of_heads_or_is_zeros(votes):
    values = normalise(votes)
    expected = np.where(votes.sum(1) > 0, 7.0, 0.0)
    assert np.allclose(values.sum(1), expected)
    assert (values >= 0).all()


def test_normalising_per_head_first_changes_nothing():
    """The paper divides by each head's votes first; with equally many votes a head that cancels."""
    votes = counted(range(30)).totals
    per_head = votes / votes.sum(0)
    twice = HEADS.all_heads * per_head / per_head.sum(1, keepdims=True)
    assert np.allclose(normalise(votes), twice)


@pytest.mark.parametrize(("name", "tag"), [("sd14", "sd_v1_4"), ("sdxl", "sd_xl_base_1_0")])
def test_published_votes_give_the_published_vectors(name, tag):
    stem = "category_vectors_epoch_1_to_1_neg_prompt_False_merged_340_final_text_descriptions"
    if not (REFERENCE / f"votes_{name}.csv").exists():
        pytest.skip("the published arrays are not here")
    votes = np.loadtxt(REFERENCE / f"votes_{name}.csv", delimiter=",", dtype=np.int64)
    official = np.load(REFERENCE / f"{stem}_{tag}.npy")
    relevance = Relevance.from_votes(votes, ConceptSet.load("paper34").names)
    assert np.abs(relevance.values - official).max() < 1e-4
    assert np.abs(relevance["Color"] - official[17]).max() < 1e-4


def test_relevance_answers_for_its_concepts():
    relevance = Relevance.from_votes(counted(range(64)))
    assert np.array_equal(relevance["Animals"], relevance.values[1])
    top = relevance.top("Color", 2)
    assert top[0].relevance == relevance["Color"].max()
    assert top[0].address == HEADS.address(top[0].index)
    assert top[0].standard_error > 0
    with pytest.raises(UnknownConcept, match="Unknown concept 'Colour'. Did you mean 'Color'?"):
        relevance["Colour"]
    assert "Animals" in str(relevance)
    with pytest.raises(ValueError, match="read-only"):
        relevance.values[0, 0] = 1
    assert relevance.settings["pictures"] == 64


def test_relevance_is_a_table_with_named_rows():
    relevance = Relevance.from_votes(counted(range(64)))
    assert list(relevance) == ["Color", "Animals", "Plants"] and len(relevance) == 3
    assert "Color" in relevance and "Colour" not in relevance and 0 not in relevance
    assert np.array_equal(relevance[0], relevance["Color"]) and np.array_equal(relevance[-1], relevance[2])
    for row in (3, -4):
        with pytest.raises(
            UnknownConcept, match="is not a concept. Give the name of one, or a row from 0 to 2"
        ):
            relevance[row]
    for k in (0, -1):
        with pytest.raises(HeadwiseError, match=f"k={k} was given; expected 1 or more heads"):
            relevance.top("Color", k)


def test_the_users_concepts_come_before_their_background():
    votes = counted(range(64))
    beside = {"foreground": ["Plants", "Color"], "beside": "1 concept of emoji"}
    plain, relevance = (
        Relevance.from_votes(replace(votes, settings=settings)) for settings in (SETTINGS, SETTINGS | beside)
    )
    assert relevance.concepts == ("Plants", "Color", "Animals") and relevance.foreground == (
        "Plants",
        "Color",
    )
    assert [name for name, _ in relevance.settings["concepts"]] == list(relevance)
    for name in plain:
        assert np.array_equal(relevance[name], plain[name]) and relevance.top(name) == plain.top(name)
    assert np.array_equal(relevance.at_steps(0, 0.5)["Color"], plain.at_steps(0, 0.5)["Color"])
    assert relevance.split_half_median == np.median(plain.split_half[[0, 2]])
    assert "Animals" not in str(relevance) and str(relevance).endswith("a background of 1 concept of emoji.")
    assert "background" not in str(plain) and plain.foreground == plain.concepts


def test_few_pictures_are_said_to_be_few():
    few, enough = (Relevance.from_votes(counted(range(n))) for n in (63, 64))
    assert "fewer than 64 images are rough (here 63)" in str(few) and "not whether these heads matter" in str(
        few
    )
    assert enough.remarks == ()


def test_a_path_stands_for_its_relevance(tmp_path, monkeypatch):
    relevance = Relevance.from_votes(counted(range(4)))
    relevance.save(tmp_path / "relevance.safetensors")
    monkeypatch.setenv("HOME", str(tmp_path))
    for one in (relevance, tmp_path, str(tmp_path / "relevance.safetensors"), "~"):
        assert Relevance.of(one) == relevance
    with pytest.raises(
        UnreadableFile, match="runs/first does not exist. Give a relevance file or the folder"
    ):
        Relevance.of("runs/first")
    with pytest.raises(HeadwiseError, match="ndarray was given as relevance. Give a Relevance"):
        Relevance.of(relevance.values)


def test_a_part_of_the_calls_has_its_own_relevance():
    votes = counted(range(40), steps=20)
    relevance = Relevance.from_votes(votes)
    assert np.allclose(relevance.at_steps(0, 1).values, relevance.values)
    early = votes.counts[:6].sum(0).T  # calls 0 … 5 of 20
    assert np.allclose(relevance.at_steps(0, 0.3).values, normalise(early))
    assert not np.allclose(relevance.at_steps(0, 0.3).values, relevance.at_steps(0.5, 1).values)
    halved = normalise(votes.counts[:2].sum(0).T / 2 + votes.counts[2:4].sum(0).T)
    assert np.allclose(relevance.at_steps(0.05, 0.2).values, halved)
    assert relevance.at_steps(0, 0.3).settings["during"] == [0.0, 0.3]
    with pytest.raises(BadStrength, match="expected shares of the calls"):
        relevance.at_steps(0.4, 0.4)
    with pytest.raises(HeadwiseError, match="has no votes by call"):
        relevance.at_steps(0, 0.3).at_steps(0, 0.1)


def test_equal_heads_rank_by_index():
    relevance = Relevance.from_votes(np.array([[2, 5, 2, 5]]))
    assert [rank.index for rank in relevance.top("concept 0", 4)] == [1, 3, 0, 2]
    assert relevance.top("concept 0", 1)[0].address == "head 1"


@pytest.mark.parametrize("votes", [[[1.0, np.nan]], [[1, -1]], [[1.0, np.inf]], [["a", "b"]]])
def test_votes_that_are_no_counts_are_refused(votes):
    with pytest.raises(VotesMismatch, match="not all finite numbers of 0 or more"):
        Relevance.from_votes(np.array(votes))


def test_bare_arrays_are_checked():
    with pytest.raises(VotesMismatch, match="Expected votes of shape"):
        Relevance.from_votes(np.zeros(3, int))
    with pytest.raises(VotesMismatch, match="1 names for 2 rows"):
        Relevance.from_votes(np.zeros((2, 5), int), ["Color"])
    with pytest.raises(HeadMapMismatch, match="The votes have 4 heads, the head map has 5 heads"):
        Relevance.from_votes(np.zeros((2, 4), int), head_map=HEADS)


def test_standard_errors_by_leaving_out_blocks_one_by_one():
    votes = counted(range(10))
    blocks = np.stack([counted([i]).totals for i in range(10)])
    without = np.stack([normalise(blocks.sum(0) - block) for block in blocks])
    expected = np.sqrt(0.9 * ((without - without.mean(0)) ** 2).sum(0))
    assert np.allclose(Relevance.from_votes(votes).standard_errors, expected)


def test_standard_errors_are_of_the_right_size():
    """Beside the spread over many independent repetitions."""
    runs = [Relevance.from_votes(counted(range(96), seed)) for seed in range(1, 80)]
    spread = np.std([run.values for run in runs], axis=0)
    claimed = np.mean([run.standard_errors for run in runs], axis=0)
    assert np.allclose(claimed / spread, 1, atol=0.35)


def test_too_few_blocks_say_nothing():
    one = Relevance.from_votes(counted([3, 35]))  # both in block 3
    assert np.isnan(one.standard_errors).all()
    assert np.isnan(one.split_half).all()


def test_ranks_share_ties():
    assert ranks(np.array([[10, 20, 10, 30, 20, 20]])).tolist() == [[0.5, 3, 0.5, 5, 3, 3]]


@given(arrays.arrays(np.int64, (3, 9), elements=st.integers(0, 4)))
def test_ranks_are_counted_another_way(values):
    below = (values[:, None, :] < values[:, :, None]).sum(-1)
    equal = (values[:, None, :] == values[:, :, None]).sum(-1)
    assert np.allclose(ranks(values), below + (equal - 1) / 2)


def test_split_half_is_one_where_pictures_agree_and_about_zero_where_they_are_noise():
    heads = HeadMap((Layer("x", 40),))
    agree = np.tile(np.arange(40) % 3, (64, 1, 1, 1))
    same = Votes.of_pictures(agree, range(64), heads, CONCEPTS, {})
    assert np.allclose(Relevance.from_votes(same).split_half, 1)
    noise = np.random.default_rng(0).integers(0, 3, (64, 30, 1, 40))
    random = Votes.of_pictures(noise, range(64), heads, CONCEPTS, {})
    assert np.abs(Relevance.from_votes(random).split_half).max() < 0.35
    nobody = Votes.of_pictures(np.zeros((64, 1, 1, 40), int), range(64), heads, CONCEPTS, {})
    assert Relevance.from_votes(nobody).split_half.tolist() == [0, 0, 0]
    assert Relevance.from_votes(nobody)["Animals"].tolist() == [0.0] * 40


def test_relevance_survives_the_disk(tmp_path):
    for relevance in (Relevance.from_votes(counted(range(9))), Relevance.from_votes(np.ones((2, 3), int))):
        relevance.save(tmp_path / "r.safetensors")
        assert Relevance.load(tmp_path / "r.safetensors") == relevance


def test_files_that_are_not_what_they_should_be(tmp_path):
    votes, relevance = tmp_path / "votes.safetensors", tmp_path / "relevance.safetensors"
    counted(range(3)).save(votes)
    Relevance.from_votes(counted(range(3))).save(relevance)
    with pytest.raises(UnreadableFile, match=r"holds votes; expected relevance"):
        Relevance.load(votes)
    with pytest.raises(UnreadableFile, match=r"holds relevance; expected votes"):
        Votes.load(relevance)
    with pytest.raises(UnreadableFile, match=r"cannot be read: No such file"):
        Votes.load(tmp_path / "nothing")
    whole = votes.read_bytes()
    for length in (0, 5, 100, len(whole) - 1):
        votes.write_bytes(whole[:length])
        with pytest.raises(UnreadableFile, match="cut short or damaged|holds no Headwise result"):
            Votes.load(votes)
    votes.write_bytes(whole.replace(b'\\"heads\\": 3', b'\\"heads\\": 4'))
    with pytest.raises(UnreadableFile, match="its checksum does not match its contents"):
        Votes.load(votes)
    arrays = {"counts": np.zeros((2, 4, 3), np.int64), "blocks": np.zeros((32, 4, 3), np.int64)}
    write_arrays(votes, "votes", arrays, counted(range(3))._metadata())
    with pytest.raises(UnreadableFile, match="its head map and concepts need"):
        Votes.load(votes)
    votes.write_bytes(whole.replace(b'\\"format\\": 1', b'\\"format\\": 9'))
    with pytest.raises(UnreadableFile, match="has format 9, newer than this Headwise reads"):
        Votes.load(votes)


def test_a_full_disk_leaves_the_last_good_file(tmp_path, monkeypatch):
    path = tmp_path / "votes.safetensors"
    counted(range(3)).save(path)
    before = path.read_bytes()

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(
        UnwritableFolder, match=r"could not be written: No space left on device\. An earlier version"
    ):
        counted(range(4)).save(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    with pytest.raises(UnwritableFolder, match="No such file or directory"):
        counted(range(4)).save(tmp_path / "nowhere" / "votes.safetensors")
