"""A study: read with care, made from the images of benchmarks, its order balanced."""

import re
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from PIL import Image

from headwise.errors import HeadwiseError, UnreadableFile, UnreadableStudy
from headwise.runs.scores import Scores
from headwise.study.making import make_study
from headwise.study.order import trials_of
from headwise.study.reading import parse_study, read_study
from study_helpers import HOSTILE, draw, editing, polysemy, several


def written(questions=1, cases=2, methods=("a", "b"), **more):
    """The text of a study in which images are chosen."""
    lines = ['title = "T"', 'consent = "C"', *(f"{key} = {value}" for key, value in more.items())]
    for q in range(questions):
        lines += ["[[questions]]", f'name = "q{q}"', 'text = "Which?"']
    for c in range(cases):
        pictures = ", ".join(f'{m} = "{c} {m}.png"' for m in methods)
        lines += ["[[cases]]", f'name = "{c}"', f"pictures = {{ {pictures} }}"]
    return "\n".join(lines)


def test_polysemy_asks_for_the_sense(tmp_path):
    make_study(polysemy(tmp_path))
    study = read_study(tmp_path)
    (question,) = study.questions
    assert question.right == "meant" and question.compare == (("adjust", "plain"), ("adjust", "rewording"))
    item = next(iter(study.items()))
    assert item.text() == "What is “orange” in this image?"
    assert [item.label(code) for code in ("meant", "other", "neither")] == [
        "a color",
        "a fruit or vegetable",
        "neither of them",
    ]
    assert len(list(study.items())) == 3 * 3 and {case.group for case in study.cases} == {"orange", "rose"}


def test_editing_asks_what_fits_and_what_keeps(tmp_path):
    make_study(editing(tmp_path))
    study = read_study(tmp_path)
    fit, keep = study.questions
    assert keep.reference and not fit.reference
    assert fit.compare == keep.compare == (("relevance", "prompt-to-prompt"), ("relevance", "sdedit 0.5"))
    assert all("source" not in case.pictures and "source" in case.reference for case in study.cases)
    texts = {item.question.name: item.text() for item in study.items()}
    assert texts["fit"] == "Which image fits “a blue car” better?"
    assert "From “a red car” to “a blue car”" in texts["keep"]
    assert len(list(study.items())) == 2 * 4 * 2


def test_several_concepts_are_asked_for_two_by_two_or_all_at_once(tmp_path):
    make_study(several(tmp_path))
    study = read_study(tmp_path)
    assert {item.methods for item in study.items()} == {
        ("relevance", "plain"),
        ("relevance", "attend-and-excite"),
    }
    assert HOSTILE in [case.fields["prompt"] for case in study.cases], "a prompt is text, whatever it holds"
    (tmp_path / "study.toml").unlink()
    make_study(tmp_path, together=True)
    assert {item.methods for item in read_study(tmp_path).items()} == {
        ("relevance", "plain", "attend-and-excite")
    }
    assert "best?" in next(read_study(tmp_path).items()).text()


def test_any_pictures_will_do(tmp_path):
    for method in ("ours", "theirs", "third"):
        for case in ("x", "y"):
            (tmp_path / method).mkdir(exist_ok=True)
            Image.new("RGB", (16, 16)).save(tmp_path / method / f"{case}.png")
    make_study(tmp_path)
    items = list(read_study(tmp_path).items())
    assert len(items) == 2 * 3 and items[0].text() == "Which image is better?"
    (tmp_path / "study.toml").unlink()
    make_study(tmp_path, ours="third", methods=["ours", "third"])
    assert {item.methods for item in read_study(tmp_path).items()} == {("third", "ours")}


