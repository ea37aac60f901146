"""Every pipeline of diffusers that takes a prompt is measured and steered, or refused by one sentence."""

import functools
import inspect
import json
from collections.abc import Callable
from typing import NamedTuple

import diffusers
import pytest
import torch
from diffusers import LCMScheduler, SCMScheduler
from diffusers.pipelines.auto_pipeline import AUTO_TEXT2IMAGE_PIPELINES_MAPPING

from conftest import BUILD, HUNYUAN, SD1, TRANSFORMERS, tiny_sana, tiny_sd
from headwise.errors import HeadwiseError, ModelNotLoaded
from headwise.measuring.concepts import ConceptSet
from headwise.measuring.effect import EffectProbe
from headwise.measuring.probe import ConceptProbe
from headwise.model.attention import hooked
from headwise.model.families import FAMILIES, is_known
from headwise.model.heads import HeadMap
from headwise.model.text_to_image import REFUSED, obstacle, require_text_to_image
from headwise.steering.steer import strengthen
from helpers import relevance_for
from test_families import draw

pytestmark = pytest.mark.filterwarnings("ignore")
# Of diffusers 0.37: earlier names of classes, and one whose batches share a text, so that they are refused.
OLDER = {"LuminaText2ImgPipeline", "Lumina2Text2ImgPipeline"}
OLDER |= set() if "ovis-image" in TRANSFORMERS else {"OvisImagePipeline"}
CONCEPTS = ConceptSet({"Animals": ["dog", "cat"], "Color": ["red", "orange"]})
PAG = "needs one row with the prompt for each image"


@functools.cache
def classes():
    """All pipelines that take a prompt: those that diffusers calls text-to-image, and those without an image.

    Left out is what diffusers keeps for old code only, and what stands for a class of which a package is
    missing, or cannot be imported without it, unless it is refused by name.
    """
    listed = {kind.__name__ for kind in AUTO_TEXT2IMAGE_PIPELINES_MAPPING.values()}
    found = {}
    for name in sorted(name for name in dir(diffusers) if name.endswith("Pipeline") and name not in OLDER):
        try:
            kind = getattr(diffusers, name)
        except RuntimeError:  # diffusers 0.37 imports Cosmos-Predict 2.5 only where torchvision is installed
            continue
        if "dummy" in kind.__module__ or ".deprecated." in kind.__module__:
            if name in REFUSED:
                found[name] = kind
        elif "prompt" in inspect.signature(kind.__call__).parameters:
            if name in listed or not str(obstacle(kind)).startswith("takes an image"):
                found[name] = kind
    return found


def lcm():
    return tiny_sd(SD1 | {"time_cond_proj_dim": 8}, scheduler=LCMScheduler())


def sprint():
    pipe = tiny_sana(scheduler=SCMScheduler())
    kind = type(pipe.transformer)
    pipe.transformer = kind.from_config(pipe.transformer.config, guidance_embeds=True).eval()
    return pipe


class Variant(NamedTuple):
    """A class that shares a family's components, and what measuring and steering are refused with."""

    build: Callable
    measuring: str | None = None
    steering: str | None = None
    options: dict = {}
    by_effect: bool = False  # whether it is measured by effect though not by votes


TWO_WIDTHS = "Expected encoders whose tokens form one text"
WIDE = {"height": 16, "width": 576}  # two views of 64 latents
VARIANTS = {
    "HunyuanDiTPAGPipeline": Variant(HUNYUAN, TWO_WIDTHS),
    "HunyuanDiTPipeline": Variant(HUNYUAN, TWO_WIDTHS, by_effect=True),
    "LatentConsistencyModelPipeline": Variant(lcm),
    "PixArtAlphaPipeline": Variant(TRANSFORMERS["pixart"]),
    "PixArtSigmaPAGPipeline": Variant(TRANSFORMERS["pixart"], PAG),
    "SanaPAGPipeline": Variant(TRANSFORMERS["sana"], PAG),
    "SanaSprintPipeline": Variant(sprint),
    "SemanticStableDiffusionPipeline": Variant(BUILD["sd1"], "no text encoder of its own"),
    "StableDiffusion3PAGPipeline": Variant(TRANSFORMERS["sd3"], PAG, "so the rows or words do not match"),
    "StableDiffusionPAGPipeline": Variant(BUILD["sd1"], PAG),
    "StableDiffusionPanoramaPipeline": Variant(BUILD["sd1"], PAG, options=WIDE),
    "StableDiffusionSAGPipeline": Variant(BUILD["sd1"]),
    "StableDiffusionXLPAGPipeline": Variant(BUILD["sdxl"], PAG),
}


def of_components(kind, pipe):
    """A pipeline of another class, made of what it shares with this one."""
    taken = inspect.signature(kind.__init__).parameters
    parts = {name: None for name in ("safety_checker", "feature_extractor", "image_encoder") if name in taken}
    parts |= {name: part for name, part in pipe.components.items() if name in taken}
    options = {"requires_safety_checker": False, "add_watermarker": False}
    options["pag_applied_layers"] = ["mid" if hasattr(pipe, "unet") else "blocks.0"]
    pipe = kind(**parts, **{name: value for name, value in options.items() if name in taken})
    pipe.set_progress_bar_config(disable=True)
    return pipe


