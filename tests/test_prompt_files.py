"""Files of prompts: each format as its benchmark writes it, with prompts of our own, and what is refused."""

import json

import numpy as np
import pytest

from headwise.benchmarks.prompts.files import read_prompts
from headwise.benchmarks.prompts.pie_bench import pie_pairs
from headwise.errors import UnreadablePrompts


def lines(*records):
    return "".join(json.dumps(record) + "\n" for record in records)


GENEVAL2 = [
    {
        "prompt": "two purple owls under a wooden boat",
        "atom_count": 5,
        "vqa_list": [
            ["How many owls are in the image?", "two"],
            ["Are the owls purple?", "Yes"],
            ["Are there any owls in the image?", "Yes"],
            ["Are the owls under the boat?", "Yes"],
            ["How many boats are in the image?", "one"],
            ["Is the boat wooden?", "Yes"],
            ["Are there any boats in the image?", "Yes"],
        ],
        "skills": ["count", "attribute", "object", "position", "count", "attribute", "object"],
    },
    {
        "prompt": "a glass kite",
        "atom_count": 2,
        "vqa_list": [["Is the kite glass?", "Yes"], ["Are there any kites in the image?", "Yes"]],
        "skills": ["attribute", "object"],
    },
]
GENEVAL = [
    {"tag": "single", "include": [{"class": "owl", "count": 1}], "prompt": "a photo of an owl"},
    {
        "tag": "counting",
        "include": [{"class": "boat", "count": 3}],
        "exclude": [{"class": "boat", "count": 4}],
        "prompt": "a photo of three boats",
    },
    {
        "tag": "position",
        "include": [
            {"class": "boat", "count": 1},
            {"class": "kite", "count": 1, "color": "red", "position": ["above", 0]},
        ],
        "prompt": "a photo of a red kite above a boat",
    },
]
DSG = """item_id,text,keywords,proposition_id,dependency,category_broad,category_detailed,tuple,question_natural_language
own_1,"Three owls, one wooden boat",owls,1,0,entity,whole,entity - whole (owls),Are there owls?
own_1,"Three owls, one wooden boat","owls, 3",2,1,other,count,"other - count (owls, ==3)",Are there three owls?
own_1,"Three owls, one wooden boat",boat,3,0,entity,whole,entity - whole (boat),Is there a boat?
own_1,"Three owls, one wooden boat","boat, wooden",4,3,attribute,material,"attribute - material (boat, wooden)",Is it?
own_1,"Three owls, one wooden boat","owls, in",5,"1,3",relation,spatial,"relation - spatial (owls, boat, in)",In it?
own_2,a glass kite,kite,1,0,entity,whole,entity - whole (kite),Is there a kite?
own_2,a glass kite,glass,2,1,attribute,material,"attribute - material (kite, glass)",Is the kite glass?
"""  # noqa: E501
COMPBENCH = """a red kite and a green boat
three owls and a boat

two owls slept on the roof
an owl next to a kite
Everything is quiet.
"""


def read(folder, name, content):
    (folder / name).write_text(content, encoding="utf-8")
    return read_prompts(folder / name)


def of(prompt, kind):
    return [atom for atom in prompt.atoms if atom.kind == kind]


def test_geneval_2(tmp_path):
    with pytest.warns(UserWarning, match=r"no texts can be made for them \(1 position\)\.$"):
        owls, kite = read(tmp_path, "own.jsonl", lines(*GENEVAL2))
    assert (owls.prompt, owls.group, len(owls.atoms)) == (GENEVAL2[0]["prompt"], "5 atoms", 6)
    two, one = of(owls, "count")
    assert two.word == "two" and two.texts[:3] == ("two owls", "one owl", "three owls")
    assert (two.question, two.answer) == ("How many owls are in the image?", "two")
    assert one.word is None and one.texts[0] == "one boat"
    (purple,) = of(owls, "color")
    assert purple.word == "purple" and purple.texts[0] == "purple owls" and "red owls" in purple.texts
    owl, boat = of(owls, "thing")
    assert owl.texts == ("owls", "kites") and boat.texts == ("a boat", "a kite")
    assert [each.texts for each in of(owls, "attribute")] == [("a wooden boat", "a glass boat")]
    assert of(kite, "attribute")[0].texts == ("a glass kite", "a wooden kite")


