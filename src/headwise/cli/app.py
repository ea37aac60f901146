"""The app that all commands are registered with, its own options, and the entry point."""

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from headwise import __version__
from headwise.cli.running import arguments
from headwise.errors import HeadwiseError

__all__ = ["app", "main"]

app = typer.Typer(
    name="headwise",
    context_settings={"help_option_names": ["-h", "--help"]},
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _print_version(version: bool) -> bool:
    if version:
        print(f"headwise {__version__}")
        raise typer.Exit
    return version


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Find which attention heads of a text-to-image model carry which visual concepts."""


def main(command_line: Sequence[str] | None = None) -> None:
    """Run the command line; an error is one sentence on stderr and exit code 2.

    Args:
        command_line: The arguments after `headwise`; None takes those of this process.
    """
    try:
        arguments.set(tuple(sys.argv[1:] if command_line is None else command_line))
        app(args=_with_ray_address(arguments.get()), prog_name="headwise")
    except HeadwiseError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        print(f"error: {error.filename or 'A file'}: {error.strerror or error}.", file=sys.stderr)
        sys.exit(2)


def _with_ray_address(words: Sequence[str]) -> list[str]:
    """Read --ray without an address as --ray=local; typer has no options with optional values."""
    return [
        "--ray=local" if word == "--ray" and (following is None or following.startswith("-")) else word
        for word, following in zip(words, [*words, None][1:], strict=True)
    ]
