import os
import re

import numpy as np
import pandas as pd
import pytest
import torch
from pages import Page
from testing import decoded

from brainreg.attacks.resumable import KEPT_EXAMPLES
from brainreg.evaluation.page import write_report
from brainreg.evaluation.robustness import Example
from brainreg.storage import StorageError


def row(attack, eps, correct, n=200, seconds=1.5, seed=7, **more):
    share = correct / n
    return {
        "attack": attack,
        "eps": eps,
        "n": n,
        "correct": correct,
        "accuracy": share,
        "low": max(share - 0.0512, 0),
        "high": min(share + 0.0434, 1),
        "seconds": seconds,
        "seed": seed,
        **more,
    }


PGD = "PGD Linf (20 steps)"
AUTO = "AutoAttack standard Linf"
TABLE = pd.DataFrame(
    [
        row("clean", 0.0, 193, n=207, seconds=0.0123),
        # Not in the order of their strengths.
        row(PGD, 8 / 255, 83, seconds=61.25),
        row(PGD, 0.0, 191, seconds=0.5),
        row(PGD, 2 / 255, 157, seconds=20.0),
        row("SaltPepper", 0.1, 171),
        row("SaltPepper", 0.3, 102, seconds=4321.9),
        row(AUTO, 8 / 255, 11, n=64, seed=123456789),
    ]
)


@pytest.fixture
def report(tmp_path):
    def write(table=TABLE, title="a title", facts=None, warnings=(), examples=()):
        path = tmp_path / "report.html"
        write_report(path, table, title=title, facts=facts or {}, warnings=list(warnings), examples=list(examples))
        return Page(path.read_text(encoding="utf-8"))

    return write


def example(clean, change=0.1, **more):
    adversarial = (clean + change).clamp(0, 1)
    return Example(clean, adversarial, **{"label": "3", "predicted": "8", "attack": PGD, "strength": 0.1, **more})


def test_every_measurement_is_in_the_last_table(report):
    page = report()
    assert page.all("details")[0] is page.elements[page.elements.index(page.all("summary")[0]) - 1]
    assert page.region("All measurements") == [
        ["attack", "strength", "n", "correct", "accuracy [95% interval]", "seconds", "seed"],
        ["clean", "0", "207", "193", "93.2% [88.1, 97.6]", "0.0123", "7"],
        [PGD, "0.0313725 (8/255)", "200", "83", "41.5% [36.4, 45.8]", "61.25", "7"],
        [PGD, "0", "200", "191", "95.5% [90.4, 99.8]", "0.5", "7"],
        [PGD, "0.00784314 (2/255)", "200", "157", "78.5% [73.4, 82.8]", "20", "7"],
        ["SaltPepper", "0.1", "200", "171", "85.5% [80.4, 89.8]", "1.5", "7"],
        ["SaltPepper", "0.3", "200", "102", "51.0% [45.9, 55.3]", "4322", "7"],
        [AUTO, "0.0313725 (8/255)", "64", "11", "17.2% [12.1, 21.5]", "1.5", "123456789"],
    ]


def test_more_columns_and_missing_values_are_shown(report):
    page = report(pd.DataFrame([row("A", 0.1, 5, norm="L2", stage="fab", tries=[1, 2]), row("B", 0.1, 6, norm=None)]))
    head, first, second = page.region("All measurements")
    assert head[-3:] == ["norm", "stage", "tries"]
    assert first[-3:] == ["L2", "fab", "[1, 2]"]
    assert second[-3:] == ["–", "–", "–"]


def test_the_summary_has_every_attack_at_its_strongest(report):
    assert report().region("Summary") == [
        ["attack", "strength", "accuracy [95% interval]", "n", "seconds"],
        ["clean", "0", "93.2% [88.1, 97.6]", "207", "0.0123"],
        [PGD, "0.0313725 (8/255)", "41.5% [36.4, 45.8]", "200", "61.25"],
        ["SaltPepper", "0.3", "51.0% [45.9, 55.3]", "200", "4322"],
        [AUTO, "0.0313725 (8/255)", "17.2% [12.1, 21.5]", "64", "1.5"],
    ]


