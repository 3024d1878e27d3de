"""The files of an exported network."""

import json
import shutil
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

from brainreg._utils.files import check_writable, make_folder
from brainreg._utils.flags import train_command
from brainreg._utils.paths import expand_home
from brainreg.errors import InputError
from brainreg.records.manifest import read_manifest
from brainreg.records.results import BEST
from brainreg.records.searches import load_searches
from brainreg.reports.model_card import model_card
from brainreg.storage import Storage
from brainreg.training.checkpoint import load_checkpoint, load_classifier
from brainreg.training.export import save_onnx, save_safetensors

_CHECKPOINT, _RECOMMENDATION, _COMMAND = f"{BEST}/checkpoint.pt", f"{BEST}/recommendation.json", f"{BEST}/command.txt"
_CARD = "README.md"


def export_files(name: str, search: Storage | None, save_dir: str | None) -> int:
    """Write a network as safetensors and ONNX, with a model card; return the exit status.

    Args:
        name: of the search, or path of a checkpoint.
        search: the folder of the search, whose recommended network it is; None for a checkpoint.
        save_dir: where to; None for `export` in the search's folder, or beside the checkpoint.

    Raises:
        InputError: there is no such network, or the folder cannot be written.
    """
    for package in ("safetensors", "onnxscript", "onnxruntime"):
        import_module(package)  # one that is missing is named before anything is read
    with tempfile.TemporaryDirectory() as copies:
        if search is None:
            checkpoint, beside = Path(expand_home(name)), str(Path(name).parent)
        else:
            if not search.exists(_CHECKPOINT):
                raise InputError(f"NAME={name}: recommends no setting yet; {search.path(_CHECKPOINT)} is missing")
            checkpoint = search.fetch(_CHECKPOINT, copies)
            beside = str(search) if search.is_local else "."
        folder = Path(save_dir or Path(beside) / "export")
        check_writable("--save_dir", folder)
        title = checkpoint.parent.name if search is None else str(search).rsplit("/", 1)[-1]
        files = _write(checkpoint, search, title, Path(copies, "export"))
        make_folder("--save_dir", folder)
        for file in files:
            shutil.move(file, folder / file.name)
    for file in files[:-1]:
        path = folder / file.name
        print(f"{path} ({path.stat().st_size / 1e6:.2f} MB)")
    print(f"{folder / _CARD}, which says what it is, and has the lines that load it")
    return 0


def _write(checkpoint: Path, search: Storage | None, name: str, folder: Path) -> list[Path]:
    """Write the files into a folder of their own; return their paths."""
    folder.mkdir()
    classifier, settings = load_classifier(checkpoint)
    content = load_checkpoint(checkpoint)
    shape = (content["in_channels"], content["image_size"], content["image_size"])
    save_safetensors(folder / "model.safetensors", classifier, settings, shape)
    difference = save_onnx(folder / "model.onnx", classifier, shape)
    command = train_command(settings, None)
    found: dict[str, Any] = {}
    if search is not None:
        advice = search.read(_RECOMMENDATION)
        command = (search.read(_COMMAND) or command.encode()).decode()
        found = {
            "search": read_manifest(search),
            "advice": None if advice is None else json.loads(advice),
            "confirmation": load_searches(search).confirmation,
        }
    parameters = sum(one.numel() for one in classifier.parameters())
    card = model_card(name, settings, shape, content["num_classes"], parameters, difference, command, **found)
    (folder / _CARD).write_text(card, encoding="utf-8")
    return [folder / "model.safetensors", folder / "model.onnx", folder / _CARD]
