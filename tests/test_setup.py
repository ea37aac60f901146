"""A pipeline set up for a while gives the images of one set up for good, and afterwards those of before."""

import pytest
import torch

from conftest import TRANSFORMERS, tiny_sd, tiny_sdxl
from headwise.errors import HeadwiseError
from headwise.model.clip_skip import clip_skip_of, highest_clip_skip
from headwise.model.generate import require_size
from headwise.model.loras import loras_of
from headwise.model.samplers import SAMPLERS, sampler_of, samplers_for, use_sampler
from headwise.model.setup import set_up, set_up_for_now
from helpers import call
from test_loras import lora_file

pytest.importorskip("peft", reason="peft is not installed; the extra 'test' brings it")


@pytest.fixture
def files(tmp_path):
    return [lora_file(tmp_path / f"{name}.safetensors", seed) for seed, name in enumerate(("ink", "oil"))]


def asked_of(files):
    """Each setting alone, and all together."""
    single = {"scheduler": "Euler a"}, {"clip_skip": 2}, {"loras": {files[0]: 0.7}}
    return [*single, {"scheduler": "UniPC", "clip_skip": 2, "loras": {files[0]: 0.7, files[1]: -1.0}}]


def test_for_a_while_is_as_for_good_and_leaves_no_trace(sd, files):
    before, names = call(sd), [name for name, _ in sd.unet.named_parameters()]
    for asked in asked_of(files):
        other = tiny_sd()
        set_up(other, **asked)
        with set_up_for_now(sd, **asked):
            assert torch.equal(call(sd), call(other)), asked
            assert (sampler_of(sd), clip_skip_of(sd)) == (sampler_of(other), clip_skip_of(other))
        assert torch.equal(call(sd), before), asked
        assert [name for name, _ in sd.unet.named_parameters()] == names
        assert (sampler_of(sd), clip_skip_of(sd), loras_of(sd)) == ("PNDM", 1, "")


def test_what_was_loaded_before_works_beside_and_after(files):
    pipe, both = tiny_sd(), tiny_sd()
    set_up(pipe, loras={files[0]: 0.5}, scheduler="Euler")
    set_up(both, loras={files[0]: 0.5, files[1]: 2.0}, scheduler="Euler")
    before, name = call(pipe), loras_of(pipe)
    with set_up_for_now(pipe, loras={files[1]: 2.0}):
        assert torch.equal(call(pipe), call(both)) and loras_of(pipe) == loras_of(both)
    assert torch.equal(call(pipe), before) and loras_of(pipe) == name
    with pytest.raises(HeadwiseError, match="The LoRA ink is already active. Leave it out."):
        set_up_for_now(pipe, loras={files[0]: 1.0}).__enter__()
    assert torch.equal(call(pipe), before)


@pytest.mark.parametrize(
    ("asked", "problem"),
    [({"clip_skip": 99}, "A clip skip of 99"), ({"scheduler": "Eule"}, "Unknown sampler"), ({}, "is a .txt")],
)
def test_a_setting_that_does_not_fit_leaves_the_pipeline_alone(sd, files, tmp_path, asked, problem):
    (tmp_path / "ink.txt").touch()
    loras = {files[0]: 1.0} if asked else {tmp_path / "ink.txt": 1.0}
    before = call(sd)
    with pytest.raises(HeadwiseError, match=problem):
        set_up_for_now(sd, loras=loras, **asked).__enter__()
    assert torch.equal(call(sd), before) and loras_of(sd) == ""


def test_what_a_pipeline_takes(sd):
    assert samplers_for(sd) == list(SAMPLERS)
    flow = TRANSFORMERS["flux-dev"]()
    for name in samplers_for(flow):
        use_sampler(flow, name)
    for name in set(SAMPLERS) - set(samplers_for(flow)):
        with pytest.raises(HeadwiseError, match="trained by flow matching"):
            use_sampler(flow, name)
    assert highest_clip_skip(sd) == sd.text_encoder.config.num_hidden_layers
    assert highest_clip_skip(tiny_sdxl()) == highest_clip_skip(flow) == 1
    require_size(sd, 16, 24)
    require_size(sd, None, None)
    with pytest.raises(HeadwiseError, match="expected multiples of 8 .* such as 96 and 64"):
        require_size(sd, 100, 60)
