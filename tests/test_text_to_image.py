"""What is no text-to-image pipeline is refused in one sentence, before any of its weights are loaded."""

import json

import diffusers
import pytest

from conftest import BUILD, TRANSFORMERS
from headwise.errors import ModelNotLoaded
from headwise.model.text_to_image import require_text_to_image

OTHERS = {
    "StableDiffusionInstructPix2PixPipeline": "takes an image besides the prompt (`image`)",
    "StableDiffusionUpscalePipeline": "takes an image besides the prompt (`image`)",
    "StableDiffusionControlNetPipeline": "takes an image besides the prompt (`image`)",
    "FluxControlNetPipeline": "takes an image besides the prompt (`control_image`)",
    "AnimateDiffPipeline": "generates video or sound (`num_frames`)",
    "WanPipeline": "generates video or sound (`num_frames`)",
    "IFPipeline": "takes no `latents`",
    "Kandinsky3Pipeline": "has no `vae`",
    "KandinskyV22Pipeline": "takes an image besides the prompt (`image_embeds`)",
    "DDPMPipeline": "takes no `prompt`",
    "DiTPipeline": "cannot be called without `class_labels`",
}


def folder_of(path, kind):
    path.mkdir()
    (path / "model_index.json").write_text(json.dumps({"_class_name": kind}))
    return path


@pytest.mark.parametrize("kind", OTHERS)
def test_the_sentence_says_what_came_and_what_was_expected(kind, tmp_path):
    folder = folder_of(tmp_path / "model", kind)
    with pytest.raises(ModelNotLoaded) as refused:
        require_text_to_image(str(folder))
    assert str(refused.value).startswith(
        f"{folder} is a {kind}, which {OTHERS[kind]}; expected a text-to-image pipeline."
    )


@pytest.mark.parametrize("name", BUILD | TRANSFORMERS)
def test_every_family_passes(name, tmp_path):
    kind = type((BUILD | TRANSFORMERS)[name]()).__name__
    require_text_to_image(str(folder_of(tmp_path / "model", kind)))


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"_class_name": "NoSuchPipeline"}', '{"_class_name": ["a", "B"]}']
)
def test_what_cannot_be_told_is_left_to_loading(content, tmp_path):
    (tmp_path / "model_index.json").write_text(content)
    require_text_to_image(str(tmp_path))
    require_text_to_image(str(tmp_path / "missing"))


@pytest.mark.parametrize("kind", ["StableDiffusionInstructPix2PixPipeline"])
def test_commands_refuse_a_saved_pipeline_of_another_kind(kind, sd, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    getattr(diffusers, kind)(**sd.components, requires_safety_checker=False).save_pretrained("model")
    for command in (["doctor"], ["measure"], ["generate", "a dog"], ["edit", "-s", "a dog", "-t", "a cat"]):
        code, out, err = run(*command, "--model", "model")
        assert code == 2 and not out
        assert err.startswith(f"error: model is a {kind}, which takes an image"), err
