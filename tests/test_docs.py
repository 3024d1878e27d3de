"""The documentation is true: commands and programs run, links lead somewhere, the site builds without a warning."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml
from conftest import ROOT

DOCS = ROOT / "docs"
README = ROOT / "README.md"
PAGES = [README, *sorted(DOCS.glob("*.md"))]
TOP = [ROOT / name for name in ("CONTRIBUTING.md", "CHANGELOG.md")]

BLOCK = re.compile(r"^(?P<note><!--[^\n]*-->\n)?```(?P<kind>\w+)[^\n]*\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: Path, kind: str, run: bool = True) -> list[str]:
    """The text of a page's code blocks of one kind; with `run`, without those that say that they are not run."""
    found = BLOCK.finditer(page.read_text())
    return [
        block["text"]
        for block in found
        if block["kind"] == kind and not (run and (block["note"] or "").startswith("<!-- not run by the tests:"))
    ]


def commands(page: Path) -> Iterator[list[str]]:
    """Every command `brainreg ...` in a page's shell blocks, as words."""
    for text in blocks(page, "bash", run=False):
        for line in text.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if "brainreg" in words:
                yield words[words.index("brainreg") + 1 :]


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """An empty working folder whose PATH finds the commands of this environment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    return tmp_path


def run(text: str, folder: Path, program: tuple[str, ...] = ("bash", "-euo", "pipefail", "-c")) -> None:
    done = subprocess.run([*program, text], cwd=folder, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, f"{text}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"


class TestCommands:
    @pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
    def test_every_flag_exists(self, page, capsys):
        from brainreg.commands.main import main

        for words in commands(page):
            name = [word for word in words if not word.startswith("-")][:1]
            with pytest.raises(SystemExit) as ended:
                main([*name, "--help-all" if name else "--help"])
            assert ended.value.code in (0, None), words
            known = capsys.readouterr().out
            for flag in (word.split("=")[0] for word in words if word.startswith("--")):
                spellings = {flag, flag.replace("_", "-"), "--" + flag[2:].replace("-", "_")}
                assert any(re.search(rf"{re.escape(spelling)}\b", known) for spelling in spellings), (flag, words)

    def test_the_readme_and_the_quick_start_search_confirm_and_report(self):
        for page in (README, DOCS / "quickstart.md"):
            assert {"tune", "report", "confirm"} <= {words[0] for words in commands(page)}, page

    @pytest.mark.slow
    @pytest.mark.parametrize("name", [README.name, "docs/quickstart.md"])
    def test_readme_and_quick_start_run(self, name, folder):
        """One after the other, as a reader would: the later blocks read what the earlier ones wrote."""
        page = ROOT / name
        for text in blocks(page, "bash"):
            run(text, folder)
        for text in blocks(page, "python"):
            run(text, folder, (sys.executable, "-c"))

    @pytest.mark.slow
    def test_the_other_pages_run_after_a_search(self, folder):
        run("brainreg tune --space=digits_double --name=first --num-samples=2 --epoch_num=2 --phase_duration=1", folder)
        for name in (
            "spaces",
            "search",
            "watch",
            "attacks",
            "results",
            "export",
            "reports",
            "trackers",
            "pareto",
            "cost",
        ):
            page = DOCS / f"{name}.md"
            for space, text in space_files(page).items():
                (folder / space).write_text(text)
            for text in blocks(page, "bash"):
                run(text, folder)
            for text in blocks(page, "python"):
                run(text, folder, (sys.executable, "-c"))

    def test_the_programs_about_own_models_run(self, folder):
        run("\n".join(blocks(DOCS / "own.md", "python")), folder, (sys.executable, "-c"))


def space_files(page: Path) -> dict[str, str]:
    """The YAML blocks of a page that it names as files."""
    named = re.compile(r"^<!-- space file: (\S+) -->\n```yaml\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    return dict(named.findall(page.read_text()))


class TestSpaces:
    def test_the_examples_are_spaces(self, tmp_path):
        from brainreg.spaces.files import load_space

        files = space_files(DOCS / "spaces.md")
        for name, text in files.items():
            (tmp_path / name).write_text(text)
        spaces = {name: load_space(tmp_path / name) for name in files}
        assert [*spaces] == ["my_space.yaml", "training.yaml"]
        assert spaces["my_space.yaml"].fixed["reg_range"] == "high_positive"
        assert "reg_thresh_2" not in spaces["my_space.yaml"].search
        assert {"lr", "weight_decay", "reg_alpha"} <= {*spaces["training.yaml"].search}

    def test_every_key_is_described(self):
        from brainreg.attacks import AutoAttack
        from brainreg.spaces.distribution import Distribution
        from brainreg.spaces.objective import Objective
        from brainreg.spaces.space import Budget, Space

        described = set(re.findall(r"`(\w+)", "\n".join(re.findall(r"^\|[^|]*\|", page_text("spaces"), re.MULTILINE))))
        for model in (Space, Distribution, Objective, AutoAttack, Budget):
            keys = set(model.model_fields) - {"name"}
            assert keys <= described, (model.__name__, keys - described)

    def test_absent_keys_have_the_defaults_that_the_page_says(self):
        from brainreg.attacks import AutoAttack
        from brainreg.spaces.objective import Objective
        from brainreg.spaces.space import Budget

        rows = {
            key: says for key, says in re.findall(r"^\| `(\w+)` \|.*\| ([^|]*) \|$", page_text("spaces"), re.MULTILINE)
        }
        for model in (Objective, AutoAttack, Budget):
            for key, field in model.model_fields.items():
                if isinstance(field.default, int | float | str):
                    assert rows[key] == str(field.default), key


def page_text(name: str) -> str:
    return (DOCS / f"{name}.md").read_text()


class TestLinks:
    @pytest.mark.parametrize("page", [*PAGES, *TOP], ids=lambda page: page.name)
    def test_they_lead_to_files_and_headings_of_this_repository(self, page):
        text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
        targets = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'(?:src|srcset)="([^"]+)"', text)
        for target in targets:
            if re.match(r"\w+:", target):
                continue
            path, _, anchor = target.partition("#")
            file = (page.parent / path) if path else page
            assert file.exists(), target
            if anchor and file.suffix == ".md":
                assert anchor in headings(file), target

    def test_the_readme_is_short(self):
        assert len(README.read_text().splitlines()) <= 150


def headings(page: Path) -> set[str]:
    from markdown.extensions.toc import slugify

    return {
        slugify(re.sub(r"[`*]", "", title), "-") for title in re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    }


class TestPictures:
    def test_each_has_a_light_and_a_dark_form(self):
        for page in PAGES:
            for name, kind in re.findall(r"pictures/(\w+)-light\.(svg|png)", page.read_text()):
                assert (DOCS / "pictures" / f"{name}-light.{kind}").exists()
                assert (DOCS / "pictures" / f"{name}-dark.{kind}").exists()

    @pytest.mark.long
    def test_the_script_draws_all_of_them(self, tmp_path):
        run(f"{sys.executable} {DOCS}/pictures/draw.py --folder={tmp_path}", ROOT)
        assert {path.name for path in tmp_path.iterdir()} == {path.name for path in DOCS.glob("pictures/*.svg")}

    def test_the_layers_are_the_packages(self):
        drawn = re.search(r"^LAYERS = (\(.*?^\))", (DOCS / "pictures/draw.py").read_text(), re.MULTILINE | re.DOTALL)
        names = set(re.findall(r'"(\w+)"', drawn[1]))
        packages = {path.name for path in (ROOT / "brainreg").iterdir() if (path / "__init__.py").exists()}
        assert packages - names == set()
        assert all(
            (ROOT / "brainreg" / name).is_dir() or (ROOT / "brainreg" / f"{name}.py").is_file() for name in names
        )

    def test_the_places_on_the_page_of_the_layout_exist(self):
        for place in re.findall(r"`(brainreg/[\w/.]+|tests/[\w/.]+|docs/[\w/.]+)`", page_text("layout")):
            assert (ROOT / place).exists(), place


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The folder of the built site."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", f"--site-dir={folder}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


class TestSite:
    def test_every_page_is_in_the_navigation(self, site):
        for page in DOCS.glob("*.md"):
            if page.suffixes == [".md"]:
                assert (site / f"{page.stem}.html").exists(), page

    def test_it_fetches_nothing_from_elsewhere(self, site):
        """Neither fonts nor scripts nor pictures: whoever reads the pages is seen by nobody."""
        for page in site.glob("*.html"):
            parser = Fetched()
            parser.feed(page.read_text())
            assert parser.elsewhere == [], page.name
        for sheet in site.rglob("*.css"):
            assert not re.search(r"url\([\"']?(?:https?:)?//", sheet.read_text()), sheet.name

    def test_every_link_of_the_site_leads_somewhere(self, site):
        pages = [page for page in site.glob("*.html") if page.name != "404.html"]  # that one's links begin at a server
        ids = {page.name: set(re.findall(r'\bid="?([^"\s>]+)', page.read_text())) for page in pages}
        for page in pages:
            parser = Fetched()
            parser.feed(page.read_text())
            for target in parser.links:
                path, _, anchor = target.partition("#")
                file = site / path if path and path != "." else page
                assert file.exists(), (page.name, target)
                if anchor and file.name in ids:
                    assert anchor in ids[file.name], (page.name, target)


class Fetched(HTMLParser):
    """What a page would fetch from elsewhere, and its links within the site."""

    def __init__(self):
        super().__init__()
        self.elsewhere: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        links = values.get("rel") in ("canonical", "next", "prev")
        for name in ("src", "srcset", "href" if tag == "link" and not links else "src"):
            value = values.get(name) or ""
            if re.match(r"(https?:)?//", value):
                self.elsewhere.append(value)
        if tag == "a" and (target := values.get("href")) and not re.match(r"\w+:|//", target):
            self.links.append(target)


class TestCitation:
    def test_it_names_both_titles_of_the_paper(self):
        text = (ROOT / "CITATION.cff").read_text()
        cited = yaml.safe_load(text)
        assert cited["preferred-citation"]["title"].startswith("Pixel-Based Similarities")
        assert any(work["title"].startswith("A Brain-Inspired Regularizer") for work in cited["references"])

    def test_its_version_is_the_project_s(self):
        from brainreg import __version__

        assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == __version__


class TestWorkflow:
    def test_it_runs_what_the_project_says_on_the_versions_that_it_declares(self):
        workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
        job = workflow["jobs"]["test"]
        assert job["strategy"]["matrix"]["python"] == ["3.11", "3.12", "3.13"]
        assert {system.split("-")[0] for system in job["strategy"]["matrix"]["os"]} == {"ubuntu", "macos"}
        assert any(step.get("run") == ".ci/run" for step in job["steps"])
        assert shutil.which("bash") and os.access(ROOT / ".ci/run", os.X_OK)
