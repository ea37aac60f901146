"""Which rows of a denoiser call carry the prompt, and which step it is: told to hooks as it is, or refused.

For every kind of guidance that diffusers has for these models. The truth is read beside the hooks, from the
text of each row.
"""

import inspect

import pytest
import torch
from diffusers import (
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FluxImg2ImgPipeline,
    HeunDiscreteScheduler,
    LCMScheduler,
    PixArtSigmaPAGPipeline,
    SanaPAGPipeline,
    SemanticStableDiffusionPipeline,
    StableDiffusion3PAGPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInstructPix2PixPipeline,
    StableDiffusionPAGPipeline,
    StableDiffusionPanoramaPipeline,
    StableDiffusionSAGPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLPAGPipeline,
)
from PIL import Image

from conftest import SD1, TRANSFORMERS, ddim, pndm, tiny_sd, tiny_sdxl
from headwise.errors import HeadwiseError, HookMisuse
from headwise.measuring.concepts import ConceptSet
from headwise.measuring.probe import ConceptProbe
from headwise.model.attention import hooked
from headwise.model.calls import images_of_rows
from headwise.model.heads import HeadMap, denoiser_of
from headwise.model.hooks import Hook
from headwise.model.text_encoders import text_segments
from headwise.model.tokens import positions_in
from headwise.steering.steer import weaken

CONCEPTS = ConceptSet({"Animals": ["dog", "cat"], "Color": ["red", "blue"]})
PICTURE = Image.new("RGB", (16, 16), "gray")
ROWS = {}


def row(name, works=True, measures=True):
    """A kind of guidance: its pipeline and the options of the call, or the refusal; can it be measured?"""

    def add(make):
        ROWS[name] = (make, works, measures)
        return make

    return add


def of(kind, pipe, **options):
    """A pipeline of another class from the parts of one."""
    known = inspect.signature(kind.__init__).parameters
    parts = {name: part for name, part in pipe.components.items() if name in known and part is not None}
    extra = {"requires_safety_checker": False} if "requires_safety_checker" in known else {}
    extra |= {"safety_checker": None, "feature_extractor": None} if "safety_checker" in known else {}
    return kind(**extra | parts | options)


for scheduler in (ddim, pndm):
    row(f"classifier-free guidance, {scheduler.__name__}")(lambda s=scheduler: (tiny_sd(scheduler=s()), {}))
for kind in (HeunDiscreteScheduler, EulerAncestralDiscreteScheduler, EulerDiscreteScheduler, LCMScheduler):
    row(f"classifier-free guidance, {kind.__name__}")(lambda kind=kind: (tiny_sd(scheduler=kind()), {}))


@row("no guidance")
def _():
    return tiny_sd(), {"guidance_scale": 1.0}


@row("the prompt as its own negative prompt")
def _():
    return tiny_sd(), {"negative": "same"}


@row("guidance that a callback ends")
def _():
    def end(pipe, step, timestep, tensors):
        pipe._guidance_scale = 1.0
        return {"prompt_embeds": tensors["prompt_embeds"].chunk(2)[-1]} if step == 0 else tensors

    options = {"callback_on_step_end": end, "callback_on_step_end_tensor_inputs": ["prompt_embeds"]}
    return tiny_sd(scheduler=ddim()), options


@row("guidance rescaled")
def _():
    return tiny_sd(), {"guidance_rescale": 0.7}


@row("XL")
def _():
    return tiny_sdxl(), {}


@row("image to image")
def _():
    pipe = of(StableDiffusionImg2ImgPipeline, tiny_sd(scheduler=ddim()))
    return pipe, {"image": PICTURE, "strength": 0.6, "num_inference_steps": 4}


@row("image to image, XL")
def _():
    options = {"image": PICTURE, "strength": 0.6, "num_inference_steps": 4}
    return of(StableDiffusionXLImg2ImgPipeline, tiny_sdxl()), options


@row("perturbed-attention guidance", measures=False)
def _():
    return of(StableDiffusionPAGPipeline, tiny_sd(), pag_applied_layers=["mid"]), {"pag_scale": 3.0}


@row("perturbed-attention guidance alone", measures=False)
def _():
    pipe = of(StableDiffusionPAGPipeline, tiny_sd(), pag_applied_layers=["mid"])
    return pipe, {"pag_scale": 3.0, "guidance_scale": 0.0}


@row("perturbed-attention guidance, XL", measures=False)
def _():
    return of(StableDiffusionXLPAGPipeline, tiny_sdxl(), pag_applied_layers=["mid"]), {"pag_scale": 3.0}


