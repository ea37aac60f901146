"""The command that serves the page: serve."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from headwise.cli.app import Device, Dtype, Model, app, file_of, load
from headwise.cli.steer import JudgeName, RelevanceFile
from headwise.errors import HeadwiseError

__all__ = ["serve"]


@app.command()
def serve(
    model: Model = "emoji",
    relevance: RelevanceFile = None,
    judge: JudgeName = None,
    runs: Annotated[Path, typer.Option(help="The folder of runs, which the page shows and adds to.")] = Path(
        "runs"
    ),
    host: Annotated[
        str, typer.Option(help="Address to listen at; other than this machine's own, a token is asked for.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 is any free one.")] = 7860,
    token: Annotated[
        str | None,
        typer.Option(envvar="HEADWISE_TOKEN", help="Asked of whoever opens the page; made if needed."),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(help="Another name of this server, as behind a proxy. May be repeated."),
    ] = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
) -> None:
    """Serve the page: look at heads, steer, edit, weaken, measure.

    For a browser on this machine. Nothing is asked of any other host.

    \b
    Examples:
      headwise serve
      headwise serve --model ./my-model --relevance runs/my-model --port 8000
      headwise serve --host 0.0.0.0
    """
    from headwise import http
    from headwise.web.app import make_app
    from headwise.web.run_store import RunStore
    from headwise.web.security import rules_for
    from headwise.web.service import Service
    from headwise.web.session import ModelSession

    rules = rules_for(host, token, allow_host or ())
    session = ModelSession(
        model,
        lambda: load(model, dtype, device),
        relevance=_measured(relevance, model, runs),
        judge=judge or ("emoji" if model == "emoji" else None),
        steps=10 if model == "emoji" else 30,
        guidance_scale=5.0 if model == "emoji" else 7.5,
    )
    listening = http.listen(host, port)
    where = _address(*listening.getsockname()[:2])
    print(f"Open {where}/" + (f"?token={rules.token}" if rules.token else ""), flush=True)
    if rules.token and not token:
        print("The token is new at every start; give one with --token to keep it.", file=sys.stderr)
    http.serve(make_app(Service(session, RunStore(runs)), rules), listening)


def _measured(path: Path | None, model: str, runs: Path) -> Path | None:
    """The relevance file: the one named, the built-in model's own, or runs/<model>; None if there is none."""
    from headwise import emoji

    if path is None and model == "emoji":
        return emoji.RELEVANCE
    try:
        return file_of(path or runs / Path(model).name)
    except HeadwiseError:
        if path is not None:
            raise
        return None  # it can be measured on the page


def _address(host: Any, port: Any) -> str:
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{shown}:{port}"
