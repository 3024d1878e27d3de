"""Photograph the charts of a search's report, a box dragged in one of them: report-light.png and report-dark.png.

python docs/pictures/report.py results/NAME     (needs Debian's chromium, and pip install '.[services]')
"""

import shutil
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from brainreg.reports.search import report

FOLDER = Path(__file__).parent


def drag(page: Page) -> None:
    """Select the trials that are good in both accuracies, in the chart of the front."""
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


def main(folder: str) -> None:
    with tempfile.TemporaryDirectory() as temporary, sync_playwright() as driver:
        html = Path(temporary) / "report.html"
        html.write_text(report([folder]), encoding="utf-8")
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for scheme in ("light", "dark"):
            page = browser.new_page(viewport={"width": 1200, "height": 900}, color_scheme=scheme)
            page.goto(html.as_uri())
            page.wait_for_selector("main[data-charts]")
            drag(page)
            page.locator(".charts").screenshot(path=FOLDER / f"report-{scheme}.png")
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1])
