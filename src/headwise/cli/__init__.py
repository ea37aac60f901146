"""The command line: parse, call one library function, print what came back.

Tables for eyes and JSON for programs go to stdout, progress to stderr. Exit codes: 0 done, 2 refused with one
sentence, 130 interrupted (what was counted is kept, and the same command goes on).
"""

from headwise.cli import (  # each adds its commands to the app
    editing,
    exchanging,
    measuring,
    questioning,
    rivalry,
    serving,
    sharing,
    steering,
    studying,
    trying,
)
from headwise.cli.app import app, main

__all__ = [
    "app",
    "editing",
    "exchanging",
    "main",
    "measuring",
    "questioning",
    "rivalry",
    "serving",
    "sharing",
    "steering",
    "studying",
    "trying",
]
