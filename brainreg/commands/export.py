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
from brainreg._utils.flags import Parser, from_flags, train_command
from brainreg._utils.paths import expand_home
from brainreg.errors import InputError
from brainreg.records.manifest import read_manifest
from brainreg.records.results import BEST
from brainreg.records.searches import load_searches
from brainreg.reports.model_card import model_card
from brainreg.search.plan import SearchOptions, find_search
from brainreg.storage import Storage
from brainreg.training.checkpoint import load_checkpoint, load_classifier
from brainreg.training.export import save_onnx, save_safetensors

_CHECKPOINT, _RECOMMENDATION, _COMMAND = f"{BEST}/checkpoint.pt", f"{BEST}/recommendation.json", f"{BEST}/command.txt"
_CARD = "README.md"
_OTHERS = tuple(name for name in SearchOptions.model_fields if name != "storage_path")


def main(arguments: Sequence[str]) -> int:
    """Run the command line; return its exit status."""
    parser = Parser(__doc__)
    parser.add_argument("name", nargs="?", metavar="NAME", help="name or folder of a search, or a checkpoint.pt")
    parser.add_flag("save_dir", help="folder of the files (default: export in the search's folder, or beside PATH)")
    parser.add_flags(SearchOptions, "the search", skip=_OTHERS)
    flags = parser.parse_args(arguments)
    if flags.name is None:
        raise InputError("NAME: missing; name a search, its folder, or a checkpoint.pt that brainreg train wrote")
    for package in ("safetensors", "onnxscript", "onnxruntime"):
        import_module(package)  # one that is missing is named before anything is read
    with tempfile.TemporaryDirectory() as copies:
        search = None
        if flags.name.endswith(".pt"):
            checkpoint, beside = Path(expand_home(flags.name)), str(Path(flags.name).parent)
        else:
            search = find_search(flags.name, from_flags(SearchOptions, flags).storage_path, "NAME")
            if not search.exists(_CHECKPOINT):
                raise InputError(f"NAME={flags.name}: recommends no setting yet; {search.path(_CHECKPOINT)} is missing")
            checkpoint = search.fetch(_CHECKPOINT, copies)
            beside = str(search) if search.is_local else "."
        folder = Path(flags.save_dir or Path(beside) / "export")
        check_writable("--save_dir", folder)
        name = checkpoint.parent.name if search is None else str(search).rsplit("/", 1)[-1]
        files = _write(checkpoint, search, name, Path(copies, "export"))
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
