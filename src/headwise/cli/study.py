"""Commands that ask people: study make, study serve, study invite, study report, study export."""

import sys
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import typer

from headwise.cli.app import Json, app, console, finite, print_json, table

__all__ = ["study"]

study = typer.Typer(help="Ask people what they see, blind, and report what they said.", no_args_is_help=True)
app.add_typer(study, name="study")

Folder = Annotated[Path, typer.Argument(help="A folder with study.toml and pictures.")]
File = Annotated[Path, typer.Argument(help="The folder of a study, or its answers.sqlite.")]
AnswersFile = Annotated[
    Path | None, typer.Option("--answers", help="File of the answers; FOLDER/answers.sqlite if not given.")
]


@study.command()
def make(
    folder: Annotated[Path, typer.Argument(help="Of a benchmark, or of other pictures.")],
    ours: Annotated[str | None, typer.Option(help="The method that each other one is compared with.")] = None,
    methods: Annotated[
        list[str] | None, typer.Option("--method", help="Only this one. May be repeated.")
    ] = None,
    together: Annotated[
        bool, typer.Option("--together", help="All methods at once instead of two by two.")
    ] = False,
    senses: Annotated[
        Path | None, typer.Option(help="The TOML file of [[senses]] that was drawn, if it is your own.")
    ] = None,
    trials: Annotated[int, typer.Option(min=1, help="Questions a participant, at most.")] = 40,
) -> None:
    """Write study.toml for the pictures of a benchmark, or for any others.

    Read it before you serve it: the consent text needs your name.

    \b
    Examples:
      headwise study make runs/benchmark-polysemy
      headwise study make runs/benchmark-editing --method relevance --method prompt-to-prompt
    """
    from headwise.study.making import make_study

    print(make_study(folder, ours=ours, methods=methods, together=together, senses=senses, trials=trials))


@study.command()
def serve(
    folder: Folder,
    host: Annotated[str, typer.Option(help="This machine only, if not given.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 is any that is free.")] = 8767,
    answers: AnswersFile = None,
    invited_only: Annotated[
        bool, typer.Option("--invited-only", help="Let in only who has a link of `study invite`.")
    ] = False,
) -> None:
    """Serve the rating page of a study.

    Prints the link for participants. Without study.toml one is made first, as by `study make`. Ended and
    begun again, it goes on: every answer is on the disk before the next question is asked.

    \b
    Examples:
      headwise study serve runs/benchmark-polysemy
      headwise study serve runs/benchmark-editing --host 0.0.0.0 --invited-only
    """
    from headwise.study.making import make_study
    from headwise.study.reading import NAME
    from headwise.study.server import page_of
    from headwise.study.server import serve as serve_page

    if folder.is_dir() and not (folder / NAME).exists():
        print(f"Made {make_study(folder)}; read it, and begin again if you change it.", file=sys.stderr)
    asked, kept = _begun(folder, answers)
    if "[name and address" in asked.consent:
        print("The consent text lacks your name and address: fill it in before you invite.", file=sys.stderr)

    def ready(address: str) -> None:
        if invited_only:
            print(f"Ready. Personal links: headwise study invite {folder} --address {address}", flush=True)
        else:
            print(f"The link for participants: {address}/s/{kept.link()}", flush=True)
        print(f"Answers go to {kept.path}. Ctrl-C ends.", file=sys.stderr)

    with closing(kept):
        serve_page(page_of(asked, folder, kept, open_to_all=not invited_only), host, port, ready)


@study.command()
def invite(
    folder: Folder,
    count: Annotated[int, typer.Option(min=1, help="How many links.")] = 10,
    address: Annotated[str, typer.Option(help="Of the page, as participants reach it.")] = (
        "http://127.0.0.1:8767"
    ),
    answers: AnswersFile = None,
) -> None:
    """Print personal links, one a line: each lets in one person, on any device, once.

    \b
    Example:
      headwise study invite runs/benchmark-polysemy --count 30 --address https://study.example.org
    """
    _, kept = _begun(folder, answers)
    with closing(kept):
        for token in kept.invite(count):
            print(f"{address.rstrip('/')}/s/{token}")


