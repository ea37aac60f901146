"""LoRA files change images by their scale, leave the model's weights alone, and are told apart in runs."""

import json

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import save_file

from conftest import SD2, tiny_pixart, tiny_sd
from headwise.errors import HeadwiseError, MissingExtra, ModelNotLoaded, RunMismatch
from headwise.measuring.measure import measure
from headwise.model.loras import load_loras, loras_of
from headwise.model.pipelines import fingerprint, load_pipeline, settings_of_pictures
from headwise.pictures import settings_in
from helpers import SHORT, call

peft = pytest.importorskip("peft", reason="peft is not installed; the extra 'test' brings it")
FAST = ("--num-inference-steps", 2)


def lora_file(file, seed=0, unet=None, alpha=4):
    """A LoRA of rank 2 on the keys of the tiny model, as diffusers writes it."""
    pipe = tiny_sd() if unet is None else tiny_sd(unet)
    torch.manual_seed(seed)
    config = peft.LoraConfig(r=2, lora_alpha=alpha, target_modules=["to_k"], init_lora_weights=False)
    pipe.unet.add_adapter(config)
    layers = peft.get_peft_model_state_dict(pipe.unet)
    file.parent.mkdir(exist_ok=True)
    StableDiffusionPipeline.save_lora_weights(
        file.parent,
        unet_lora_layers=layers,
        weight_name=file.name,
        unet_lora_adapter_metadata=config.to_dict(),
    )
    return file


@pytest.fixture
def style(tmp_path):
    return lora_file(tmp_path / "style.v1.safetensors")


def with_lora(file, scale=1.0):
    pipe = tiny_sd()
    load_loras(pipe, {file: scale})
    return pipe


def test_the_scale_is_a_dial_whose_zero_is_the_model_itself(style, sd):
    plain, full = call(sd), call(with_lora(style))
    half, doubled = call(with_lora(style, 0.5)), call(with_lora(style, 2))
    assert torch.equal(call(with_lora(style, 0)), plain)
    moved = [float((each - plain).norm()) for each in (half, full, doubled)]
    assert 0 < moved[0] < moved[1] < moved[2]


def test_a_lora_is_the_weights_that_it_stands_for(style, sd):
    fused = with_lora(style, 0.7)
    key = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
    layer = fused.unet.get_submodule(key)
    name = "style-v1"
    change = layer.lora_B[name].weight @ layer.lora_A[name].weight
    own = sd.unet.get_submodule(key)
    x = torch.randn(3, own.in_features)
    with torch.no_grad():
        assert torch.allclose(layer(x), own(x) + 0.7 * (4 / 2) * x @ change.T, atol=1e-5)


def test_the_identity_is_name_scale_and_content(style, tmp_path, sd):
    said = loras_of(with_lora(style, 0.8))
    assert said.startswith("style-v1 × 0.8, ") and loras_of(with_lora(style, 0.8)) == said
    other = lora_file(tmp_path / "other" / style.name, seed=1)
    assert loras_of(with_lora(other, 0.8)) not in ("", said)
    assert loras_of(with_lora(style, 0.5)) not in ("", said)
    assert loras_of(with_lora(style, 0)) == loras_of(sd) == ""
    disabled = with_lora(style)
    disabled.disable_lora()
    assert loras_of(disabled) == ""
    assert fingerprint(with_lora(style)) == fingerprint(sd), "the model's own weights are the same"


def test_runs_without_lora_have_the_settings_they_had(sd, style):
    assert "loras" not in settings_of_pictures(sd, ["a dog"])
    assert settings_of_pictures(with_lora(style), ["a dog"])["loras"].startswith("style-v1 × 1, ")


def test_another_lora_does_not_continue_a_run(style, tmp_path):
    options = SHORT | {"pictures": 2, "out": tmp_path / "run"}
    concepts = {"Color": ["red"], "Animals": ["dog"]}
    measure(with_lora(style), concepts, **options)
    measure(with_lora(style), concepts, **options)
    with pytest.raises(RunMismatch, match=r"loras is 'style-v1 × 1, .*' there and 'style-v1 × 0.5, .*' here"):
        measure(with_lora(style, 0.5), concepts, **options)
    with pytest.raises(RunMismatch, match=r"loras is .* there and None here"):
        measure(tiny_sd(), concepts, **options)


