"""Calls of the library as data, which are executed for the page or printed as Python.

    call("hw.strengthen", Name("relevance"), "red", "Color", 1.5)

is both `hw.strengthen(relevance, 'red', 'Color', 1.5)` and the hook that this makes, so a printed program
cannot differ from what the page has done. Texts are written as Python's own literals: whatever a prompt
holds, it stays a text.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

__all__ = ["Call", "Name", "call", "evaluate", "imports_of", "names_in", "to_python"]

WIDTH, UNBROKEN = 100, 10**9  # characters of a line


@dataclass(frozen=True)
class Name:
    """A variable of the program, such as `pipe`."""

    name: str


@dataclass(frozen=True)
class Call:
    """A call of a function of the library.

    Args:
        function: A public name such as "hw.compare", or the path of another function within the package.
        args: The positional arguments: literals, containers, paths, names and further calls.
        kwargs: The keyword arguments.
    """

    function: str
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)


def call(function: str, /, *args: Any, **kwargs: Any) -> Call:
    """A call with these arguments."""
    return Call(function, args, kwargs)


def evaluate(expression: Any, variables: Mapping[str, Any], **options: Any) -> Any:
    """The value of an expression.

    Args:
        expression: A call, a name, a container of them, or a plain value.
        variables: The values of the names.
        options: Further keyword arguments of the outermost call, such as `progress`, which are not printed.
    """
    match expression:
        case Name(name):
            return variables[name]
        case Call(function, args, kwargs):
            values = {key: evaluate(value, variables) for key, value in kwargs.items()}
            return _function(function)(*(evaluate(value, variables) for value in args), **values, **options)
        case list() | tuple():
            return type(expression)(evaluate(value, variables) for value in expression)
        case dict():
            return {key: evaluate(value, variables) for key, value in expression.items()}
    return expression


def to_python(expression: Any, indent: int = 0, taken: int = 0) -> str:
    """The source of an expression, on one line if it fits, else with an argument or item per line.

    Args:
        expression: As in `evaluate`.
        indent: The column of the statement that holds it.
        taken: How many characters of the line are taken by what stands before it.
    """
    before, items, after = _items(expression)
    line = before + ", ".join(prefix + to_python(item, -UNBROKEN) for prefix, item in items) + after
    if not items or indent + taken + len(line) <= WIDTH:
        return line
    margin = " " * (indent + 4)
    lines = [f"{margin}{prefix}{to_python(item, indent + 4, len(prefix))},\n" for prefix, item in items]
    return f"{before}\n{''.join(lines)}{' ' * indent}{after}"


def imports_of(expression: Any) -> set[str]:
    """The import statements that the source needs besides `import headwise as hw`."""
    paths = [node.function for node in _walk(expression) if isinstance(node, Call)]
    modules = [_module(path) for path in paths if not path.startswith("hw.")]
    return {f"from {module} import {name.split('.')[0]}" for module, name in modules}


def names_in(expression: Any) -> set[str]:
    """The variables that the source needs."""
    return {node.name for node in _walk(expression) if isinstance(node, Name)}


def _items(expression: Any) -> tuple[str, list[tuple[str, Any]], str]:
    """What opens an expression's source, its arguments or items with their prefixes, and what closes it."""
    match expression:
        case Name(name):
            return name, [], ""
        case Path():
            return repr(str(expression)), [], ""
        case Call(function, args, kwargs):
            name = function if function.startswith("hw.") else _module(function)[1]
            return f"{name}(", [("", arg) for arg in args] + [(f"{key}=", kwargs[key]) for key in kwargs], ")"
        case list():
            return "[", [("", item) for item in expression], "]"
        case tuple() if len(expression) > 1:
            return "(", [("", item) for item in expression], ")"
        case dict():
            return "{", [(f"{key!r}: ", value) for key, value in expression.items()], "}"
    return repr(expression), [], ""


def _walk(expression: Any) -> Iterator[Any]:
    yield expression
    inner: Any = ()
    if isinstance(expression, Call):
        inner = (*expression.args, *expression.kwargs.values())
    elif isinstance(expression, list | tuple | dict):
        inner = expression.values() if isinstance(expression, dict) else expression
    for item in inner:
        yield from _walk(item)


def _module(path: str) -> tuple[str, str]:
    """The module of a path and what of the path lies within it, which may be a method of a class."""
    parts = path.split(".")
    at = next(i for i, part in enumerate(parts) if part[0].isupper() or i == len(parts) - 1)
    return ".".join(["headwise", *parts[:at]]), ".".join(parts[at:])


def _function(path: str) -> Any:
    module, name = ("headwise", path.removeprefix("hw.")) if path.startswith("hw.") else _module(path)
    function: Any = import_module(module)
    for attribute in name.split("."):
        function = getattr(function, attribute)
    return function
