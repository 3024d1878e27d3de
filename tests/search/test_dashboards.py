"""What a browser shows of a search: Ray's dashboard, the gauges, Optuna's dashboard, and TensorBoard."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import optuna
import psutil
import pytest
from conftest import ROOT
from services import questions_of_grafana

from brainreg.records.results import load_results
from brainreg.search.callbacks import GAUGES
from brainreg.search.strategy import Strategy
from brainreg.search.study import SearchStudy
from brainreg.spaces.files import load_space

pytestmark = pytest.mark.slow

PATIENCE = 240  # seconds, for machines on which other work runs

# Some trials diverge, so that there are failed ones. The search is interrupted when it was looked at.
SPACE = """
extends: digits_double
description: a search to look at
search: {lr: {choices: [0.1, 1.0e+30]}}
"""
TINY = (
    "--epoch_num=2", "--base_channels=4", "--reg_image_num=200", "--attack_image_num=40", "--scheduler=none",
    "--num-samples=300", "--max-concurrent=2", "--tensorboard",
)  # fmt: skip


def tool(name: str) -> str:
    """A command of this Python's environment; skips the test where it is not installed."""
    path = shutil.which(name, path=str(Path(sys.executable).parent))
    return path or pytest.skip(f"{name} is not installed: pip install 'brainreg[services]'")