@pytest.mark.parametrize(
    ("attack", "norm", "eps", "shown"),
    [
        ("PGD Linf", None, 8 / 255, "0.0313725 (8/255)"),
        ("PGD Linf", None, float(np.float32(254 / 255)), "0.996078 (254/255)"),
        ("PGD Linf", None, 8.1 / 255, "0.0317647"),
        ("PGD Linf", None, 0.0, "0"),
        ("PGD L1", None, 12.0, "12"),
        ("Square", "L2", 0.2, "0.2 (51/255)"),
        ("Square", None, 0.2, "0.2"),  # in what units is not known
        ("Linfer", float("nan"), 0.2, "0.2"),
    ],
)
def test_strengths_of_pixels_are_shown_in_255ths_too(report, attack, norm, eps, shown):
    page = report(pd.DataFrame([row(attack, eps, 5, norm=norm)]))
    assert page.region("Summary")[1][1] == shown
    assert shown in [cell for cells in page.region("All measurements") for cell in cells]


def test_everything_is_escaped(report):
    evil = "<b>\"x\" & 'y'</b></title></svg>"
    table = pd.DataFrame([row("clean", 0.0, 199), row(evil, 0.1, 180), row(evil, 0.2, 80, **{evil: evil})])
    corruption = pd.DataFrame([row(f"{evil} (generated)", 1.0, 150)])
    page = report(
        pd.concat([table, corruption]),
        title=evil,
        facts={evil: evil},
        warnings=[evil],
        examples=[example(torch.rand(1, 4, 4), attack=evil, label=evil, predicted=evil)],
    )
    assert page.all("b") == []
    assert [page.all(tag)[0]["text"] for tag in ("title", "h1", "li")] == [evil] * 3
    assert page.rows(page.all("table", class_="facts")[0]) == [[evil, evil]]
    assert [cells[0] for cells in page.region("Summary")] == ["attack", "clean", evil, f"{evil} (generated)"]
    assert page.region("All measurements")[0][-1] == page.region("All measurements")[3][-1] == evil
    assert page.region("Corruptions (generated)")[2][0] == evil
    assert [caption["text"] for caption in page.all("figcaption")] == [evil, f"{evil} at 0.1"]
    assert page.all("svg", role="img")[0]["aria-label"].startswith(f"Accuracy under {evil}: 90.0%")
    assert [image["alt"] for image in page.all("img")[:2]] == [f"original: {evil}", f"adversarial: {evil}"]


def test_nothing_is_loaded(report):
    address = "https://example.org/model.pt"
    page = report(facts={"checkpoint": address}, warnings=[address], examples=[example(torch.rand(3, 4, 4))])
    assert page.source.count(address) == 2
    assert not {"script", "link", "iframe", "object", "embed", "base", "a"} & {e["tag"] for e in page.elements}
    for element in page.elements:
        for name, value in element.items():
            if name not in ("tag", "text", "in"):
                assert "//" not in value.removeprefix("data:image/png;base64,") or name == "src"
                assert name not in ("src", "href", "srcset", "poster") or value.startswith("data:image/png;base64,")
    assert not re.search(r"url\(|@import|//", page.all("style")[0]["text"])
    policy = page.all("meta", **{"http-equiv": "Content-Security-Policy"})[0]["content"]
    assert policy.split("; ") == ["default-src 'none'", "style-src 'unsafe-inline'", "img-src data:"]


def points(text):
    return [tuple(map(float, point.split(","))) for point in text.split()]


