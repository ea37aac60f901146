"""First looks: what `--quick` changes in commands that may take hours.

    headwise benchmark polysemy --quick        means --count 12 --seeds 0 --num-inference-steps 10

Options given together with it take precedence. A first look whose scores differ from those of the full run
has a folder of its own, so that neither resumes the other; that of a measurement is its first images.
"""

import inspect
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

__all__ = ["FIRST_LOOKS", "quickly"]

KEYWORD_ONLY = inspect.Parameter.KEYWORD_ONLY

FIRST_LOOKS: Mapping[str, Mapping[str, Any]] = {
    "measure": {"pictures": 64},
    "measure --by effect": {"pictures": 10},
    "demo": {"pictures": 4, "num_inference_steps": 10},
    "weaken": {"count": 4, "random_orders": 1, "num_inference_steps": 10},
    "benchmark weakening": {"count": 2, "num_inference_steps": 5},
    "benchmark polysemy": {"count": 12, "seeds": "0", "num_inference_steps": 10},
    "benchmark editing": {"count": 1, "seeds": "0", "num_inference_steps": 10},
    "benchmark multi-concept": {"count": 4, "seeds": "0", "num_inference_steps": 10},
    "benchmark atoms": {"count": 4, "seeds": "0", "num_inference_steps": 10},
    "benchmark scales": {"count": 2, "seeds": "0", "num_inference_steps": 5},
    "benchmark estimators": {"long": 64},
    "benchmark questions": {"count": 2, "pictures": 32, "whole": 64},
    "benchmark attribution": {"count": 4, "areas": 0},
}
"""What each command does with --quick, by the names of its parameters."""

GOES_ON = ("measure",)
"""The commands whose first look is part of the full run."""


def quickly(name: str, command: Callable[..., None]) -> Callable[..., None]:
    """The command with `--quick` if it has a first look; otherwise the command itself.

    Args:
        name: The name of the command.
        command: A command as typer reads it, with an option for each parameter (grouping.py).
    """
    looks = {key: look for key, look in FIRST_LOOKS.items() if key.split(" --")[0] == name}
    if not looks:
        return command
    signature = inspect.signature(command)
    spelled = [
        _spelled(look, signature) + key.removeprefix(name).replace(" --", " with --")
        for key, look in looks.items()
    ]
    help = f"A first look: {', or '.join(spelled)}, unless given otherwise."
    annotations = {
        "context": typer.Context,
        "quick": Annotated[bool, typer.Option("--quick", help=help)],
    }
    first = inspect.Parameter("context", KEYWORD_ONLY, annotation=annotations["context"])
    last = inspect.Parameter("quick", KEYWORD_ONLY, default=False, annotation=annotations["quick"])

    @wraps(command)
    def with_quick(*, context: Any, quick: bool, **values: Any) -> None:
        """Call the command with the changes of its first look."""
        if quick:
            look = looks.get(f"{name} --by {values.get('by')}", looks[name])
            values |= {key: value for key, value in look.items() if not _is_given(context, key)}
            if name not in GOES_ON and not _is_given(context, "out"):
                values["out"] = _folder(name, values)
        command(**values)

    with_quick.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[first, *signature.parameters.values(), last]
    )
    with_quick.__annotations__ = command.__annotations__ | annotations
    return with_quick


def _is_given(context: Any, parameter: str) -> bool:
    """Whether the option was given on the command line, even with its default value."""
    source = context.get_parameter_source(parameter)
    return source is not None and source.name != "DEFAULT"


def _folder(name: str, values: Mapping[str, Any]) -> Path:
    """The folder of a first look, next to that of the full run."""
    if values["out"] is not None:
        out: Path = values["out"]
    else:
        from headwise.cli.steer import weaken_folder

        out = weaken_folder(values["concept"])
    return out.with_name(f"{out.name}-quick")


def _spelled(look: Mapping[str, Any], signature: inspect.Signature) -> str:
    """The changed options as one would type them."""
    spelled = []
    for name, value in look.items():
        declared = signature.parameters[name].annotation.__metadata__[0].param_decls or ()
        option = next((each for each in declared if each.startswith("--")), f"--{name.replace('_', '-')}")
        spelled.append(f"{option} {value}")
    return " ".join(spelled)
