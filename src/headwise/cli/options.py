"""The options that commands share: each is declared once, in a group that commands take as one parameter.

grouping.py turns a group into the options that typer reads.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from headwise import emoji
from headwise.benchmarks.defaults import Defaults, defaults_of
from headwise.cli.loading import file_of, pipeline_of, scales_in
from headwise.errors import HeadwiseError, UnreadableFile

if TYPE_CHECKING:  # torch takes seconds to import, which --help need not pay
    from headwise.measuring.concepts import ConceptSet
    from headwise.measuring.relevance import Relevance

__all__ = [
    "BatchSize", "Cases", "Concepts", "Counting", "EditSweep", "Guidance", "Json", "Scorer", "Ks",
    "Measured", "Methods", "Model", "NegativePrompt", "Output", "Pairs", "Sampling", "Seed", "Seeds",
    "Senses", "Sharing", "Size", "Steps", "Sweep", "concept_named", "numbers_in",
    "scorer_of",
]  # fmt: skip

Dtype = Annotated[Literal["auto", "fp32", "fp16", "bf16"], typer.Option(help="Data type of the weights.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1 or mps; 'auto' takes a GPU if there is one.")]
Steps = Annotated[int, typer.Option("--num-inference-steps", min=1, help="Denoising steps per image.")]
Guidance = Annotated[
    float,
    typer.Option(
        "--guidance-scale", min=-100, max=1000, help="Classifier-free guidance; 1 or less means none."
    ),
]
NegativePrompt = Annotated[str | None, typer.Option(help="What the images should not show.")]
Concepts = Annotated[
    str | None,
    typer.Option(
        "--concepts", "-c", help="Concept set: 'paper34', 'emoji' or a TOML file; by default the model's own."
    ),
]
Cases = Annotated[
    str | None,
    typer.Option(help="Evaluation prompts: 'emoji', 'paper' or a TOML file; by default the model's own."),
]
Senses = Annotated[
    str | None,
    typer.Option(
        help="Words with two senses: 'emoji', 'paper' or a TOML file of [[senses]]; by default the "
        "model's own."
    ),
]
Pairs = Annotated[
    str | None,
    typer.Option(
        help="Edit pairs: 'emoji', a TOML file like headwise/data/editing_emoji.toml, or a CSV with the "
        "columns source_prompt, target_prompt and attribute."
    ),
]
Scorer = Annotated[
    str | None, typer.Option(help="CLIP scorer: hub name, folder or 'emoji'; by default the model's own.")
]
Methods = Annotated[list[str] | None, typer.Option("--method", help="Only this method. May be repeated.")]
Ks = Annotated[str | None, typer.Option(help="Numbers of heads to weaken, such as 0,16,64,128.")]
Seed = Annotated[int, typer.Option(help="Random seed; image i depends only on (seed, i).")]
Seeds = Annotated[str, typer.Option(help="Comma-separated seeds; each prompt is generated once per seed.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Images per batch.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout instead of a table.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder for the results.")]
RelevanceFile = Annotated[
    Path | None,
    typer.Option(
        "--relevance",
        "-r",
        help="Relevance file or run folder, or 'votes' or 'effect' of a built-in model; by default the "
        "model's own, or runs/<model>.",
    ),
]


@dataclass(frozen=True)
class Model:
    """A model, and how it is loaded."""

    name: Annotated[
        str,
        typer.Option(
            "--model",
            "-m",
            help="Hub name, folder in diffusers format, .safetensors file, 'sd14', 'sdxl', 'emoji' or "
            "'emoji-dit'.",
        ),
    ] = "emoji"
    config: Annotated[
        str | None,
        typer.Option(
            help="Configuration of a .safetensors file: a hub name, or the folder of a pipeline of its "
            "family, whose weights may be missing; downloaded if not given."
        ),
    ] = None
    loras: Annotated[
        list[str] | None,
        typer.Option(
            "--lora", help="LoRA file, or FILE:SCALE, such as style.safetensors:0.8. May be repeated."
        ),
    ] = None
    scheduler: Annotated[
        str | None,
        typer.Option(
            help="Sampler: euler, euler-a, heun, dpm++-2m, dpm++-2m-karras, dpm++-2m-sde-karras, unipc, "
            "ddim, lcm …; the model's own if not given."
        ),
    ] = None
    clip_skip: Annotated[
        int | None,
        typer.Option(min=1, help="CLIP skip as A1111 counts it: 2 leaves out the text encoder's last layer."),
    ] = None
    dtype: Dtype = "auto"
    device: Device = "auto"

    @property
    def defaults(self) -> Defaults:
        """The concepts, prompts, scorer and settings that go with the model."""
        return defaults_of(self.name)

    def concepts(self, name: str | None) -> "ConceptSet":
        """The concept set that --concepts names, or that goes with the model."""
        from headwise.measuring.concepts import ConceptSet

        return ConceptSet.load(name or self.defaults.concepts)

    def load(self) -> Any:
        """The pipeline, on its device."""
        return pipeline_of(self.name, self.dtype, self.device, self.loading)

    @property
    def run_name(self) -> str:
        """The name of its folder in runs/; a model with LoRA files has a folder of its own."""
        path = Path(self.name)
        name = path.stem if path.suffix == ".safetensors" else path.name
        return "+".join([name, *(Path(file).stem for file in scales_in(self.loras or ()))])

    @property
    def described(self) -> dict[str, Any]:
        """The name of the model and how it is loaded, for the settings that images hold."""
        return {"model": self.name, **self.loading}

    @property
    def loading(self) -> dict[str, Any]:
        """The further arguments of `load_pipeline` that were given."""
        given = {
            "config": self.config,
            "loras": scales_in(self.loras or ()),
            "scheduler": self.scheduler,
            "clip_skip": self.clip_skip,
        }
        return {name: value for name, value in given.items() if value}


@dataclass(frozen=True)
class Measured(Model):
    """A model and its measured relevance."""

    relevance_file: RelevanceFile = None

    def measured_file(self, runs: Path = Path("runs")) -> Path:
        """The relevance file: the given one, else the built-in model's, else that of runs/<model>."""
        if built_in := emoji.MODELS.get(self.name):
            if self.relevance_file is None:
                return built_in.relevance
            kinds = {Path("votes"): built_in.relevance, Path("effect"): built_in.effect}
            if self.relevance_file in kinds and not self.relevance_file.exists():
                return kinds[self.relevance_file]
        folder, without = runs / self.run_name, runs / replace(self, loras=None).run_name
        if not folder.exists() and without.exists():  # LoRA leaves the heads as they are
            folder = without
        file = self.relevance_file or folder
        if self.relevance_file is None and not file.exists():
            raise UnreadableFile(
                f"{self.name} has not been measured: {file} does not exist. Measure it with `headwise "
                f"measure --model {self.name}`, or give --relevance."
            )
        return file_of(file)

    def relevance(self) -> "Relevance":
        """The relevance in `measured_file`."""
        from headwise.measuring.relevance import Relevance

        return Relevance.load(self.measured_file())

    def effect(self, file: Path | None) -> "Relevance | None":
        """Relevance by effect: of this file or folder, else the built-in model's own, else none."""
        from headwise.measuring.relevance import Relevance

        if file is not None:
            return Relevance.load(file_of(file))
        built_in = emoji.MODELS.get(self.name)
        return None if built_in is None else Relevance.load(built_in.effect)


