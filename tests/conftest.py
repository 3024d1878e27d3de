"""What several test modules use: numbers of the published implementation, and small data sets on disk."""

import atexit
import contextlib
import fcntl
import json
import os
import shutil
import signal
import socket
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path

# Networks as small as those of the tests are slower on several threads, most of all beside other work.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# The tests run on the CPU, also where there is a GPU; those that are for one take it if they are told to.
os.environ["CUDA_VISIBLE_DEVICES"] = "0" if os.environ.get("BRAINREG_TEST_GPU") == "1" else ""

# Searches of tests that run at the same time take no account of each other.
os.environ["BRAINREG_CLAIMS"] = tempfile.mkdtemp(prefix="brainreg-claims-")

import numpy as np
import psutil
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

# A shell's script starts what runs in the background with SIGINT ignored, and so would be what the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)
atexit.register(shutil.rmtree, os.environ["BRAINREG_CLAIMS"], ignore_errors=True)

GOLDEN = Path(__file__).parent / "golden"
REAL_GPU = bool(os.environ["CUDA_VISIBLE_DEVICES"])
ROOT = Path(__file__).parent.parent


# The files that take longest, in seconds rather than in tests: two processes share the files, and begin with these.
LONGEST = (
    *("test_kills.py", "test_survival.py", "test_search.py", "test_search_storage.py"),
    *("test_confirmation.py", "test_report.py", "test_curves.py"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest; what needs a real confirmation, half a minute on its own, is long."""
    for item in items:
        if "confirmed_search" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.long)
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Let no test depend on whether there is a network: other machines' names are unknown in this process."""
    resolve = socket.getaddrinfo
    addresses = (address.address for card in psutil.net_if_addrs().values() for address in card)
    own = {None, "", "localhost", "::1", socket.gethostname(), *addresses}

    def local_only(host, *arguments, **options):
        if host not in own:
            raise OSError(f"no network in tests ({host})")
        return resolve(host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", local_only)


class Golden:
    """Inputs and outputs of the method's published implementation, float32 on a CPU."""

    def __init__(self):
        self.arrays = np.load(GOLDEN / "reference.npz")
        self.cases = json.loads((GOLDEN / "reference.json").read_text())["cases"]

    def __getitem__(self, key: str) -> torch.Tensor:
        return torch.from_numpy(self.arrays[key])

    @property
    def images(self) -> torch.Tensor:
        """(96, 1, 32, 32) uint8, real CIFAR-10 images in gray."""
        return self["images_u8"][:, None]

    @property
    def published_state(self) -> dict[str, torch.Tensor]:
        prefix = "model/state/"
        return {key.removeprefix(prefix): self[key] for key in self.arrays.files if key.startswith(prefix)}


@pytest.fixture(scope="session")
def golden() -> Golden:
    return Golden()


@pytest.fixture
def cifar_folder(tmp_path, golden) -> Path:
    """A data folder with real CIFAR-10 images as an ImageFolder: four training and one test image a class."""
    labels = golden["labels"]
    for label in range(10):
        members = (labels == label).nonzero().flatten().tolist()
        assert len(members) >= 5
        for split, part in (("train", members[:4]), ("test", members[4:5])):
            folder = tmp_path / "CIFAR10" / split / f"class{label}"
            folder.mkdir(parents=True)
            for i in part:
                gray = golden.images[i, 0].numpy()
                Image.fromarray(np.stack([gray, gray, 255 - gray], axis=-1)).save(folder / f"{i:03d}.png")
    return tmp_path


@pytest.fixture
def imagenet_folder(tmp_path) -> Path:
    """A data folder with ImageNet as an ImageFolder: two classes of ten training and three test images in color,
    of 500x375 and 256x340 pixels."""
    draws = np.random.default_rng(0)
    for split, count in (("train", 10), ("val", 3)):
        for name, (width, height) in (("a", (500, 375)), ("b", (256, 340))):
            folder = tmp_path / "ImageNet" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                coarse = Image.fromarray(draws.integers(0, 256, (8, 8, 3), np.uint8))
                coarse.resize((width, height)).save(folder / f"{i:02d}.png", compress_level=1)
    return tmp_path


def write_idx(path: Path, array: np.ndarray) -> None:
    """Write an array of bytes in MNIST's own file format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    path.write_bytes(header + array.astype(np.uint8).tobytes())


@pytest.fixture
def mnist_folder(tmp_path) -> Path:
    """A data folder with MNIST's own files: 300 training and 60 test images, scikit-learn's digits in a 28x28 frame."""
    digits = load_digits()
    pixels = np.zeros((360, 28, 28), np.uint8)
    pixels[:, 2:26, 2:26] = (digits.images[:360] * 15.9).repeat(3, axis=1).repeat(3, axis=2)
    raw = tmp_path / "MNIST" / "raw"
    for prefix, part in (("train", slice(0, 300)), ("t10k", slice(300, 360))):
        write_idx(raw / f"{prefix}-images-idx3-ubyte", pixels[part])
        write_idx(raw / f"{prefix}-labels-idx1-ubyte", digits.target[:360][part])
    return tmp_path


@pytest.fixture
def write_folder(tmp_path):
    """Writes an ImageFolder of random gray images, ten of each of three classes in each split, of a size a split."""

    def write(sizes: dict[str, int], seed: int = 0) -> Path:
        draws = np.random.default_rng(seed)
        for split, size in sizes.items():
            for label in "abc":
                folder = tmp_path / "images" / split / label
                folder.mkdir(parents=True)
                for i in range(10):
                    Image.fromarray(draws.integers(0, 256, (size, size), np.uint8)).save(folder / f"{i}.png")
        return tmp_path / "images"

    return write


@contextlib.contextmanager
def made_once(tmp_path_factory, name: str) -> Iterator[Path]:
    """A folder that all processes that share the tests have in common; one of them at a time is in it."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder


@pytest.fixture(scope="session")
def searched(tmp_path_factory) -> Path:
    """The folder of a small real search: nine trials of three ranges on digits, all to the end. One for all processes
    that share the tests.
    """
    with made_once(tmp_path_factory, "searched") as folder:
        if not (folder / "small" / "results.csv").exists():
            _search(folder, "small")
    return folder / "small"


def copied(search: Path, folder: Path) -> Path:
    """A copy of a search in a folder, of its files that matter."""
    return shutil.copytree(search, folder / search.name, ignore=shutil.ignore_patterns("ray", "study.db"))


# How the small search is confirmed: cheaply.
CHEAP = {"attacks": ("noise", "pgd"), "num_epsilons": 3, "num_images": 30}


@pytest.fixture(scope="session")
def confirmed_search(searched, tmp_path_factory) -> Path:
    """The folder of a copy of that search with a real confirmation: two settings and the unregularized ones, each with
    two fresh seeds. What was printed lies beside it. One for all processes that share the tests.
    """
    with made_once(tmp_path_factory, "confirmed") as folder:
        if not (folder / "printed.txt").exists():
            _confirm(copied(searched, folder), folder / "unfinished.txt")
            (folder / "unfinished.txt").rename(folder / "printed.txt")
    return folder / "small"


def _confirm(search: Path, printed: Path) -> None:
    import ray
    from rich.console import Console

    from brainreg.confirmation.plan import plan_confirmation
    from brainreg.confirmation.run import run_confirmation

    with printed.open("w") as file:
        plan = plan_confirmation(search, {"top": 2, "seeds": 2}, CHEAP, {})
        run_confirmation(plan, Console(file=file, width=120))
    ray.shutdown()


def _search(folder: Path, name: str) -> None:
    import ray
    from rich.console import Console

    from brainreg.search.options import SearchOptions
    from brainreg.search.plan import plan_search
    from brainreg.search.run import run_search
    from brainreg.search.strategy import Strategy
    from brainreg.spaces.space import Space

    attack = {"version": "custom", "attacks": ["apgd-ce"], "n_iter": 3}
    space = Space(
        name="small",
        description="a test",
        task="digits",
        fixed={"base_channels": 4, "train_image_num": 400, "epoch_num": 3, "phase_duration": 1, "valid_portion": 0.2},
        search={
            "reg_alpha": {"low": 0.02, "high": 1, "log": True},
            "reg_thresh": {"low": 0.3, "high": 0.8},
            "reg_thresh_2": {"low": 0.1, "high": 0.9, "times": "reg_thresh"},
            "reg_range": {"choices": ["all", "low", "double"]},
            "reg_image_num": {"low": 100, "high": 300, "step": 50},
            "reg_batch_size": {"choices": [4, 8]},
        },
        objective={"eps": 0.05, "noise_eps": 0.4, "attack": attack, "attack_image_num": 40},
        budget={"num_samples": 9, "final_attack": attack, "final_attack_seconds": 0},
    )
    options = SearchOptions(name=name, storage_path=str(folder), data_dir=str(ROOT / "data"))
    with (folder / "printed.txt").open("w") as file:
        run_search(plan_search(space, options, Strategy(scheduler="none")), Console(file=file, width=120))
    ray.shutdown()
