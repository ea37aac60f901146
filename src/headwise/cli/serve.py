"""The command that serves the page: serve."""

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headwise import emoji
from headwise.cli.options import Measured, Scorer
from headwise.errors import UnreadableFile

if TYPE_CHECKING:  # the page needs the extra `web`
    from headwise.web.session import ModelSession

__all__ = ["serve"]


def serve(
    model: Measured = Measured(),
    scorer: Scorer = None,
    runs: Annotated[Path, typer.Option(help="Folder of runs that the page shows and adds to.")] = Path(
        "runs"
    ),
    lora_folder: Annotated[
        Path | None,
        typer.Option("--loras", help="Folder of LoRA files that the page offers; none if not given."),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; a token is required unless it is this machine's own.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 is any free port.")] = 7860,
    token: Annotated[
        str | None,
        typer.Option(envvar="HEADWISE_TOKEN", help="Token required to open the page; generated if needed."),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(help="Another host name of this server, such as behind a proxy. May be repeated."),
    ] = None,
) -> None:
    """Serve a web page to explore heads, steer, edit, weaken and measure.

    By default only a browser on this machine can open it. The page loads nothing from any other host.

    \b
    Examples:
      headwise serve
      headwise serve --model ./my-model --relevance runs/my-model --port 8000
      headwise serve -m ./my-model.safetensors --loras ~/loras
      headwise serve --host 0.0.0.0
    """
    from headwise import serving
    from headwise.web.app import make_app
    from headwise.web.run_store import RunStore
    from headwise.web.security import rules_for
    from headwise.web.service import Service

    rules = rules_for(host, token, allow_host or ())
    session = _session(model, scorer, runs, _folder_of(lora_folder))
    listening = serving.listen(host, port)
    address = _address(*listening.getsockname()[:2])
    print(f"Open {address}/" + (f"?token={rules.token}" if rules.token else ""), flush=True)
    if rules.token and not token:
        print("The token is new at every start; give --token to keep one.", file=sys.stderr)
    serving.serve(make_app(Service(session, RunStore(runs)), rules), listening)


def _session(model: Measured, scorer: str | None, runs: Path, loras: Path | None) -> "ModelSession":
    """The model behind the page, loaded once the page is served."""
    from headwise.web.session import ModelSession

    defaults = model.defaults
    try:
        by_effect = model.relevance_file is None and model.name in emoji.MODELS  # by which steering is proven
        relevance = emoji.MODELS[model.name].effect if by_effect else model.measured_file(runs)
    except UnreadableFile:
        if model.relevance_file is not None:
            raise
        relevance = None  # it can be measured on the page
    return ModelSession(
        model.name,
        partial(_load, model),
        relevance=relevance,
        scorer=scorer or (defaults.scorer if defaults.built_in else None),
        steps=defaults.steps,
        guidance_scale=defaults.guidance_scale,
        loading=model.loading,
        loras=loras,
    )


def _folder_of(folder: Path | None) -> Path | None:
    if folder is not None and not folder.is_dir():
        raise UnreadableFile(f"--loras {folder} was given; expected a folder of LoRA files.")
    return folder


def _load(model: Measured) -> Any:
    """Load the pipeline; an error is printed here too, not only shown on the page."""
    try:
        return model.load()
    except Exception as error:
        print(f"error: {error}", file=sys.stderr)
        print("The page is served without a model. Press Ctrl-C to stop.", file=sys.stderr, flush=True)
        raise


def _address(host: Any, port: Any) -> str:
    name = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{name}:{port}"
