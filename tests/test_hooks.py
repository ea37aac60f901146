"""The hook protocol: what is called when, what a plain callable is, and that latents move under `hooked`."""

import numpy as np
import pytest
import torch
from diffusers import EulerAncestralDiscreteScheduler, EulerDiscreteScheduler
from diffusers.callbacks import SDCFGCutoffCallback
from transformers import CLIPTokenizer

import headwise as hw
from conftest import SD1, SD2, TRANSFORMERS, ddim, pndm, tiny_sd, tiny_sdxl
from headwise.editing.attend_and_excite import Excite, excite
from headwise.editing.baselines.free_prompt import FreePrompt
from headwise.editing.baselines.masactrl import MasaCtrl
from headwise.editing.baselines.plug_and_play import PlugAndPlay
from headwise.editing.groups import generate_edits
from headwise.editing.local_blend import LocalBlend
from headwise.editing.patch import Patch
from headwise.editing.prompt_to_prompt import PromptToPrompt
from headwise.errors import HeadMapMismatch, HookMisuse
from headwise.measuring.attention_maps import AttentionMaps
from headwise.measuring.concepts import ConceptSet
from headwise.measuring.probe import ConceptProbe
from headwise.model.attention import hooked
from headwise.model.generate import generate_keys, generator_for, latents_for, start_of
from headwise.model.heads import HeadMap
from headwise.model.hooks import Hook, as_hook
from headwise.model.steps import require_steps
from headwise.steering.steer import strengthen, weaken
from helpers import relevance_for

FAST = {"num_inference_steps": 4, "output_type": "latent", "guidance_scale": 5.0}
GROUP = ("a red dog", "a red cat")


class Diary(Hook):
    """Writes down what is called."""

    kinds = ("cross", "self")

    def __init__(self, features=()):
        self.seen, self.features = [], features

    def before_first_step(self, latents, call):
        self.seen.append(("before_first_step", call.step))
        return latents

    def prepare(self, call):
        self.seen.append(("prepare", call.step))

    def __call__(self, attend, site, query, key, value):
        self.seen.append((site.kind, site.step))
        return attend(query, key, value)

    def feature(self, output):
        self.seen.append("feature")
        return output

    def finish(self, call):
        self.seen.append(("finish", call.step))

    def after_step(self, latents, call):
        self.seen.append(("after_step", call.step))
        return latents


class Add(Hook):
    """Adds a number to the latents after each step, and another before the first."""

    def __init__(self, after=0.0, before=0.0):
        self.after, self.before = after, before

    def before_first_step(self, latents, call):
        return latents + self.before

    def after_step(self, latents, call):
        return latents + self.after


class Double(Hook):
    """Doubles the latents after each step."""

    def after_step(self, latents, call):
        return 2 * latents


def call(pipe, prompt="a red dog", seed=0, **options):
    return pipe(prompt, generator=generator_for(seed, 0), **FAST | options).images


def test_the_methods_are_called_in_the_order_of_the_protocol():
    pipe, diary = tiny_sd(scheduler=ddim()), Diary(("mid_block.resnets.0",))
    stock = call(pipe)
    with hooked(pipe, diary):
        assert torch.equal(call(pipe), stock)
    events = [event for event in diary.seen if event[0] not in ("cross", "self")]
    of_step = lambda step: [("prepare", step), "feature", ("finish", step), ("after_step", step)]  # noqa: E731
    assert events == [("before_first_step", 0), *(event for step in range(4) for event in of_step(step))]
    assert {event[0] for event in diary.seen} >= {"cross", "self"}


def test_a_hook_that_overrides_nothing_changes_no_bit(pipe):
    stock = call(pipe)
    with hooked(pipe, Hook()):
        assert torch.equal(call(pipe), stock)


def test_a_plain_callable_is_a_hook_and_is_named_in_errors(sd):
    def forgetful(attend, site, query, key, value):
        attend(query, key, value)

    with pytest.raises(HookMisuse, match="The hook <function .*forgetful.* returned NoneType"):
        with hooked(sd, forgetful):
            call(sd)
    kinds = set()
    with hooked(sd, as_hook(lambda attend, site, *qkv: kinds.add(site.kind) or attend(*qkv), ("self",))):
        call(sd)
    assert kinds == {"self"}


