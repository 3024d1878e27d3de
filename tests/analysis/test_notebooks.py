"""The notebooks of analysis/: each is executed from its first cell to its last, on a small real search."""

import base64
import io
import json
import re
import shutil
import subprocess
import sys

import nbformat
import pytest
from conftest import ROOT
from jupyter_client.manager import start_new_kernel
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook
from PIL import Image

NOTEBOOKS = ROOT / "analysis"
NAMES = (
    "01_overview",
    "02_alpha_th_table",
    "03_landscape",
    "04_pareto",
    "05_robustness_curves",
    "06_importance",
)
SMALL = {"attacks": "gaussian,fgsm,pgd", "num_epsilons": 3, "num_images": 20, "data_dir": str(ROOT / "data")}
OLD = ROOT / "tests" / "searches" / "format_1"


@pytest.fixture(scope="module")
def execute(tmp_path_factory):
    """Executes a notebook with parameters. One process serves all, emptied before each: imports take seconds."""
    folder = tmp_path_factory.mktemp("notebooks")
    manager, client = start_new_kernel(kernel_name="python3", cwd=str(folder))

    def execute(name, **parameters):
        notebook = load_notebook_node(str(NOTEBOOKS / f"{name}.ipynb"))
        assert set(parameters) <= {line.split(" = ")[0] for line in parameters_of(notebook)}
        notebook = parameterize_notebook(notebook, parameters)
        notebook.cells.insert(0, nbformat.v4.new_code_cell("%reset -f"))
        runner = NotebookClient(notebook, km=manager, timeout=120)
        runner.kc = client
        runner.execute()
        return notebook

    yield execute
    client.stop_channels()
    manager.shutdown_kernel(now=True)


def parameters_of(notebook) -> list[str]:
    (cell,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    return [line for line in cell.source.splitlines() if " = " in line]


def texts(notebook) -> str:
    """Everything that the cells print or show as text."""
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert not any(output.output_type == "error" or output.get("name") == "stderr" for output in outputs), outputs
    return "\n".join(output.get("text") or output.get("data", {}).get("text/plain", "") for output in outputs)


def pictures(notebook) -> list[Image.Image]:
    data = [
        output.data["image/png"]
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if "image/png" in output.get("data", {})
    ]
    return [Image.open(io.BytesIO(base64.b64decode(one))) for one in data]


@pytest.mark.parametrize("name", NAMES)
def test_it_is_stored_without_output_and_takes_parameters(name):
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)
    assert {'experiment = ""', 'save_dir = ""'} <= {line.split("  #")[0] for line in parameters_of(notebook)}
    assert f"papermill analysis/{name}.ipynb" in notebook.cells[0].source
    assert sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb")) == sorted(NAMES)


# How many pictures each shows, and what its text says of the search.
SHOWN = {
    "01_overview": (2, ["finished", "unregularized", "small", "proposed", "recommended", "P(best)"]),
    "02_alpha_th_table": (2, [r"\begin{tabular}", "digits - digits", "not over seeds", "no confirmation.csv"]),
    "03_landscape": (5, []),
    "04_pareto": (3, ["clean (%)"]),
    "05_robustness_curves": (1, ["best proposed (trial", "PGD Linf"]),
    "06_importance": (1, ["PED-ANOVA", "reg_range"]),
}


@pytest.mark.parametrize("name", NAMES)
def test_it_shows_a_finished_search(name, execute, searched):
    notebook = execute(name, experiment=str(searched), **(SMALL if name.startswith("05") else {}))
    count, said = SHOWN[name]
    shown = pictures(notebook)
    assert len(shown) == count and all(picture.width == 660 for picture in shown)
    assert all(len(picture.convert("L").getcolors()) > 20 for picture in shown)  # not blank
    text = texts(notebook)
    assert [part for part in said if part not in text] == []


def test_several_searches_and_files_for_a_paper(execute, searched, tmp_path):
    """The second one is of another version, which is told."""
    notebook = execute("02_alpha_th_table", experiment=f"{searched},{OLD}", save_dir=str(tmp_path / "paper"))
    text = texts(notebook)
    assert "format_1: shown is what its results.csv says" in text and "cannot be compared" in text
    names = {"alpha_th.csv", "alpha_th.tex", "comparison.pdf", "comparison.png"}
    assert {path.name for path in (tmp_path / "paper").iterdir()} == names
    assert r"digits\_" not in (tmp_path / "paper" / "alpha_th.tex").read_text()
    assert "format\\_1" in (tmp_path / "paper" / "alpha_th.tex").read_text()


def test_a_confirmed_search_has_numbers_of_test_images(execute, confirmed_search, tmp_path):
    notebook = execute("02_alpha_th_table", experiment=str(confirmed_search), save_dir=str(tmp_path / "paper"))
    text = texts(notebook)
    assert "Accuracies are on test images (359 clean and 30 attacked); robust: PGD Linf (20 steps), eps 0.05." in text
    assert "not confirmed" not in text and "chosen on these images" not in text
    assert "found, rank 2" in text and "paired over 2 seeds:" in text and "of 9 trials" not in text
    assert "differences.pdf" in {path.name for path in (tmp_path / "paper").iterdir()}
    assert ",test," in (tmp_path / "paper" / "alpha_th.csv").read_text()
    assert "validation" not in (tmp_path / "paper" / "alpha_th.csv").read_text()

    notebook = execute("05_robustness_curves", experiment=str(confirmed_search), split="confirmed")
    assert len(pictures(notebook)) == 1 and "found (trial" in texts(notebook)


@pytest.mark.parametrize("name", NAMES)
def test_a_search_that_has_only_begun_is_shown(name, execute, searched, tmp_path):
    begun = tmp_path / "begun"
    begun.mkdir()
    shutil.copy(searched / "search.json", begun)
    shutil.copytree(searched / "trial_0000", begun / "trial_0000", ignore=shutil.ignore_patterns("progress.json"))
    notebook = execute(name, experiment=str(begun), **(SMALL if name.startswith("05") else {}))
    assert "begun: interrupted, 0 of 9 trials finished" in texts(notebook)
    without_settings = 1 if name in ("01_overview", "04_pareto") else 0  # no setting has an expected objective yet
    assert len(pictures(notebook)) == SHOWN[name][0] - without_settings


def test_robustness_tables_take_the_place_of_a_search(execute):
    tables = {name: str(OLD.parent / f"robustness_{name}.csv") for name in ("regularized", "unregularized")}
    notebook = execute("05_robustness_curves", **tables)
    assert len(pictures(notebook)) == 1 and "regularized" in texts(notebook)


def test_no_such_experiment_is_one_line(execute, searched):
    with pytest.raises(CellExecutionError) as caught:
        execute("01_overview", experiment=str(searched.with_name("smal")))
    last = re.sub(r"\x1b\[[0-9;]*m", "", str(caught.value)).strip().splitlines()[-1]
    assert last == f"InputError: {searched.with_name('smal')}: no such folder; did you mean small? known: small"


def test_by_papermill_as_the_readme_says(searched, tmp_path):
    command = [sys.executable, "-m", "papermill", "--no-progress-bar", str(NOTEBOOKS / "04_pareto.ipynb"), "out.ipynb"]
    done = subprocess.run(
        [*command, "-p", "experiment", str(searched)], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert len(pictures(nbformat.from_dict(json.loads((tmp_path / "out.ipynb").read_text())))) == SHOWN["04_pareto"][0]
