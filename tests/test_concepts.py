"""Concept sets: the paper's, one's own, and the sentences for files with mistakes."""

import functools
from pathlib import Path

import pytest
import torch

from conftest import BUILD, TRANSFORMERS
from headwise.errors import ModelNotLoaded, UnknownConcept, UnreadableConcepts, WordWithoutTokens
from headwise.measuring.concepts import FEW, ConceptSet, choice
from headwise.measuring.probe import ConceptProbe

OFFICIAL = Path(__file__).parents[2] / "shared/reference/concept_words_official.csv"


def test_paper34_has_the_papers_concepts_and_words_in_the_published_order():
    ours = ConceptSet.load("paper34")
    assert len(ours) == 34
    assert all(len(ours.words(name)) == 10 for name in ours)
    assert (ours.names[0], ours.names[17], ours.names[-1]) == ("Animals", "Color", "Geometric Patterns")
    if not OFFICIAL.exists():
        pytest.skip("the published word list is not here")
    names, words = [], {}
    for line in filter(None, map(str.strip, OFFICIAL.read_text("utf-8-sig").splitlines())):
        if line[0].isdigit():
            words[names[-1]].append(line.split(". ", 1)[1])
        else:
            names.append(line)
            words[line] = []
    assert ours == ConceptSet(words)


