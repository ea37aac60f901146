"""import and compare: what the commands print and write."""

import json

import numpy as np
import pytest

from headwise.measuring.relevance import Relevance
from headwise.model.heads import HeadMap, Layer
from helpers import STEM

MAP = HeadMap((Layer("a.attn2", 16),))


def saved(path, seed):
    votes = np.random.default_rng(seed).integers(1, 99, (2, 16))
    path.parent.mkdir(parents=True, exist_ok=True)
    Relevance.from_votes(votes, ("Color", "Food"), MAP).save(path)


def test_import(run, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    np.save(tmp_path / f"{STEM}_sd_v1_4.npy", np.ones((34, 128), np.float32))
    files = json.loads(run("import", ".", "--json")[1])["files"]
    assert files == {"CompVis/stable-diffusion-v1-4": "runs/stable-diffusion-v1-4/relevance.safetensors"}
    assert Relevance.load(tmp_path / files["CompVis/stable-diffusion-v1-4"]).values.shape == (34, 128)


def test_compare_says_where_heads_chose_between_other_concepts(run, tmp_path):  # noqa: F811
    one, other = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    for file, names in ((one, ("Color", "Food")), (other, ("Color", "Animals"))):
        Relevance.from_votes(np.ones((2, 16)), names, MAP).save(file)
    said = ["Heads could choose Food only in the first.", "Heads could choose Animals only in the second."]
    code, out, _ = run("compare", one, other)
    assert code == 0 and out.splitlines()[-2:] == said
    assert json.loads(run("compare", one, other, "--json")[1])["differences"] == said
    assert json.loads(run("compare", one, one, "--json")[1])["differences"] == []


def test_compare(run, tmp_path):  # noqa: F811
    one, other = tmp_path / "a/relevance.safetensors", tmp_path / "b/relevance.safetensors"
    saved(one, 0), saved(other, 1)
    found = json.loads(run("compare", one.parent, other, "--json")[1])
    assert set(found["concepts"]) == {"Color", "Food"} and -1 <= found["median"] <= 1
    code, out, _ = run("compare", one, one, "--figure", tmp_path / "x.svg")
    assert code == 0 and "1.00" in out and (tmp_path / "x.svg").read_text().count("<svg") == 1


@pytest.mark.parametrize("arguments", [("import", "nowhere"), ("compare", "nowhere", "nowhere")])
def test_refusals(run, arguments):  # noqa: F811
    code, _, err = run(*arguments)
    assert code == 2 and err.startswith("error: ")
