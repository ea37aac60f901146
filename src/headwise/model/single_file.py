"""Single-file checkpoints, as image makers share them: finding their family, and loading their pipeline.

Such a file holds only weights. The sizes of its layers, its tokenizer and its scheduler are in a
configuration: a pipeline's folder in diffusers format, whose weights may be missing. Without one, diffusers
takes the configuration of the file's family from the hub, or from its cache.
"""

import inspect
import json
import re
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open

from headwise.errors import ModelNotLoaded
from headwise.model.text_to_image import class_for, require_class

__all__ = ["is_single_file", "load_single_file"]

PICKLES = (".ckpt", ".pt", ".pth", ".bin")
OTHERS = (".gguf",)
CONVERT = (
    "import sys, torch; from safetensors.torch import save_file; "
    "old = torch.load(sys.argv[1], map_location='cpu', weights_only=True); old = old.get('state_dict', old); "
    "save_file({k: v.clone().contiguous() for k, v in old.items() if torch.is_tensor(v)}, sys.argv[2])"
)


class Family(NamedTuple):
    """Checkpoints that are loaded into one kind of pipeline.

    Args:
        name: Its common name.
        pipeline: The class in diffusers.
        sign: A prefix of keys that no family further down has.
    """

    name: str
    pipeline: str
    sign: str


LORA = re.compile(r"(^|\.|_)(lora|lokr|hada)_")
DENOISER = "model.diffusion_model."  # the prefix that files of only a denoiser leave out
FAMILIES = (
    Family("Stable Diffusion 3", "StableDiffusion3Pipeline", "joint_blocks.0."),
    Family("FLUX.1", "FluxPipeline", "double_blocks.0.img_attn.norm.key_norm."),
    Family("Stable Diffusion XL", "StableDiffusionXLPipeline", "conditioner.embedders.1."),
    Family("the refiner of Stable Diffusion XL", "StableDiffusionXLImg2ImgPipeline", "conditioner."),
    Family("Stable Diffusion 2", "StableDiffusionPipeline", "cond_stage_model.model."),
    Family("Stable Diffusion 1", "StableDiffusionPipeline", "cond_stage_model.transformer."),
)
PARTS = {
    "vae": ("first_stage_model.", "vae."),
    "text_encoder": ("cond_stage_model.", "conditioner.embedders.0.", "text_encoders.clip_l."),
    "text_encoder_2": ("conditioner.embedders.1.", "text_encoders.clip_g.", "text_encoders.t5xxl."),
    "text_encoder_3": ("text_encoders.t5xxl.",),
}


def is_single_file(name: str) -> bool:
    """Whether a name is that of a file of weights, not of a folder or on the hub."""
    return Path(name).suffix.lower() in (".safetensors", *PICKLES, *OTHERS) and not Path(name).is_dir()


def load_single_file(name: str, config: str | None, dtype: torch.dtype | None) -> Any:
    """Load the text-to-image pipeline of a checkpoint; its weights are float32 if `dtype` is None.

    Args:
        name: A .safetensors file.
        config: A pipeline's folder in diffusers format, or its hub name; that of the file's family if None.
            What the file lacks, such as a text encoder, is taken from it too, if it is a folder with weights.
        dtype: Data type of the weights.

    Raises:
        ModelNotLoaded: It is another kind of file or model, or it does not fit the configuration.
    """
    keys = _keys(name)
    family = next(
        (f for f in FAMILIES if any(k.removeprefix(DENOISER).startswith(f.sign) for k in keys)), None
    )
    if family is None and any(LORA.search(key) for key in keys):
        raise ModelNotLoaded(
            f"{name} is a LoRA, which modifies a model but is not one. Give the model it was made "
            f"for, and this with it: --lora {name}, or loras={{{name!r}: 1}}"
        )
    kind = _kind(name, family, config)
    require_class(name, kind)
    dtype = dtype or torch.float32
    taken = inspect.signature(kind.__init__).parameters
    lacking = [
        part
        for part, signs in PARTS.items()
        if part in taken and not any(key.startswith(signs) for key in keys)
    ]
    try:
        parts = {part: _part(name, part, config, dtype) for part in lacking}
        pipe = kind.from_single_file(name, config=config, torch_dtype=dtype, **parts)
    except ModelNotLoaded:
        raise
    except Exception as error:  # diffusers, the hub and safetensors each raise their own kinds
        message = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise ModelNotLoaded(f"{name} could not be loaded: {message}. {_advice(family, config)}") from error
    _require_whole(name, pipe)
    pipe.register_to_config(_name_or_path=name)
    return pipe


