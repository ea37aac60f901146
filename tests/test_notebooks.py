"""The notebooks: they are whole, hold no outputs, install what they need first, and run to their end."""

import json
import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "docs" / "notebooks"
MADE = {"tour": "runs/tour/index.html", "question": None}


def cells(name, kind):
    notebook = json.loads((FOLDER / f"{name}.ipynb").read_text(encoding="utf-8"))
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == kind]


def test_every_notebook_is_run():
    assert {file.stem for file in FOLDER.glob("*.ipynb")} == MADE.keys()


@pytest.mark.parametrize("name", MADE)
def test_notebooks_are_valid_and_hold_no_outputs(name):
    notebook = json.loads((FOLDER / f"{name}.ipynb").read_text(encoding="utf-8"))
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert notebook["metadata"]["kernelspec"]["language"] == "python"
    names = [cell["id"] for cell in notebook["cells"]]
    assert len(names) == len(set(names)) and all(re.fullmatch(r"[\w-]{1,64}", name) for name in names)
    for cell in notebook["cells"]:
        wanted = {"cell_type", "id", "metadata", "source"}
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None
            wanted |= {"outputs", "execution_count"}
        assert cell.keys() == wanted
    assert cells(name, "code")[0].startswith("%pip install")
    assert cells(name, "markdown")[0].startswith("# ")


@pytest.mark.parametrize("name", MADE)
def test_notebooks_run_on_the_built_in_model(name, tmp_path, monkeypatch):
    """As Jupyter runs them, one cell after the other, without IPython's own lines and with less to draw."""
    monkeypatch.chdir(tmp_path)
    names, lowered = {"__name__": "__main__"}, 0
    for number, code in enumerate(cells(name, "code")):
        code = re.sub(r"^%.*$", "", code, flags=re.M)
        code, steps = re.subn(r"(num_inference_steps\"?[=:] ?)\d+", r"\g<1>2", code)
        code, pictures = re.subn(r"(pictures\"?[=:] ?)\d\d", r"\g<1>8", code)
        lowered += bool(steps) + bool(pictures)
        exec(compile(code, f"{name}.ipynb, code cell {number}", "exec"), names)
    assert lowered > 1
    assert MADE[name] is None or Path(MADE[name]).is_file()