@study.command()
def report(
    file: File,
    groups: Annotated[bool, typer.Option("--groups", help="Each group of cases, too.")] = False,
    as_json: Json = False,
) -> None:
    """Say what people saw: rates with intervals, agreement, tests.

    May be asked while the study runs.

    \b
    Examples:
      headwise study report runs/benchmark-polysemy
      headwise study report answers.sqlite --json
    """
    from headwise.study.answers import Answers
    from headwise.study.results import results_of

    with closing(Answers(_file(file))) as answers:
        found = results_of(answers)
    if as_json:
        print_json(_json(found))
        return
    said, given = found.participants, found.answers
    print(
        f"{said['agreed']} took part, {said['finished']} of them to the end; {said['withdrawn']} withdrew.\n"
        f"Left out for missing attention checks: {said['left_out']}, with {given['left_out']} answers "
        f"({given['missed']} of {given['checks']} checks missed).\n{given['counted']} answers are counted."
    )
    if given["counted"]:
        _print_tables(found, groups)


@study.command()
def export(
    file: File,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="A file; stdout if not given.")] = None,
) -> None:
    """Write all answers as CSV, one a line.

    \b
    Example:
      headwise study export runs/benchmark-polysemy --out answers.csv
    """
    from headwise.files import write_whole
    from headwise.study.answers import Answers
    from headwise.study.results import as_csv

    with closing(Answers(_file(file))) as answers:
        text = as_csv(answers)
    print(text, end="") if out is None else write_whole(out, text.encode())


def _begun(folder: Path, answers: Path | None) -> tuple[Any, Any]:
    """The study of a folder, and the file of its answers."""
    from headwise.study.answers import NAME, Answers
    from headwise.study.reading import read_study

    asked = read_study(folder)
    return asked, Answers.begin(answers or folder / NAME, asked, asked.fingerprint(folder))


def _file(path: Path) -> Path:
    from headwise.study.answers import NAME

    return path / NAME if path.is_dir() else path


def _print_tables(found: Any, groups: bool) -> None:
    shown = table("question", "group", "shown", "answer", "share (95 %)>", "of>", "over cases (95 %)>")
    for r in found.rates:
        if groups or not r.group:
            row = (r.question, r.group or "all", _versus(r.shown), r.answer, str(r.share), str(r.n))
            shown.add_row(*row, _span(r.by_case))
    console().print("\n", shown, sep="")
    shown = table("question", "group", "first : second", "unit", "wins>", "losses>", "ties>", "p>", "Holm>")
    for t in found.compared:
        if groups or not t.group:
            named = (t.question, t.group or "all", f"{t.first} : {t.second}", t.unit)
            counts = map(str, (t.wins, t.losses, t.ties))
            shown.add_row(*named, *counts, f"{t.p:.2g}", f"{t.corrected:.2g}")
    console().print("\n", shown, sep="")
    shown = table("question", "shown", "items>", "ratings>", "Fleiss' kappa (95 %)>")
    for a in found.agreed:
        kappa = str(a.kappa) if finite(a.kappa.value) is not None else "unknown"
        shown.add_row(a.question, _versus(a.shown) or "all", str(a.items), str(a.ratings), kappa)
    console().print("\n", shown, sep="")


def _versus(shown: tuple[str, ...]) -> str:
    return " : ".join(shown)


def _span(found: Any) -> str:
    return "" if finite(found.low) is None else f"{found.low:.3f} to {found.high:.3f}"


def _json(found: Any) -> dict[str, Any]:
    """Every table as a list of objects; unknown numbers are null."""

    def plain(value: Any) -> Any:
        if hasattr(value, "_asdict"):
            return {key: plain(inner) for key, inner in value._asdict().items()}
        return finite(value) if isinstance(value, float) else value

    tables = {"rates": found.rates, "compared": found.compared, "agreed": found.agreed}
    return {
        "participants": found.participants,
        "answers": found.answers,
        **{name: [plain(row) for row in rows] for name, rows in tables.items()},
    }
