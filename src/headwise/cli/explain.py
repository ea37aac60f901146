"""The command that explains one image: explain."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headwise.cli.options import Model, NegativePrompt, Output, Sampling, Seed, Size
from headwise.cli.output import console, print_json, table

if TYPE_CHECKING:  # torch takes seconds to import, which --help need not pay
    from headwise.measuring.explanation import Explanation

__all__ = ["explain"]

FIGURE, NUMBERS, PICTURE = "explanation.png", "explanation.json", "picture.png"
FAR = 0.2  # distance from 1 beyond which the shares of a word are called inexact


Explained = Annotated[
    list[str] | None,
    typer.Option(
        help="Word or phrase of the prompt to explain; by default all but 'a', 'of', …. May be repeated."
    ),
]
Number = Annotated[int, typer.Option(min=0, help="Number of the image for this seed, from 0.")]
Calls = Annotated[int, typer.Option(min=1, help="Number of denoiser calls at which effects are measured.")]
Points = Annotated[int, typer.Option(min=1, help="Points of the integral; more are more exact and slower.")]
Maps = Annotated[int, typer.Option("--maps", min=0, help="Number of heads per word that get a map.")]
Rows = Annotated[
    int, typer.Option(min=1, help="Rows computed at a time beside the image; fewer need less memory.")
]


def explain(
    prompt: Annotated[str, typer.Argument(help="The prompt of the image.")],
    word: Explained = None,
    model: Model = Model(),
    seed: Seed = 0,
    picture: Number = 0,
    calls: Calls = 10,
    points: Points = 1,
    maps_of: Maps = 4,
    output: Output = Output(Path("runs/explain")),
    sampling: Sampling = Sampling(50),
    negative_prompt: NegativePrompt = None,
    size: Size = Size(),
    batch_size: Rows = 8,
) -> None:
    """Generate an image, and show which heads contribute to each word, and where.

    Writes the image, a figure, and all numbers as JSON. A head's share is its part of the word's effect on
    the denoiser's output; a head with a share below 0 works against the word.

    \b
    Examples:
      headwise explain "a red car in the snow"
      headwise explain "a red car" --word red --seed 3 --out runs/red-car
      headwise explain "a cat on a sofa" -m sd14 --word cat --points 3 --json
    """
    from headwise.report import plots  # fails at once if matplotlib is missing

    pipe = model.load()
    size.require(pipe)
    from headwise import __version__
    from headwise.files import write_whole
    from headwise.measuring.explain import explain as run
    from headwise.model.samplers import sampler_of
    from headwise.pictures import save_picture

    options = {**vars(sampling), "negative_prompt": negative_prompt, **vars(size)}
    measuring: dict[str, Any] = {
        "points": points,
        "calls": calls,
        "maps_of": maps_of,
        "batch_size": batch_size,
    }
    explained = run(pipe, prompt, word or None, seed=seed, picture=picture, **measuring, **options)
    settings = {"prompt": prompt, "headwise": __version__, **explained.settings, **model.described}
    settings |= {"sampler": sampler_of(pipe)}
    save_picture(output.out / PICTURE, explained.image, settings)
    explained.save(output.out / NUMBERS)
    write_whole(output.out / FIGURE, plots.as_png(plots.explanation(explained, width=9)))
    if output.as_json:
        print_json(_summary(explained, output.out))
        return
    console().print(table("word", "strength>", "share>", "head>", "address", rows=_rows(explained)))
    for name, total in zip(explained.words, explained.completeness, strict=True):
        if abs(total - 1) > FAR:
            print(f"The shares of {name!r} sum to {total:.2f}, not 1; --points 3 is more exact.")
    print(output.out / FIGURE)


def _rows(explained: "Explanation") -> Iterator[tuple[str, ...]]:
    """The heads with the largest shares of each word; the word itself is printed once."""
    for name, strength in zip(explained.words, explained.strengths, strict=True):
        for rank, (head, address, share) in enumerate(explained.top(name)):
            first = (name, f"{strength:.2f}") if rank == 0 else ("", "")
            yield (*first, f"{share:+.3f}", str(head), address)


def _summary(explained: "Explanation", out: Path) -> dict[str, Any]:
    """What --json prints: the files, and everything but the shares of all heads and the maps."""
    names = ("word", "strength", "completeness", "by_layer", "top")
    described = explained.to_json()
    words = [{name: word[name] for name in names} for word in described["words"]]
    files = {"figure": FIGURE, "numbers": NUMBERS, "picture": PICTURE}
    paths = {kind: str(out / file) for kind, file in files.items()}
    return {**paths, "prompt": explained.prompt, "steps": described["steps"], "words": words}