def test_what_would_be_ignored_is_refused(sd):
    class Half:
        def prepare(self, call):
            """Would never be called."""

        def __call__(self, attend, site, query, key, value):
            return attend(query, key, value)

    with pytest.raises(HookMisuse, match="has 'prepare', but is not a headwise.Hook. Make its class"):
        with hooked(sd, Half()):
            pass


@pytest.mark.parametrize("scheduler", [pndm, ddim, EulerAncestralDiscreteScheduler])
def test_after_step_is_a_callback_outermost_first(scheduler):
    pipe = tiny_sd(scheduler=scheduler())

    def by_hand(pipe, step, timestep, tensors):
        return {"latents": 2 * (tensors["latents"] + 0.25)}

    wanted = call(pipe, callback_on_step_end=by_hand)
    with hooked(pipe, Add(after=0.25), Double()):
        together = call(pipe)
    with hooked(pipe, Add(after=0.25)), hooked(pipe, Double()):
        nested = call(pipe)
    assert torch.equal(together, wanted) and torch.equal(nested, wanted)
    assert not torch.equal(call(pipe), wanted)


def test_the_users_callback_comes_after_with_the_latents_of_the_hooks(sd):
    seen = []

    def note(pipe, step, timestep, tensors):
        seen.append((step, sorted(tensors), tensors["latents"].clone()))
        return {"latents": tensors["latents"] - 0.5}

    stock = call(sd)
    with hooked(sd, Add(after=0.5)):
        assert torch.allclose(call(sd, callback_on_step_end=note), stock, atol=1e-5)
    with hooked(sd, Add(after=0.5)):
        inside = []
        plain = call(sd, callback_on_step_end=lambda p, s, t, k: inside.append(k["latents"].clone()) or k)
    assert [step for step, *_ in seen] == list(range(5))  # PNDM repeats one
    assert all(names == ["latents"] for _, names, _ in seen)
    assert torch.equal(inside[-1], plain)


def test_the_users_callback_gets_what_it_asked_for(sd):
    names = []

    def note(pipe, step, timestep, tensors):
        names.append(sorted(tensors))
        return {}

    with hooked(sd, Add(after=0.5)):
        with_note = call(sd, callback_on_step_end=note, callback_on_step_end_tensor_inputs=["prompt_embeds"])
        assert torch.equal(with_note, call(sd))
    assert names == [["prompt_embeds"]] * 5


def test_a_callback_of_diffusers_keeps_its_own_tensors():
    pipe = tiny_sd(scheduler=ddim())
    cutoff = SDCFGCutoffCallback(cutoff_step_ratio=0.5)
    with hooked(pipe, Add(after=0.0)):
        inside = call(pipe, callback_on_step_end=cutoff)
    assert torch.equal(inside, call(pipe, callback_on_step_end=cutoff))
    assert not torch.equal(inside, call(pipe))


@pytest.mark.parametrize("scheduler", [ddim, EulerAncestralDiscreteScheduler])
def test_before_first_step_moves_the_noise_and_leaves_later_noise_as_it_was(scheduler):
    pipe = tiny_sd(dtype=torch.float64, scheduler=scheduler())
    generator = generator_for(3, 0)
    noise = torch.randn(1, 4, 8, 8, generator=generator, dtype=torch.float64)
    pipe.scheduler.set_timesteps(4)
    sigma = float(pipe.scheduler.init_noise_sigma)
    wanted = pipe("a red dog", latents=noise + 0.3 / sigma, generator=generator, **FAST).images
    with hooked(pipe, Add(before=0.1), Add(before=0.2)):
        together = call(pipe, seed=3)
    with hooked(pipe, Add(before=0.1)), hooked(pipe, Add(before=0.2)):
        nested = call(pipe, seed=3)
    assert torch.allclose(together, wanted, atol=1e-9) and torch.allclose(nested, wanted, atol=1e-9)
    assert "prepare_latents" not in vars(pipe)


