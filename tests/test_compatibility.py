"""What else may be switched on: every row is tried on tiny pipelines, and the table is a page of the docs.

python tests/test_compatibility.py > docs/compatibility.md      writes the page
"""

import re
import subprocess
import sys
from pathlib import Path

import diffusers
import pytest
import torch
from diffusers import (
    ControlNetModel,
    EulerAncestralDiscreteScheduler,
    LCMScheduler,
    StableDiffusionControlNetPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPAGPipeline,
    StableDiffusionXLImg2ImgPipeline,
)
from diffusers.hooks import FirstBlockCacheConfig
from diffusers.models.attention_dispatch import attention_backend
from diffusers.models.attention_processor import AttnProcessor
from packaging.version import Version
from PIL import Image

import test_registry as registry
from conftest import TRANSFORMERS, tiny_sd, tiny_sdxl
from headwise.editing.support import EVERY, METHODS, TEXT_ALONE, UNET
from headwise.errors import HeadwiseError
from headwise.measuring.concepts import ConceptSet
from headwise.measuring.probe import ConceptProbe
from headwise.model.attention import hooked
from headwise.model.generate import generate
from headwise.steering.doctor import features_of
from headwise.steering.steer import strengthen
from helpers import relevance_for
from test_rows import ROWS as GUIDANCE
from test_text_to_image import OTHERS

PAGE = Path(__file__).parent.parent / "docs" / "compatibility.md"
CONSTRAINTS = Path(__file__).parent.parent / "constraints.txt"
CONCEPTS = ConceptSet({"Animals": ["dog", "cat"], "Color": ["red", "orange"]})
PICTURE = Image.new("RGB", (16, 16), "gray")
LAYERS = ["to_q", "to_k", "to_v", "to_out.0"]
ROWS = {}


def row(name, works=True):
    """A row of the table: how to make the pipeline and call it; or what it is refused with."""

    def add(make):
        ROWS[name] = (make, works)
        return make

    return add


def call(pipe, **options):
    return generate(pipe, ["a red dog"], 0, [0], num_inference_steps=2, output_type="latent", **options)


def of(kind, pipe=None, **options):
    parts = (pipe or tiny_sd()).components
    return kind(**parts, requires_safety_checker=False, **options)


def with_picture(pipe, **options):
    asked = {"num_inference_steps": 4, "strength": 0.5, "output_type": "latent"} | options
    return pipe("a red dog", image=PICTURE, generator=torch.Generator().manual_seed(0), **asked).images


@row("bfloat16")
def _():
    return tiny_sd(dtype=torch.bfloat16), call


@row("float16")
def _():
    return tiny_sd(dtype=torch.float16), call


@row("model CPU offload (`enable_model_cpu_offload`)")
def _():
    pipe = tiny_sd()
    pipe.enable_model_cpu_offload(device="cpu")
    return pipe, call


@row("sequential CPU offload of the denoiser (accelerate's `cpu_offload`)")
def _():
    from accelerate import cpu_offload

    pipe = tiny_sd()
    cpu_offload(pipe.unet, torch.device("cpu"))
    return pipe, call


@row("VAE tiling and slicing")
def _():
    pipe = tiny_sd()
    pipe.vae.enable_tiling()
    pipe.vae.enable_slicing()
    return pipe, lambda p: generate(p, ["a red dog"], 0, [0], num_inference_steps=2, output_type="pt")


@row("LoRA through PEFT, loaded before")
def _():
    peft = pytest.importorskip("peft", reason="peft is not installed; the extra 'test' brings it")
    pipe = tiny_sd()
    pipe.unet.add_adapter(peft.LoraConfig(r=2, target_modules=LAYERS, init_lora_weights=False))
    return pipe, call


@row("LoRA through PEFT, loaded inside `hooked`")
def _():
    peft = pytest.importorskip("peft", reason="peft is not installed; the extra 'test' brings it")

    def load_and_call(pipe):
        pipe.unet.add_adapter(peft.LoraConfig(r=2, target_modules=LAYERS, init_lora_weights=False))
        return call(pipe)

    return tiny_sd(), load_and_call