def _keys(name: str) -> tuple[str, ...]:
    """The names of the weights of a file."""
    file = Path(name)
    if not file.is_file():
        raise ModelNotLoaded(f"The file {name} does not exist. Give a checkpoint that is on this machine.")
    if file.suffix.lower() in PICKLES:
        raise ModelNotLoaded(
            f"{name} is a pickle, which can run any code when it is opened; expected a .safetensors file. "
            f'Convert it: python -c "{CONVERT}" {name} {file.with_suffix(".safetensors")}'
        )
    if file.suffix.lower() in OTHERS:
        raise ModelNotLoaded(
            f"{name} holds quantised weights; expected a .safetensors file. Give the model's own weights."
        )
    try:
        with safe_open(file, "pt") as opened:
            return tuple(opened.keys())
    except SafetensorError:
        raise ModelNotLoaded(f"{name} cannot be read as safetensors. Download or convert it again.") from None


def _kind(name: str, family: Family | None, config: str | None) -> Any:
    """The class of the pipeline in diffusers, from the configuration, else from the keys."""
    import diffusers

    if config is not None:
        if Path(config).exists() and not (Path(config) / "model_index.json").is_file():
            raise ModelNotLoaded(
                f"{config} has no model_index.json; expected the folder of a pipeline in diffusers format. "
                "Give that folder, or its name on the hub."
            )
        kind = class_for(config)
        if kind is None:
            raise ModelNotLoaded(
                f"{config} does not name the pipeline that it configures. "
                "Give a folder in diffusers format, or a hub name."
            )
        return kind
    if family is None:
        known = ", ".join(each.name for each in FAMILIES if not each.name.startswith("the "))
        raise ModelNotLoaded(
            f"{name} does not hold a model of a known family; expected a checkpoint of {known}. "
            "If it is one of another model, give the folder of its configuration too: config=…, or --config."
        )
    return getattr(diffusers, family.pipeline)


def _part(name: str, part: str, config: str | None, dtype: torch.dtype) -> Any:
    """A component of the configuration, with its weights, for a file that lacks it."""
    folder = Path(config or "") / part
    if config is None or not any(folder.glob("*.safetensors")):
        raise ModelNotLoaded(
            f"{name} has no weights for the {part.replace('_', ' ')}. Give the folder of a pipeline that has "
            "them, in diffusers format: config=…, or --config."
        )
    library, kind = json.loads((folder.parent / "model_index.json").read_bytes())[part]
    return getattr(import_module(library), kind).from_pretrained(
        folder, torch_dtype=dtype, use_safetensors=True
    )


def _advice(family: Family | None, config: str | None) -> str:
    """What to do about a file that does not load."""
    whose = "" if family is None else f" of {family.name}"
    if config is None:
        return (
            "A single file has no configuration of its own, and that of its family is not available. "
            f"Give a pipeline's folder{whose} in diffusers format, whose weights may be missing: config=… or "
            "--config."
        )
    return f"Its keys are those{whose or ' of no known family'}. Give the configuration that belongs to it."


def _require_whole(name: str, pipe: Any) -> None:
    """Raise ModelNotLoaded if weights are missing, which diffusers leaves without values."""
    for part, module in pipe.components.items():
        if isinstance(module, torch.nn.Module):
            missing = [key for key, weight in module.named_parameters() if weight.device.type == "meta"]
            if missing:
                raise ModelNotLoaded(
                    f"{name} lacks {len(missing)} weights of the configuration's {part}, such as "
                    f"{missing[0]}. Give the configuration that belongs to it."
                )