@dataclass(frozen=True)
class Sampling:
    """How images are generated; the fields are named as diffusers names its arguments."""

    num_inference_steps: Steps
    guidance_scale: Guidance = 7.5


@dataclass(frozen=True)
class Size:
    """The size of the images."""

    height: Annotated[
        int | None,
        typer.Option(min=8, help="Height of the images in pixels; the model's default if not given."),
    ] = None
    width: Annotated[
        int | None,
        typer.Option(min=8, help="Width of the images in pixels; the model's default if not given."),
    ] = None

    def __post_init__(self) -> None:
        given = {"--height": self.height, "--width": self.width}
        missing = [option for option, pixels in given.items() if pixels is None]
        if len(missing) == 1:
            raise HeadwiseError(
                f"Only one of --height and --width was given. Give {missing[0]} too, or neither."
            )

    def leave_out(self, option: str, why: str) -> None:
        """Refuse a size that is given beside an option to which it does not apply."""
        if self.height is not None:
            raise HeadwiseError(
                f"{option} and --height {self.height} --width {self.width} were given, but {why}. Leave "
                "--height and --width out."
            )

    def require(self, pipe: Any) -> None:
        """Refuse a size at which the pipeline does not generate, before it is called."""
        from headwise.model.generate import require_size

        require_size(pipe, self.height, self.width)