def test_a_curve_for_each_attack_of_several_strengths(report):
    page = report()
    panels = [figure for figure in page.all("figure") if page.all("svg", inside=figure)]
    assert [page.all("figcaption", inside=panel)[0]["text"] for panel in panels] == [PGD, "SaltPepper"]
    for panel, attack in zip(panels, (PGD, "SaltPepper"), strict=True):
        rows = TABLE[TABLE.attack == attack].sort_values("eps")
        # The axes, from the grid's lines and the labels of the ticks.
        lines = [
            re.fullmatch(r"M(\S+) (\S+)h(\S+)", line["d"]).groups() for line in page.all("path", panel, class_="grid")
        ]
        left, zero, width = map(float, lines[0])
        one = float(lines[-1][1])
        expected = [
            [left + width * rows.eps / rows.eps.max(), zero + (one - zero) * rows[name]]
            for name in ("low", "accuracy", "high")
        ]
        low, middle, high = np.array(expected).transpose(0, 2, 1)
        circles = page.all("circle", inside=panel)
        assert len(circles) == len(rows)
        assert np.allclose([(float(c["cx"]), float(c["cy"])) for c in circles], middle, atol=0.01)
        assert np.allclose(points(page.all("polyline", inside=panel)[0]["points"]), middle, atol=0.01)
        assert np.allclose(points(page.all("polygon", inside=panel)[0]["points"]), [*low, *high[::-1]], atol=0.01)
        clean = page.all("path", inside=panel, class_="clean")[0]["d"]
        start, height, end = map(float, re.fullmatch(r"M(\S+) (\S+)h(\S+)", clean).groups())
        assert (start, end) == (left, width)
        assert height == pytest.approx(zero + (one - zero) * 193 / 207, abs=0.01)
    label = page.all("svg", inside=panels[0], role="img")[0]["aria-label"].replace("\u00a0", " ")
    assert label == (
        f"Accuracy under {PGD}: 95.5% [90.4, 99.8] at 0; 78.5% [73.4, 82.8] at 0.00784314 (2/255);"
        " 41.5% [36.4, 45.8] at 0.0313725 (8/255)"
    )


@pytest.mark.parametrize(
    ("attack", "strengths", "names"),
    [
        ("PGD Linf", [0, 8 / 255], ["0", "2/255", "4/255", "6/255", "8/255"]),
        ("PGD Linf", [1 / 255, 2 / 255], ["0", "1/255", "2/255"]),
        ("PGD Linf", [0.01, 0.1], ["0", "0.02", "0.04", "0.06", "0.08", "0.1"]),
        ("PGD L2", [1, 2, 3], ["0", "1", "2", "3"]),
        ("SaltPepper", [8 / 255, 0.3], ["0", "0.1", "0.2", "0.3"]),
        ("rotation", [15.0, 90.0], ["0", "20", "40", "60", "80"]),
    ],
)
def test_ticks_are_round_and_where_they_say(report, attack, strengths, names):
    page = report(pd.DataFrame([row(attack, eps, 100) for eps in strengths]))
    labels = [text for text in page.all("text") if text["text-anchor"] == "middle" and text["text"] != "strength"]
    assert [text["text"] for text in labels] == names
    value = [float(name.removesuffix("/255")) / (255 if "/" in name else 1) for name in names]
    x = [float(text["x"]) for text in labels]
    largest = float(page.all("circle")[-1]["cx"])
    assert np.allclose(x, x[0] + (largest - x[0]) * np.array(value) / max(strengths), atol=0.02)
    heights = [text["text"] for text in page.all("text") if text["text-anchor"] == "end"]
    assert heights == ["0%", "25%", "50%", "75%", "100%"]


def test_without_clean_accuracy_there_is_no_line_of_it(report):
    page = report(TABLE[TABLE.attack != "clean"])
    assert len(page.all("circle", class_="point")) == 1 + 3 + 2  # the legend's too
    assert page.all("path", class_="clean") == []
    assert "clean" not in page.all("main")[0]["text"]


def test_what_has_no_accuracy_is_listed_and_not_drawn(report):
    table = pd.DataFrame([row("A", 0.1, 100), row("A", 0.2, 50), row("A", 0.3, 1) | {"accuracy": float("nan")}])
    page = report(table)
    panel = page.all("svg", role="img")[0]
    assert len(page.all("circle", inside=panel)) == 2
    assert "nan" not in page.source.lower()
    assert page.region("All measurements")[3][4] == page.region("Summary")[1][2] == "–"


