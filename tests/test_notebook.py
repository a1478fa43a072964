"""The notebook runs from its first cell to its last in one namespace, and shows what its text says."""

import ast
import json
import re
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from lit_robust import model_zoo

NOTEBOOK = Path(__file__).parents[1] / "docs" / "first_attack.ipynb"
CELLS = json.loads(NOTEBOOK.read_text())["cells"]
SOURCES = ["".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "code"]


def run(source, namespace):
    """Runs a cell and returns the value of its last line where that is an expression, as a notebook shows it."""
    tree = ast.parse(re.sub(r"^%.*", "", source, flags=re.M))
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), namespace)
    return None if last is None else eval(compile(ast.Expression(last.value), "cell", "eval"), namespace)


def test_the_notebook_is_small_and_without_outputs():
    assert NOTEBOOK.stat().st_size < 50_000
    assert not any(cell.get("outputs") for cell in CELLS)
    assert len({cell["id"] for cell in CELLS}) == len(CELLS)
    assert len(SOURCES) <= 14


@pytest.mark.slow
def test_the_notebook_runs_and_shows_what_its_text_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    namespace, shown = {}, []
    for source in SOURCES:
        fewer = re.sub(r"^IMAGES = \d+", "IMAGES = 24", source, flags=re.M)
        shown.append(run(fewer, namespace))
    figures = [value for value in shown if isinstance(value, Figure)]
    assert len(figures) == 3
    clean, attacked = shown[1], shown[2]
    assert min(clean.values()) > 0.8
    assert attacked < clean["natural"] - 0.3
    curves = {line.get_label(): line.get_ydata() for line in figures[1].axes[0].lines}
    assert curves["pgd_at"][3] > curves["natural"][3]
    assert curves["pgd_at"][-1] <= 20
    polarizing, hah = (value for value in shown[3:] if isinstance(value, dict))
    for figures in (polarizing, hah):
        assert figures["adaptive APGD"] < min(figures["clean"], figures["PGD"])
    assert set(namespace["audits"]) == set(model_zoo.names())
    assert all(content["findings"] for content in namespace["audits"].values())