@row("perturbed-attention guidance, SD 3", works="so the rows or words do not match")
def _():
    pipe = of(StableDiffusion3PAGPipeline, TRANSFORMERS["sd3"](), pag_applied_layers=["blocks.0"])
    return pipe, {"pag_scale": 3.0, "height": 16, "width": 16}


@row("perturbed-attention guidance, PixArt", measures=False)
def _():
    pipe = of(PixArtSigmaPAGPipeline, TRANSFORMERS["pixart"](), pag_applied_layers=["blocks.0"])
    return pipe, {"pag_scale": 3.0, "height": 32, "width": 32, "use_resolution_binning": False}


@row("perturbed-attention guidance, Sana", measures=False)
def _():
    pipe = of(SanaPAGPipeline, TRANSFORMERS["sana"](), pag_applied_layers=["blocks.0"])
    options = {"height": 32, "width": 32, "use_resolution_binning": False, "complex_human_instruction": None}
    return pipe, options | {"pag_scale": 3.0}


@row("self-attention guidance")
def _():
    return of(StableDiffusionSAGPipeline, tiny_sd(scheduler=ddim())), {"sag_scale": 0.75}


@row("skip-layer guidance, SD 3.5", measures=False)
def _():
    options = {"skip_guidance_layers": [1], "skip_layer_guidance_start": 0.0, "skip_layer_guidance_stop": 0.9}
    return TRANSFORMERS["sd3.5"](), options | {"height": 16, "width": 16, "num_inference_steps": 4}


@row("semantic guidance", works="Switch off perturbed-attention guidance and similar methods")
def _():
    pipe = of(SemanticStableDiffusionPipeline, tiny_sd(scheduler=ddim()))
    return pipe, {"editing_prompt": ["cat"], "edit_warmup_steps": 0}


@row("panorama", measures=False)
def _():
    pipe = of(StableDiffusionPanoramaPipeline, tiny_sd(scheduler=ddim()))
    return pipe, {"height": 16, "width": 576}  # two views of 64 latents


@row("InstructPix2Pix", works="Switch off perturbed-attention guidance and similar methods")
def _():
    return of(StableDiffusionInstructPix2PixPipeline, tiny_sd(SD1 | {"in_channels": 8})), {"image": PICTURE}


@row("true guidance of FLUX")
def _():
    options = {"negative_prompt": "cat of red", "true_cfg_scale": 4.0, "height": 16, "width": 16}
    return TRANSFORMERS["flux-schnell"](), options


@row("true guidance of FLUX, image to image")
def _():
    pipe = of(FluxImg2ImgPipeline, TRANSFORMERS["flux-schnell"]())
    options = {"negative_prompt": "cat of red", "true_cfg_scale": 4.0, "height": 16, "width": 16}
    return pipe, options | {"image": PICTURE, "strength": 1.0}


class Told(Hook):
    """Keeps what a hook is told at the first layer of each call."""

    def __init__(self):
        self.calls = []

    def prepare(self, call):
        rows = [None] * call.rows
        for index in range(call.rows)[call.conditional]:
            rows[index] = call.prompts[call.picture[index]]
        self.calls.append((rows, call.step))


def embedding_of(pipe, prompt):
    """The embedding of a prompt, encoded alone."""
    options = {"device": "cpu", "num_images_per_prompt": 1, "do_classifier_free_guidance": False}
    options |= {"prompt_2": None, "prompt_3": None}
    known = inspect.signature(pipe.encode_prompt).parameters
    with torch.no_grad():
        return pipe.encode_prompt(prompt, **{k: v for k, v in options.items() if k in known})[0][0]


def make(name, images):
    """The pipeline of a row, and its call for so many images: two prompts, or copies of one."""
    pipe, options = ROWS[name][0]()
    pipe.set_progress_bar_config(disable=True)
    prompts = ["a red dog", "a cat"] if images == "two prompts" else ["a red dog"]
    options = {"num_inference_steps": 3, "output_type": "latent"} | options
    if options.pop("negative", None):
        options["negative_prompt"] = prompts
    elif isinstance(options.get("negative_prompt"), str):
        options["negative_prompt"] = [options["negative_prompt"]] * len(prompts)
    if "image" in options and len(prompts) > 1:
        options["image"] = [options["image"]] * len(prompts)
    copies = 2 if images == "two copies" else 1

    def call():
        seeds = [torch.Generator().manual_seed(i) for i in range(len(prompts) * copies)]
        seeds = seeds if len(seeds) > 1 else seeds[0]
        return torch.as_tensor(
            pipe(prompt=prompts, num_images_per_prompt=copies, generator=seeds, **options).images
        )

    return pipe, prompts, call


