"""Commands that edit and compose: edit, excite."""

import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from tqdm.auto import tqdm

from headwise.cli.options import Measured, NegativePrompt, Output, Sampling, Size, numbers_in
from headwise.cli.output import print_files
from headwise.errors import HeadwiseError

__all__ = ["edit", "excite"]

Source = Annotated[
    str, typer.Option("--source", "-s", help="The prompt to edit, or a description of the image to edit.")
]
Targets = Annotated[list[str], typer.Option("--target", "-t", help="The edited prompt. May be repeated.")]
Strengthen = Annotated[
    list[str] | None,
    typer.Option(help="WORD:CONCEPT of a target, such as blue:Color or blue:Color*2. May be repeated."),
]
Weight = Annotated[list[str] | None, typer.Option(help="WORD*FACTOR, such as snowy*2. May be repeated.")]
Photo = Annotated[
    Path | None, typer.Option(help="An existing image to edit, instead of generating the source.")
]
Inversion = Annotated[
    Literal["edit-friendly", "ddim"], typer.Option(help="How the image is inverted to noise.")
]
Skip = Annotated[
    float,
    typer.Option(min=0, max=0.95, help="Fraction of the first steps to skip, to keep more of the image."),
]
Cross = Annotated[
    float, typer.Option(min=0, max=1, help="Fraction of steps that use the source's cross-attention maps.")
]
SelfAttention = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=1,
        help="Fraction of steps that use the source's self-attention; by default 0.4, or 0.9 with concepts.",
    ),
]
Blend = Annotated[
    bool, typer.Option("--blend", help="Keep the source outside the region of the changed words.")
]
Seeds = Annotated[str, typer.Option(help="Comma-separated seeds, one row of images per seed.")]
Words = Annotated[
    list[str], typer.Option("--word", "-w", help="A subject of the prompt. Repeat for each subject.")
]
ConceptOf = Annotated[
    list[str] | None,
    typer.Option(
        help="WORD:CONCEPT of a subject, to weight its maps by that concept's heads. May be repeated."
    ),
]


def edit(
    source: Source,
    targets: Targets,
    strengthen: Strengthen = None,
    strength: Annotated[float, typer.Option(help="Factor on all strengths of --strengthen.")] = 1.0,
    weight: Weight = None,
    image: Photo = None,
    inversion: Inversion = "edit-friendly",
    skip: Skip = 0.3,
    cross: Cross = 0.8,
    self_attention: SelfAttention = None,
    blend: Blend = False,
    model: Measured = Measured(),
    seeds: Seeds = "0,1,2,3",
    output: Output = Output(Path("runs/edit")),
    sampling: Sampling = Sampling(50),
    negative_prompt: NegativePrompt = None,
    size: Size = Size(),
) -> None:
    """Edit an image by editing its prompt.

    Writes the source and its edits side by side; each PNG records how it was made.

    \b
    Examples:
      headwise edit -s "a red car" -t "a blue car" --strengthen blue:Color
      headwise edit --image photo.png -s "a red car" -t "a blue car" --strengthen blue:Color
    """
    from headwise.editing import prompt_to_prompt
    from headwise.editing.local_blend import LocalBlend
    from headwise.editing.support import require_support
    from headwise.model.samplers import sampler_of
    from headwise.pictures import save_columns

    pipe = model.load()
    size.require(pipe)
    require_support(pipe, prompt_to_prompt.PromptToPrompt)
    prompt_to_prompt.check_targets(pipe, source, targets)
    relevance = model.relevance() if strengthen else None
    concepts, factors = _strengthened(strengthen or (), relevance)
    strengths = {word: strength * factor for word, factor in factors.items()}
    p2p = prompt_to_prompt.PromptToPrompt(
        targets=len(targets), cross=cross, self_attention=self_attention, weights=_weights(weight or ()),
        relevance=relevance, concepts=concepts, strength=strengths,
    )  # fmt: skip
    hooks = (p2p, LocalBlend(targets=len(targets))) if blend else (p2p,)
    options = {**vars(sampling), "negative_prompt": negative_prompt}
    settings: dict[str, Any] = {**model.described, "sampler": sampler_of(pipe), **options, **vars(size)}
    settings |= {"source": source, "targets": targets, "strengthen": concepts, "strength": strength}
    settings |= {"strengths": strengths, "weight": p2p.weights, "cross": cross, "blend": blend}
    settings |= {"self_attention": p2p.self_attention}
    if image is None:
        settings["seeds"] = keys = numbers_in(seeds, int)
        rows = prompt_to_prompt.edit(pipe, source, targets, *hooks, seeds=keys, **options, **vars(size))
    else:
        settings |= {"image": str(image), "inversion": inversion, "skip": skip}
        inverted = _inverted(pipe, image, source, inversion, options.pop("num_inference_steps"), size)
        rows = [_edited(pipe, inverted, targets, hooks, skip=skip, **options)]
    columns = dict(zip(("source", *targets), map(list, zip(*rows, strict=True)), strict=True))
    print_files(save_columns(output.out, columns, settings), output.as_json)


