"""The page of searches that run, served on this machine alone, and made anew when they have gone on."""

import hashlib
import threading
import time
from collections.abc import Sequence
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from brainreg.errors import InputError
from brainreg.records.driver import driver_of
from brainreg.records.manifest import MANIFEST
from brainreg.records.results import load_results
from brainreg.records.searches import CONFIRMATION
from brainreg.reports.search import report
from brainreg.storage import Storage

# A browser asks so often, in seconds, whether there is another page.
_ASKED = 2.0

_HOSTS = ("127.0.0.1", "localhost")

# What a browser opens: the page in a frame, which is loaded again when there is another one.
_FRAME = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><link rel="icon" href="data:,"><title>brainreg</title>
<style>html, body {{ margin: 0; height: 100% }}
iframe {{ border: 0; width: 100%; height: 100%; display: block }}</style>
</head><body><iframe src="report.html" title="report"></iframe><script>
let known = null;
const frame = document.querySelector("iframe");
frame.addEventListener("load", () => {{ document.title = frame.contentDocument.title; }});
setInterval(async () => {{
  try {{
    const version = await (await fetch("version", {{cache: "no-store"}})).text();
    if (known !== null && version !== known) frame.contentWindow.location.reload();
    known = version;
  }} catch {{}}  // it has ended: what it showed last remains
}}, {1000 * _ASKED:.0f});
</script></body></html>
"""


class Follower:
    """A server of the page, on loopback; a context manager, in which it serves and looks for changes.

    Args:
        folders: of the searches.
        port: where it listens; 0 for any free one.
        period: seconds between looks.

    Attributes:
        port: where it listens.

    Raises:
        InputError: a folder that holds no search; another program listens at the port.
    """

    def __init__(self, folders: Sequence[Storage], port: int = 0, period: float = 5.0):
        self._folders, self._period = folders, period
        self._seen = self._state()
        try:
            self._server = ThreadingHTTPServer(("127.0.0.1", port), partial(_Handler, self))
        except OSError as error:
            raise InputError(f"--port={port}: cannot be listened at ({error.strerror}); choose another one") from error
        self.port = self._server.server_port
        self._end = threading.Event()
        try:
            self._make()
        except BaseException:
            self._server.server_close()
            raise

    def __enter__(self) -> "Follower":
        for work in (self._server.serve_forever, self._look):
            threading.Thread(target=work, daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._end.set()
        self._server.shutdown()
        self._server.server_close()

    def _make(self) -> None:
        html = report(self._folders).encode()
        self.page = html, hashlib.sha256(html).hexdigest()

    def _state(self) -> str:
        """What changes when a search goes on: its trials' epochs and ends, and what was confirmed."""
        told = hashlib.sha256()
        for folder in self._folders:
            results = load_results(folder)
            epochs = [len(one) for one in results.epochs] if len(results) else []
            told.update(repr((results.state.tolist(), epochs)).encode())
            told.update(repr(driver_of(folder) is None).encode())
            for file in (MANIFEST, CONFIRMATION):
                told.update(folder.read(file) or b"")
        return told.hexdigest()

    def _look(self) -> None:
        while not self._end.wait(self._period):
            try:
                state = self._state()
                if state != self._seen:
                    self._make()
                    self._seen = state
            except InputError:  # storage that does not answer now: the page remains
                time.sleep(self._period)


class _Handler(BaseHTTPRequestHandler):
    """Answers a browser."""

    def __init__(self, follower: Follower, *given: Any):
        self._follower = follower
        super().__init__(*given)

    def do_GET(self) -> None:
        if self.headers.get("Host", "").rpartition(":")[0] not in _HOSTS:  # a page of the web that has this address
            self.send_error(HTTPStatus.FORBIDDEN)
            return
        html, version = self._follower.page
        pages = {
            "/": ("text/html; charset=utf-8", _FRAME.encode()),
            "/report.html": ("text/html; charset=utf-8", html),
            "/version": ("text/plain", version.encode()),
        }
        if self.path not in pages:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        kind, content = pages[self.path]
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing: the terminal is for who follows the search."""