def test_commands_take_lora_files(run, workspace, style):
    options = ("--model", "tiny", *FAST, "--lora", f"{style}:0.5")
    code, out, _ = run("generate", "a red dog", *options, "-n", 1, "--out", "made", "--json")
    assert code == 0
    assert json.loads(settings_in(json.loads(out)["files"][0])["loras"]) == {str(style): 0.5}
    measured = ("measure", "--concepts", "emoji", "-n", 2, *options)
    assert run(*measured)[0] == 0
    assert (workspace / "runs" / "tiny+style.v1" / "relevance.safetensors").is_file()


def test_a_file_without_scale_and_one_with_a_colon_in_its_path(tmp_path):
    from headwise.cli.options import Model

    assert Model("m", loras=["a.safetensors", "C:/b.safetensors", "c:1.safetensors:-0.5"]).loading == {
        "loras": {"a.safetensors": 1.0, "C:/b.safetensors": 1.0, "c:1.safetensors": -0.5}
    }


def test_relevance_of_the_plain_model_serves_where_none_was_measured_with_the_lora(workspace):
    from headwise.cli.options import Measured

    model = Measured("tiny", loras=["style.safetensors"])
    assert model.measured_file().parent.name == "tiny"
    own = workspace / "runs" / "tiny+style" / "relevance.safetensors"
    own.parent.mkdir()
    own.write_bytes((workspace / "runs" / "tiny" / "relevance.safetensors").read_bytes())
    assert model.measured_file() == own.relative_to(workspace)


def test_what_is_refused(style, tmp_path, sd, monkeypatch):
    with pytest.raises(ModelNotLoaded, match="The LoRA .*none.safetensors does not exist; expected"):
        load_loras(sd, {tmp_path / "none.safetensors": 1})
    (tmp_path / "old.pt").write_bytes(b"x")
    with pytest.raises(ModelNotLoaded, match=r"old.pt is a \.pt; expected"):
        load_loras(sd, {tmp_path / "old.pt": 1})
    with pytest.raises(ModelNotLoaded, match="PixArtSigmaPipeline does not take LoRA files"):
        load_loras(tiny_pixart(), {style: 1})
    other = SD2 | {"cross_attention_dim": 48}
    with pytest.raises(ModelNotLoaded, match="does not fit StableDiffusionPipeline: "):
        load_loras(tiny_sd(), {lora_file(tmp_path / "two.safetensors", unet=other): 1})
    save_file({"a.weight": torch.zeros(1)}, tmp_path / "no.safetensors")
    with pytest.raises(ModelNotLoaded, match="does not fit StableDiffusionPipeline: "):
        load_loras(tiny_sd(), {tmp_path / "no.safetensors": 1})
    with pytest.raises(HeadwiseError, match="Two LoRA files are called style-v1"):
        load_loras(sd, {style: 1, tmp_path / "b" / style.name: 1})
    with pytest.raises(ModelNotLoaded, match="is a LoRA, .* this with it: --lora"):
        load_pipeline(style)
    monkeypatch.setattr("headwise.model.loras.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match="pip install peft"):
        load_loras(sd, {style: 1})


def test_the_names_that_trainers_write_are_read(tmp_path, sd):
    place = "down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
    layer = sd.unet.down_blocks[0].attentions[0].transformer_blocks[0].attn2.to_k
    torch.manual_seed(0)
    weights = {
        f"lora_unet_{place}.lora_down.weight": torch.randn(2, layer.in_features),
        f"lora_unet_{place}.lora_up.weight": torch.randn(layer.out_features, 2),
        f"lora_unet_{place}.alpha": torch.tensor(1.0),
    }
    save_file(weights, tmp_path / "kohya.safetensors")
    load_loras(sd, {tmp_path / "kohya.safetensors": 1})
    loaded = sd.unet.down_blocks[0].attentions[0].transformer_blocks[0].attn2.to_k
    assert np.isclose(loaded.scaling["kohya"], 0.5) and loras_of(sd).startswith("kohya × 1, ")
