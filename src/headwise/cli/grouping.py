"""Groups of options: one parameter for a command, several options for typer.

    def weaken(model: Measured = Measured(), sampling: Sampling = Sampling(20)) -> None: ...

    app.command()(grouped(weaken))

gives the command --model, --relevance, --dtype, --device, --num-inference-steps and --guidance-scale, with
the values of `Measured()` and `Sampling(20)` as their defaults.
"""

import inspect
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from functools import wraps
from typing import Any, get_type_hints

__all__ = ["grouped"]

LAST = (  # the options that --help lists last
    "shard", "ray", "workers", "config", "loras", "scheduler", "clip_skip", "dtype", "device", "as_json",
)  # fmt: skip


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """The command as typer reads it: every dataclass parameter becomes one option per field.

    Args:
        command: A function whose dataclass parameters have an instance as their default; its values are the
            defaults of the options.
    """
    groups: dict[str, type[Any]] = {}
    options = []
    for parameter in inspect.signature(command, eval_str=True).parameters.values():
        if not is_dataclass(parameter.annotation):
            options.append(parameter.replace(kind=parameter.KEYWORD_ONLY))
            continue
        group: Any = parameter.annotation
        groups[parameter.name] = group
        hints = get_type_hints(group, include_extras=True)
        options += [
            inspect.Parameter(
                field.name,
                parameter.KEYWORD_ONLY,
                default=getattr(parameter.default, field.name),
                annotation=hints[field.name],
            )
            for field in fields(group)
        ]
    options.sort(key=lambda option: LAST.index(option.name) if option.name in LAST else -1)

    @wraps(command)
    def flat(**values: Any) -> None:
        for name, group in groups.items():
            values[name] = group(**{field.name: values.pop(field.name) for field in fields(group)})
        command(**values)

    flat.__signature__ = inspect.Signature(options)  # type: ignore[attr-defined]
    flat.__annotations__ = {option.name: option.annotation for option in options}
    return flat