@row("IP-Adapter")
def _():
    pipe, dim = tiny_sd(), SD_WIDTH
    modules = dict(pipe.unet.named_modules())
    adapters, number = {}, 1
    for name in pipe.unet.attn_processors:
        if "attn2" in name:
            width = modules[name.removesuffix(".processor")].inner_dim
            for part in ("k", "v"):
                adapters[f"{number}.to_{part}_ip.weight"] = torch.randn(width, dim)
            number += 2
    projection = {
        "proj.weight": torch.randn(4 * dim, 8),
        "proj.bias": torch.zeros(4 * dim),
        "norm.weight": torch.ones(dim),
        "norm.bias": torch.zeros(dim),
    }
    pipe.unet._load_ip_adapter_weights([{"image_proj": projection, "ip_adapter": adapters}])
    seen = torch.cat([torch.zeros(1, 1, 8), torch.randn(1, 1, 8)])
    return pipe, lambda p: call(p, ip_adapter_image_embeds=[seen])


SD_WIDTH = 32  # of the text that the tiny denoiser reads


@row("ControlNet")
def _():
    pipe = tiny_sd()
    control = ControlNetModel.from_unet(pipe.unet, conditioning_embedding_out_channels=(8, 8))
    pipe = of(StableDiffusionControlNetPipeline, pipe, controlnet=control)
    return pipe, lambda p: call(p, image=PICTURE)


@row("textual inversion, words of several vectors too")
def _():
    pipe = tiny_sd()
    pipe.load_textual_inversion(torch.randn(2, SD_WIDTH), token="red-toy")
    return pipe, lambda p: generate(
        p, ["a red-toy dog, red"], 0, [0], num_inference_steps=2, output_type="latent"
    )


@row("`torch.compile` of the denoiser")
def _():
    pipe = tiny_sd()
    pipe.unet = torch.compile(pipe.unet, backend="eager")
    return pipe, call


@row("compiled in place (`unet.compile()`), `fullgraph=True` too")
def _():
    pipe = tiny_sd()
    pipe.unet.compile(backend="eager", fullgraph=True)
    return pipe, call


@row("blocks compiled one by one (`compile_repeated_blocks`), which run uncompiled inside `hooked`")
def _():
    pipe = tiny_sd()
    pipe.unet.compile_repeated_blocks(backend="eager")
    return pipe, call


@row("`torch.inference_mode`")
def _():
    return tiny_sd(), torch.inference_mode()(call)


@row("gradient checkpointing, which is put aside where `Excite` needs gradients")
def _():
    pipe = tiny_sd()
    pipe.unet.enable_gradient_checkpointing()
    return pipe, call


@row("weights stored in float8 (`enable_layerwise_casting`), though not `Excite`")
def _():
    pipe = tiny_sd()
    pipe.unet.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
    return pipe, call


@row("a forward of the denoiser or of a block that was replaced")
def _():
    pipe = tiny_sd()
    for module in (pipe.unet, pipe.unet.mid_block):
        module.forward = lambda *args, original=module.forward, **kwargs: original(*args, **kwargs)
    return pipe, call


@row("an attention mask in joint attention (FLUX)")
def _():
    mask = torch.ones(1, 1, 32, 32, dtype=torch.bool)
    mask[..., 16:, 5] = False
    options = {"max_sequence_length": 16, "joint_attention_kwargs": {"attention_mask": mask}}
    return TRANSFORMERS["flux-dev"](), lambda p: call(p, **options)


@row("a cache of diffusers (`enable_cache`), though hooks that only steer work", "Switch off caching")
def _():
    pipe = TRANSFORMERS["flux-dev"]()
    pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=0.5))
    return pipe, call


@row("callbacks at the end of a step")
def _():
    seen = []

    def note(pipe, step, timestep, tensors):
        seen.append(step)
        return tensors

    return tiny_sd(), lambda p: call(p, callback_on_step_end=note)


@row("image to image")
def _():
    pipe = of(StableDiffusionImg2ImgPipeline)
    return pipe, with_picture


@row("inpainting")
def _():
    pipe, mask = of(StableDiffusionInpaintPipeline), Image.new("L", (16, 16), 255)
    return pipe, lambda p: with_picture(p, mask_image=mask, height=16, width=16)


@row("the SDXL refiner's pipeline")
def _():
    return StableDiffusionXLImg2ImgPipeline(**tiny_sdxl().components), with_picture


