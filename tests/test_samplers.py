"""Samplers go by the names that people know; clip skip reads all texts before CLIP's last layers."""

import json

import pytest
import torch

from conftest import TRANSFORMERS, ddim, pndm, tiny_sd, tiny_sdxl
from headwise.errors import HeadwiseError, RunMismatch
from headwise.measuring.measure import measure
from headwise.model.clip_skip import clip_skip_of, skip_layers
from headwise.model.pipelines import load_pipeline, settings_of_pictures
from headwise.model.samplers import SAMPLERS, sampler_of, use_sampler
from headwise.model.text_encoders import encode_word
from headwise.pictures import settings_in
from helpers import SHORT, call

FAST = ("--num-inference-steps", 2)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("own", [pndm, ddim], ids=["pndm", "ddim"])
def test_each_sampler_generates_and_knows_its_name(name, own):
    pipe = tiny_sd(scheduler=own())
    use_sampler(pipe, name)
    assert sampler_of(pipe) == name and pipe.scheduler.config.beta_schedule == "scaled_linear"
    assert call(pipe, num_inference_steps=4).isfinite().all()
    assert not pipe.scheduler.config.get("clip_sample")


def test_what_a_sampler_was_set_to_does_not_outlive_it(sd):
    use_sampler(sd, "DPM++ 2M SDE Karras")
    use_sampler(sd, "Euler")
    assert sampler_of(sd) == "Euler" and not sd.scheduler.config.use_karras_sigmas
    use_sampler(sd, "dpm++ 2m")
    assert sampler_of(sd) == "DPM++ 2M"


def test_the_model_s_own_name_is_known(sd):
    assert sampler_of(sd) == "PNDM" and sampler_of(TRANSFORMERS["flux-dev"]()) == "FlowMatchEulerDiscrete"


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("euler", "Euler"),
        ("euler-a", "Euler a"),
        ("Euler_ancestral", "Euler a"),
        ("dpm++ 2m karras", "DPM++ 2M Karras"),
        ("dpmpp_2m_sde_karras", "DPM++ 2M SDE Karras"),
        ("uni_pc", "UniPC"),
        ("PLMS", "PNDM"),
    ],
)
def test_names_are_read_however_they_are_written(written, meant, sd):
    use_sampler(sd, written)
    assert sampler_of(sd) == meant


def test_names_and_models_that_do_not_go_together(sd):
    with pytest.raises(
        HeadwiseError, match=r"Unknown sampler 'eulr'\. Did you mean 'Euler'\? Give one of: Euler, "
    ):
        use_sampler(sd, "eulr")
    for name in ("sd3", "flux-dev"):
        use_sampler(pipe := TRANSFORMERS[name](), "euler")
        assert type(pipe.scheduler).__name__ == "FlowMatchEulerDiscreteScheduler"
        with pytest.raises(HeadwiseError, match="was trained by flow matching and keeps its FlowMatch"):
            use_sampler(pipe, "ddim")


def test_another_sampler_does_not_continue_a_run(tmp_path):
    options = SHORT | {"pictures": 2, "out": tmp_path / "run"}
    concepts = {"Color": ["red"], "Animals": ["dog"]}
    measure(tiny_sd(), concepts, **options)
    other = tiny_sd()
    use_sampler(other, "ddim")
    with pytest.raises(RunMismatch, match="scheduler is 'PNDMScheduler' there and 'DDIMScheduler' here"):
        measure(other, concepts, **options)


def read_before(pipe, text, left_out):
    """A second way: the hidden states before the last layers, through the norm that follows the last one."""
    options = {"padding": "max_length", "max_length": pipe.tokenizer.model_max_length, "return_tensors": "pt"}
    encoder, tokens = pipe.text_encoder, pipe.tokenizer(text, **options).input_ids
    states = encoder(tokens, output_hidden_states=True).hidden_states
    return getattr(encoder, "text_model", encoder).final_layer_norm(states[-1 - left_out])


@torch.no_grad()
def test_clip_skip_reads_prompts_words_and_negative_prompts_before_the_last_layer(sd):
    cut = tiny_sd()
    skip_layers(cut, 2)
    prompt, negative = cut.encode_prompt("dog", "cpu", 1, True, negative_prompt="cat")
    assert torch.allclose(prompt, read_before(sd, "dog", 1), atol=1e-6)
    assert torch.allclose(negative, read_before(sd, "cat", 1), atol=1e-6)
    assert not torch.allclose(prompt, read_before(sd, "dog", 0), atol=1e-3)
    _, [word] = encode_word(cut, "dog")
    assert torch.allclose(word, prompt[0, 1], atol=1e-6)


def test_a_clip_skip_of_one_changes_nothing_and_other_models_have_none(sd):
    before, settings = call(sd), settings_of_pictures(sd, ["a dog"])
    skip_layers(sd, 1)
    assert torch.equal(call(sd), before) and settings_of_pictures(sd, ["a dog"]) == settings
    with pytest.raises(HeadwiseError, match="clip skip of 3 was given; expected 1, .* to 2 for this model"):
        skip_layers(sd, 3)
    with pytest.raises(HeadwiseError, match="XLPipeline does not encode its prompt with one CLIP"):
        skip_layers(tiny_sdxl(), 2)


def test_clip_skip_is_kept_with_a_run_and_with_a_saved_pipeline(sd, tmp_path):
    skip_layers(sd, 2)
    assert settings_of_pictures(sd, ["a dog"])["clip_skip"] == 2
    sd.save_pretrained(tmp_path / "cut")
    again = load_pipeline(tmp_path / "cut")
    assert clip_skip_of(again) == 2 and settings_of_pictures(again, [])["clip_skip"] == 2


def test_commands_take_samplers_clip_skip_sizes_and_negative_prompts(run, workspace):
    options = (
        "--model",
        "tiny",
        *FAST,
        "--scheduler",
        "euler-a",
        "--clip-skip",
        2,
        "--negative-prompt",
        "cat",
    )
    options += ("--height", 32, "--width", 24, "--json")
    commands = {
        "generate": ("generate", "a red dog", "-n", 1),
        "edit": ("edit", "-s", "a red dog", "-t", "a red cat", "--seeds", "0"),
        "excite": ("excite", "a dog and a cat", "-w", "dog", "-w", "cat", "--seeds", "0"),
    }
    for name, command in commands.items():
        code, out, err = run(*command, *options, "--out", name)
        assert code == 0, err
        kept = settings_in(json.loads(out)["files"][0])
        said = {"scheduler": "euler-a", "clip_skip": "2", "negative_prompt": "cat", "height": "32"}
        assert {key: kept[key] for key in said} == said
    measuring = ("measure", "--concepts", "emoji", "-n", 2, *options)
    assert run(*measuring, "--out", "run")[0] == 0
    settings = json.loads((workspace / "run" / "run.json").read_text())["settings"]
    assert (settings["scheduler"], settings["clip_skip"]) == ("EulerAncestralDiscreteScheduler", 2)
    assert (settings["negative_prompt"], settings["height"]) == ("cat", 32)