@pytest.mark.parametrize("build", [tiny_sd, tiny_sdxl])
@pytest.mark.parametrize("scheduler", [pndm, EulerDiscreteScheduler, EulerAncestralDiscreteScheduler])
def test_excite_is_the_hook_and_the_same_latents(build, scheduler):
    pipe, prompts, words = build(scheduler=scheduler()), ["a red dog", "a cat on a vase"], [["dog"], ["cat"]]
    latents, generators = start_of(pipe, [3, 4])
    with hooked(pipe, Excite(words)):
        by_hook = pipe(prompts, latents=latents, generator=generators, **FAST).images
    assert torch.equal(by_hook, excite(pipe, prompts, Excite(words), seeds=[3, 4], **FAST))
    with hooked(pipe, Excite(words)):  # the pipeline's own noise is that of the generators
        drawn = pipe(prompts, generator=[generator_for(3, 0), generator_for(4, 0)], **FAST).images
    assert torch.equal(drawn, by_hook)
    assert not torch.equal(by_hook, generate_keys(pipe, prompts, [3, 4], **FAST))


def test_excite_keeps_the_users_callback(sd):
    steps = []

    def note(pipe, step, timestep, tensors):
        steps.append(step)
        return tensors

    plain = excite(sd, ["a red dog"], Excite([["dog"]]), seeds=[1], **FAST)
    noted = excite(sd, ["a red dog"], Excite([["dog"]]), seeds=[1], callback_on_step_end=note, **FAST)
    assert torch.equal(plain, noted) and steps == list(range(5))


def test_local_blend_acts_under_hooked(sd):
    """The law: with the threshold at 1 nothing is edited, with it at 0 everything is."""
    latents, _ = start_of(sd, [2, 2])

    def edited(*hooks, **options):
        with hooked(sd, *hooks):
            return sd(list(GROUP), latents=latents, **FAST | options).images

    plain = edited()
    nothing = edited(LocalBlend(threshold=1.0, start=0.0))
    assert torch.equal(nothing[1], nothing[0]) and not torch.equal(plain[1], plain[0])
    assert torch.equal(edited(LocalBlend(threshold=0.0, start=0.0)), plain)
    steps = []
    blended = edited(
        LocalBlend(threshold=1.0, start=0.0), callback_on_step_end=lambda p, s, t, k: steps.append(s) or k
    )
    assert torch.equal(blended, nothing) and len(steps) == 5


def test_generate_edits_keeps_the_users_callback(sd):
    steps, hooks = [], [PromptToPrompt(), LocalBlend(threshold=0.9, start=0.0)]
    plain = generate_edits(sd, [GROUP], hooks, seeds=[1], **FAST)
    noted = generate_edits(
        sd, [GROUP], hooks, seeds=[1], callback_on_step_end=lambda p, s, t, k: steps.append(s) or k, **FAST
    )
    assert torch.equal(torch.stack(plain[0]), torch.stack(noted[0])) and len(steps) == 5


def test_blending_and_exciting_together_is_one_after_the_other(sd):
    """By hand: the two hooks' own methods, called from a callback."""
    latents, _ = start_of(sd, [2, 2])
    words = [["dog"], ["cat"]]

    def run(*hooks, **options):
        with hooked(sd, *hooks):
            return sd(list(GROUP), latents=latents, **FAST | options).images

    excited, blended = run(Excite(words)), run(LocalBlend(threshold=0.9, start=0.0))
    both = run(Excite(words), LocalBlend(threshold=0.9, start=0.0))
    assert not torch.equal(both, excited) and not torch.equal(both, blended)

    class Looking(Hook):
        """A hook that only makes what the other two read."""

        def __init__(self, *hooks):
            self.hooks = hooks

        def before_first_step(self, latents, call):
            return self.hooks[0].before_first_step(latents, call)

        def prepare(self, call):
            self.call = call
            for hook in self.hooks:
                hook.prepare(call)

        def __call__(self, attend, site, query, key, value):
            for hook in self.hooks:
                hook(attend, site, query, key, value)
            return attend(query, key, value)

    looking = Looking(Excite(words), LocalBlend(threshold=0.9, start=0.0))

    def by_hand(pipe, step, timestep, tensors):
        latents = tensors["latents"]
        for hook in looking.hooks:
            latents = hook.after_step(latents, looking.call)
        return {"latents": latents}

    assert torch.equal(run(looking, callback_on_step_end=by_hand), both)


