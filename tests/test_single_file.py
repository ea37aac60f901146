"""Checkpoints of a single file are loaded without network, or refused with what to do next."""

import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from conftest import tiny_sd
from headwise.errors import ModelNotLoaded
from headwise.measuring.relevance import Relevance
from headwise.model.pipelines import fingerprint, load_pipeline, model_name
from headwise.model.single_file import CONVERT, FAMILIES, PARTS
from helpers import call
from ldm_checkpoint import ldm_weights, save_ldm


@pytest.fixture
def config(sd, tmp_path):
    """A folder with a configuration alone."""
    sd.save_pretrained(tmp_path / "config")
    for weights in (tmp_path / "config").rglob("*.safetensors"):
        weights.unlink()
    return tmp_path / "config"


@pytest.fixture
def checkpoint(sd, tmp_path):
    return save_ldm(sd, tmp_path / "tiny.safetensors")


def test_a_single_file_is_the_pipeline_that_it_was_written_from(sd, checkpoint, config):
    pipe = load_pipeline(checkpoint, config=config)
    assert type(pipe) is type(sd) and type(pipe.scheduler) is type(sd.scheduler)
    assert model_name(pipe) == str(checkpoint) and fingerprint(pipe) == fingerprint(sd)
    pipe.set_progress_bar_config(disable=True)
    assert torch.equal(call(pipe), call(sd))
    assert torch.equal(pipe.vae.decode(call(sd)).sample, sd.vae.decode(call(sd)).sample)


@pytest.mark.parametrize("asked", [None, torch.float16, torch.bfloat16])
def test_a_file_of_half_precision_is_of_the_type_that_is_asked_for(asked, sd, config, tmp_path):
    file = save_ldm(sd.to(torch.float16), tmp_path / "half.safetensors")
    pipe = load_pipeline(file, dtype=asked, config=config)
    assert {part.dtype for part in (pipe.unet, pipe.vae, pipe.text_encoder)} == {asked or torch.float32}


def test_what_the_file_lacks_comes_from_the_folder_if_it_has_weights(sd, config, tmp_path):
    weights = ldm_weights(sd)
    denoiser = {key: weight for key, weight in weights.items() if key.startswith("model.diffusion_model.")}
    save_file(denoiser, tmp_path / "unet.safetensors")
    with pytest.raises(ModelNotLoaded, match="has no weights for the vae. Give the folder"):
        load_pipeline(tmp_path / "unet.safetensors", config=config)
    sd.save_pretrained(tmp_path / "whole")
    pipe = load_pipeline(tmp_path / "unet.safetensors", config=tmp_path / "whole")
    assert fingerprint(pipe) == fingerprint(sd)


def test_a_command_takes_it(run, checkpoint, config, workspace):
    options = ("--model", checkpoint, "--config", config, "--num-inference-steps", 2)
    assert run("measure", *options, "--concepts", "emoji", "-n", 2)[0] == 0
    measured = Relevance.load(workspace / "runs" / "tiny" / "relevance.safetensors")
    assert measured.settings["model"] == str(checkpoint)


def test_each_family_is_known_by_its_keys(tmp_path):
    assert len({family.sign for family in FAMILIES}) == len(FAMILIES)
    for family in FAMILIES:
        file = tmp_path / "file.safetensors"
        keys = {family.sign, *(signs[-1] for signs in PARTS.values())}
        if "refiner" in family.name:
            keys = {"conditioner.embedders.0.model."}
        save_file({f"{key}weight": torch.zeros(1) for key in keys}, file)
        with pytest.raises(ModelNotLoaded) as refused:
            load_pipeline(file)
        said = (
            "StableDiffusionXLImg2ImgPipeline" if "refiner" in family.name else f"folder of {family.name} in"
        )
        assert said in str(refused.value)


REFUSED = {
    "old.ckpt": (b"x", "is a pickle, which can run any code.* Convert it: python -c"),
    "model.gguf": (b"x", "holds quantised weights; expected a .safetensors file"),
    "text.safetensors": (b"These are notes.", "cannot be read as safetensors"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_files_that_are_not_read(name, tmp_path):
    content, said = REFUSED[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelNotLoaded, match=said):
        load_pipeline(tmp_path / name)


def test_other_mistakes_say_what_to_do(sd, checkpoint, config, tmp_path):
    with pytest.raises(ModelNotLoaded, match="The file .*none.safetensors does not exist"):
        load_pipeline(tmp_path / "none.safetensors")
    save_file({"a.weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(
        ModelNotLoaded, match="does not hold a model of a known family; expected a checkpoint of"
    ):
        load_pipeline(tmp_path / "other.safetensors")
    with pytest.raises(ModelNotLoaded, match="configuration was given with emoji; only a single"):
        load_pipeline("emoji", config=config)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelNotLoaded, match=r"empty has no model_index\.json; expected the folder"):
        load_pipeline(checkpoint, config=tmp_path / "empty")


def test_a_configuration_of_another_model_is_refused(checkpoint, sd, tmp_path):
    from conftest import SD2, tiny_sdxl

    tiny_sdxl().save_pretrained(tmp_path / "xl")
    with pytest.raises(ModelNotLoaded, match="Stable Diffusion 1. Give the configuration that belongs to it"):
        load_pipeline(checkpoint, config=tmp_path / "xl")
    tiny_sd(SD2).save_pretrained(tmp_path / "two")
    with pytest.raises(ModelNotLoaded, match="Give the configuration that belongs to it"):
        load_pipeline(checkpoint, config=tmp_path / "two")


def test_the_program_that_converts_a_pickle_runs(sd, checkpoint, tmp_path):
    torch.save({"state_dict": ldm_weights(sd), "epoch": 3}, tmp_path / "old.ckpt")
    files = [str(tmp_path / name) for name in ("old.ckpt", "new.safetensors")]
    subprocess.run([sys.executable, "-c", CONVERT, *files], check=True)
    new, same = load_file(files[1]), load_file(checkpoint)
    assert new.keys() == same.keys() and all(torch.equal(new[key], same[key]) for key in same)
