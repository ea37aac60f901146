"""Contexts of one pipeline that overlap: in any order, from several threads, afterwards nothing is left."""

import threading
from itertools import permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import ddim, tiny_sd
from headwise.errors import HookMisuse
from headwise.model.attention import hooked
from headwise.model.heads import HeadMap
from headwise.model.hooks import Hook
from headwise.steering.steer import weaken
from helpers import call


def state(pipe):
    """What hooks may touch, and must leave as it was."""
    modules = {n: sorted(m.__dict__.get("forward", "") and ["forward"]) for n, m in pipe.unet.named_modules()}
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in pipe.unet.modules()]
    return type(pipe), modules, hooks, sorted(pipe.__dict__), sorted(pipe.scheduler.__dict__)


class Louder(Hook):
    def __init__(self, factor):
        self.factor = factor

    def __call__(self, attend, site, query, key, value):
        return attend(query, key, value * self.factor)


@pytest.fixture(scope="module")
def pipe():
    pipe = tiny_sd(scheduler=ddim())
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_contexts_may_be_left_in_any_order(pipe, order):
    call(pipe)  # what the first call alone leaves in a scheduler
    before, plain = state(pipe), call(pipe)
    hooks = [Louder(1.5), Louder(0.5), Louder(2.0)]
    contexts = [hooked(pipe, hook) for hook in hooks]
    for context in contexts:
        context.__enter__()
    open_ones = set(range(3))
    for leaving in order:
        contexts[leaving].__exit__(None, None, None)
        open_ones.remove(leaving)
        now = call(pipe)
        with hooked(pipe, *(Louder(hooks[n].factor) for n in sorted(open_ones))):
            pass
        factor = float(torch.tensor([hooks[n].factor for n in open_ones]).prod())
        expected = Louder(factor)
        other = tiny_sd(scheduler=ddim())
        with hooked(other, expected):
            assert torch.allclose(now, call(other), atol=1e-5)
    assert state(pipe) == before
    assert torch.equal(call(pipe), plain)


@settings(max_examples=20)
@given(steps=st.lists(st.integers(0, 3), max_size=12), fails=st.booleans())
def test_whatever_is_entered_and_left_nothing_remains(pipe, steps, fails):
    call(pipe)
    before, plain, contexts = state(pipe), call(pipe), {}
    for step in steps:
        if step in contexts:
            error = (ValueError, ValueError(), None) if fails else (None, None, None)
            try:
                contexts.pop(step).__exit__(*error)
            except ValueError:
                pass
        else:
            contexts[step] = hooked(pipe, Louder(1.0 + step))
            contexts[step].__enter__()
    for context in contexts.values():
        context.__exit__(None, None, None)
    assert state(pipe) == before
    assert torch.equal(call(pipe), plain)


def test_a_second_thread_is_refused_and_nothing_is_left(pipe):
    call(pipe)
    before, plain, head_map = state(pipe), call(pipe), HeadMap.of(pipe)
    first_is_in, second_is_done, refused = threading.Event(), threading.Event(), []

    def second():
        first_is_in.wait()
        try:
            with hooked(pipe, weaken(head_map, [0], "dog")):
                pass
        except HookMisuse as error:
            refused.append(str(error))
        second_is_done.set()

    thread = threading.Thread(target=second)
    thread.start()
    with hooked(pipe, weaken(head_map, [0], "red")):
        first_is_in.set()
        second_is_done.wait()
        call(pipe)
    thread.join()
    assert refused and "Another thread has hooked this pipeline" in refused[0]
    assert state(pipe) == before
    assert torch.equal(call(pipe), plain)


def test_a_hook_may_be_used_again_once_its_context_is_left(pipe):
    hook, above = Louder(2.0), Louder(1.0)
    first, second = hooked(pipe, hook), hooked(pipe, above)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    with hooked(pipe, hook):
        call(pipe)
    second.__exit__(None, None, None)