def test_what_cannot_be_made_is_refused(tmp_path):
    with pytest.raises(UnreadableStudy, match=r"has no images .* such as '003 ours.png'"):
        make_study(tmp_path)
    make_study(editing(tmp_path))
    with pytest.raises(UnreadableStudy, match="already exists"):
        make_study(tmp_path)
    (tmp_path / "study.toml").unlink()
    with pytest.raises(HeadwiseError, match="No images were found of 'mine'; the methods are: prompt-"):
        make_study(tmp_path, ours="mine")
    with pytest.raises(HeadwiseError, match="No images were found of 'mine'"):
        make_study(tmp_path, methods=["mine"])
    weakening = tmp_path / "weakening"
    draw(weakening, ("most relevant 0016",), ["a red car"])
    Scores.empty({"order": ("most",), "k": (0,)}, {}).save(weakening / "scores.safetensors")
    with pytest.raises(UnreadableStudy, match="without questions for people"):
        make_study(weakening)
    unknown = draw(tmp_path / "unknown", ("plain", "adjust"), ["a word nobody knows"])
    Scores.empty({"method": ("plain", "adjust"), "seed": (0,), "prompt": (0,)}, {}).save(
        unknown / "scores.safetensors"
    )
    with pytest.raises(UnreadableStudy, match="the senses of the prompt “a word nobody knows” are"):
        make_study(unknown)
    senses = tmp_path / "senses.toml"
    senses.write_text(
        '[[senses]]\nword = "word"\ntoward = "Color"\naway = "Magic"\nprompts = ["a word nobody knows"]\n'
        'reworded = "x"\ntexts = ["x", "y"]\n'
    )
    make_study(unknown, senses=senses)
    assert read_study(unknown).cases[0].fields["other"] == "Magic"


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ('title = "T"', "", r"the file has no 'title'"),
        ('title = "T"', "title = 3", r"title of the file is 3; expected a text"),
        ('consent = "C"', 'concent = "C"\nconsent = "C"', r"unknown key 'concent'. Did you mean 'consent'\?"),
        ('text = "Which?"', 'texts = "Which?"', r"number 1 of \[\[questions\]\] has no 'text'"),
        ('text = "Which?"', 'text = "{what}?"', r"'q0' of case '0' uses \{what\}, which is not in"),
        ('text = "Which?"', 'text = "?"\nanswers = { a = "x" }', r"has the answers \['a'\]; expected two"),
        ('text = "Which?"', 'text = "?"\nalso = { a = "x" }', r"`also` but no `answers`"),
        ('text = "Which?"', 'text = "?"\nanswers = { a = "x", b = "x" }', r"has equal answers: \['x', 'x'"),
        ('text = "Which?"', 'text = "?"\nright = "c"', r"right of .* is 'c'; expected one of \[\]"),
        ('text = "Which?"', 'text = "?"\ncompare = [["a"]]', r"expected lists of two different methods"),
        ('text = "Which?"', 'text = "?"\ncompare = [["a", "c"]]', r"'q0' compares 'c', but no case has"),
        ('text = "Which?"', 'text = "?"\nreference = true', r"shows a reference, but the case has none"),
        ('name = "1"', 'name = "0"', r"the cases \['0', '0'\]; expected one or more, with different names"),
        ('title = "T"', 'title = "T"\ntrials = -1', r"trials of the file is -1; expected a whole number"),
        ('title = "T"', 'title = "T"\ntrials = true', r"trials of the file is True"),
        ('title = "T"', 'title = "T"\ntrials = 0', r"trials is 0"),
        ('title = "T"', "title = ", r"not valid TOML"),
        ('title = "T"', 'title = "T"\ncheck = "{colour}"', r"check uses \{colour\}"),
        ("[[cases]]", "[cases]", r"not valid TOML|expected a list|expected a table"),
    ],
)  # fmt: skip
def test_every_mistake_is_named(before, after, said):
    text = written()
    assert before in text
    with pytest.raises(UnreadableStudy, match=said):
        parse_study(text.replace(before, after, 1))


def test_a_study_of_nothing_is_refused():
    with pytest.raises(UnreadableStudy, match=r"has the questions \[\]"):
        parse_study('title = "T"\nconsent = "C"')
    with pytest.raises(UnreadableStudy, match="'q0' fits no case"):
        parse_study(written(methods=("a",)))


def test_pictures_stay_in_the_folder_and_must_be_pictures(tmp_path):
    make_study(several(tmp_path / "study"))
    path = tmp_path / "study" / "study.toml"
    good = path.read_text()
    shutil.copy(tmp_path / "study" / "pictures" / "000 plain.png", tmp_path / "secret.png")
    path.write_text(good.replace("pictures/000 plain.png", "../secret.png"))
    with pytest.raises(UnreadableStudy, match=r"'../secret.png' is outside of"):
        read_study(tmp_path / "study")
    (tmp_path / "study" / "link.png").symlink_to(tmp_path / "secret.png")
    path.write_text(good.replace("pictures/000 plain.png", "link.png"))
    with pytest.raises(UnreadableStudy, match="is outside of"):
        read_study(tmp_path / "study")
    path.write_text(good.replace("pictures/000 plain.png", "study.toml"))
    with pytest.raises(UnreadableFile, match="it is not an image"):
        read_study(tmp_path / "study")
    with pytest.raises(UnreadableStudy, match=r"cannot be read: .* Create one with `headwise study make`"):
        read_study(tmp_path)


def test_the_fingerprint_is_of_what_gives_answers_their_meaning(tmp_path):
    make_study(several(tmp_path))
    before = read_study(tmp_path).fingerprint(tmp_path)
    path = tmp_path / "study.toml"
    text = path.read_text()
    path.write_text(text.replace("[name and address of the person who runs this study]", "Ada"))
    assert read_study(tmp_path).fingerprint(tmp_path) == before, "the consent text may be mended"
    path.write_text(text.replace("Which image shows", "Which one shows"))
    assert read_study(tmp_path).fingerprint(tmp_path) != before
    path.write_text(text)
    Image.new("RGB", (16, 16), "white").save(tmp_path / "pictures" / "000 plain.png")
    assert read_study(tmp_path).fingerprint(tmp_path) != before, "another image under the same name"


sizes = st.fixed_dictionaries(
    {
        "questions": st.integers(1, 2),
        "cases": st.integers(1, 7),
        "trials": st.integers(1, 30),
        "seed": st.integers(0, 99),
    }
)


