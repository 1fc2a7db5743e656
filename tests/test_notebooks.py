"""Every notebook runs from top to bottom, and is kept with its pictures, which are small."""

import nbformat
import pytest
from nbclient import NotebookClient

from mmrep import catalogue

NOTEBOOKS = sorted((catalogue.ROOT / "notebooks").glob("*.ipynb"))


def pictures(notebook):
    outputs = [o for cell in notebook.cells if cell.cell_type == "code" for o in cell.outputs]
    return sum("image/png" in o.get("data", {}) for o in outputs)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_is_kept_with_small_pictures_and_no_progress_bars(path):
    notebook = nbformat.read(path, as_version=4)
    assert pictures(notebook) >= 3 and path.stat().st_size < 300_000
    assert not any(o.get("name") == "stderr" for cell in notebook.cells for o in cell.get("outputs", []))


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_runs(path, monkeypatch):
    monkeypatch.setenv("MMREP_STEPS", "60")
    monkeypatch.setenv("PYTHONPATH", str(catalogue.ROOT))
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "1")
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(catalogue.ROOT)}}
    ).execute()
    assert pictures(notebook) >= 3
