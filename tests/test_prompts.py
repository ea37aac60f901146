"""Cases: the right text comes first, articles agree, and the built-in ones are of the emoji world."""

import pytest

from headwise.benchmarks.prompts.evaluation import eval_prompts, evaluated_concepts, polysemy_prompts
from headwise.errors import UnknownConcept, UnreadablePrompts
from headwise.measuring.concepts import ConceptSet

FILE = """
[Color]
prompts = ["a {word} {thing}", "a {thing} in {word}"]
words = ["red", "orange"]
things = ["car", "umbrella"]
text = "{word}"

[Animals]
prompts = ["photo of a {word}"]
words = ["dog", "owl", "cat"]

[[senses]]
word = "orange"
toward = "Color"
away = "Food"
prompts = ["a {word} {thing}", "a {word}-colored {thing}"]
reworded = "a {thing} in {word} color"
texts = ["a {thing} in {word} color", "a {word}"]
things = ["car", "axe"]
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(FILE)
    return path


def test_every_word_on_every_thing_in_every_template(file):
    cases = eval_prompts(file, "Color")
    assert len(cases) == 8
    assert cases[1] == ("an orange car", ("orange", "red"))
    assert ("a red umbrella", ("red", "orange")) in cases and (
        "an umbrella in red",
        ("red", "orange"),
    ) in cases
    assert eval_prompts(file, "Animals")[1] == (
        "photo of an owl",
        ("photo of an owl", "photo of a dog", "photo of a cat"),
    )


def test_some_are_the_same_some_every_time(file):
    some = eval_prompts(file, "Color", 3)
    assert (
        len(some) == 3
        and some == eval_prompts(file, "Color", 3)
        and set(some) <= set(eval_prompts(file, "Color"))
    )


def test_senses(file):
    senses = polysemy_prompts(file)
    assert [sense.case.prompt for sense in senses] == [
        "an orange car",
        "an orange axe",
        "an orange-colored car",
        "an orange-colored axe",
    ]
    assert senses[1].case.texts == ("an axe in orange color", "an orange")
    assert (senses[0].toward, senses[0].away, senses[0].reworded) == (
        "Color",
        "Food",
        "a car in orange color",
    )


def test_the_built_in_cases_are_of_measured_concepts_and_of_other_words_each():
    emoji = ConceptSet.load("emoji")
    assert set(evaluated_concepts("emoji")) == set(emoji.names)
    for concept in emoji.names:
        cases = eval_prompts("emoji", concept)
        assert len(cases) >= 16 and all(len(case.texts) >= 4 for case in cases), concept
        assert all(len(set(case.texts)) == len(case.texts) for case in cases)
    senses = polysemy_prompts("emoji")
    assert len({sense.word for sense in senses}) >= 12 and len(senses) >= 40
    assert all({sense.toward, sense.away} <= set(emoji.names) for sense in senses)
    assert all(sense.word in sense.case.prompt for sense in senses)


def test_the_papers_cases():
    paper = ConceptSet.load("paper34")
    assert len(evaluated_concepts("paper")) == 9 and set(evaluated_concepts("paper")) <= set(paper.names)
    assert [len(eval_prompts("paper", name)) for name in ("Color", "Animals")] == [50, 10]
    assert ("photo of a coffee table", "coffee table") in [
        (case.prompt, case.texts[0]) for case in eval_prompts("paper", "Furniture")
    ]
    senses = polysemy_prompts("paper")
    assert len(senses) == 4 and all({s.toward, s.away} <= set(paper.names) for s in senses)
    assert all(sense.word in sense.case.prompt or sense.word.title() in sense.case.prompt for sense in senses)


@pytest.mark.parametrize(
    ("text", "said"),
    [("[Color]\nprompts = ['a']\n", "lacks or misspells 'words'"), ("= 1", "is not valid TOML")],
)
def test_files_that_are_wrong(tmp_path, text, said):
    path = tmp_path / "wrong.toml"
    path.write_text(text)
    with pytest.raises(UnreadablePrompts, match=said):
        eval_prompts(path, "Color")


def test_what_is_not_there(file, tmp_path):
    with pytest.raises(UnknownConcept, match="Did you mean 'Color'"):
        eval_prompts(file, "Colour")
    with pytest.raises(UnreadablePrompts, match="cannot be read"):
        eval_prompts(tmp_path / "none.toml", "Color")
    file.write_text(FILE.split("[[senses]]")[0])
    with pytest.raises(UnreadablePrompts, match=r"it has no \[\[senses\]\]"):
        polysemy_prompts(file)