@given(sizes, st.integers(0, 40))
def test_everything_is_asked_equally_often_and_nobody_twice(size, participants):
    study = parse_study(written(checks=0, methods=("a", "b", "c"), **size))
    asked = Counter()
    for participant in range(participants):
        keys = [
            (t.item.question.name, t.item.case.name, t.item.methods) for t in trials_of(study, participant)
        ]
        assert len(set(keys)) == len(keys) == min(size["trials"], len(list(study.items())))
        asked.update(keys)
    counts = [asked[i.question.name, i.case.name, i.methods] for i in study.items()]
    assert max(counts) - min(counts) <= 1


@given(sizes, st.integers(1, 40))
def test_sides_are_balanced_for_every_item_and_for_every_participant(size, participants):
    study = parse_study(written(checks=0, **size))
    first = Counter()
    for participant in range(participants):
        trials = trials_of(study, participant)
        turned = [t.options != t.item.methods for t in trials]
        assert abs(2 * sum(turned) - len(turned)) <= 2
        for trial, is_turned in zip(trials, turned, strict=True):
            assert sorted(trial.options) == sorted(trial.item.methods)
            first[trial.item.question.name, trial.item.case.name] += 1 if is_turned else -1
    assert all(abs(count) <= 1 for count in first.values())


def test_answers_turn_and_the_last_ones_stay():
    text = written(cases=3, checks=0).replace(
        'text = "Which?"', 'text = "?"\nanswers = { x = "X", y = "Y", z = "Z" }\nalso = { n = "neither" }'
    )
    study = parse_study(text)
    seen = Counter(t.options for p in range(3) for t in trials_of(study, p))
    assert {options[-1] for options in seen} == {"n"}
    assert seen == {("x", "y", "z", "n"): 6, ("y", "z", "x", "n"): 6, ("z", "x", "y", "n"): 6}


@given(sizes)
def test_the_same_case_does_not_come_twice_in_a_row(size):
    study = parse_study(written(checks=0, methods=("a", "b", "c"), **size))
    for participant in range(3):
        names = [t.item.case.name for t in trials_of(study, participant)]
        assume(2 * max(Counter(names).values()) <= len(names) + 1)
        assert all(a != b for a, b in zip(names, names[1:], strict=False))


def test_the_order_is_random_and_is_the_same_again():
    study = parse_study(written(cases=20))
    orders = [[t.item.case.name for t in trials_of(study, p)] for p in range(8)]
    assert orders == [[t.item.case.name for t in trials_of(study, p)] for p in range(8)]
    assert len(set(map(tuple, orders))) == 8
    other = parse_study(written(cases=20, seed=1))
    assert orders[0] != [t.item.case.name for t in trials_of(other, 0)]


def test_attention_checks_are_in_between_and_ask_for_any_place():
    study = parse_study(written(cases=20, checks=3))
    places, right = Counter(), Counter()
    for participant in range(60):
        trials = trials_of(study, participant)
        checks = [n for n, trial in enumerate(trials) if trial.check is not None]
        assert len(checks) == 3 and checks[0] > 0 and len(trials) == 23
        places.update(checks)
        right.update(trials[n].options.index(trials[n].check) for n in checks)
    assert len(places) > 6, "nobody can wait for them"
    assert min(right[0], right[1]) > 60


def test_a_folder_of_another_kind_of_pictures_is_decoded_with_care(tmp_path):
    Image.fromarray(np.zeros((9, 9, 4), np.uint8)).save(tmp_path / "0 a.png")
    (tmp_path / "0 b.png").write_bytes(b"GIF89a")
    make_study(tmp_path)
    with pytest.raises(UnreadableFile, match="0 b.png"):
        read_study(tmp_path)


def test_the_example_of_the_documents_is_a_study():
    page = (Path(__file__).parents[1] / "docs" / "study.md").read_text()
    study = parse_study(re.search(r"```toml\n(.*?)```", page, re.S)[1])
    items = list(study.items())
    assert [item.methods for item in items] == [("ours", "theirs"), ("ours",), ("theirs",)]
    assert items[0].text() == "Which image fits “an orange car” better?"
    assert [items[1].label(code) for code in ("meant", "other")] == ["a color", "a fruit"]


KEPT = """
title = "T"
consent = "C"
seed = 3
trials = 4
[[questions]]
name = "sense"
text = "Which sense of “{word}”?"
answers = { color = "the color", fruit = "{fruit}" }
also = { neither = "neither of them" }
right = "color"
[[cases]]
name = "000"
group = "orange"
reference = "r.png"
say = { word = "orange", fruit = "an orange" }
pictures = { ours = "a.png", theirs = "b.png" }
"""


def test_answers_that_were_given_before_still_belong_to_their_study(tmp_path):
    """The fingerprint that files of answers hold depends on the study alone, not on names in the code."""
    for name in "rab":
        (tmp_path / f"{name}.png").write_bytes(name.encode())
    fingerprint = "1c6f873a8e7d6e81cf4310951dffd44208a4025656c965638e8adb70765cd603"  # of the first release
    assert parse_study(KEPT).fingerprint(tmp_path) == fingerprint
