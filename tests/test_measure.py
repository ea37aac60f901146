"""The loop around the probe: what it refuses, what it keeps, what it does not change."""

import json

import numpy as np
import pytest
import torch
from diffusers import PNDMScheduler
from PIL import Image

from conftest import BUILD, tiny_sd, tiny_sdxl
from headwise.errors import (
    HeadwiseError,
    ModelNotLoaded,
    NotFinite,
    RunMismatch,
    UnreadableConcepts,
    UnreadableFile,
    UnreadablePrompts,
    UnwritableFolder,
)
from headwise.measuring.concepts import ConceptSet
from headwise.measuring.measure import measure
from headwise.measuring.prompts import read_prompts
from headwise.measuring.relevance import Relevance
from headwise.measuring.votes import Votes
from headwise.model.generate import latents_for
from headwise.model.pipelines import load_pipeline, watched
from helpers import SHORT, votes_of


def test_a_concept_alone_has_the_votes_that_it_has_among_all(exact_pipe, concepts, tmp_path):
    """Beside the others, with its own words: every vote is that of the whole set."""
    options = SHORT | {"pictures": 4}
    whole = measure(exact_pipe, concepts, out=tmp_path / "whole", **options)
    options["beside"] = concepts
    alone = measure(exact_pipe, {"Color": concepts.words("Color")}, out=tmp_path / "alone", **options)
    votes = [Votes.load(tmp_path / name / "votes.safetensors") for name in ("whole", "alone")]
    assert np.array_equal(votes[0].counts, votes[1].counts) and np.array_equal(
        votes[0].blocks, votes[1].blocks
    )
    assert alone.concepts == ("Color", "Animals", "Food") and alone.foreground == ("Color",)
    assert np.array_equal(alone["Food"], whole["Food"]) and np.array_equal(alone["Color"], whole["Color"])
    assert alone.settings["beside"] == "2 concepts of another set" and "beside" not in whole.settings
    assert Relevance.load(tmp_path / "alone" / "relevance.safetensors") == alone
    lonely = measure(exact_pipe, {"Food": ["pie"], "Color": ["red"]}, **SHORT | {"pictures": 4})
    assert not np.array_equal(lonely["Color"], whole["Color"])


def test_few_concepts_are_measured_beside_the_packaged_set(sd, tmp_path):
    options = SHORT | {"beside": "auto", "pictures": 2}
    color = measure(sd, {"Color": ["red", "blue"]}, out=tmp_path / "run", **options)
    assert color.foreground == ("Color",) and len(color) == 34 and color.values[0].any()
    run = json.loads((tmp_path / "run" / "run.json").read_text())["settings"]
    assert (run["foreground"], run["beside"]) == (["Color"], "33 concepts of paper34")
    assert "a background of 33 concepts of paper34" in str(color) and "Animals" not in str(color)
    more = measure(sd, {"Color": ["red", "blue"]}, out=tmp_path / "run", **options | {"pictures": 3})
    assert more.settings["pictures"] == 3
    with pytest.raises(UnreadableConcepts, match="'Color' is the only concept, and heads choose between"):
        measure(sd, {"Color": ["red", "blue"]}, pictures=2, **SHORT)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"until": 2}, "until=2 was given; expected a correlation above 0 and up to 1"),
        ({"until": 0}, "until=0 was given"),
        ({"until": float("nan")}, "until=nan was given"),
        ({"num_inference_steps": 0}, "num_inference_steps=0 was given; expected 1 or more"),
    ],
)
def test_numbers_out_of_range_are_refused(sd, concepts, options, said):
    with pytest.raises(HeadwiseError, match=said):
        measure(sd, concepts, pictures=1, **SHORT | options)


