"""Commands for studies with people: study make, serve, invite, report, export."""

import sys
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import typer

from headwise.cli.options import Json
from headwise.cli.output import console, finite, print_json, table

__all__ = ["export", "invite", "make", "report", "serve"]

Folder = Annotated[Path, typer.Argument(help="A folder with study.toml and images.")]
File = Annotated[Path, typer.Argument(help="The folder of a study, or its answers.sqlite.")]
AnswersFile = Annotated[
    Path | None, typer.Option("--answers", help="File for the answers; FOLDER/answers.sqlite if not given.")
]


def make(
    folder: Annotated[Path, typer.Argument(help="The folder of a benchmark, or of other images.")],
    ours: Annotated[str | None, typer.Option(help="The method that all others are compared with.")] = None,
    methods: Annotated[
        list[str] | None, typer.Option("--method", help="Only this method. May be repeated.")
    ] = None,
    together: Annotated[
        bool, typer.Option("--together", help="Show all methods at once instead of in pairs.")
    ] = False,
    senses: Annotated[
        Path | None,
        typer.Option(
            help="The TOML file of [[senses]] that the images were generated from, if it is your own."
        ),
    ] = None,
    trials: Annotated[int, typer.Option(min=1, help="Maximum number of questions per participant.")] = 40,
) -> None:
    """Write study.toml for the images of a benchmark, or for any other images.

    Read it before you serve it: the consent text needs your name.

    \b
    Examples:
      headwise study make runs/benchmark-polysemy
      headwise study make runs/benchmark-editing --method relevance --method prompt-to-prompt
    """
    from headwise.study.making import make_study

    print(make_study(folder, ours=ours, methods=methods, together=together, senses=senses, trials=trials))


def serve(
    folder: Folder,
    host: Annotated[
        str, typer.Option(help="Address to listen on; by default reachable from this machine only.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 is any free port.")] = 8767,
    answers: AnswersFile = None,
    invited_only: Annotated[
        bool, typer.Option("--invited-only", help="Admit only people with a link from `study invite`.")
    ] = False,
) -> None:
    """Serve the rating page of a study.

    Prints the link for participants. If study.toml is missing, it is written first, as by `study make`.
    The server can be stopped and restarted: every answer is on disk before the next question is asked.

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
        print(f"Wrote {make_study(folder)}; read it, and restart if you change it.", file=sys.stderr)
    description, store = _opened(folder, answers)
    if "[name and address" in description.consent:
        print(
            "The consent text lacks your name and address; add them before you invite anyone.",
            file=sys.stderr,
        )

    def ready(address: str) -> None:
        if invited_only:
            print(f"Ready. Personal links: headwise study invite {folder} --address {address}", flush=True)
        else:
            print(f"The link for participants: {address}/s/{store.link()}", flush=True)
        print(f"Answers go to {store.path}. Press Ctrl-C to stop.", file=sys.stderr)

    with closing(store):
        serve_page(page_of(description, folder, store, open_to_all=not invited_only), host, port, ready)


def invite(
    folder: Folder,
    count: Annotated[int, typer.Option(min=1, help="Number of links.")] = 10,
    address: Annotated[str, typer.Option(help="Address at which participants reach the page.")] = (
        "http://127.0.0.1:8767"
    ),
    answers: AnswersFile = None,
) -> None:
    """Print personal links, one per line: each admits one person, on any device, once.

    \b
    Example:
      headwise study invite runs/benchmark-polysemy --count 30 --address https://study.example.org
    """
    _, store = _opened(folder, answers)
    with closing(store):
        for token in store.invite(count):
            print(f"{address.rstrip('/')}/s/{token}")


def report(
    file: File,
    groups: Annotated[bool, typer.Option("--groups", help="Also show each group of cases.")] = False,
    as_json: Json = False,
) -> None:
    """Report what people saw: rates with intervals, agreement, tests.

    It works while the study is running.

    \b
    Examples:
      headwise study report runs/benchmark-polysemy
      headwise study report answers.sqlite --json
    """
    from headwise.study.answers import Answers
    from headwise.study.results import results_of

    with closing(Answers(_file(file))) as store:
        results = results_of(store)
    if as_json:
        print_json(_json(results))
        return
    people, answers = results.participants, results.answers
    print(
        f"{people['agreed']} took part, of whom {people['finished']} finished; "
        f"{people['withdrawn']} withdrew.\n"
        f"Excluded for failing attention checks: {people['left_out']}, with {answers['left_out']} answers "
        f"({answers['missed']} of {answers['checks']} checks missed).\n"
        f"{answers['counted']} answers are counted."
    )
    if answers["counted"]:
        _print_tables(results, groups)


def export(
    file: File,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="File to write; stdout if not given.")
    ] = None,
) -> None:
    """Write all answers as CSV, one per line.

    \b
    Example:
      headwise study export runs/benchmark-polysemy --out answers.csv
    """
    from headwise.files import write_whole
    from headwise.study.answers import Answers
    from headwise.study.results import as_csv

    with closing(Answers(_file(file))) as store:
        text = as_csv(store)
    print(text, end="") if out is None else write_whole(out, text.encode())


def _opened(folder: Path, answers: Path | None) -> tuple[Any, Any]:
    """The study of a folder, and the store of its answers."""
    from headwise.study.answers import NAME, Answers
    from headwise.study.reading import read_study

    description = read_study(folder)
    return description, Answers.begin(answers or folder / NAME, description, description.fingerprint(folder))


def _file(path: Path) -> Path:
    from headwise.study.answers import NAME

    return path / NAME if path.is_dir() else path


def _print_tables(results: Any, groups: bool) -> None:
    rates = [
        (r.question, r.group or "all", _versus(r.shown), r.answer, str(r.share), str(r.n), _span(r.by_case))
        for r in results.rates
        if groups or not r.group
    ]
    tests = [
        (t.question, t.group or "all", f"{t.first} : {t.second}", t.unit)
        + (str(t.wins), str(t.losses), str(t.ties), f"{t.p:.2g}", f"{t.corrected:.2g}")
        for t in results.compared
        if groups or not t.group
    ]
    agreement = [
        (a.question, _versus(a.shown) or "all", str(a.items), str(a.ratings))
        + (str(a.kappa) if finite(a.kappa.value) is not None else "unknown",)
        for a in results.agreed
    ]
    share, kappa = ("answer", "share (95 %)>", "n>", "over cases (95 %)>"), "Fleiss' kappa (95 %)>"
    counts = ("wins>", "losses>", "ties>", "p>", "Holm>")
    for results_table in (
        table("question", "group", "shown", *share, rows=rates),
        table("question", "group", "first : second", "unit", *counts, rows=tests),
        table("question", "shown", "items>", "ratings>", kappa, rows=agreement),
    ):
        console().print("\n", results_table, sep="")


def _versus(shown: tuple[str, ...]) -> str:
    return " : ".join(shown)


def _span(interval: Any) -> str:
    return "" if finite(interval.low) is None else f"{interval.low:.3f} to {interval.high:.3f}"


def _json(results: Any) -> dict[str, Any]:
    """Every table as a list of objects; unknown numbers are null."""

    def plain(value: Any) -> Any:
        if hasattr(value, "_asdict"):
            return {key: plain(inner) for key, inner in value._asdict().items()}
        return finite(value) if isinstance(value, float) else value

    tables = {"rates": results.rates, "compared": results.compared, "agreed": results.agreed}
    return {
        "participants": results.participants,
        "answers": results.answers,
        **{name: [plain(row) for row in rows] for name, rows in tables.items()},
    }
