"""Take a network along: as safetensors and ONNX, with a model card, and the lines that load it.

brainreg export NAME
brainreg export runs/NAME/checkpoint.pt --save_dir=exported

Of a search, it is the network of the recommended setting that `best/` holds.
"""

import json
import shutil
import tempfile
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from brainreg._utils.files import check_writable, make_folder
from brainreg._utils.flags import train_command
from brainreg._utils.paths import expand_home
from brainreg.commands.search_name import check_name, find_named, search_parser
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
_OR_ELSE = ", or a checkpoint.pt that brainreg train wrote"


def main(arguments: Sequence[str]) -> int:
    """Run the command line; return its exit status."""
    parser = search_parser(__doc__, or_else=_OR_ELSE)
    parser.add_flag(
        "save_dir", help="folder of the files (default: export in the search's folder, or beside the checkpoint)"
    )
    flags = parser.parse_args(arguments)
    name = check_name(flags, _OR_ELSE)
    for package in ("safetensors", "onnxscript", "onnxruntime"):
        import_module(package)  # one that is missing is named before anything is read
    with tempfile.TemporaryDirectory() as copies:
        search = None
        if name.endswith(".pt"):
            checkpoint, beside = Path(expand_home(name)), str(Path(name).parent)
        else:
            search = find_named(flags)
            if not search.exists(_CHECKPOINT):
                raise InputError(f"NAME={name}: recommends no setting yet; {search.path(_CHECKPOINT)} is missing")
            checkpoint = search.fetch(_CHECKPOINT, copies)
            beside = str(search) if search.is_local else "."
        folder = Path(flags.save_dir or Path(beside) / "export")
        check_writable("--save_dir", folder)
        title = checkpoint.parent.name if search is None else str(search).rsplit("/", 1)[-1]
        files = _write(checkpoint, search, title, Path(copies, "export"))
        make_folder("--save_dir", folder)
        for file in files:
            shutil.move(file, folder / file.name)
    for file in files:
        path = folder / file.name
        print(f"{path} ({path.stat().st_size / 1e6:.2f} MB)")
    print(f"{folder / _CARD} says what it is, and has the lines that load it")
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
