"""All commands: each module adds its own to the app when it is imported."""

from headwise.cli import (  # noqa: F401
    benchmark,
    compare,
    distribute,
    edit,
    measure,
    methods,
    questions,
    serve,
    steer,
    study,
)
from headwise.cli.app import app, main

__all__ = ["app", "main"]