def test_the_home_folder_is_found(sd, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "prompts.txt").write_text("a dog\na red car\n")
    (tmp_path / "home" / "mine.toml").write_text('[concepts]\nA = ["dog"]\nB = ["red"]\n')
    relevance = measure(sd, "~/mine.toml", pictures=1, out="~/x", **SHORT | {"prompts": "~/prompts.txt"})
    relevance.save("~/copy.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["home"]
    assert Relevance.of("~/x") == Relevance.load("~/copy.safetensors") == relevance


def test_votes_are_bit_equal_in_any_batch(exact_pipe, concepts, tmp_path):
    for size in (1, 2, 5):
        measure(exact_pipe, concepts, pictures=5, out=tmp_path / str(size), batch_size=size, **SHORT)
    assert votes_of(tmp_path / "1") == votes_of(tmp_path / "2") == votes_of(tmp_path / "5")


def test_folder_and_result(pipe, concepts, tmp_path):
    relevance = measure(pipe, concepts, pictures=3, out=tmp_path / "new" / "run", **SHORT)
    folder = tmp_path / "new" / "run"
    assert sorted(p.name for p in folder.iterdir()) == [
        "relevance.safetensors",
        "run.json",
        "votes.safetensors",
    ]
    assert Relevance.load(folder / "relevance.safetensors") == relevance
    run = json.loads((folder / "run.json").read_text())
    assert run["stretches"][0]["from"] == 0
    assert run["stretches"][-1]["to"] == 3
    for key in ("model", "dtype", "scheduler", "num_inference_steps", "guidance_scale", "seed", "prompts"):
        assert run["settings"][key] == relevance.settings[key]
    assert relevance.settings["pictures"] == 3
    assert set(relevance.settings["versions"]) >= {"headwise", "torch", "diffusers", "transformers"}
    assert np.allclose(relevance.values.sum(1), relevance.head_map.all_heads)


def test_without_a_folder_nothing_is_written(sd, concepts, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    kept = measure(sd, concepts, pictures=3, out="run", **SHORT)
    assert measure(sd, concepts, pictures=3, **SHORT) == kept
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


def test_a_finished_run_returns_at_once_and_may_grow(sd, concepts, tmp_path):
    first = measure(sd, concepts, pictures=3, out=tmp_path / "a", **SHORT)
    before, sd.unet.forward = sd.unet.forward, None  # nothing is generated any more
    assert measure(sd, concepts, pictures=3, out=tmp_path / "a", **SHORT) == first
    sd.unet.forward = before
    measure(sd, concepts, pictures=5, out=tmp_path / "a", **SHORT)
    measure(sd, concepts, pictures=5, out=tmp_path / "b", **SHORT)
    assert votes_of(tmp_path / "a") == votes_of(tmp_path / "b")
    with pytest.raises(RunMismatch, match="already counts 5 images, more than the 4 that were requested"):
        measure(sd, concepts, pictures=4, out=tmp_path / "a", **SHORT)


def test_another_run_is_refused_by_name(sd, concepts, tmp_path):
    measure(sd, concepts, pictures=2, out=tmp_path, **SHORT)
    before = votes_of(tmp_path)
    with pytest.raises(
        RunMismatch, match="holds another run: seed is 0 there and 1 here. Give another folder"
    ):
        measure(sd, concepts, pictures=2, out=tmp_path, seed=1, **SHORT)
    with pytest.raises(RunMismatch, match="num_inference_steps is 2 there and 3 here"):
        measure(sd, concepts, pictures=2, out=tmp_path, **SHORT | {"num_inference_steps": 3})
    with pytest.raises(RunMismatch, match="prompts is '2 prompts, .*' there and '1 prompts, "):
        measure(sd, concepts, pictures=2, out=tmp_path, **SHORT | {"prompts": ["a cat"]})
    with pytest.raises(
        RunMismatch, match="concept_set is '3 concepts, 9 words, .*' there and '2 concepts, 2 words"
    ):
        measure(sd, ConceptSet({"A": ["dog"], "B": ["cat"]}), pictures=2, out=tmp_path, **SHORT)
    with pytest.raises(
        RunMismatch, match="model is 'StableDiffusionPipeline' there and 'StableDiffusionXLPip"
    ):
        measure(tiny_sdxl(), concepts, pictures=2, out=tmp_path, **SHORT)
    with torch.no_grad():
        sd.unet.conv_in.weight.add_(1e-3)
    with pytest.raises(RunMismatch, match="weights is '[0-9a-f]+' there and '[0-9a-f]+' here"):
        measure(sd, concepts, pictures=2, out=tmp_path, **SHORT)
    assert votes_of(tmp_path) == before


def test_damaged_folders_are_named(sd, concepts, tmp_path):
    measure(sd, concepts, pictures=2, out=tmp_path, **SHORT)
    (tmp_path / "votes.safetensors").write_bytes(votes_of(tmp_path)[:50])
    with pytest.raises(UnreadableFile, match="is not a complete safetensors file"):
        measure(sd, concepts, pictures=2, out=tmp_path, **SHORT)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(UnreadableFile, match=r"run\.json is damaged"):
        measure(sd, concepts, pictures=2, out=tmp_path, **SHORT)


def test_folders_that_are_none(sd, concepts, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UnwritableFolder, match="file is not a folder"):
        measure(sd, concepts, pictures=1, out=tmp_path / "file", **SHORT)
    with pytest.raises(UnwritableFolder, match="is not a folder"):
        measure(sd, concepts, pictures=1, out=tmp_path / "file" / "below", **SHORT)
    with pytest.raises(UnwritableFolder, match="cannot be created"):
        measure(sd, concepts, pictures=1, out="/proc/nowhere/run", **SHORT)


def test_explicit_latents_are_used_and_checked(concepts, tmp_path):
    pipe = BUILD["sd1"](dtype=torch.float64)
    latents = torch.stack([latents_for(pipe, 0, i) for i in range(3)])
    measure(pipe, concepts, pictures=3, out=tmp_path / "seed", **SHORT)
    measure(pipe, concepts, pictures=3, out=tmp_path / "latents", latents=latents, **SHORT)
    seeded, given = (Votes.load(tmp_path / name / "votes.safetensors") for name in ("seed", "latents"))
    assert np.array_equal(seeded.counts, given.counts)
    other = measure(pipe, concepts, pictures=3, latents=latents.flip(0), **SHORT)
    assert not np.array_equal(other.values, Relevance.from_votes(seeded).values)
    with pytest.raises(HeadwiseError, match=r"latents have shape \(3, 4, 8, 8\); expected \(4, 4, 8, 8\)"):
        measure(pipe, concepts, pictures=4, latents=latents, **SHORT)
    with pytest.raises(HeadwiseError, match=r"expected \(3, 4, 8, 12\)"):
        measure(pipe, concepts, pictures=3, latents=latents, width=24, height=16, **SHORT)


def test_not_a_number_loses_no_votes_already_counted(sd, concepts, tmp_path):
    latents = torch.stack([latents_for(sd, 0, i) for i in range(4)])
    latents[2] = torch.nan
    with pytest.raises(NotFinite, match="at step 0"):
        measure(sd, concepts, pictures=4, latents=latents, out=tmp_path, checkpoint_every=1e9, **SHORT)
    assert Votes.load(tmp_path / "votes.safetensors").pictures == ((0, 2),)


def test_until_stops_at_the_same_picture_in_any_batch(concepts, tmp_path):
    pipe = BUILD["sd1"](dtype=torch.float64)
    short = SHORT | {"num_inference_steps": 1}
    runs = {}
    for size in (7, 32):
        out = tmp_path / str(size)
        runs[size] = measure(pipe, concepts, pictures=100, until=0.3, out=out, batch_size=size, **short)
        counted = runs[size].settings["pictures"]
        assert counted % 32 == 0
        assert counted < 100
        assert np.median(runs[size].split_half) >= 0.3
    assert votes_of(tmp_path / "7") == votes_of(tmp_path / "32")
    assert measure(pipe, concepts, pictures=100, until=0.3, out=tmp_path / "7", **short) == runs[7]
    more = measure(pipe, concepts, pictures=40, until=1, batch_size=16, **short)
    assert more.settings["pictures"] == 40


def test_only_pictures_that_are_kept_are_decoded(pipe, concepts, tmp_path):
    decoded = []
    decode = pipe.vae.decode

    def counting(latents, *args, **kwargs):
        decoded.append(len(latents))
        return decode(latents, *args, **kwargs)

    pipe.vae.decode = counting
    measure(pipe, concepts, pictures=5, out=tmp_path / "some", keep_pictures=2, batch_size=4, **SHORT)
    assert sum(decoded) == 2
    kept = sorted((tmp_path / "some" / "pictures").iterdir())
    assert [p.name for p in kept] == ["00000.png", "00001.png"]
    with Image.open(kept[0]) as picture:
        assert picture.size == (16, 16)
    measure(pipe, concepts, pictures=5, out=tmp_path / "none", **SHORT)
    assert sum(decoded) == 2
    with pytest.raises(HeadwiseError, match="keep_pictures=1 needs a folder"):
        measure(pipe, concepts, pictures=5, keep_pictures=1, **SHORT)


def test_the_pipeline_is_left_as_it_was(sd, concepts, tmp_path, capsys):
    def checker(*args, **kwargs):
        raise AssertionError("nobody looks at these images")

    sd.__dict__["safety_checker"] = checker
    sd.set_progress_bar_config(desc="mine")
    config = dict(sd.config)
    measure(sd, concepts, pictures=1, out=tmp_path, keep_pictures=1, **SHORT)
    assert sd._progress_bar_config == {"desc": "mine"}
    assert sd.safety_checker is checker
    assert dict(sd.config) == config
    assert capsys.readouterr() == ("", "")


def test_progress_goes_to_stderr(sd, concepts, capsys):
    measure(sd, concepts, pictures=2, checkpoint_every=0, **SHORT | {"progress": True})
    out, err = capsys.readouterr()
    assert out == ""
    assert "2/2" in err
    assert "split-half" in err


def test_an_interruption_saves_first(sd, concepts, tmp_path, monkeypatch):
    import headwise.measuring.measure

    def interrupted(pipe, prompts, seed, numbers, **options):
        if numbers[0] == 2:
            raise KeyboardInterrupt
        return generate(pipe, prompts, seed, numbers, **options)

    generate = headwise.measuring.measure.generate
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(headwise.measuring.measure, "generate", interrupted)
        measure(sd, concepts, pictures=4, out=tmp_path / "a", checkpoint_every=1e9, **SHORT)
    assert len(Votes.load(tmp_path / "a" / "votes.safetensors")) == 2
    measure(sd, concepts, pictures=4, out=tmp_path / "a", **SHORT)
    measure(sd, concepts, pictures=4, out=tmp_path / "b", **SHORT)
    assert votes_of(tmp_path / "a") == votes_of(tmp_path / "b")


def test_a_scheduler_that_takes_no_single_step_is_not_timed_but_measured(sd, concepts, capsys):
    sd.scheduler = PNDMScheduler.from_config(sd.scheduler.config, skip_prk_steps=False)
    with pytest.raises(ValueError, match="broadcast"):
        sd("a dog", num_inference_steps=1)
    relevance = measure(sd, concepts, pictures=2, num_inference_steps=5, batch_size=2)
    assert relevance.settings["pictures"] == 2
    assert "Generating up to 2 images of 5 steps.\n" in capsys.readouterr().err


def test_who_is_told_of_progress_may_end_the_run(sd, concepts, tmp_path, capsys):
    told = []

    def stops(done, pictures):
        told.append((done, pictures))
        if done == 2:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        measure(sd, concepts, pictures=4, out=tmp_path, checkpoint_every=1e9, **SHORT | {"progress": stops})
    assert len(Votes.load(tmp_path / "votes.safetensors")) == 2
    measure(sd, concepts, pictures=4, out=tmp_path, **SHORT | {"progress": lambda *now: told.append(now)})
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert capsys.readouterr().err == ""


def test_who_watches_is_told_of_each_denoiser_call_and_may_end_it(sd):
    calls = []

    def stops():
        calls.append(1)
        if len(calls) == 3:
            raise InterruptedError

    with watched(sd, stops), pytest.raises(InterruptedError):
        sd("a dog", num_inference_steps=4, output_type="latent")
    sd("a dog", num_inference_steps=4, output_type="latent")
    assert len(calls) == 3


BAD_PROMPTS = {
    b"a dog\na \0 cat\n": r"line 2: a NUL character",
    b"a dog\n\xff\xfe\n": r"line 2: not UTF-8",
    b"\n \n": r"holds no prompt",
}


@pytest.mark.parametrize(("content", "said"), BAD_PROMPTS.items())
def test_prompt_files_with_mistakes(sd, tmp_path, content, said):
    (tmp_path / "p.txt").write_bytes(content)
    with pytest.raises(UnreadablePrompts, match=said):
        read_prompts(tmp_path / "p.txt", sd)


def test_prompts(sd, tmp_path):
    (tmp_path / "p.txt").write_bytes(b"\xef\xbb\xbfa dog\r\n\r\na cat \r\n")
    assert read_prompts(str(tmp_path / "p.txt"), sd) == ("a dog", "a cat")
    with pytest.raises(UnreadablePrompts, match="cannot be read: No such file"):
        read_prompts(tmp_path / "nothing.txt", sd)
    with pytest.raises(UnreadablePrompts, match="The list of prompts is empty"):
        read_prompts([], sd)
    with pytest.raises(UnreadablePrompts, match="Prompt 1 is ''; expected"):
        read_prompts(["a", ""], sd)
    own = read_prompts(None, sd)
    assert len(own) == len(set(own)) == 1000
    assert all(p.startswith(("a photo of a ", "a photo of an ")) and p.endswith(".") for p in own)


def test_loading_pipelines(tmp_path):
    tiny_sd().save_pretrained(tmp_path / "model")
    pipe = load_pipeline(tmp_path / "model", dtype=torch.float64)
    assert pipe.unet.dtype == torch.float64
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelNotLoaded, match=r"empty is not a pipeline: it has no model_index\.json"):
        load_pipeline(tmp_path / "empty")
    with pytest.raises(ModelNotLoaded, match="The folder .*nothing does not exist"):
        load_pipeline(tmp_path / "nothing")
    with pytest.raises(ModelNotLoaded, match="somebody/some-model could not be loaded"):
        load_pipeline("somebody/some-model")
    (tmp_path / "model" / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"short")
    with pytest.raises(ModelNotLoaded, match="model could not be loaded"):
        load_pipeline(tmp_path / "model")


def test_weights_stored_in_half_precision_load_as_one_type(tmp_path):
    """transformers takes a file's type, diffusers float32; a pipeline of two types cannot run."""
    tiny_sd().to(torch.float16).save_pretrained(tmp_path / "halved")
    pipe = load_pipeline(tmp_path / "halved")
    assert {part.dtype for part in (pipe.unet, pipe.vae, pipe.text_encoder)} == {torch.float32}
