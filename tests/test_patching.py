"""Patching: laws of exchanging what heads hand on."""

import numpy as np
import pytest
import torch

from headwise.editing.groups import generate_edits
from headwise.editing.patch import Patch
from headwise.errors import HeadMapMismatch
from headwise.model.heads import HeadMap

GROUP = ["a red dog", "a blue dog", "a green dog"]


def drawn(pipe, hooks, groups=1):
    options = {"num_inference_steps": 3, "output_type": "np", "seeds": list(range(groups))}
    return np.array(generate_edits(pipe, [GROUP] * groups, hooks, **options))


def chosen(pipe, *heads):
    found = np.zeros((2, HeadMap.of(pipe).all_heads), bool)
    for target, of_target in enumerate(heads):
        found[target, of_target] = True
    return found


def test_without_heads_nothing_changes(pipe):
    assert np.array_equal(drawn(pipe, [Patch(chosen(pipe, [], []))]), drawn(pipe, []))


def test_all_heads_make_a_target_its_source(pipe):
    """Nothing else of the denoiser reads the prompt, where there is no pooled embedding beside."""
    ours = drawn(pipe, [Patch(chosen(pipe, slice(None), []))], groups=2)
    stock = drawn(pipe, [], groups=2)
    assert np.array_equal(ours[:, 0], stock[:, 0]) and np.array_equal(ours[:, 2], stock[:, 2])
    same = np.abs(ours[:, 1] - ours[:, 0]).max()
    if "XL" in type(pipe).__name__:
        assert same > 0
    else:
        assert same < 1e-6 < np.abs(stock[:, 1] - stock[:, 0]).max()


def test_one_head_is_exchanged_and_no_other(sd):
    """The naive way: a forward hook on the one layer's output projection, fed by hand."""
    sd.unet.double(), sd.text_encoder.double(), sd.vae.double()
    head_map = HeadMap.of(sd)
    layer, head = len(head_map) // 2, 1
    start = head_map.slices[layer][0]
    ours = drawn(sd, [Patch(chosen(sd, [start + head], []))])
    module = sd.unet.get_submodule(head_map.layers[layer].address)
    wide = module.to_q.out_features // module.heads
    part = slice(head * wide, (head + 1) * wide)

    def exchange(linear, arguments):
        (out,) = arguments
        out = out.clone()
        out[4, :, part] = out[3, :, part]  # rows: three unconditional, source, two targets
        return (out,)

    handle = module.to_out[0].register_forward_pre_hook(exchange)
    naive = drawn(sd, [])
    handle.remove()
    assert np.abs(ours - naive).max() < 1e-9
    assert np.abs(ours - drawn(sd, [])).max() > 1e-7


def test_another_models_heads_are_refused(sd):
    with torch.no_grad(), pytest.raises(HeadMapMismatch, match="The selection is for 3 heads"):
        drawn(sd, [Patch(np.zeros((2, 3), bool))])
