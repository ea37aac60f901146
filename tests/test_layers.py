"""The packages are read from left to right: no import goes against the order, and each tool has one home.

Every import counts: those inside functions, and those for type checkers only, which bind two modules as much.
"""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "src" / "headwise"
GROUND = ("errors", "files", "intervals", "pictures", "display", "serving", "emoji")
ORDER = (
    "model", "runs", "measuring", "steering", "editing", "editing.baselines", "benchmarks.prompts",
    "benchmarks", "benchmarks.attribution", "benchmarks.questions", "report", "study", "web", "cli",
)  # fmt: skip

# Who alone may import a library, call a built-in function, or use an attribute of a pipeline.
ALONE = {
    "diffusers' classes": (
        {"diffusers"},
        {
            "model",
            "emoji",
            "editing.walks",
            "editing.baselines.sdedit",
            "measuring.official",
        },
    ),
    "diffusers' insides": (
        {".unet", ".transformer", ".vae", ".encode_prompt", ".named_modules", ".image_processor"},
        {"model", "editing.inversion", "editing.baselines.composable"},
    ),
    "CLIP": ({"transformers.CLIPModel"}, {"benchmarks.clip_scorer"}),
    "figures": ({"matplotlib"}, {"report"}),
    "Ray": ({"ray"}, {"runs.ray"}),
    "HTTP servers": (
        {"fastapi", "starlette", "uvicorn", "http.server"},
        {"web", "study.server", "serving"},
    ),
    "the terminal": ({"typer", "rich", "print()"}, {"cli"}),
    "tensors": ({"torch"}, {*ORDER, "emoji"} - {"runs", "report", "study"}),
}


@cache
def modules(root):
    """The syntax tree of every module, by its dotted name below the package."""
    trees = {}
    for file in sorted(root.rglob("*.py")):
        name = ".".join(file.relative_to(root).with_suffix("").parts).removesuffix("__init__").rstrip(".")
        trees[name] = ast.parse(file.read_text(encoding="utf-8"))
    return trees


@cache
def nodes_of(tree):
    return tuple(ast.walk(tree))


def imports(tree):
    """The dotted names that a module imports, wherever in it."""
    for node in nodes_of(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def neighbours(trees, name):
    """The modules of the package that a module imports; a public name counts as its home."""
    home = public_names(trees[""])
    for imported in imports(trees[name]):
        path = imported.removeprefix("headwise").lstrip(".")
        if imported.partition(".")[0] == "headwise" and path != "__version__":
            path = home.get(path, path)
            yield path if path in trees else path.rpartition(".")[0]


def public_names(tree):
    tables = [
        node.value for node in tree.body if isinstance(node, ast.Assign) and node.targets[0].id == "_HOME"
    ]
    return ast.literal_eval(tables[0]) if tables else {}


def within(name, packages):
    """The innermost of the packages that a module is in; None if it is in none."""
    return max((p for p in packages if f"{name}.".startswith(f"{p}.")), key=len, default=None)


def against_the_order(trees):
    for name in trees:
        here = within(name, ORDER)
        for other in neighbours(trees, name):
            there = within(other, ORDER)
            if there is not None and (here is None or ORDER.index(there) > ORDER.index(here)):
                yield f"{name} imports {other}"
            elif here == "runs" and there not in ("runs", None):
                yield f"{name} imports {other}"
            elif there is None and within(other, GROUND) is None:
                yield f"{name} imports {other or 'headwise'}"


def circles(trees):
    """The imports on a circle: from what they import, their module is reached again."""
    graph = {name: set(neighbours(trees, name)) - {name} for name in trees}

    def reached(start):
        seen, todo = set(), [start]
        while todo:
            todo += graph[todo.pop()] - seen
            seen.update(todo)
        return seen

    for name, others in graph.items():
        yield from (f"{name} imports {other} in a circle" for other in others if name in reached(other))


def out_of_place(trees):
    for name, tree in trees.items():
        used = {".".join(path.split(".")[:n]) for path in imports(tree) for n in (1, 2)}
        nodes = nodes_of(tree)
        used |= {f".{node.attr}" for node in nodes if isinstance(node, ast.Attribute)}
        calls = (node.func for node in nodes if isinstance(node, ast.Call))
        used |= {f"{function.id}()" for function in calls if isinstance(function, ast.Name)}
        for what, (signs, places) in ALONE.items():
            if signs & used and within(name, places) is None:
                yield f"{name} uses {what}: {', '.join(sorted(signs & used))}"


def complaints(trees):
    return {*against_the_order(trees), *circles(trees), *out_of_place(trees)}


def test_imports_go_to_the_left_without_circles_and_each_tool_has_one_home():
    assert complaints(modules(ROOT)) == set()


def test_packages_import_nothing_and_the_root_holds_little():
    trees = modules(ROOT)
    assert {name for name in ORDER if not ast.get_docstring(trees[name])} == set()
    assert {line for name in ORDER for line in imports(trees[name])} <= {"importlib.import_module"}
    assert len(list(ROOT.glob("*.py"))) <= 8


@pytest.mark.parametrize(
    ("module", "line", "complaint"),
    [
        ("model.heads", "from headwise.web.app import app", "model.heads imports web.app"),
        ("runs.folder", "from headwise.model.heads import HeadMap", "runs.folder imports model.heads"),
        ("errors", "def f():\n from headwise.measuring import votes", "errors imports measuring.votes"),
        ("files", "if TYPE_CHECKING:\n from headwise import measure", "files imports measuring.measure"),
        ("measuring.votes", "import matplotlib.figure", "measuring.votes uses figures: matplotlib"),
        (
            "measuring.votes",
            "from headwise.measuring.relevance import Relevance",
            "measuring.votes imports measuring.relevance in a circle",
        ),
        ("study.order", "def f():\n print()", "study.order uses the terminal: print()"),
        ("steering.steer", "lambda pipe: pipe.unet", "steering.steer uses diffusers' insides: .unet"),
    ],
)
def test_a_planted_line_is_seen(module, line, complaint):
    trees = modules(ROOT)
    planted = ast.Module([*trees[module].body, *ast.parse(line).body], [])
    assert complaint in complaints(trees | {module: planted})


@pytest.mark.parametrize(
    "module", ["measuring.relevance", "benchmarks.results", "report.plots", "report.measurement"]
)
def test_saved_numbers_and_figures_load_no_torch(module):
    script = f"import headwise.{module}, sys; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