@dataclass(frozen=True)
class Sharing:
    """How work is shared between processes."""

    shard: Annotated[
        str | None,
        typer.Option(
            help="Compute only shard i/n, with i from 0 to n - 1, or 'auto' under torchrun, accelerate "
            "launch or SLURM. `headwise merge` merges the shards."
        ),
    ] = None
    ray: Annotated[
        str | None,
        typer.Option(
            help="Share the work over a Ray cluster: its address, 'auto', or 'local' for this machine (the "
            "default without an address)."
        ),
    ] = None
    workers: Annotated[
        int | None,
        typer.Option(
            min=1, help="With --ray: number of workers; by default one per GPU, or per CPU without GPUs."
        ),
    ] = None


@dataclass(frozen=True)
class Output:
    """Where results go."""

    out: Out
    as_json: Json = False


@dataclass(frozen=True)
class Counting(Output):
    """How a benchmark measures relevance, and where its results go."""

    seed: Annotated[int, typer.Option(help="Random seed of images and word samples.")] = 0
    batch_size: BatchSize = 12

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments of the benchmark functions."""
        return {"seed": self.seed, "batch_size": self.batch_size}


@dataclass(frozen=True)
class Sweep:
    """What a benchmark generates for every prompt, and where its scores go."""

    seeds: Seeds
    out: Out
    num_inference_steps: Steps
    guidance_scale: Guidance = 7.5
    batch_size: BatchSize = 32
    as_json: Json = False

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments of the benchmark functions."""
        return {
            "seeds": numbers_in(self.seeds, int),
            "batch_size": self.batch_size,
            "num_inference_steps": self.num_inference_steps,
            "guidance_scale": self.guidance_scale,
        }


@dataclass(frozen=True)
class EditSweep(Sweep):
    """A sweep over pairs of a source and a target, which are generated together."""

    seeds: Annotated[str, typer.Option(help="Comma-separated seeds; each pair is edited once per seed.")]
    batch_size: Annotated[int, typer.Option(min=2, help="Images per batch, sources included.")] = 32


def scorer_of(scorer: str | None, model: Model) -> Any:
    """The CLIP scorer that --scorer names, or that goes with the model."""
    from headwise.benchmarks.clip_scorer import CLIPScorer

    return CLIPScorer.load(scorer or model.defaults.scorer)


def concept_named(concept: str, names: Sequence[str]) -> str:
    """The concept of this name, which may be written in any case."""
    from headwise.measuring.concepts import unknown_concept

    matching = [name for name in names if name.casefold() == concept.casefold()]
    if not matching:
        raise unknown_concept(concept, names)
    return matching[0]


def numbers_in(text: str, kind: type) -> list[Any]:
    """The numbers of a comma-separated text."""
    try:
        return [kind(number) for number in text.split(",")]
    except ValueError:
        raise HeadwiseError(f"{text!r} was given; expected comma-separated numbers, such as 0,1,2.") from None
