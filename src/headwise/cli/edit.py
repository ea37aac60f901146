"""Commands that edit and compose: edit, excite."""

import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from headwise.cli.app import Device, Dtype, Guidance, Json, Model, Steps, app, load, print_files, relevance_of
from headwise.cli.steer import RelevanceFile, numbers_in
from headwise.errors import HeadwiseError

__all__ = ["edit", "excite"]


@app.command()
def edit(
    source: Annotated[str, typer.Option("--source", "-s", help="The prompt to edit, or what is seen.")],
    targets: Annotated[list[str], typer.Option("--target", "-t", help="The edited prompt. May be repeated.")],
    strengthen: Annotated[
        list[str] | None, typer.Option(help="WORD:CONCEPT of a target, such as blue:Color. May be repeated.")
    ] = None,
    strength: Annotated[float, typer.Option(help="Of what --strengthen asks for.")] = 1.0,
    weight: Annotated[
        list[str] | None, typer.Option(help="WORD*FACTOR, such as snowy*2. May be repeated.")
    ] = None,
    image: Annotated[
        Path | None, typer.Option(help="A picture to edit, instead of drawing the source.")
    ] = None,
    inversion: Annotated[
        Literal["edit-friendly", "ddim"], typer.Option(help="How the noise of the image is found.")
    ] = "edit-friendly",
    skip: Annotated[
        float, typer.Option(min=0, max=0.95, help="Share of first steps left out, to keep more of the image.")
    ] = 0.3,
    cross: Annotated[float, typer.Option(min=0, max=1, help="Share of steps on its maps.")] = 0.8,
    self_attention: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Of self-attention; 0.4, or 0.9 with concepts."),
    ] = None,
    blend: Annotated[
        bool, typer.Option("--blend", help="Keep the source outside the changed words.")
    ] = False,
    model: Model = "emoji",
    relevance: RelevanceFile = None,
    seeds: Annotated[str, typer.Option(help="One row of pictures from each.")] = "0,1,2,3",
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the pictures.")] = Path("runs/edit"),
    num_inference_steps: Steps = 50,
    guidance_scale: Guidance = 7.5,
    dtype: Dtype = "auto",
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Edit a picture by editing its prompt.

    Writes source and edits side by side; each PNG says how it was made.

    \b
    Examples:
      headwise edit -s "a red car" -t "a blue car" --strengthen blue:Color
      headwise edit --image photo.png -s "a red car" -t "a blue car" --strengthen blue:Color
    """
    from headwise.editing.local_blend import LocalBlend
    from headwise.editing.prompt_to_prompt import PromptToPrompt, check_targets
    from headwise.editing.prompt_to_prompt import edit as run
    from headwise.pictures import save_columns

    pipe = load(model, dtype, device)
    check_targets(pipe, source, targets)
    concepts = dict(_split(text, ":", "WORD:CONCEPT") for text in strengthen or ())
    p2p = PromptToPrompt(
        targets=len(targets),
        cross=cross,
        self_attention=self_attention,
        weights=_weights(weight or ()),
        relevance=relevance_of(relevance, model) if concepts else None,
        concepts=concepts,
        strength=strength,
    )
    hooks = (p2p, LocalBlend(targets=len(targets))) if blend else (p2p,)
    said: dict[str, Any] = {"model": model, "source": source, "targets": targets, "strengthen": concepts}
    said |= {"strength": strength}
    said |= {"num_inference_steps": num_inference_steps, "guidance_scale": guidance_scale}
    if image is None:
        own = numbers_in(seeds, int)
        options: dict[str, Any] = {
            "num_inference_steps": num_inference_steps,
            "guidance_scale": guidance_scale,
        }
        rows = run(pipe, source, targets, *hooks, seeds=own, **options)
        said |= {"seeds": own}
    else:
        how = (inversion, skip, num_inference_steps, guidance_scale)
        rows = [_edited(pipe, image, source, targets, hooks, *how)]
        said |= {"image": str(image), "inversion": inversion}
    columns = dict(zip(("source", *targets), map(list, zip(*rows, strict=True)), strict=True))
    print_files(save_columns(out, columns, said), as_json)


@app.command()
def excite(
    prompt: Annotated[str, typer.Argument(help="What to draw.")],
    words: Annotated[list[str], typer.Option("--word", "-w", help="A subject. Repeated for each.")],
    concept: Annotated[
        list[str] | None,
        typer.Option(help="WORD:CONCEPT of a subject; then its maps are weighted by that concept's heads."),
    ] = None,
    model: Model = "emoji",
    relevance: RelevanceFile = None,
    seeds: Annotated[str, typer.Option(help="One row of pictures from each.")] = "0,1,2,3",
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the pictures.")] = Path("runs/excite"),
    num_inference_steps: Steps = 50,
    guidance_scale: Guidance = 7.5,
    dtype: Dtype = "auto",
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Draw a prompt so that each of its subjects is there.

    Writes plain and excited pictures side by side.

    \b
    Examples:
      headwise excite "a cat and a dog" -w cat -w dog
      headwise excite "a cat and a dog" -w cat -w dog --concept cat:Animals --concept dog:Animals
    """
    from headwise.editing.attend_and_excite import Excite
    from headwise.editing.attend_and_excite import excite as run
    from headwise.pictures import save_columns

    pipe = load(model, dtype, device)
    own = numbers_in(seeds, int)
    options: dict[str, Any] = {"num_inference_steps": num_inference_steps, "guidance_scale": guidance_scale}
    concepts = dict(_split(text, ":", "WORD:CONCEPT") for text in concept or ())
    more: dict[str, Any] = (
        {"relevance": relevance_of(relevance, model), "concepts": concepts} if concepts else {}
    )
    columns = {
        "plain": Excite([words], thresholds={0.0: 0.0}),
        "attend-and-excite": Excite([words]),
        **({"relevance": Excite([words], **more)} if concepts else {}),
    }
    prompts = [prompt] * len(own)
    drawn = {name: run(pipe, prompts, how, seeds=own, **options) for name, how in columns.items()}
    said = {"model": model, "prompt": prompt, "words": words, "concepts": concepts, "seeds": own, **options}
    print_files(save_columns(out, drawn, said), as_json)


