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


@pytest.mark.timeout(600)  # half a minute of work each, on a machine that may have much else to do
@pytest.mark.parametrize("name", MADE)
def test_notebooks_run_on_the_built_in_model(name, tmp_path, monkeypatch):
    """As Jupyter runs them, one cell after the other, but for the lines that are IPython's own."""
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "__main__"}
    for number, code in enumerate(cells(name, "code")):
        code = re.sub(r"^%.*$", "", code, flags=re.M)
        exec(compile(code, f"{name}.ipynb, code cell {number}", "exec"), names)
    assert MADE[name] is None or Path(MADE[name]).is_file()