@row("LCM")
def _():
    return tiny_sd(scheduler=LCMScheduler(steps_offset=1)), call


@row("SDXL Turbo (no guidance, trailing Euler steps)")
def _():
    scheduler = EulerAncestralDiscreteScheduler(timestep_spacing="trailing")
    return tiny_sdxl(scheduler=scheduler), lambda p: call(p, guidance_scale=0.0)


@row("fused projections (`fuse_qkv_projections`)")
def _():
    pipe = tiny_sd()
    pipe.fuse_qkv_projections()
    return pipe, call


@row("FreeU")
def _():
    pipe = tiny_sd()
    pipe.enable_freeu(0.9, 0.2, 1.2, 1.4)
    return pipe, call


def backend(name):
    @row(f"attention backend `{name}` (FLUX)")
    def _():
        pipe = TRANSFORMERS["flux-dev"]()
        pipe.transformer.set_attention_backend(name)
        return pipe, call


backend("native")
backend("_native_math")
backend("_native_flash")


@row("prompt embeddings, such as compel's", "give token positions, such as (4, 5), in place of the word")
def _():
    pipe = tiny_sd()
    made = pipe.encode_prompt("a red dog", "cpu", 1, True, "")
    embeds = {"prompt_embeds": made[0], "negative_prompt_embeds": made[1]}
    asked = {"num_inference_steps": 2, "output_type": "latent"}
    return pipe, lambda p: p(**embeds, **asked, generator=torch.Generator().manual_seed(0)).images


@row("attention slicing", "is run by SlicedAttnProcessor, which does not call scaled_dot_product_attention")
def _():
    pipe = tiny_sd()
    pipe.enable_attention_slicing()
    return pipe, call


@row("processors without fused attention", "Use the fused processor: pipe.unet.set_attn_processor")
def _():
    pipe = tiny_sd()
    pipe.unet.set_attn_processor(AttnProcessor())
    return pipe, call


@row("perturbed-attention guidance", "Switch off perturbed-attention guidance")
def _():
    pipe = of(StableDiffusionPAGPipeline, pag_applied_layers=["mid"])
    return pipe, lambda p: call(p, pag_scale=3.0)


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.filterwarnings("ignore")
def test_every_row(name):
    if "compile" in name:  # which cannot read the shape checks of this test run
        subprocess.run([sys.executable, __file__, name], check=True, capture_output=True)
        return
    with attention_backend("native"):  # diffusers keeps the last one chosen for every model made later
        tried(name)


def tried(name):
    """What the page says of a row, asserted."""
    make, works = ROWS[name]
    torch.manual_seed(0)
    pipe, run = make()
    probe, relevance = ConceptProbe(pipe, CONCEPTS), relevance_for(pipe)
    steer = strengthen(relevance, "red", relevance.concepts[0])
    if works is not True:
        with pytest.raises(HeadwiseError) as refused, hooked(pipe, probe, steer):
            run(pipe)
        assert works in str(refused.value)
        return
    inside = "inside" in name  # what is loaded inside is there afterwards
    before = None if inside else run(pipe)
    with hooked(pipe, probe):
        probe.begin([0])
        looked = run(pipe)
    assert probe.take().shape[0] == 1
    pipe = make()[0] if inside else pipe
    with hooked(pipe, steer):
        steered = run(pipe)
    assert torch.isfinite(looked).all() and not torch.equal(steered, looked)
    if not inside:
        assert torch.equal(looked, before) and torch.equal(run(pipe), before)


@pytest.mark.filterwarnings("ignore")
def test_token_positions_steer_prompt_embeddings():
    make, _ = ROWS["prompt embeddings, such as compel's"]
    pipe, run = make()
    relevance = relevance_for(pipe)
    before = run(pipe)
    with hooked(pipe, strengthen(relevance, (2,), relevance.concepts[0])):
        assert not torch.equal(run(pipe), before)


SEEN = {
    "bfloat16": "bfloat16",
    "model CPU offload (`enable_model_cpu_offload`)": "offloading",
    "sequential CPU offload of the denoiser (accelerate's `cpu_offload`)": "offloading",
    "LoRA through PEFT, loaded before": "LoRA",
    "IP-Adapter": "IP-Adapter",
    "ControlNet": "ControlNet",
    "`torch.compile` of the denoiser": "torch.compile",
    "fused projections (`fuse_qkv_projections`)": "fused projections",
}