def excite(
    prompt: Annotated[str, typer.Argument(help="The prompt of the images.")],
    words: Words,
    concept: ConceptOf = None,
    model: Measured = Measured(),
    seeds: Seeds = "0,1,2,3",
    output: Output = Output(Path("runs/excite")),
    sampling: Sampling = Sampling(50),
    negative_prompt: NegativePrompt = None,
    size: Size = Size(),
) -> None:
    """Generate images in which each subject of the prompt appears.

    Writes plain and excited images side by side. With --concept, also images in which the neglected subject
    is strengthened without a gradient, which works on every model.

    \b
    Examples:
      headwise excite "a cat and a dog" -w cat -w dog
      headwise excite "a cat and a dog" -w cat -w dog --concept cat:Animals --concept dog:Animals
    """
    from headwise.editing.attend_and_excite import Excite
    from headwise.editing.neglected import StrengthenNeglected
    from headwise.editing.support import require_support, supports
    from headwise.model.attention import hooked
    from headwise.model.generate import generate_keys
    from headwise.model.pipelines import quiet, watched
    from headwise.model.samplers import sampler_of
    from headwise.pictures import save_columns

    pipe, relevance = model.load(), model.relevance() if concept else None
    size.require(pipe)
    concepts, factors = _strengthened(concept or (), relevance)
    if any(factor != 1 for factor in factors.values()):
        raise HeadwiseError(
            f"--concept {' '.join(concept or ())} has a strength; expected WORD:CONCEPT without one."
        )
    keys = numbers_in(seeds, int)
    methods: dict[str, list[Any]] = {"plain": []}
    if supports(pipe, Excite) or relevance is None:
        methods["attend-and-excite"] = [Excite([words])]
    if relevance is not None and supports(pipe, Excite):
        methods["relevance"] = [Excite([words], relevance=relevance, concepts=concepts)]
    if relevance is not None:
        methods["neglected"] = [StrengthenNeglected([words], relevance, concepts)]
    require_support(pipe, *(hook for hooks in methods.values() for hook in hooks))
    options = {**vars(sampling), "negative_prompt": negative_prompt, **vars(size)}
    columns, total = {}, len(methods) * sampling.num_inference_steps
    with tqdm(total=total, unit="step") as bar, watched(pipe, lambda: bar.update() and None):
        for name, hooks in methods.items():
            bar.set_description(name)
            with quiet(pipe), hooked(pipe, *hooks):
                columns[name] = generate_keys(pipe, [prompt] * len(keys), keys, **options)
    settings = {**model.described, "prompt": prompt, "words": words, "concepts": concepts}
    settings |= {"seeds": keys, **options, "sampler": sampler_of(pipe)}
    print_files(save_columns(output.out, columns, settings), output.as_json)


def _inverted(
    pipe: Any, image: Path, source: str, inversion: str, num_inference_steps: int, size: Size
) -> Any:
    """Invert an image to noise; cropping and reconstruction quality are reported on stderr."""
    from headwise.editing.inversion import invert
    from headwise.model.generate import image_size, side_step
    from headwise.pictures import cropped, fitted, read_picture, size_of_shape

    picture = read_picture(image)
    goal = image_size(pipe) if size.width is None or size.height is None else (size.width, size.height)
    left_out = cropped(picture, goal)
    if left_out:
        print(left_out, file=sys.stderr)
        width, height = size_of_shape(picture, image_size(pipe), side_step(pipe))
        if size.height is None and (width, height) != goal:
            print(f"To keep its shape, give --height {height} --width {width}.", file=sys.stderr)
    pixels = fitted(picture, goal)
    method: Any = inversion.replace("-", " ")
    inverted = invert(pipe, pixels, source, method=method, num_inference_steps=num_inference_steps)
    print(
        f"Reconstruction PSNR {inverted.psnr:.1f} dB (autoencoder alone: {inverted.limit:.1f} dB)",
        file=sys.stderr,
    )
    return inverted


def _edited(pipe: Any, inverted: Any, targets: list[str], hooks: Any, **options: Any) -> list[Any]:
    """The inverted image and its edits; warnings go to stderr."""
    from headwise.editing.inversion import edit_picture

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        row = edit_picture(pipe, inverted, targets, hooks, **options)
    for warning in caught:
        print(f"warning: {warning.message}", file=sys.stderr)
    return row


def _strengthened(texts: Sequence[str], relevance: Any) -> tuple[dict[str, str], dict[str, float]]:
    """["blue:color*2"] as {"blue": "Color"} and {"blue": 2.0}: the concept and the strength of each word."""
    from headwise.steering.spelling import concepts_named, split_steering

    concepts, factors = {}, {}
    for text in texts:
        word, spelled, factors[word] = split_steering(text)
        concepts[word], away = concepts_named(spelled, relevance.concepts)
        if away is not None:
            raise HeadwiseError(f"{text!r} names two concepts; expected WORD:CONCEPT with one of them.")
    return concepts, factors


def _weights(texts: Sequence[str]) -> dict[str, float]:
    """["snowy*2"] as {"snowy": 2.0}."""
    weights = {}
    for text in texts:
        word, star, factor = text.rpartition("*")
        if not star or not word.strip() or not factor.strip():
            raise HeadwiseError(f"{text!r} was given; expected WORD*FACTOR.")
        weights[word.strip()] = numbers_in(factor.strip(), float)[0]
    return weights