def test_geneval(tmp_path):
    with pytest.warns(UserWarning, match=r"\(1 position\)"):
        owl, three, kite = read(tmp_path, "own.jsonl", lines(*GENEVAL))
    assert (owl.group, owl.atoms[0].texts) == ("single", ("an owl", "a boat", "a kite"))
    assert not of(owl, "count"), "one is not asked for"
    assert of(three, "count")[0].texts[:2] == ("three boats", "one boat")
    assert of(three, "thing")[0].word == "boats"
    assert of(kite, "color")[0].texts[:2] == ("a red kite", "an orange kite")
    assert [each.texts for each in of(kite, "thing")] == [("a boat", "an owl"), ("a kite", "an owl")]


def test_dsg(tmp_path):
    with pytest.warns(UserWarning, match=r"\(1 spatial\)"):
        owls, kite = read(tmp_path, "own.csv", DSG)
    assert owls.group == "own" and [each.kind for each in owls.atoms] == [
        "thing",
        "count",
        "thing",
        "material",
    ]
    assert [each.parents for each in owls.atoms] == [(), (0,), (), (2,)]
    assert owls.atoms[1].word == "three" and owls.atoms[1].texts[0] == "three owls"
    assert kite.atoms[1].texts == ("a glass kite", "a wooden kite") and kite.atoms[1].answer == "Yes"


def test_an_atom_that_is_left_out_is_no_parent(tmp_path):
    changed = DSG.replace("entity - whole (boat)", "entity - part (the boat's red sail)")
    with pytest.warns(UserWarning, match="1 thing"):
        owls, _ = read(tmp_path, "own.csv", changed)
    assert [each.parents for each in owls.atoms] == [(), (0,), ()]


def test_compbench(tmp_path):
    with pytest.warns(UserWarning, match=r"\(2 relation, 1 phrase\), and 1 prompts without other atoms"):
        pair, three, slept, beside = read(tmp_path, "own_val.txt", COMPBENCH)
    assert pair.group == "own_val" and [each.texts[0] for each in pair.atoms] == [
        "a kite", "a red kite", "a boat", "a green boat",
    ]  # fmt: skip
    assert pair.atoms[1].word == "red" and "a green kite" in pair.atoms[1].texts
    assert [(each.word, each.texts[0]) for each in three.atoms] == [
        ("owls", "owls"), ("three", "three owls"), ("boat", "a boat"),
    ]  # fmt: skip
    assert [each.texts[0] for each in slept.atoms] == ["owls", "two owls"]
    assert [each.texts[0] for each in beside.atoms] == ["an owl", "a kite"]


TEMPLATES = """["colored counts"]
prompts = ["{count} {color} {things}"]
counts = ["one", "three"]
colors = ["red", "blue"]
things = ["mouse", "owl"]
texts = { count = "{count} {things}", color = "{color} {things}", thing = "{things}" }
siblings = { counts = ["one", "two", "three"] }
"""


@pytest.mark.parametrize("name", ["own.toml", "own"])
def test_templates(tmp_path, name):
    prompts = read(tmp_path, name, TEMPLATES)
    assert [prompt.prompt for prompt in prompts[::3]] == ["one red mouse", "one blue owl", "three blue mice"]
    assert prompts[6].atoms[0].texts == ("three mice", "one mouse", "two mice")
    assert [each.word for each in prompts[6].atoms] == ["three", "blue", "mice"]
    assert {prompt.group for prompt in prompts} == {"colored counts"}