def test_corruptions_are_one_table_of_kinds_and_severities(report):
    corrupted = [
        row("fog (CIFAR-10-C)", 1.0, 180),
        row("fog (CIFAR-10-C)", 3.0, 120, n=150),
        row("fog (CIFAR-10-C)", 0.0, 199),  # the clean images: no corruption
        row("frost (CIFAR-10-C)", 1.0, 90),
    ]
    page = report(pd.concat([TABLE, pd.DataFrame(corrupted)]))
    assert page.region("Corruptions (CIFAR-10-C)") == [
        ["kind", "severity"],
        ["0", "1", "3"],
        ["fog", "99.5% [94.4, 100.0]", "90.0% [84.9, 94.3]", "80.0% [74.9, 84.3]"],
        ["frost", "–", "45.0% [39.9, 49.3]", "–"],
    ]
    assert page.region("Corruptions (generated)") is page.region("Corruptions (CIFAR-100-C)") is None
    assert [cell["style"] for cell in page.all("td") if "style" in cell] == [
        "--accuracy: 0.995",
        "--accuracy: 0.900",
        "--accuracy: 0.800",
        "--accuracy: 0.450",
    ]
    assert [text["text"] for text in page.all("p") if "Mean" in text["text"]] == [
        "Mean corruption accuracy: 71.7%, over the 3 measured pairs of kind and severity, each on 150 to 200 images."
    ]
    assert [caption["text"] for caption in page.all("figcaption")] == [PGD, "SaltPepper"]


def test_corruptions_of_two_origins_are_not_averaged_together(report):
    page = report(pd.DataFrame([row("fog (CIFAR-100-C)", 1.0, 100), row("fog (generated)", 1.0, 60)]))
    means = [text["text"].split(",")[0] for text in page.all("strong")]
    assert means == ["Mean corruption accuracy: 50.0%", "Mean corruption accuracy: 30.0%"]


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
def test_images_decode_to_the_pixels_of_the_example(report, channels, mode):
    clean = torch.randint(30, 226, (channels, 8, 6), generator=torch.Generator().manual_seed(0)) / 255
    change = torch.zeros_like(clean)
    change[0, 0, 0], change[0, 1, 2], change[-1, 7, 5] = 20 / 255, -10 / 255, 5 / 255
    page = report(examples=[example(clean, change, label="cat", predicted="dog", strength=20 / 255)])
    images = page.all("img")
    assert [image["alt"] for image in images] == ["original: cat", "adversarial: dog", "difference × 6"]
    # The whole factor that fits 112 pixels.
    assert {(image["width"], image["height"]) for image in images} == {("108", "144")}
    pixels = [decoded(image) for image in images]
    assert [image.mode for image in pixels] == [mode] * 3
    pixels = [torch.from_numpy(np.array(image)).reshape(8, 6, channels).permute(2, 0, 1) for image in pixels]
    assert pixels[0].equal((255 * clean).round().byte())
    assert pixels[1].equal((255 * (clean + change)).round().byte())
    assert (pixels[2] - (127.5 + 6 * 255 * change)).abs().max() <= 0.51
    assert page.all("figcaption")[-1]["text"] == f"{PGD} at 0.0784314 (20/255)"
    assert "image-rendering: pixelated" in page.all("style")[0]["text"]


@pytest.mark.parametrize(
    ("change", "factor"), [(0.0, "1"), (0.5, "1"), (1.0, "0.5"), (0.1, "5"), (1 / 255, "100"), (2e-7, "2e+06")]
)
def test_a_difference_is_magnified_as_far_as_it_fits(report, change, factor):
    clean = torch.zeros(1, 2, 2, dtype=torch.float64)
    page = report(examples=[example(clean, torch.tensor([[0.0, change], [0.0, 0.0]], dtype=torch.float64))])
    image = page.all("img")[2]
    assert image["alt"] == f"difference × {factor}"
    expected = 255 * (0.5 + float(factor) * change)
    assert abs(np.array(decoded(image))[0, 1] - expected) <= 0.51


