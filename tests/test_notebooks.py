"""The notebooks: stripped, told of in the README, and running from top to bottom.

`make test` runs them on a piece of the sample scene and with a few steps of training, `make
test-full` as a user would. Both change nothing but the values in the cell tagged ``parameters``.
"""

import ast
import os
import re
from collections.abc import Iterator
from pathlib import Path

import geopandas as gpd
import nbformat
import pytest
import rasterio
import shapely
from affine import Affine
from nbclient import NotebookClient
from rasterio.windows import Window

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
TRAINING = {"WIDTH": 420, "HEIGHT": 320, "CHIP_SIZE": 128, "CHIPS": 2, "EPOCHS": 1, "STEPS": 6}
"""Side of the generated scenes in pixels, and how long is trained."""
HOUR = 3600

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


@pytest.fixture(scope="module")
def piece(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """A piece of the sample scene and its true buildings, as values of the parameters."""
    folder = tmp_path_factory.mktemp("piece")
    window = Window(560, 420, 400, 300)
    with rasterio.open(ROOT / "data_samples/town.tif") as town:
        transform = town.transform @ Affine.translation(window.col_off, window.row_off)
        size = {"width": window.width, "height": window.height}
        profile = town.profile | size | {"transform": transform}
        ground = shapely.box(*(transform @ (0, 0)), *(transform @ (window.width, window.height)))
        with rasterio.open(folder / "town.tif", "w", **profile) as scene:
            scene.write(town.read(window=window))
    truth = gpd.read_file(ROOT / "data_samples/town_buildings.gpkg").clip(ground)
    truth.explode().to_file(folder / "truth.gpkg")
    return {"SCENE": str(folder / "town.tif"), "TRUTH": str(folder / "truth.gpkg")} | TRAINING


@pytest.fixture(autouse=True)
def own_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Kernels see no settings of whoever runs the tests, and leave no files behind."""
    for name in ("JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR", "IPYTHONDIR", "TMPDIR"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.delenv("JUPYTER_PATH", raising=False)
    paths = (str(ROOT), os.environ.get("PYTHONPATH", ""))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    return


def read(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=4)


def parameters(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The cell with the values that a user changes."""
    (cell,) = [each for each in notebook.cells if "parameters" in each.metadata.get("tags", [])]
    return cell


def run(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    """Run a notebook in its folder; its outputs."""
    client = NotebookClient(
        notebook,
        timeout=HOUR,
        startup_timeout=HOUR,
        kernel_name="python3",
        resources={"metadata": {"path": str(FOLDER)}},
    )
    client.execute()
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def complaints(outputs: list[nbformat.NotebookNode]) -> list[str]:
    """What readers would see of warnings and logs, beyond failures that a notebook shows."""
    said = [o.text for o in outputs if o.output_type == "stream" and o.name == "stderr"]
    return [text for text in said if "FailureWarning" not in text]


@each_notebook
def test_notebooks_are_stripped(path: Path) -> None:
    notebook = read(path)
    nbformat.validate(notebook)
    assert notebook.metadata == {"kernelspec": KERNEL, "language_info": {"name": "python"}}
    for cell in notebook.cells:
        assert set(cell.metadata) <= {"tags"}
        assert cell.get("outputs", []) == []
        assert cell.get("execution_count") is None


@each_notebook
def test_links_resolve(path: Path) -> None:
    text = "\n".join(each.source for each in read(path).cells if each.cell_type == "markdown")
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert links
    for link in links:
        assert link.startswith("https://") or (FOLDER / link.partition("#")[0]).exists(), link


def test_readme_names_every_notebook() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"\(notebooks/(\w+\.ipynb)\)", text) == [path.name for path in NOTEBOOKS]


@each_notebook
@pytest.mark.slow
def test_notebook_runs_on_a_piece(
    path: Path, piece: dict[str, object], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FOOTPRINTS_DATA", str(tmp_path / "none"))
    notebook = read(path)
    cell = parameters(notebook)
    names = [each.targets[0].id for each in ast.parse(cell.source).body]
    known = {name: value for name, value in piece.items() if name in names}
    assert known, f"no test value for {names}"
    values = "\n".join(f"{name} = {value!r}" for name, value in known.items())
    notebook.cells.insert(notebook.cells.index(cell) + 1, nbformat.v4.new_code_cell(values))
    assert complaints(run(notebook)) == []


@each_notebook
@pytest.mark.full
def test_notebook_runs_as_it_is(path: Path) -> None:
    assert complaints(run(read(path))) == []
