"""LoRA files: low-rank changes of a model's weights, loaded with a scale and identified by a hash.

    W x + scale · B A x

diffusers reads the files of all trainers; the model's own weights are unchanged.

References:
    | LoRA: Low-Rank Adaptation of Large Language Models (Hu et al., 2021)
    | https://arxiv.org/abs/2106.09685
"""

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from headwise.errors import HeadwiseError, MissingExtra, ModelNotLoaded

__all__ = [
    "ENCODERS", "adapter_named", "add_to_digest", "load_loras", "loras_loaded", "loras_of",
    "name_without_lora",
]  # fmt: skip

ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3")


def load_loras(pipe: Any, loras: Mapping[str | Path, float | int]) -> None:
    """Load LoRA files into a pipeline, each with its scale.

    Args:
        pipe: The pipeline, which is changed.
        loras: The scale of each .safetensors file.

    Raises:
        MissingExtra: peft is not installed.
        ModelNotLoaded: A file cannot be read, or is for another model.
    """
    if loras and find_spec("peft") is None:
        raise MissingExtra("LoRA files need peft, which is not installed. Install it: pip install peft")
    names = [adapter_named(file) for file in loras]
    if len(set(names)) < len(names):
        raise HeadwiseError(f"Two LoRA files are called {max(names, key=names.count)}. Rename one of them.")
    for file, name in zip(loras, names, strict=True):
        _load(pipe, Path(file), name)
    if loras:
        pipe.set_adapters(names, [float(scale) for scale in loras.values()])


@contextmanager
def loras_loaded(pipe: Any, loras: Mapping[str | Path, float | int]) -> Iterator[None]:
    """Load LoRA files, in addition to active ones, until the context is left.

    Args:
        pipe: The pipeline, which has its own layers again afterwards.
        loras: The scale of each .safetensors file.

    Raises:
        HeadwiseError: As `load_loras`; or a LoRA of the same name is already active.
    """
    before = _scales_of(pipe)
    names = [adapter_named(file) for file in loras]
    if twice := sorted(before.keys() & names):
        raise HeadwiseError(f"The LoRA {twice[0]} is already active. Leave it out.")
    try:
        load_loras(pipe, loras)
        if loras and before:
            scales = [float(scale) for scale in loras.values()]
            pipe.set_adapters([*before, *names], [*before.values(), *scales])
        yield
    finally:
        if loras:
            _unload(pipe, names, before)


def _unload(pipe: Any, names: Sequence[str], before: Mapping[str, float]) -> None:
    """Unload LoRA files, and reactivate those that were active before."""
    if not hasattr(pipe, "unload_lora_weights"):
        return
    if not before:
        pipe.unload_lora_weights()
        return
    pipe.delete_adapters(list(names))
    pipe.set_adapters(list(before), list(before.values()))


def adapter_named(file: str | Path) -> str:
    """The adapter name of a LoRA: the name of its file, without characters that peft refuses."""
    return re.sub(r"\W+", "-", Path(file).stem)


def loras_of(pipe: Any) -> str:
    """The active LoRAs of a pipeline: the name, the scale and a short hash of each; "" if there are none.

    It does not matter whether they were loaded here or by the user.
    """
    scales = _scales_of(pipe)
    digests: dict[str, Any] = {}
    for part in _parts(pipe):
        for place, module in part.named_modules():
            for name in _at_work(module):
                digest = digests.setdefault(name, sha256())
                digest.update(f"{place} {module.scaling[name]}".encode())
                for key, parameter in module.named_parameters():
                    if name in key.split(".") and key.startswith("lora_"):
                        add_to_digest(digest, key, parameter)
    return "; ".join(
        f"{name} × {scales[name]:g}, {digests[name].hexdigest()[:12]}" for name in sorted(scales)
    )


def name_without_lora(name: str) -> str | None:
    """The name that a parameter of the model had before a LoRA was loaded; None for those of a LoRA."""
    return None if ".lora_" in name else name.replace(".base_layer.", ".")


def add_to_digest(digest: Any, name: str, parameter: Tensor) -> None:
    """Add a parameter's name, its shape and a sample of its values to a hash."""
    digest.update(f"{name} {tuple(parameter.shape)}".encode())
    if parameter.device.type != "meta":  # as under offloading, where only names and shapes are known
        sample = parameter.detach().flatten()[:: max(1, parameter.numel() // 32)]
        digest.update(sample.cpu().double().numpy().tobytes())


def _load(pipe: Any, file: Path, name: str) -> None:
    if not file.is_file() or file.suffix.lower() != ".safetensors":
        kind = f"is a {file.suffix or 'file without suffix'}" if file.is_file() else "does not exist"
        raise ModelNotLoaded(f"The LoRA {file} {kind}; expected a .safetensors file. Give its path.")
    if not hasattr(pipe, "load_lora_weights"):
        raise ModelNotLoaded(
            f"{type(pipe).__name__} does not take LoRA files. Leave {file} out, or load a model of a family "
            "that does, such as Stable Diffusion 1, XL or 3, or FLUX."
        )
    problem = ""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Already found a `peft_config`")  # several are intended
            pipe.load_lora_weights(
                str(file.parent), weight_name=file.name, adapter_name=name, local_files_only=True
            )
    except Exception as error:  # diffusers, peft and safetensors each raise their own kinds
        problem = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".: ")
    if not problem and name not in {n for part in _parts(pipe) for m in part.modules() for n in _at_work(m)}:
        problem = "none of its weights matches a layer of it"
    if problem:
        raise ModelNotLoaded(
            f"The LoRA {file} does not fit {type(pipe).__name__}: {problem}. "
            "Give one that was made for this model."
        )


def _parts(pipe: Any) -> list[Any]:
    """The denoiser and the text encoders."""
    parts = (getattr(pipe, name, None) for name in ("unet", "transformer", *ENCODERS))
    return [part for part in parts if isinstance(part, nn.Module)]


def _scales_of(pipe: Any) -> dict[str, float]:
    """The scale of each active adapter, by its name."""
    scales: dict[str, float] = {}
    for module in (module for part in _parts(pipe) for module in part.modules()):
        for name in _at_work(module):
            rank = module.r[name]
            scales.setdefault(name, module.scaling[name] * rank / (module.lora_alpha[name] or rank))
    return scales


def _at_work(module: Any) -> list[str]:
    """The names of the peft adapters that change the output of a layer."""
    if not hasattr(module, "lora_A") or module.disable_adapters:
        return []
    return [name for name in module.active_adapters if module.scaling.get(name)]