def wait_for(condition: Callable[[], object], what: str):
    """The first true answer of `condition`."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if answer := condition():
            return answer
        time.sleep(0.5)
    pytest.fail(f"no {what} after {PATIENCE} s")


def status(url: str, token: str = "") -> int:
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"} if token else {})
    try:
        return urllib.request.urlopen(request, timeout=PATIENCE).status
    except urllib.error.HTTPError as error:
        return error.code


def listening_at(port: int) -> set[str]:
    """The addresses of this machine at which a port is open."""
    connections = psutil.net_connections("inet")
    return {one.laddr.ip for one in connections if one.status == psutil.CONN_LISTEN and one.laddr.port == port}


@contextlib.contextmanager
def serving(*command: str) -> Iterator[str]:
    """Run a server on a free port of this machine, which is added to the command; its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with subprocess.Popen(
        [*command, f"--port={port}", "--host=127.0.0.1"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as server:
        try:
            wait_for(lambda: listening_at(port), f"server at port {port}")
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()


@pytest.fixture(scope="module")
def browser():
    chromium = shutil.which("chromium") or pytest.skip("chromium is not installed")
    playwright = pytest.importorskip("playwright.sync_api")
    playwright.expect.set_options(timeout=1000 * PATIENCE)
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def page(browser):
    """A page of a browser that was never here before."""
    context = browser.new_context(viewport={"width": 1400, "height": 1000})
    yield context.new_page()
    context.close()


def shows(page, *texts: str | re.Pattern) -> None:
    """Wait until the page shows each text."""
    from playwright.sync_api import expect

    for text in texts:
        expect(page.get_by_text(text).filter(visible=True).first).to_be_visible()


@dataclass
class Search:
    """A search that a user started.

    Attributes:
        folder: of the search.
        process: that runs it.
        rays: folder of Ray's own files.
    """

    folder: Path
    process: subprocess.Popen
    rays: Path

    @property
    def output(self) -> str:
        return self.folder.with_suffix(".txt").read_text()

    @property
    def dashboard(self) -> str:
        """The address that it printed."""
        return re.search(r"^Ray dashboard: (http://\S+) ", self.output, re.MULTILINE)[1]

    def interrupt(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            self.process.wait(PATIENCE)


@pytest.fixture(scope="module")
def search(tmp_path_factory):
    """A search that runs, has finished three trials, and has failed at one."""
    folder = tmp_path_factory.mktemp("search")
    space = folder / "mine.yaml"
    space.write_text(SPACE)
    rays = Path(tempfile.mkdtemp(prefix="ray"))  # in which the names of sockets are not too long
    with (folder / "looked_at.txt").open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "tune_main.py", f"--space={space}", *TINY, "--noise-weight=0.2", "--name=looked_at",
             f"--storage-path={folder}"],
            cwd=ROOT, env={**os.environ, "RAY_TMPDIR": str(rays)}, stdout=file, stderr=subprocess.STDOUT,
        )  # fmt: skip
    started = Search(folder / "looked_at", process, rays)

    def far_enough() -> bool:
        assert process.poll() is None, started.output
        return started.output.count(": objective ") >= 3 and ": failed: " in started.output

    try:
        wait_for(far_enough, "finished and failed trial")
        yield started
    finally:
        started.interrupt()
        shutil.rmtree(rays, ignore_errors=True)


@pytest.fixture(scope="module")
def token() -> str:
    """What the command prints that the search names."""
    return subprocess.run([tool("ray"), "get-auth-token"], capture_output=True, text=True, check=True).stdout.strip()


@contextlib.contextmanager
def prometheus(config: Path, folder: Path) -> Iterator[str]:
    """Run Debian's Prometheus; yield its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}"]
    with (folder / "prometheus.txt").open("w") as file:
        process = subprocess.Popen([*command, f"--web.listen-address={address}"], stdout=file, stderr=file)
    try:
        wait_for(lambda: ready(f"http://{address}/-/ready"), "Prometheus")
        yield f"http://{address}"
    finally:
        process.terminate()
        process.wait(PATIENCE)


def ready(address: str) -> bool:
    try:
        return status(address) == 200
    except OSError:
        return False


class TestRaysDashboard:
    def test_without_the_token_it_only_answers_401(self, search, token):
        assert "ray get-auth-token` prints" in search.output
        for path in ("/nodes?view=summary", "/api/jobs/", "/logical/actors", "/api/v0/actors"):
            assert status(search.dashboard + path) == 401
            assert status(search.dashboard + path, token="0" * 64) == 403
        assert status(search.dashboard + "/api/jobs/", token) == 200

    def test_only_this_machine_is_let_in(self, search):
        address = urlsplit(search.dashboard)
        assert address.hostname == "127.0.0.1"
        assert listening_at(address.port) == {"127.0.0.1"}

    def test_it_asks_for_the_token_and_then_shows_the_search(self, search, token, page, tmp_path):
        page.goto(search.dashboard)
        shows(page, "Authentication Token Required", "use `ray get-auth-token` to retrieve it")
        page.get_by_placeholder("Enter your authentication token").fill("wrong")
        page.get_by_role("button", name="Submit").click()
        shows(page, "Invalid authentication token")
        page.screenshot(path=tmp_path / "token.png")
        page.get_by_placeholder("Enter your authentication token").fill(token)
        page.get_by_role("button", name="Submit").click()
        shows(page, "Recent jobs", "tune_main.py --space=")
        page.screenshot(path=tmp_path / "overview.png")
        page.goto(f"{search.dashboard}/#/cluster")
        shows(page, "Node Statistics", "ALIVE x 1", "ray::ImplicitFunc")
        page.screenshot(path=tmp_path / "cluster.png")
        page.goto(f"{search.dashboard}/#/jobs")
        shows(page, "RUNNING", "tune_main.py --space=", str(search.process.pid))
        page.screenshot(path=tmp_path / "jobs.png")
        page.goto(f"{search.dashboard}/#/actors")
        shows(page, "ImplicitFunc", "run_trial", "ALIVE x")
        page.screenshot(path=tmp_path / "actors.png")

    def test_an_actors_output_says_which_trials_it_runs(self, search, token, page, tmp_path):
        log = (search.rays / "ray/session_latest/logs/dashboard_agent.log").read_text()
        if "address already in use" in log:
            pytest.skip("another Ray of this machine has the port by which the dashboard reads outputs")
        page.goto(f"{search.dashboard}/#/actors")
        page.get_by_placeholder("Enter your authentication token").fill(token)
        page.get_by_role("button", name="Submit").click()
        page.locator("tbody tr", has_text="ALIVE").locator("a[href*='actors/']").first.click()
        page.get_by_role("tab", name="stdout").click()
        shows(page, re.compile(r"trial \d+: epoch 1/2, valid 0\.\d"))
        page.screenshot(path=tmp_path / "actor.png", full_page=True)


class TestGauges:
    """Ray exports them to Prometheus, without a token: there is nothing to run behind that port."""

    def addresses(self, search) -> list[str]:
        """The pages that Ray tells Prometheus to read, on this machine."""
        services = json.loads((search.rays / "ray/prom_metrics_service_discovery.json").read_text())
        ports = [target.rpartition(":")[2] for service in services for target in service["targets"]]
        return [f"http://127.0.0.1:{port}/metrics" for port in ports]

    def text(self, address: str) -> str:
        """A page, empty where nobody answers: two of the ports are the same for every Ray on a machine."""
        try:
            return urllib.request.urlopen(address, timeout=PATIENCE).read().decode()
        except OSError:
            return ""

    def read(self, text: str) -> dict[str, float]:
        line = r'^ray_brainreg_(\w+)\{.*search="looked_at".*\} (\S+)$'
        return {name: float(value) for name, value in re.findall(line, text, re.MULTILINE)}

    def are_those_of_the_search(self, search, gauges: dict[str, float]) -> bool:
        """Whether they are what the search printed and kept, at one moment."""
        if not set(GAUGES) <= set(gauges) or not gauges["trials_failed"]:
            return False
        done, failed = int(gauges["trials_done"]), int(gauges["trials_failed"])
        line = re.search(
            rf"^{done}/300 trials done, .* {failed} failed; recommended: setting \d+, (\S+) ± ", search.output, re.M
        )
        if line is None or gauges["recommended_objective"] != pytest.approx(float(line[1]), abs=6e-4):
            return False
        objectives = load_results(search.folder).objective
        return any(gauges["largest_objective"] == pytest.approx(one) for one in objectives.dropna())

    def test_they_are_those_of_the_search_and_a_browser_shows_them(self, search, page, tmp_path):
        (address,) = wait_for(
            lambda: [one for one in self.addresses(search) if "ray_brainreg" in self.text(one)], "page with gauges"
        )
        wait_for(
            lambda: self.are_those_of_the_search(search, self.read(self.text(address))),
            "gauges as the search printed them",
        )
        page.goto(address)
        shown = page.inner_text("body")
        assert "HELP ray_brainreg_largest_objective largest objective of a single finished trial" in shown
        assert set(self.read(shown)) >= set(GAUGES)
        page.evaluate("window.find('ray_brainreg_')")  # scrolls there
        page.screenshot(path=tmp_path / "gauges.png")

    def test_prometheus_answers_every_question_of_the_dashboard_of_grafana(self, search, tmp_path):
        """A real Prometheus, with the example's own file, in which only Ray's folder is another one."""
        example = (ROOT / "examples/grafana/prometheus.yml").read_text()
        config = tmp_path / "prometheus.yml"
        config.write_text(example.replace("[/tmp/ray/", f"[{search.rays}/ray/"))
        assert config.read_text() != example
        with prometheus(config, tmp_path) as address:

            def answer(question: str) -> list[dict]:
                url = f"{address}/api/v1/query?{urlencode({'query': question})}"
                return json.load(urllib.request.urlopen(url, timeout=PATIENCE))["data"]["result"]

            for question in questions_of_grafana():
                asked = question.replace("$search", "looked_at")
                (series, *_) = wait_for(lambda asked=asked: answer(asked), f"answer to {asked}")
                assert series["metric"]["search"] == "looked_at" and float(series["value"][1]) >= 0


@pytest.fixture(scope="module")
def interrupted(search):
    """The search, after Ctrl-C."""
    search.interrupt()
    assert search.process.returncode == 130 and re.search(r"go on: .*brainreg resume \S+/looked_at", search.output)
    return search


def test_optunas_dashboard_shows_the_study(interrupted, page, tmp_path):
    url = f"sqlite:///{interrupted.folder}/study.db"
    study = optuna.load_study(study_name="looked_at", storage=url)
    best = study.best_trial
    with serving(tool("optuna-dashboard"), url) as address:
        page.goto(address)
        shows(page, "1. looked_at", "MAXIMIZE")
        page.get_by_text("1. looked_at").click()
        shows(page, "History", "objective", f"Best Trial (number={best.number})", str(best.value)[:8])
        shows(page, "Hyperparameter Importance", "reg_thresh_2/reg_thresh")
        page.screenshot(path=tmp_path / "study.png", full_page=True)
        page.goto(f"{address}/dashboard/studies/1/trials?numbers={best.number}")
        shows(page, f"{len(study.trials)} Trials", "robust_accuracy", "noise_accuracy")
        page.screenshot(path=tmp_path / "trial.png")


def test_optunas_dashboard_shows_both_goals_by_name(page, tmp_path):
    url = f"sqlite:///{tmp_path}/study.db"
    study = SearchStudy(load_space("digits_double"), Strategy(objective="pareto"), name="two_goals", url=url)
    for clean, robust in ((0.99, 0.2), (0.97, 0.3), (0.9, 0.4), (0.9, 0.1), (0.8, 0.35), (0.95, 0.25)):
        trial = study.ask()
        study.propose(trial)
        measured = {"objective": (clean + robust) / 2, "clean_accuracy": clean, "robust_accuracy": robust}
        study.tell_finished(trial, {**measured, "noise_accuracy": 0.5})
    with serving(tool("optuna-dashboard"), url) as address:
        page.goto(f"{address}/dashboard/studies/1")
        shows(page, "two_goals", "Pareto Front", "clean_accuracy", "robust_accuracy", "reg_thresh_2/reg_thresh")
        page.screenshot(path=tmp_path / "front.png", full_page=True)


def test_tensorboard_shows_curves_results_and_settings(interrupted, page, tmp_path):
    named = re.search(r"^TensorBoard: \S*tensorboard (--logdir=\S+)", interrupted.output, re.MULTILINE)[1]
    with serving(tool("tensorboard"), named) as address:
        page.goto(address)
        shows(page, "trial_0000", "trial_0001", "/cross_entropy", "/similarity_loss", "/valid_accuracy")
        page.screenshot(path=tmp_path / "curves.png")
        assert "ray/tune" not in page.inner_text("body")
        page.goto(f"{address}/#hparams")
        page.reload()
        shows(page, "reg_alpha", "reg_thresh_2", "setting", "results/objective", "results/robust_accuracy")
        shows(page, "trial_0000", "trial_0001")
        page.screenshot(path=tmp_path / "settings.png")


def test_the_dashboard_listens_where_it_is_told_to():
    """And asks for the token there, too."""
    code = (
        "import sys; from brainreg.search.cluster import start_ray;"
        " print(start_ray(None, '0.0.0.0'), flush=True); input()"
    )
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdin=-1, stdout=-1, text=True) as process:
        address = process.stdout.readline().strip()
        host, _, port = address.rpartition(":")
        try:
            assert listening_at(int(port)) == {"0.0.0.0"}
            assert host != "127.0.0.1" and status(f"http://127.0.0.1:{port}/api/jobs/") == 401
        finally:
            process.communicate("\n")
