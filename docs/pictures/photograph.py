"""Photograph what a person sees: pages in a browser, and terminals. Writes docs/pictures/*.png.

python docs/pictures/photograph.py overview results/NAME  what a search's report says first
python docs/pictures/photograph.py report results/NAME    the charts of a search's report, a box dragged in one of them
python docs/pictures/photograph.py front results/NAME     of a search with --objective=pareto, the front
python docs/pictures/photograph.py card results/NAME      the model card of its network, after `brainreg export`
python docs/pictures/photograph.py mlflow results/NAME    its experiment, in the server of MLflow of MLFLOW_TRACKING_URI
python docs/pictures/photograph.py cost                   what --dry-run says
python docs/pictures/photograph.py steering               a search that another terminal steers

Needs Debian's chromium, and pip install '.[services]'.
"""

import argparse
import html
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import markdown
from playwright.sync_api import Browser, Locator, Page, sync_playwright

from brainreg.reports.search import report

FOLDER = Path(__file__).parent
SCHEMES = ("light", "dark")
STYLE = """
:root { color-scheme: light dark; --text: #222; --back: #fff; --frame: #ccc; --head: #eee; }
@media (prefers-color-scheme: dark) { :root { --text: #ddd; --back: #1b1d22; --frame: #444; --head: #2a2d34; } }
body { margin: 0; padding: 12px; width: max-content; background: var(--back); color: var(--text); }
.terminal { border: 1px solid var(--frame); border-radius: 6px; margin-bottom: 12px; overflow: hidden; }
.terminal h1 { font: 13px sans-serif; margin: 0; padding: 4px 10px; background: var(--head); }
pre { font: 13px/1.35 monospace; margin: 0; padding: 10px; white-space: pre-wrap; width: 118ch; }
pre b { color: #e0643c; }
article { font: 14px/1.45 sans-serif; width: 800px; padding: 0 20px; }
article pre { font-size: 12px; width: auto; background: var(--head); }
article table { border-collapse: collapse; }
article td, article th { border: 1px solid var(--frame); padding: 2px 8px; text-align: left; }
"""


@contextmanager
def browser() -> Iterator[Browser]:
    with sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        yield opened
        opened.close()


def photograph(name: str, source: str, prepare: Callable[[Page], Locator], width: int = 1200) -> None:
    """Photograph a part of a page of this machine, in both schemes of color."""
    with tempfile.TemporaryDirectory() as temporary, browser() as opened:
        file = Path(temporary) / "page.html"
        file.write_text(source, encoding="utf-8")
        for scheme in SCHEMES:
            page = opened.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
            page.goto(file.as_uri())
            prepare(page).screenshot(path=FOLDER / f"{name}-{scheme}.png")


def select(page: Page) -> Locator:
    """Select the trials that are good in both accuracies, in the chart of the front; all charts."""
    page.wait_for_selector("main[data-charts]")
    chart = page.locator("#chart-front")
    chart.scroll_into_view_if_needed()
    box = chart.locator("svg").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 0.55 * box["width"], box["y"] + 25)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.97 * box["width"], box["y"] + 130, steps=5)
    page.mouse.up()
    page.mouse.move(5, 5)
    page.wait_for_timeout(1000)
    return page.locator(".charts")


def part(page: Page, first: str, end: str) -> Locator:
    """A part of a search's report: from the element `first` to before one whose text begins with `end`."""
    page.wait_for_selector("main[data-charts]")
    page.evaluate(
        """([first, end]) => {
            const part = document.createElement("div");
            part.className = "part";
            document.querySelector(first).before(part);
            while (!part.nextSibling.textContent.startsWith(end)) part.append(part.nextSibling);
        }""",
        [first, end],
    )
    return page.locator(".part")


def overview(page: Page) -> Locator:
    """What a search's report says first."""
    return part(page, "#overview", "What a further run")


def front(page: Page) -> Locator:
    """The front of a search's report, to where its trials are listed."""
    return part(page, "#front", "The trials of")


def page_of(folder: str) -> str:
    """A search's report, in which the folder has no place on this machine."""
    return report([folder]).replace(str(Path(folder).resolve()), f"results/{Path(folder).name}")


def card(folder: str) -> str:
    """A search's model card as a page, to where it says how the network was trained."""
    text = (Path(folder) / "export" / "README.md").read_text(encoding="utf-8").split("---\n", 2)[2]
    text = re.sub(r"To train it again:\n\n```.*?```\n", "", text, flags=re.DOTALL)
    body = markdown.markdown(text, extensions=["tables", "fenced_code"])
    return f"<!doctype html><style>{STYLE}</style><article>{body}</article>"