def test_a_norm_of_the_table_holds_for_its_examples(report):
    table = pd.DataFrame([row("Square", 0.2, 5, norm="Linf"), row("Gaussian", 0.2, 5, norm=None)])
    examples = [example(torch.rand(1, 2, 2), attack=attack, strength=0.2) for attack in ("Square", "Gaussian")]
    captions = [caption["text"] for caption in report(table, examples=examples).all("figcaption")]
    assert captions == ["Square at 0.2 (51/255)", "Gaussian at 0.2"]


def test_the_first_sixteen_examples_are_shown(report):
    page = report(examples=[example(torch.rand(1, 4, 4), label=str(i)) for i in range(20)])
    assert KEPT_EXAMPLES == 16
    assert [image["alt"] for image in page.all("img")[::3]] == [f"original: {i}" for i in range(16)]
    assert len(page.all("img")) == 3 * 16
    assert "16 of 20 shown" in page.all("main")[0]["text"]


def test_images_larger_than_the_column_keep_their_pixels(report):
    page = report(examples=[example(torch.rand(3, 40, 224).half())])
    assert {(image["width"], image["height"]) for image in page.all("img")} == {("224", "40")}


def test_warnings(report):
    page = report(warnings=["gradients may be masked", "few images"])
    box = page.all("section", class_="warnings")[0]
    assert page.all("h2", inside=box)[0]["text"] == "Warnings (2)"
    assert [item["text"] for item in page.all("li", inside=box)] == ["gradients may be masked", "few images"]
    assert "None of the checks" not in page.source


def test_no_warnings(report):
    page = report()
    assert page.all("section") == []
    assert page.all("p")[0]["text"] == "None of the checks raised a warning."


def test_order_of_contents(report):
    corrupted = pd.DataFrame([row("fog (generated)", 1.0, 180)])
    page = report(pd.concat([TABLE, corrupted]), "T", {"seed": "0"}, ["w"], [example(torch.rand(1, 4, 4))])
    assert [element["text"] for element in page.elements if element["tag"] in ("h1", "h2", "summary")] == [
        "T",
        "Warnings (1)",
        "What was measured",
        "Summary",
        "Accuracy by strength",
        "Corruptions (generated)",
        "Misclassified images",
        "All measurements (8)",
    ]


def test_a_table_without_rows(report):
    page = report(TABLE[:0])
    assert page.region("Summary") == [["attack", "strength", "accuracy [95% interval]", "n", "seconds"]]
    assert len(page.region("All measurements")) == 1
    assert page.all("svg") == []


def test_two_rows_of_one_strength_are_refused(report, tmp_path):
    with pytest.raises(ValueError, match=re.escape(f"table: {PGD} twice at one eps")):
        report(pd.concat([TABLE, TABLE[2:3]]))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("clean", "adversarial"), [((2, 4, 4), (2, 4, 4)), ((4, 4), (4, 4)), ((1, 4, 4), (3, 4, 4)), ((1, 4, 4), (1, 4, 5))]
)
def test_an_example_that_is_no_image_is_refused(report, tmp_path, clean, adversarial):
    with pytest.raises(ValueError, match=r"must be one shape, \(1 or 3, h, w\)"):
        report(examples=[Example(torch.rand(clean), torch.rand(adversarial), "a", "b", PGD, 0.1)])
    assert list(tmp_path.iterdir()) == []


def test_a_failure_leaves_the_old_report_and_nothing_else(report, tmp_path, monkeypatch):
    old = report(title="old").source

    def fail(*paths):
        assert os.path.dirname(paths[0]) == str(tmp_path)  # or replacing would not be atomic
        raise OSError("no space left")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(StorageError, match=re.escape("report.html: cannot be written (no space left)")):
        report(title="new")
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == old
    monkeypatch.undo()
    # A text that UTF-8 has no bytes for is found while the file is being written.
    with pytest.raises(UnicodeEncodeError):
        report(title="\ud800")
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    assert report(title="new").all("h1")[0]["text"] == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_an_example_is_frozen():
    with pytest.raises(AttributeError):
        example(torch.rand(1, 4, 4)).label = "other"