def test_steering_and_exciting_go_together(sd):
    """A steering stands aside where the denoiser is run again for the loss, whose rows are not its own."""
    relevance = relevance_for(sd)
    steer = strengthen(relevance, "dog", relevance.concepts[0])
    with hooked(sd, steer, Excite([["dog"]])):
        together = call(sd)
    with hooked(sd, steer), hooked(sd, Excite([["dog"]])):
        nested = call(sd)
    with hooked(sd, Excite([["dog"]])):
        excited = call(sd)
    assert torch.equal(together, nested) and not torch.equal(together, excited)


@pytest.mark.parametrize("name", ["sd3", "flux-dev"])
def test_latents_move_in_transformers_too(name):
    """FLUX packs its latents, and with a negative prompt calls its denoiser twice per step."""
    pipe, prompts = TRANSFORMERS[name](), ["a red dog"]
    options = {"num_inference_steps": 2, "output_type": "latent", "negative_prompt": "red"}
    options |= {"true_cfg_scale": 2.0} if name == "flux-dev" else {}
    latents = latents_for(pipe, 3, 0)[None]
    seen = []

    class Noting(Add):
        def after_step(self, latents, call):
            seen.append((call.step, call.prompted))
            return super().after_step(latents, call)

    def by_hand(pipe, step, timestep, tensors):
        return {"latents": tensors["latents"] + 0.25}

    wanted = generate_keys(pipe, prompts, [3], latents=latents + 0.5, callback_on_step_end=by_hand, **options)
    with hooked(pipe, Noting(after=0.25, before=0.5)):
        found = generate_keys(pipe, prompts, [3], **options)
    assert torch.allclose(found, wanted, atol=1e-6) and seen == [(0, True), (1, True)]


@pytest.mark.filterwarnings("ignore:.*clean_caption.*")
@pytest.mark.parametrize("return_dict", [True, False])
def test_a_pipeline_without_a_callback_is_changed_at_the_steps_of_its_scheduler(return_dict):
    pipe, seen = TRANSFORMERS["pixart"](), []
    stock, config = type(pipe), dict(pipe.scheduler.config)
    step = pipe.scheduler.step

    class Shift(Hook):
        def after_step(self, latents, call):
            seen.append(call.step)
            return latents + 0.25

    def run(*hooks):
        generator = torch.Generator().manual_seed(3)
        with hooked(pipe, *hooks):
            options = {"num_inference_steps": 3, "output_type": "latent", "use_resolution_binning": False}
            return pipe("a red dog", height=16, width=16, generator=generator, **options).images

    def shifted(*args, **kwargs):
        output = step(*args, **kwargs | {"return_dict": True})
        output.prev_sample = output.prev_sample + 0.25
        return output if return_dict else (output.prev_sample,)

    plain = run()
    changed = run(Shift())
    assert seen == [0, 1, 2] and "step" not in pipe.scheduler.__dict__
    assert type(pipe) is stock and dict(pipe.scheduler.config) == config
    assert torch.equal(run(), plain)
    pipe.scheduler.__dict__["step"] = shifted  # a step of the user's own
    assert torch.equal(run(), changed) and pipe.scheduler.__dict__["step"] is shifted
    assert not torch.equal(run(Shift()), changed)  # shifted twice


def test_a_pipeline_without_a_callback_or_scheduler_is_refused():
    with pytest.raises(HookMisuse, match="after each step, but Bare has neither callback"):
        require_steps(type("Bare", (), {"__call__": lambda self: None})(), [LocalBlend()])


def test_a_pipeline_that_takes_no_latents_is_refused(sd):
    from diffusers import StableDiffusionImg2ImgPipeline

    pipe = StableDiffusionImg2ImgPipeline(**sd.components, requires_safety_checker=False)
    with pytest.raises(HookMisuse, match="StableDiffusionImg2ImgPipeline cannot be called with latents"):
        with hooked(pipe, Excite([["dog"]])):
            pass