@pytest.mark.parametrize("name", SEEN)
def test_the_doctor_says_what_is_features_of(name):
    pipe, _ = ROWS[name][0]()
    assert features_of(pipe) == (SEEN[name],)
    assert features_of(tiny_sd()) == ()


def outcomes(works, measures):
    """Of steering and of measuring."""
    if works is not True:
        return f"refused: … {works} …", "refused"
    return "works", "works" if measures else "refused: … needs one row with the prompt for each image …"


def table():
    """The page, from the rows."""
    said = {name: "works" if ok is True else f"refused: … {ok} …" for name, (_, ok) in ROWS.items()}
    lines = [f"| {name} | {outcome} |" for name, outcome in said.items()]
    head = [
        "# What works with what",
        "",
        "Each row is a test (`tests/test_compatibility.py`, which writes this page). A pipeline generates",
        "an image four times: unchanged, with the probe, which must not change a single bit, with a",
        "steered word, which must change the image, and unchanged again. A refusal is one sentence; the",
        "table quotes part of it. `headwise doctor` lists the features that are switched on in your",
        "pipeline, and whether measuring and steering work with them. The whole suite runs on the newest",
        "versions (`constraints.txt`) and on the oldest (`make test-oldest`: diffusers 0.37,",
        "transformers 5.0, accelerate 1.10).",
        "",
        "| | measuring and steering |",
        "|---|---|",
    ]
    guided = [
        "",
        "Kinds of guidance (`tests/test_rows.py`): for one image, two copies and two prompts, hooks",
        "receive the step and the rows that carry the prompt, and steering a word changes the image as",
        "explicit scaling does. A measurement needs one row with the prompt per image, once per step.",
        "",
        "| | steering | measuring |",
        "|---|---|---|",
        *(
            f"| {name} | {' | '.join(outcomes(ok, measures))} |"
            for name, (_, ok, measures) in GUIDANCE.items()
        ),
        "",
        "Image-to-image and inpainting models are loaded as text-to-image pipelines with the same",
        "components, those for inpainting with a mask over the whole image (`tests/test_inpainting.py`).",
        "These pipelines are refused before loading, with the reason (`tests/test_text_to_image.py`):",
        "",
        "| | refused because it |",
        "|---|---|",
        *(f"| {kind} | {reason} |" for kind, reason in OTHERS.items()),
    ]
    families = [
        "",
        "Editing methods (`tests/test_support.py`); the other families in the table above can only be",
        "measured, steered and explained:",
        "",
        f"| | {' | '.join(EVERY)} |",
        f"|---|{'---|' * len(EVERY)}",
        *(
            f"| {method.title} | {' | '.join(where(method, family) for family in EVERY)} |"
            for method in METHODS.values()
        ),
        "",
        "Sana's self-attention is linear and has no maps, so prompt-to-prompt exchanges none there.",
        "Inversion works with noise levels and with flow matching, whichever the pipeline's schedule uses.",
        "",
    ]
    return "\n".join([*head, *lines, *guided, *registry.lines(), *families])


def where(method, family):
    """Whether a method works on a family of models, as far as the page tells them apart."""
    if family in method.families:
        return "works"
    return f"on {TEXT_ALONE}" if family == UNET and TEXT_ALONE in method.families else "refused"


def test_the_page_is_this_table(monkeypatch):
    """The list of classes is that of the newest diffusers; test_registry tests those of an older one."""
    page = PAGE.read_text()
    (newest,) = re.findall(r"^diffusers==(.*)$", CONSTRAINTS.read_text(), re.MULTILINE)
    if Version(diffusers.__version__) < Version(newest):
        start, end = (page.index(text) for text in ("\nAll pipelines of", "\nEditing methods"))
        page = page[:start] + page[end:]
        monkeypatch.setattr(registry, "lines", lambda: [])
    assert page == table(), "Write it anew, see above."


if __name__ == "__main__":
    if sys.argv[1:]:
        tried(sys.argv[1])
    else:
        print(table(), end="")