def test_a_file_of_ones_own(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_bytes(b'\xef\xbb\xbf[concepts]\r\nColor = ["red", "blue"]\r\n"Time of Day" = ["night"]\r\n')
    mine = ConceptSet.load(path)
    assert mine.names == ("Color", "Time of Day")
    assert mine.words("Time of Day") == ("night",)


BROKEN = {
    'Color = ["red"]': "no [concepts] table",
    "[concepts]": "no [concepts] table",
    '[concepts]\nA = ["x"]\nA = ["y"]': "line 3: the concept 'A' occurs twice",
    '[concepts]\nA = ["x"': "is not valid TOML",
    "[concepts]\n\nA = []": "line 3: the concept 'A' has no words",
    '[concepts]\nA = "x"': "line 2: 'A' is 'x'; expected a list of words",
    '[concepts]\nA = ["x", 3]': "line 2: 3 in 'A' is not text. Put it in quotes",
    '[concepts]\nA = [\n "x",\n "y",\n "x"\n]': "line 5: 'x' occurs twice in 'A'",
    '[concepts]\nA = ["x", "X"]': "line 2: 'X' occurs twice in 'A'",
    '[concepts]\nA = ["x", " "]': "line 2: ' ' in 'A' is not a word",
    '[concepts]\nA = ["x\\u0000y"]': "line 2: 'x\\x00y' in 'A' is not a word",
    '[concepts]\n"" = ["x"]': "line 2: '' is not a name",
    '[concepts]\nA = ["x\0y"]': "is not valid TOML",
}


@pytest.mark.parametrize(("text", "said"), BROKEN.items())
def test_mistakes_are_answered_with_file_line_and_cure(tmp_path, text, said):
    path = tmp_path / "broken.toml"
    path.write_text(text)
    with pytest.raises(UnreadableConcepts) as caught:
        ConceptSet.load(path)
    assert said in str(caught.value)
    assert str(path) in str(caught.value)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(UnreadableConcepts, match=r"concept file papr34 does not exist.*one of: .*paper34"):
        ConceptSet.load("papr34")
    with pytest.raises(UnreadableConcepts, match="cannot be read: Is a directory"):
        ConceptSet.load(tmp_path)
    (tmp_path / "latin.toml").write_bytes('[concepts]\nA = ["é"]'.encode("latin-1"))
    with pytest.raises(UnreadableConcepts, match=r"latin\.toml, line 2: not UTF-8"):
        ConceptSet.load(tmp_path / "latin.toml")


def test_concepts_given_in_python_are_checked_too():
    with pytest.raises(UnreadableConcepts, match="The concept set is empty"):
        ConceptSet({})
    with pytest.raises(UnreadableConcepts, match="'A' has no words"):
        ConceptSet({"A": []})
    with pytest.raises(UnreadableConcepts, match="'A' occurs twice"):
        ConceptSet([("A", ["x"]), ("A", ["y"])])


def test_unknown_concepts_are_answered_with_the_nearest(concepts):
    with pytest.raises(UnknownConcept, match="Unknown concept 'colour'. Did you mean 'Color'?"):
        concepts.words("colour")
    with pytest.raises(UnknownConcept, match="There are: Animals, Color, Food"):
        concepts.words("xyz")


BACKGROUND = ConceptSet(
    {
        "Animals": ["dog", "cat", "bat"],
        "Color": ["red", "blue", "green", "pink", "gray"],
        "Food": ["pie", "egg"],
    }
).marked("emoji")


def test_a_set_stands_beside_a_background_in_the_places_of_what_it_replaces():
    beside = ConceptSet({"Tools": ["axe"], "color": ["red"]}).beside(BACKGROUND)
    assert beside.names == ("Animals", "color", "Food", "Tools") and beside.words("color") == ("red",)
    assert beside.foreground == ("Tools", "color")
    assert beside.settings == {"foreground": ["Tools", "color"], "beside": "2 concepts of emoji"}
    assert ConceptSet({"Color": BACKGROUND.words("Color")}).beside(BACKGROUND) == BACKGROUND


@pytest.mark.parametrize(
    ("words", "stays"),
    [
        (["red", "Blue", "green", "gold"], False),  # more than half of its own words, and of Color's
        (["red", "blue", "gold"], False),  # two words, more than half of its own
        (["red", "blue", "gold", "rust"], True),
        (["red"], True),  # a word is not yet the concept
    ],
)
def test_a_concept_under_another_name_is_not_split(words, stays):
    beside = ConceptSet({"Hue": words, "Tools": ["axe"]}).beside(BACKGROUND)
    assert ("Color" in beside.names) is stays and {"Animals", "Food", "Hue", "Tools"} <= set(beside)


def test_two_concepts_may_replace_one():
    beside = ConceptSet({"Warm": ["red", "pink"], "Cold": ["blue", "green"]}).beside(BACKGROUND)
    assert beside.names == ("Animals", "Warm", "Food", "Cold")
    everything = ConceptSet({name: ["x"] for name in BACKGROUND.names}).beside(BACKGROUND)
    assert everything.settings == {} and everything.names == BACKGROUND.names


def test_what_heads_choose_between():
    few, many = ConceptSet({"Color": ["red"]}), ConceptSet({f"{n}": [f"{n}"] for n in range(FEW)})
    assert choice({"Color": ["red"]}, "auto", None).settings["beside"] == "33 concepts of paper34"
    assert choice(few, BACKGROUND, None).names == BACKGROUND.names
    assert choice(many, "auto", None) is many and choice("paper34", "auto", None).foreground == ()
    beside = few.beside(BACKGROUND)
    assert choice(beside, "auto", None) is beside
    with pytest.raises(UnreadableConcepts, match="'Color' is the only concept, and heads choose between"):
        choice(few, None, None)
    with pytest.raises(
        UnreadableConcepts, match=r"\['Color'\] is not a concept set. Give a ConceptSet, the name"
    ):
        choice(["Color"], None, None)


def test_a_probe_refuses_one_concept(sd):
    with pytest.raises(UnreadableConcepts, match="heads choose between concepts"):
        ConceptProbe(sd, ConceptSet({"Color": ["red"]}))


def test_json_round_trip_keeps_the_order(concepts):
    assert ConceptSet.from_json(concepts.to_json()) == concepts


def test_words_are_embedded_alone_start_token_and_own_tokens_only(concepts):
    pipe = BUILD["sd1"](dtype=torch.float64)
    embedded = concepts.embed(pipe)
    assert [[len(word) for word in words] for words in embedded.words] == [[1, 1, 4], [1, 6], [6, 3, 3, 3]]
    ids = pipe.tokenizer("frog", padding="max_length", return_tensors="pt").input_ids
    with torch.no_grad():
        alone = pipe.text_encoder(ids)[0][0]
    assert torch.equal(embedded.start, alone[:1])
    assert torch.equal(embedded.words[0][2], alone[1:5])


def test_both_encoders_of_sdxl_are_used():
    pipe = BUILD["sdxl"]()
    assert ConceptSet({"A": ["dog"]}).embed(pipe).words[0][0].shape == (1, 32 + 16)


def test_pipelines_without_tokenizer_are_refused(sd):
    sd.tokenizer = None
    with pytest.raises(ModelNotLoaded, match="has no text encoder of its own to encode 'dog' with"):
        ConceptSet({"A": ["dog"]}).embed(sd)


def test_a_word_without_tokens_is_named(sd):
    with pytest.raises(WordWithoutTokens, match="has no token"):
        ConceptSet.from_json([["A", ["dog", " "]]]).embed(sd)


def test_texts_of_several_encoders_that_come_apart_are_refused(monkeypatch):
    """As Hunyuan-DiT's, whose encoder is called once for each text."""
    pipe = TRANSFORMERS["sd3"]()
    encode = type(pipe).encode_prompt

    @functools.wraps(encode)
    def first_text_alone(self, *args, **options):
        text, *rest = encode(self, *args, **options)
        return text[:, : self.tokenizer.model_max_length], *rest

    monkeypatch.setattr(type(pipe), "encode_prompt", first_text_alone)
    with pytest.raises(ModelNotLoaded, match="encodes a text of 24 tokens, but 'dog' is at"):
        ConceptSet({"Animals": ["dog"], "Color": ["red"]}).embed(pipe)
