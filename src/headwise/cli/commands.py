"""All commands, in the order in which --help lists them."""

from collections.abc import Callable
from typing import Any

import typer
from typer.core import TyperGroup

from headwise.cli import (
    benchmark,
    benchmark_methods,
    benchmark_questions,
    compare,
    demo,
    distribute,
    doctor,
    edit,
    explain,
    measure,
    serve,
    show,
    steer,
    study,
)
from headwise.cli.app import app, main
from headwise.cli.grouping import grouped
from headwise.cli.quick import quickly

__all__ = ["app", "main"]

COMMANDS: dict[str, Callable[..., None] | dict[str, Callable[..., None]]] = {
    "measure": measure.measure,
    "show": show.show,
    "merge": distribute.merge,
    "plan": distribute.plan,
    "doctor": doctor.doctor,
    "demo": demo.demo,
    "generate": steer.generate,
    "explain": explain.explain,
    "weaken": steer.weaken,
    "edit": edit.edit,
    "excite": edit.excite,
    "benchmark": {
        "weakening": benchmark.weakening,
        "polysemy": benchmark.polysemy,
        "editing": benchmark_methods.editing,
        "multi-concept": benchmark_methods.multi_concept,
        "atoms": benchmark_methods.atoms,
        "segmentation": benchmark_methods.segmentation,
        "scales": benchmark_questions.scales,
        "estimators": benchmark_questions.estimators,
        "attribution": benchmark_questions.attribution,
        "questions": benchmark_questions.questions,
    },
    "report": show.report,
    "compare": compare.compare,
    "import": compare.import_official,
    "serve": serve.serve,
    "study": {
        "make": study.make,
        "serve": study.serve,
        "invite": study.invite,
        "report": study.report,
        "export": study.export,
    },
}
GROUPS = {
    "benchmark": "Test a claim of the paper against its controls.",
    "study": "Run a blind study: ask people what they see, and report their answers.",
}


class _Ordered(TyperGroup):
    """Lists commands in the order of `COMMANDS`; typer would put groups last."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [name for name in COMMANDS if name in self.commands]


def _register() -> None:
    app.info.cls = _Ordered
    for name, command in COMMANDS.items():
        if not isinstance(command, dict):
            app.command(name)(quickly(name, grouped(command)))
            continue
        group = typer.Typer(help=GROUPS[name], no_args_is_help=True)
        for inner, function in command.items():
            group.command(inner)(quickly(f"{name} {inner}", grouped(function)))
        app.add_typer(group, name=name)


_register()
