"""Show a search, or compare several, as one HTML page that any browser opens, without a network.

brainreg report results/NAME
brainreg report results/A results/B --save=comparison.html
brainreg report results/NAME --follow

The search may be running or lie at s3://BUCKET/PATH. Nothing is measured: networks are neither trained nor attacked.
With --follow, the page is served to a browser of this machine, and shows what happens while the search runs.
"""

import argparse
import contextlib
import socket
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from brainreg._utils.files import check_writable
from brainreg._utils.flags import Parser
from brainreg.errors import InputError

if TYPE_CHECKING:
    from brainreg.storage import Storage

REPORT = "report.html"
_LAST_PORT = 65535


def main(arguments: Sequence[str]) -> int:
    """Run the command line; return its exit status."""
    parser = Parser(__doc__)
    parser.add_argument("experiments", nargs="*", metavar="EXPERIMENT", help="folder of a search, or s3://BUCKET/PATH")
    parser.add_flag(
        "save", help=f"the page's file (default: {REPORT} in the folder of the search; of several, ./{REPORT})"
    )
    parser.add_flag("follow", action="store_true", help="serve the page on this machine while the search runs")
    parser.add_flag("port", help="of --follow (default: any free one)")
    flags = parser.parse_args(arguments)
    if find_spec("matplotlib") is None:
        raise InputError("matplotlib: missing; python -m pip install 'brainreg[analysis]'")
    if not flags.experiments:
        raise InputError("EXPERIMENT: missing; name the folder of a search, such as results/NAME, or several")
    from brainreg.records.searches import split_folders  # here and below: slow, and no help needs it

    try:
        folders = [*split_folders(flags.experiments).values()]
    except InputError as error:
        raise InputError(f"EXPERIMENT={error}") from error
    from brainreg.reports.search import report  # draws, and so needs matplotlib

    if flags.port is not None and not flags.follow:
        raise InputError(f"--port={flags.port}: is for --follow")
    if flags.follow:
        return _follow(folders, flags)
    target, name = _target(flags.save, folders)
    try:
        html = report(folders, Path(str(target)) if target.is_local else None)
    except InputError as error:
        raise InputError(f"EXPERIMENT: {error}") from error
    try:
        target.write(name, html)
    except InputError as error:
        raise InputError(f"--save: {error}; choose another file") from error
    size = len(html.encode())
    print(f"report: {target.path(name)} ({size / 1e6:.2f} MB)")
    where = Path(target.path(name)).as_uri() if target.is_local else "fetch it, and open it"
    print(f"open:   {where} (in any browser; it needs no network)")
    return 0


def _follow(folders: Sequence["Storage"], flags: argparse.Namespace) -> int:
    """Serve the page until Ctrl-C."""
    from brainreg.reports.follow import Follower

    if flags.save is not None:
        raise InputError(f"--save={flags.save}: a page that is followed is not saved; leave one of the two out")
    port = flags.port or "0"
    if not port.isdecimal() or int(port) > _LAST_PORT:
        raise InputError(f"--port={port}: must be a whole number from 0 to {_LAST_PORT}")
    try:
        follower = Follower(folders, int(port))
    except InputError as error:
        raise error if str(error).startswith("--") else InputError(f"EXPERIMENT: {error}") from error
    with follower, contextlib.suppress(KeyboardInterrupt):
        print(f"open:  http://127.0.0.1:{follower.port}/ (Ctrl-C ends it; the search goes on)")
        print("from another machine, first, there:")
        print(f"  ssh -N -L {follower.port}:127.0.0.1:{follower.port} {socket.gethostname()}", flush=True)
        while True:
            time.sleep(3600)
    return 0


def _target(save: str | None, folders: Sequence["Storage"]) -> tuple["Storage", str]:
    """The folder and the name of the page's file."""
    from brainreg.storage import Storage

    if save is None:
        return (folders[0] if len(folders) == 1 else Storage(".")), REPORT
    base, question, query = save.partition("?")
    path, _, name = base.rpartition("/")
    remote = "://" in save
    if not name or (not remote and Path(save).is_dir()):
        raise InputError(f"--save={save}: is a folder; must be a file, such as {base.rstrip('/')}/{REPORT}")
    if not remote:
        check_writable("--save", Path(save).parent)
        return Storage(Path(save).parent), Path(save).name
    return Storage(path + question + query), name