class Truth(Hook):
    """Reads beside the hooks which rows carry which prompt, and scales a word's values in these rows."""

    def __init__(self, pipe, prompts, half=False):
        self.pipe, self.half, self.calls = pipe, half, []
        self.texts = {prompt: embedding_of(pipe, prompt) for prompt in prompts}
        segments = text_segments(pipe, {"complex_human_instruction": None})
        self.places = {p: list(positions_in(segments, p, p.split()[-1])) for p in prompts}
        denoiser_of(pipe).register_forward_pre_hook(self.note, with_kwargs=True)

    def note(self, module, args, kwargs):
        text = kwargs["encoder_hidden_states"] if "encoder_hidden_states" in kwargs else args[2]
        rows = [next((p for p, t in self.texts.items() if torch.equal(t, row)), None) for row in text]
        if self.half:  # every row carries the prompt, and only the pipeline knows which half it steers by
            rows[: len(rows) // 2] = [None] * (len(rows) // 2)
        self.calls.append(rows)

    def __call__(self, attend, site, query, key, value):
        value = value.clone()
        for row, prompt in enumerate(self.calls[-1]):
            for place in self.places[prompt] if prompt else ():
                value[row, :, site.text.start + place] *= -2.0
        return attend(query, key, value)


@pytest.mark.parametrize("images", ["one", "two copies", "two prompts"])
@pytest.mark.parametrize("name", ROWS)
def test_hooks_are_told_the_rows_that_carry_the_prompt(name, images):
    pipe, prompts, call = make(name, images)
    works, told = ROWS[name][1], Told()
    if works is not True:
        with pytest.raises(HeadwiseError, match=works), hooked(pipe, told):
            call()
        return
    truth = Truth(pipe, prompts, half=name == "the prompt as its own negative prompt")
    plain, rows = call(), list(truth.calls)
    with hooked(pipe, told):
        assert torch.equal(call(), plain)
    assert [rows_told for rows_told, _ in told.calls] == rows
    steps = [step for _, step in told.calls]
    assert steps == sorted(steps)
    assert set(steps) == set(range(getattr(pipe, "num_timesteps", None) or len(pipe.scheduler.timesteps)))

    with hooked(pipe, truth):
        right = call()
    word = [p.split()[-1] for p in prompts]
    with hooked(pipe, weaken(HeadMap.of(pipe), range(HeadMap.of(pipe).all_heads), word)):
        steered = call()
    assert not torch.allclose(right, plain, atol=1e-5)
    assert torch.allclose(steered, right, atol=1e-5)


@pytest.mark.parametrize("name", [name for name, (_, works, _) in ROWS.items() if works is True])
def test_a_probe_counts_one_row_of_each_image_once_a_step_or_refuses(name):
    pipe, _, call = make(name, "two prompts")
    told, probe = (
        Told(),
        ConceptProbe(pipe, ConceptSet({"Animals": ["dog", "cat"], "Color": ["red", "blue"]})),
    )
    with hooked(pipe, told):
        call()
    prompted = [(rows, step) for rows, step in told.calls if any(rows)]
    if ROWS[name][2]:
        with hooked(pipe, probe):
            call()
        assert probe.take().shape[:2] == (2, len(prompted))
    else:
        with pytest.raises(HookMisuse, match="needs one row with the prompt for each image, once per step"):
            with hooked(pipe, probe):
                call()


def test_rows_that_share_an_embedding_are_the_images_of_that_prompt_in_turn():
    a, b = torch.zeros(1, 3, 2), torch.ones(1, 3, 2)
    assert images_of_rows(torch.cat([b, a, a, a, a]), torch.cat([a, a])) == [None, 0, 1, 0, 1]
    assert images_of_rows(torch.cat([a, b, a, b]), torch.cat([b, a, b])) == [1, 0, 1, 2]


def test_text_that_a_callback_replaces_is_refused():
    pipe = tiny_sd(scheduler=ddim())

    def replace(pipe, step, timestep, tensors):
        return {"prompt_embeds": torch.zeros_like(tensors["prompt_embeds"])}

    options = {"callback_on_step_end": replace, "callback_on_step_end_tensor_inputs": ["prompt_embeds"]}
    with pytest.raises(HookMisuse, match="At step 1 no row"), hooked(pipe, Told()):
        pipe("a red dog", num_inference_steps=3, output_type="latent", **options)


def test_another_pipeline_that_shares_the_denoiser_is_refused():
    pipe = tiny_sd(scheduler=ddim())
    other = of(StableDiffusionImg2ImgPipeline, pipe)
    with pytest.raises(HookMisuse, match="A StableDiffusionImg2ImgPipeline calls the denoiser"):
        with hooked(pipe, Told()):
            other("a red dog", image=PICTURE, strength=1.0, num_inference_steps=2)
    with hooked(other, Told()):
        other("a red dog", image=PICTURE, strength=1.0, num_inference_steps=2)