@functools.cache
def families():
    """The classes of the tiny pipelines, each of which the tests of families measure, steer and explain."""
    return {type(build()).__name__ for build in (BUILD | TRANSFORMERS).values()}


def outcome(name, kind):
    """What the page says of a class."""
    if name in families():
        return "measured, steered, explained"
    if (reason := obstacle(kind)) is not None:
        return f"refused: {reason}"
    if name not in VARIANTS:
        return "MISSING: neither a tiny pipeline nor a refusal"
    _, measuring, steering, _, by_effect = VARIANTS[name]
    if steering is not None:
        return f"refused: … {steering} …"
    if by_effect:
        return f"steered, measured by effect; by votes refused: … {measuring} …"
    return "measured, steered" if measuring is None else f"steered; measuring refused: … {measuring} …"


@functools.cache
def table():
    """What becomes of every class."""
    return {name: outcome(name, kind) for name, kind in classes().items()}


def lines():
    """The part of docs/compatibility.md that says what becomes of every class."""
    images = {name: said for name, said in table().items() if "video or sound" not in said}
    moving = [name.removesuffix("Pipeline") for name in table() if name not in images]
    return [
        "",
        "All pipelines of diffusers that take a prompt and either call themselves text-to-image or take",
        "no image (`tests/test_registry.py` walks the registry). Where images can be explained, measuring",
        "works by votes and by effect, and weakening a head equals rescaling its attention map, in double",
        'precision. "Measured, steered" alone means that explaining is not tested for this class.',
        "",
        "| | support |",
        "|---|---|",
        *(f"| {name} | {said} |" for name, said in images.items()),
        "",
        f"Refused because they generate video or sound: {', '.join(moving)}.",
    ]


@pytest.mark.parametrize("name", VARIANTS)
def test_a_class_that_shares_the_components_of_a_family(name):
    build, measuring, steering, options, by_effect = VARIANTS[name]
    pipe = of_components(getattr(diffusers, name), build())
    before, relevance = draw(pipe, ["a red dog"], **options), relevance_for(pipe)

    def measured():
        probe = ConceptProbe(pipe, CONCEPTS)
        with hooked(pipe, probe):
            looked = draw(pipe, ["a red dog"], **options)
        assert torch.equal(looked, before) and len(probe.take()) == 1

    def steered():
        with hooked(pipe, strengthen(relevance, "red", relevance.concepts[0])):
            assert not torch.equal(draw(pipe, ["a red dog"], **options), before)

    for act, refused in ((measured, measuring), (steered, steering)):
        if refused is None:
            act()
        else:
            with pytest.raises(HeadwiseError, match=refused):
                act()
        assert torch.equal(draw(pipe, ["a red dog"], **options), before)
    if by_effect:
        probe = EffectProbe("red", points=5)
        with hooked(pipe, probe):
            assert torch.equal(draw(pipe, ["a red dog"], **options), before)
        assert probe.take().shares.sum() == pytest.approx(1, rel=0.05)


@pytest.mark.parametrize("name", classes())
def test_every_class_is_in_the_table_and_its_refusal_is_one_sentence(name, tmp_path):
    said = table()[name]
    assert "MISSING" not in said, "Add its family, a variant or a refusal; then write the page anew."
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": name}))
    if said.startswith("refused: …") or not said.startswith("refused"):
        require_text_to_image(str(tmp_path))
        return
    reason = said.removeprefix("refused: ")
    with pytest.raises(ModelNotLoaded) as refused:
        require_text_to_image(str(tmp_path))
    assert f"is a {name}, which {reason}; expected a text-to-image pipeline." in str(refused.value)


def denoisers():
    """Every class of denoisers of these pipelines, by name."""
    found = {}
    for kind in classes().values():
        for part, parameter in inspect.signature(kind.__init__).parameters.items():
            if part in ("unet", "transformer") and isinstance(parameter.annotation, type):
                found[parameter.annotation.__name__] = parameter.annotation
    return found


@pytest.mark.parametrize("name", denoisers())
def test_a_denoiser_of_no_family_is_refused_by_name(name):
    """Without its weights: what is refused is the class, whatever layers there are."""
    kind = denoisers()[name]
    assert is_known(kind) == (name in {family.denoiser for family in FAMILIES})
    if not is_known(kind):
        bare = kind.__new__(kind)
        torch.nn.Module.__init__(bare)
        bare.attn2 = torch.nn.Linear(1, 1)
        bare.attn2.heads, bare.attn2.processor, bare.attn2.is_cross_attention = 2, None, True
        with pytest.raises(ModelNotLoaded, match=f"{name} has no attention layer known to read text"):
            HeadMap.of(bare)