def _edited(
    pipe: Any, image: Path, source: str, targets: list[str], hooks: Any, inversion: str, skip: float,
    num_inference_steps: int, guidance_scale: float,
) -> list[Any]:  # fmt: skip
    """The image drawn again, and its edits; what the inversion lost is said first."""
    from headwise.editing.inversion import edit_picture, invert
    from headwise.model.generate import latent_shape
    from headwise.pictures import fitted, read_picture

    height, width = (side * pipe.vae_scale_factor for side in latent_shape(pipe, None, None)[1:])
    picture = fitted(read_picture(image), (width, height))
    method: Any = inversion.replace("-", " ")
    found = invert(pipe, picture, source, method=method, num_inference_steps=num_inference_steps)
    print(
        f"Drawn again, the picture has {found.psnr:.1f} dB; encoded and decoded alone {found.limit:.1f} dB.",
        file=sys.stderr,
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        rows = edit_picture(pipe, found, targets, hooks, guidance_scale=guidance_scale, skip=skip)
    for doubt in caught:
        print(f"warning: {doubt.message}", file=sys.stderr)
    return rows


def _split(text: str, mark: str, form: str) -> tuple[str, str]:
    word, found, rest = text.rpartition(mark)
    if not found or not word.strip() or not rest.strip():
        raise HeadwiseError(f"{text!r} was given; expected {form}.")
    return word.strip(), rest.strip()


def _weights(texts: Sequence[str]) -> dict[str, float]:
    """ "snowy*2" as a word and a number."""
    pairs = [_split(text, "*", "WORD*FACTOR") for text in texts]
    return {word: numbers_in(factor, float)[0] for word, factor in pairs}
