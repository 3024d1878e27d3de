"""What searches that run on this machine have taken of its cores and GPUs, so that another one takes what is left.

Each driver keeps a file in a folder of its user, as long as it runs; BRAINREG_CLAIMS says where another such folder is.
"""

import contextlib
import fcntl
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from brainreg._utils.machine import allowed_cores


@dataclass(frozen=True)
class Claim:
    """What one driver has taken.

    Attributes:
        name: of its search.
        pid, process_began: of its process.
        cores: how many CPU cores.
        affinity: the cores among which they are.
        gpus: the GPUs, as CUDA_VISIBLE_DEVICES calls them.
    """

    name: str
    pid: int
    process_began: float
    cores: float
    affinity: tuple[int, ...]
    gpus: tuple[str, ...]

    @property
    def alive(self) -> bool:
        """Whether its process runs."""
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.process_began) < 2
            return same and process.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return False


def make_claim(name: str, cores: float, gpus: Sequence[str]) -> Claim:
    """Return this process's claim."""
    process = psutil.Process()
    return Claim(name, process.pid, process.create_time(), cores, tuple(sorted(allowed_cores())), tuple(gpus))


def claims_of_others() -> list[Claim]:
    """Return what other drivers of this user have taken of the cores and GPUs that this process may use.

    None where no folder is this user's alone: it is then as if nobody else ran.
    """
    folder, own = _folder(), allowed_cores()
    claims = []
    for path in sorted(folder.glob("*.json")) if folder else []:
        try:
            content = json.loads(path.read_text())
            claim = Claim(**{**content, "affinity": tuple(content["affinity"]), "gpus": tuple(content["gpus"])})
        except (OSError, ValueError, TypeError, KeyError):
            continue  # just removed, or of another version
        if not claim.alive:
            with contextlib.suppress(OSError):
                path.unlink()
        elif claim.pid != os.getpid() and own & set(claim.affinity):
            claims.append(claim)
    return claims


@contextlib.contextmanager
def one_at_a_time() -> Iterator[None]:
    """Let one process at a time look at the others' claims and make its own."""
    folder = _folder()
    if folder is None:
        yield
        return
    lock = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some file systems have no locks of folders
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


@contextlib.contextmanager
def kept(claim: Claim) -> Iterator[None]:
    """Keep a claim until the end of the block."""
    folder = _folder()
    path = None if folder is None else folder / f"{claim.pid}.json"
    with contextlib.suppress(OSError):  # a full disk does not keep a search from running
        if path is not None:
            path.write_text(json.dumps(asdict(claim)))
    try:
        yield
    finally:
        if path is not None:
            with contextlib.suppress(OSError):
                path.unlink()


def _folder() -> Path | None:
    """The folder of this user's claims; None where there is none that nobody else may write to."""
    given = os.environ.get("BRAINREG_CLAIMS")
    folder = Path(given or Path(tempfile.gettempdir(), f"brainreg-{os.getuid()}"))
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        about = folder.lstat()
    except OSError:
        return None
    return folder if folder.is_dir() and about.st_uid == os.getuid() and not about.st_mode & 0o022 else None
