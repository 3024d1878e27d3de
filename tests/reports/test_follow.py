"""The page of a search that is served while the search runs."""

import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest
from pages import Page

from brainreg.commands.report import main
from brainreg.errors import InputError
from brainreg.reports import follow
from brainreg.reports.follow import Follower
from brainreg.storage import Storage


@pytest.fixture
def short_page(monkeypatch):
    """A page that is made at once, for tests of who gets it."""
    monkeypatch.setattr(follow, "report", lambda folders: f"<p>{folders[0]}</p>")


@pytest.fixture
def growing(searched, tmp_path):
    """A copy of a search of nine trials, whose last one has not begun yet: its folder, and what begins that trial."""
    folder = shutil.copytree(searched, tmp_path / "small")
    shutil.move(folder / "trial_0008", tmp_path / "later")
    return Storage(folder), lambda: shutil.move(tmp_path / "later", folder / "trial_0008")


def get(follower: Follower, path: str, host: str = "127.0.0.1") -> str:
    address = f"http://127.0.0.1:{follower.port}/{path}"
    request = urllib.request.Request(address, headers={"Host": f"{host}:{follower.port}"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return answer.read().decode()


def trials_in(html: str) -> int:
    rows = Page(html).region("All trials")
    assert rows is not None
    return len(rows) - 1


@pytest.mark.long
def test_it_serves_the_page_and_makes_it_anew_when_the_search_has_gone_on(growing):
    folder, go_on = growing
    with Follower([folder], period=0.1) as follower:
        assert "report.html" in get(follower, "")
        before, version = get(follower, "report.html"), get(follower, "version")
        time.sleep(0.5)
        assert get(follower, "version") == version  # nothing has happened
        go_on()
        end = time.monotonic() + 60
        while get(follower, "version") == version and time.monotonic() < end:
            time.sleep(0.1)
        after = get(follower, "report.html")
    assert trials_in(after) == trials_in(before) + 1


def test_it_answers_nobody_else(growing, short_page):
    with Follower([growing[0]]) as follower:
        for path, host, status in (("other", "127.0.0.1", 404), ("report.html", "evil.example", 403)):
            with pytest.raises(urllib.error.HTTPError) as refused:
                get(follower, path, host)
            assert refused.value.code == status
        assert follower._server.server_address[0] == "127.0.0.1"


@pytest.mark.long
def test_it_is_served_until_ctrl_c(searched, tmp_path):
    line = [sys.executable, "-m", "brainreg", "report", str(searched), "--follow"]
    with subprocess.Popen(line, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        told = [process.stdout.readline() for _ in range(3)]
        address = re.search(r"http://127.0.0.1:\d+/", told[0])[0]
        with urllib.request.urlopen(f"{address}report.html", timeout=20) as answer:
            assert trials_in(answer.read().decode()) == 9
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "") and "ssh -N -L" in told[2]


class TestBadInput:
    @pytest.mark.parametrize(
        ("flags", "message"),
        [
            (["--port=80"], "^--port=80: is for --follow"),
            (["--follow", "--port=x"], "^--port=x: must be a whole number from 0 to 65535"),
            (["--follow", "--port=65536"], "^--port=65536: must be"),
            (["--follow", "--save=a.html"], "^--save=a.html: a page that is followed is not saved"),
        ],
    )
    def test_flags(self, flags, message, searched):
        with pytest.raises(InputError, match=message):
            main([str(searched), *flags])

    def test_a_port_that_is_taken_is_told_before_the_page_is_made(self, searched, monkeypatch):
        monkeypatch.setattr(follow, "report", lambda folders: pytest.fail("made"))
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            with pytest.raises(InputError, match=rf"^--port={port}: cannot be listened at"):
                main([str(searched), "--follow", f"--port={port}"])


@pytest.mark.slow
def test_a_browser_shows_what_happens(growing):
    chromium = shutil.which("chromium") or pytest.skip("chromium is not installed")
    playwright = pytest.importorskip("playwright.sync_api")
    folder, go_on = growing
    with Follower([folder], period=0.1) as follower, playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page, complaints = opened.new_page(), []
        page.on("console", lambda message: complaints.append(message.text))
        page.goto(f"http://127.0.0.1:{follower.port}/")
        frame = page.frame_locator("iframe")
        rows = frame.get_by_role("region", name="All trials").locator("tr")
        assert rows.count() == 9
        page.wait_for_timeout(3000)  # it knows the version now
        go_on()
        rows.nth(9).wait_for(timeout=60_000)
        assert rows.count() == 10 and complaints == []
        opened.close()
