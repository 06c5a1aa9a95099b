"""The notebook runs from its first cell to its last."""

from __future__ import annotations

import nbformat
import pytest
from nbclient import NotebookClient

from conftest import ROOT


@pytest.mark.e2e
@pytest.mark.filterwarnings("default")
def test_the_notebook_runs():
    folder = ROOT / "examples"
    notebook = nbformat.read(folder / "from_a_plate_to_its_verdict.ipynb", as_version=4)
    NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    ).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    text = "".join(output.get("text", "") for output in outputs)
    assert "completed" in text
    assert "F1 0." in text
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 3