def test_hook_is_public():
    assert hw.Hook is Hook and issubclass(hw.LocalBlend, hw.Hook) and issubclass(hw.ConceptProbe, hw.Hook)
    assert issubclass(hw.Steer, hw.Hook) and issubclass(hw.AttentionMaps, hw.Hook)


# As many heads as SD1 has, in layers of other names.
OTHER_LAYERS = SD1 | {
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
}
WORDS = {"lavender": "Color"}
PAIR = ["a red dog", "a lavender dog"]


def generated(pipe, hook, size=16):
    options = FAST | {"num_inference_steps": 2, "height": size, "width": size}
    with hooked(pipe, hook):
        return generate_keys(pipe, PAIR, [0, 1], **options)


@pytest.fixture(scope="module")
def model():
    return tiny_sd(SD1)


@pytest.fixture(scope="module", params=["other heads", "other layers"])
def other(request):
    return tiny_sd(SD2 if request.param == "other heads" else OTHER_LAYERS)


@pytest.mark.parametrize(
    "make",
    [
        lambda p: strengthen(relevance_for(p), "a", "Color"),
        lambda p: weaken(HeadMap.of(p), [0]),
        lambda p: PromptToPrompt(relevance=relevance_for(p), concepts=WORDS),
        lambda p: Excite([["dog"]], relevance=relevance_for(p), concepts="Animals", refinements=0),
        lambda p: Patch(np.ones((1, HeadMap.of(p).all_heads), bool)),
        lambda p: AttentionMaps(),
        lambda p: ConceptProbe(p, ConceptSet({"Color": ["red"], "Animals": ["dog"]})),
    ],
    ids=["strengthen", "weaken", "edit", "excite", "patch", "maps", "probe"],
)
def test_a_hook_that_has_run_refuses_a_model_with_other_heads(make, model, other):
    hook = make(model)
    generated(model, hook)
    if isinstance(hook, ConceptProbe):
        hook.take()
    with pytest.raises(HeadMapMismatch, match="these are different heads|The selection is for"):
        generated(other, hook)


@pytest.mark.parametrize(
    "make",
    [
        PromptToPrompt,
        lambda: PromptToPrompt(as_published=True),
        LocalBlend,
        lambda: Excite([["dog"]], refinements=0),
        MasaCtrl,
        FreePrompt,
        PlugAndPlay,
    ],
    ids=["edit", "edit as published", "blend", "excite", "masactrl", "free-prompt", "plug-and-play"],
)
def test_a_hook_that_is_for_any_heads_is_as_good_as_new_on_another_model(make, model, other):
    used = make()
    generated(model, used)
    assert torch.equal(generated(other, used, 32), generated(other, make(), 32))


def test_a_hook_that_has_run_reads_the_words_of_another_tokenizer(model):
    other, used = tiny_sd(SD1), strengthen(relevance_for(model), "red", "Color", 3.0)
    other.tokenizer = CLIPTokenizer(
        vocab={piece: n for n, piece in enumerate(sorted(other.tokenizer.get_vocab()))},
        merges=[],
        model_max_length=24,
    )
    used.word = [None, "dog"]
    generated(model, used)
    new = strengthen(relevance_for(model), [None, "dog"], "Color", 3.0)
    assert torch.equal(generated(other, used), generated(other, new))


def test_exciting_looks_at_the_layers_of_each_size(model):
    used, new = (Excite([["dog"]], refinements=0) for _ in range(2))
    generated(model, used, size=24)
    assert torch.equal(generated(model, used), generated(model, new))


def test_maps_of_two_images_are_not_added_up(model):
    seen = AttentionMaps()
    with hooked(model, seen):
        for _ in range(2):
            model("a red dog", **FAST)  # the same image twice is its mean
        with pytest.raises(HookMisuse, match='maps of "a red dog" were not taken.*Call `take` after each'):
            model("a dog", **FAST)
        with pytest.raises(HookMisuse, match='a red dog" at 8 × 12 latents'):
            model("a red dog", height=16, width=24, **FAST)
        seen.take()
        model("a dog", **FAST)