def test_no_wrong_text_of_a_template_is_right_of_the_same_prompt(tmp_path):
    table = """[pairs]
prompts = ["a {color_a} {thing_a} and a {color_b} {thing_b}"]
colors = ["red", "blue"]
things = ["kite", "owl", "boat"]
texts = { thing_a = "a {thing_a}", color_a = "a {color_a} {thing_a}", thing_b = "a {thing_b}" }
"""
    pair = read(tmp_path, "own.toml", table)[0]
    assert pair.prompt == "a red kite and a blue owl"
    assert [each.texts for each in pair.atoms] == [
        ("a kite", "a boat"), ("a red kite", "a blue kite"), ("an owl", "a boat"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", lines(GENEVAL2[0]) + "{oops\n", "line 2 is not JSON"),
        ("a.jsonl", lines(GENEVAL2[0], {"prompt": "a kite"}), "line 2 lacks or misspells vqa_list"),
        ("a.jsonl", lines(GENEVAL2[0] | {"skills": ["count"]}), "line 1 has 1 skills for 7 questions"),
        (
            "a.jsonl",
            lines(GENEVAL[0]) + "\n" + lines({"include": []}),
            "line 3 is not a JSON object with a prompt",
        ),
        ("a.jsonl", lines(GENEVAL[0], {"prompt": "a", "include": [{}]}), "line 2 lacks or misspells include"),
        ("a.jsonl", lines({"prompt": "a kite"}), "neither vqa_list .GenEval 2. nor include .GenEval."),
        ("a.csv", DSG.replace("own_2,a glass kite,kite,1", "own_2,,kite,1"), "line 7 lacks text"),
        ("a.csv", DSG.replace("entity - whole (kite)", "kite"), 'line 7 has the tuple "kite"'),
        ("a.csv", "prompt,color\na kite,red\n", "a CSV without the column item_id. Expected GenEval 2"),
        ("a.txt", "", "is empty. Expected GenEval 2 or GenEval"),
        ("a.txt", "x\0y", "holds NUL characters"),
        ("a.html", "<html>\n<p>Hello</p>\n", "texts could be made for none of its 2 prompts"),
        (
            "a.json",
            '{"0": {"original_prompt": "a", "editing_prompt": "b"}}',
            "holds edit pairs",
        ),
        ("a.toml", "[counts]\nprompts = ['{count} owls']\n", "lacks or misspells 'counts'"),
        ("a.toml", TEMPLATES.replace('["mouse", "owl"]', '["owl"]'), "'owl' needs at least one other word"),
        ("a.toml", "[broken", "it is not valid TOML"),
    ],
)
def test_refusals(tmp_path, name, content, said):
    with pytest.raises(UnreadablePrompts, match=said):
        read(tmp_path, name, content)


def test_what_cannot_be_opened(tmp_path):
    (tmp_path / "a.bin").write_bytes(b"\xff\xfe\x00\x01")
    for path, said in ((tmp_path / "none.txt", "No such file"), (tmp_path / "a.bin", "it is not UTF-8 text")):
        with pytest.raises(UnreadablePrompts, match=said):
            read_prompts(path)
    with pytest.raises(UnreadablePrompts, match="cannot be read"):
        read_prompts(tmp_path)


def entry(source, target, mask, **changed):
    return {
        "image_path": "1_own/0.jpg",
        "original_prompt": source,
        "editing_prompt": target,
        "editing_instruction": "",
        "editing_type_id": "6",
        "blended_word": "",
        "mask": mask,
    } | changed


def write(path, *entries):
    path.write_text(json.dumps({f"{n:012}": each for n, each in enumerate(entries)}))
    return path


def test_pie_bench(tmp_path):
    whole = [0, 512 * 512]
    path = write(
        tmp_path / "mapping_file.json",
        entry("a [red] kite", "a [blue] kite", [512 * 256, 512 * 256]),
        entry("a red kite", "a green kite", whole),
        entry("a red kite", "a kite", [0, 5]),
        entry("a red kite", "a green kite", "1 2 515 1"),
    )
    with pytest.warns(
        UserWarning, match="left out: 1 whose mask covers everything and 1 whose target has no"
    ):
        lower, few = pie_pairs(path)
    assert (lower.source, lower.target, lower.word) == ("a red kite", "a blue kite", "blue")
    assert lower.attribute == "change color" and lower.picture == tmp_path / "annotation_images/1_own/0.jpg"
    mask = lower.mask((8, 4))
    assert mask.shape == (4, 8) and np.array_equal(mask.any(1), [False, False, True, True])
    assert np.argwhere(few.mask((512, 512))).tolist() == [[0, 1], [0, 2], [1, 3]]
    assert few.mask((64, 64)).mean() < 0.01 and hash(lower)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[]", "does not hold an object with entries"),
        ("{", "is not JSON"),
        (json.dumps({"7": {"image_path": "a"}}), "entry '7' lacks or misspells 'original_prompt'"),
        (json.dumps({"7": entry("a", "b", [1])}), "misspells mask, which must be alternating starts"),
        (json.dumps({"7": entry("a", "b", [], editing_type_id="12")}), "entry '7' lacks or misspells"),
    ],
)
def test_what_is_not_pie_bench(tmp_path, content, said):
    (tmp_path / "mapping_file.json").write_text(content)
    with pytest.raises(UnreadablePrompts, match=said):
        pie_pairs(tmp_path / "mapping_file.json")