def terminals(*panes: tuple[str, str]) -> str:
    """A page of terminals, each with a title and what it shows; lines that were typed begin with `$ `."""
    parts = [f"<!doctype html><style>{STYLE}</style>"]
    for title, text in panes:
        shown = re.sub(r"^(\$ .*)$", r"<b>\1</b>", html.escape(text.strip(), quote=False), flags=re.MULTILINE)
        parts.append(f'<div class="terminal"><h1>{title}</h1><pre>{shown}</pre></div>')
    return "\n".join(parts)


def environment() -> dict[str, str]:
    """The environment of a shell in which this Python's commands are found."""
    return os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def typed(command: str, folder: str) -> str:
    """A command, and what it prints."""
    done = subprocess.run(shlex.split(command), cwd=folder, env=environment(), capture_output=True, text=True)
    return f"$ {command}\n{done.stdout}{done.stderr}"


def cost() -> str:
    """What is said of the cost of two searches."""
    with tempfile.TemporaryDirectory() as folder:
        shown = [
            typed(f"brainreg tune --space=digits_double {flags} --dry-run", folder)
            for flags in ("--num-samples=40", "--minutes=30")
        ]
        text = "\n".join(shown).replace(str(Path(folder).resolve()), "~")
    return terminals(("what a search will cost", text))


def steering() -> str:
    """A search that is asked, extended and ended from another terminal."""
    command = (
        "brainreg tune --space=digits_double --name=first --num-samples=6 --epoch_num=4 --phase_duration=1"
        " --attack_image_num=60 --final_attack_seconds=0"
    )
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        with log.open("w") as output:
            search = subprocess.Popen(
                shlex.split(command), cwd=folder, env=environment(), stdout=output, stderr=subprocess.STDOUT
            )
            while "\ntrial 3 " not in log.read_text():
                if search.poll() is not None:
                    raise SystemExit(log.read_text())
                time.sleep(0.5)
            asked = ("brainreg status first", "brainreg extend first --num-samples=40", "brainreg stop first")
            answers = [typed(one, folder) for one in asked]
            search.wait()
        lines = [line.replace(folder, "~") for line in log.read_text().splitlines()]
        end = next(at for at, line in enumerate(lines) if line.startswith("no further trial"))
    return terminals(
        ("one terminal", "\n".join([f"$ {command}", *lines[: end + 1], "..."])),
        ("another terminal", "\n".join(answers).replace(folder, "~")),
    )


def mlflow(folder: str) -> None:
    """Photograph the list of runs in MLflow's own page, which has a scheme of its own."""
    import mlflow as client

    name = Path(folder).name
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        raise SystemExit(f"{client.get_tracking_uri()} knows no experiment {name}; was --log=mlflow told of it?")
    with browser() as opened:
        page = opened.new_page(viewport={"width": 1400, "height": 800}, color_scheme="light")
        page.goto(f"{client.get_tracking_uri()}/#/experiments/{experiment.experiment_id}/runs")
        page.get_by_text("Model training").first.click()
        page.get_by_role("button", name="Close").first.click()  # of its assistant
        page.get_by_text("unregul").first.wait_for(timeout=60000)
        page.get_by_role("button", name="Columns").click()
        # Those that are not shown come, and those of MLflow's own that mean nothing here go.
        shown = ("objective", "clean_accuracy", "robust_accuracy", "runs", "reg_alpha", "reg_thresh")
        for column in (*shown, "Dataset", "Source", "Models"):
            page.get_by_placeholder("Search columns").fill(column)
            found = page.get_by_test_id("column-selector-tree").get_by_text(column, exact=True)
            (found.last if column == "objective" else found.first).click()  # epoch_objective stands before it
        page.keyboard.press("Escape")
        page.get_by_role("row").filter(has_text="setting 0").get_by_role("button").first.click()  # its trials
        page.wait_for_timeout(1000)
        page.screenshot(path=FOLDER / "mlflow.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("overview", "report", "front", "card", "mlflow", "cost", "steering"))
    parser.add_argument("folder", nargs="?", help="of a search")
    asked = parser.parse_args()
    if asked.folder is None and asked.what not in ("cost", "steering"):
        parser.error("the folder of a search is missing")
    if asked.what == "mlflow":
        mlflow(asked.folder)
    elif asked.what == "overview":
        photograph("overview", page_of(asked.folder), overview, width=1000)
    elif asked.what == "report":
        photograph("report", page_of(asked.folder), select)
    elif asked.what == "front":
        photograph("front", page_of(asked.folder), front, width=1000)
    elif asked.what == "card":
        photograph("card", card(asked.folder), lambda page: page.locator("article"))
    else:
        source = cost() if asked.what == "cost" else steering()
        photograph(asked.what, source, lambda page: page.locator("body"))


if __name__ == "__main__":
    main()
