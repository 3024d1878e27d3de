"""Draw the pictures of the documentation, each for light and for dark pages.

python docs/pictures/draw.py                 # writes docs/pictures/*.svg
python docs/pictures/draw.py found told      # these alone
python docs/pictures/draw.py --folder=PATH

The images are the handwritten digits that ship with scikit-learn; the numbers of `found` are those of
`analysis/results/`, those of `told` of `benchmarks/results/recommendation_search.csv`. Nothing is downloaded and no
network is trained.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import matplotlib
import numpy as np
import optuna
import pandas as pd
import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle
from PIL import Image
from sklearn.linear_model import LogisticRegression

from brainreg.attacks import add_noise
from brainreg.data.augmentation import square_view
from brainreg.data.load import load_dataset
from brainreg.method.pairs import select_pairs
from brainreg.method.ranges import RANGES
from brainreg.method.similarity import pixel_similarity
from brainreg.spaces.files import load_space

ROOT = Path(__file__).resolve().parents[2]
TH, TH_2 = 0.6, 0.2
BLUE, GREEN, RED, GRAY = "#3d8bd4", "#1fa37b", "#e0643c", "#8c8c8c"
THEMES = {"light": "#222222", "dark": "#e6e6e6"}  # color of text and lines; the background is the page's

# The packages of brainreg/ from the outermost to the innermost: a row imports from the rows below it alone.
LAYERS = (
    ("commands",),
    ("reproduction", "reports"),
    ("confirmation",),
    ("analysis",),
    ("search",),
    ("records",),
    ("recommendation",),
    ("spaces",),
    ("evaluation",),
    ("training",),
    ("attacks",),
    ("hyperparameters",),
    ("models", "data", "method"),
    ("storage", "statistics", "seeds", "errors", "_utils"),
)
KNOW_RAY = ("confirmation", "search")


def digits(count: int) -> torch.Tensor:
    """Return (count, 1, 16, 16) uint8, the first training images of the digits."""
    return load_dataset("digits", "train", ROOT / "data")[0][:count]


def show(ax: Axes, image: torch.Tensor, title: str = "") -> None:
    """Draw one image (1, h, w) without axes."""
    ax.imshow(image.squeeze(0), cmap="gray", vmin=0, vmax=255 if image.dtype == torch.uint8 else 1)
    ax.set_xticks([])
    ax.set_yticks([])
    ax.set_title(title, fontsize=9)


def similarity() -> Figure:
    """Draw how pixel similarity is computed, how it is distributed, and pairs at several similarities."""
    images = digits(600)
    s = pixel_similarity(images)
    pairs = s[torch.triu_indices(600, 600, 1).unbind()]
    figure = plt.figure(figsize=(8, 4.6), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=(1, 1.5))
    wanted = (-0.4, -0.2, 0.0, 0.2, 0.45, 0.7, 0.9)
    axes = top.subplots(2, len(wanted))
    for column, value in zip(axes.T, wanted, strict=True):
        i, j = divmod(int((s.triu(1) - value).abs().masked_fill(s.triu(1) == 0, 9).argmin()), len(s))
        show(column[0], images[i], f"S = {s[i, j]:+.2f}")
        show(column[1], images[j])
    ax = bottom.subplots()
    ax.hist(pairs.numpy(), bins=np.linspace(-0.8, 1, 91), color=GRAY, alpha=0.6)
    for value, name in ((-TH, "-Th"), (TH, "Th"), (-TH_2, "-Th_2"), (TH_2, "Th_2")):
        ax.axvline(value, color=RED if "_2" not in name else BLUE, linestyle="--")
        ax.annotate(name, (value, 1.01), xycoords=("data", "axes fraction"), ha="center", va="bottom", fontsize=9)
    ax.set_xlabel("pixel similarity S of a pair of images")
    ax.set_ylabel("pairs")
    ax.set_xlim(-0.8, 1)
    return figure


def ranges() -> Figure:
    """Draw which similarities each range selects, and the target that a selected pair gets."""
    values = torch.linspace(-1, 1, 801)
    # the first row of a matrix of similarities: pair (0, i) has the i-th of them
    matrix = torch.full((len(values) + 1, len(values) + 1), torch.nan)
    matrix[0, 1:] = values
    figure, ax = plt.subplots(figsize=(8, 3.2), layout="constrained")
    for place, name in enumerate(RANGES):
        selected = select_pairs(matrix, name, TH, TH_2 if name == "double" else None)[:, 1] - 1
        for low, high, color in ((-1, -TH, BLUE), (-TH, TH, GRAY), (TH, 1, RED)):
            inside = values[selected][(values[selected] >= low) & (values[selected] <= high)]
            if len(inside):
                ax.barh(place, inside.max() - inside.min(), left=inside.min(), height=0.6, color=color)
    ax.set_yticks(range(len(RANGES)), RANGES)
    ax.invert_yaxis()
    ax.set_xlim(-1, 1)
    ax.set_xticks((-1, -TH, -TH_2, 0, TH_2, TH, 1), ("-1", "-Th", "-Th_2", "0", "Th_2", "Th", "1"))
    ax.set_xlabel("pixel similarity S of a pair")
    ax.tick_params(left=False)
    marks = [plt.Rectangle((0, 0), 1, 1, color=color) for color in (BLUE, GRAY, RED)]
    figure.legend(marks, ("target -v", "target 0", "target +v"), loc="outside upper center", ncols=3, frameon=False)
    return figure


def box(ax: Axes, x: float, y: float, text: str, width: float = 1.5, height: float = 0.62, color: str = GRAY) -> None:
    """Draw a labelled box around (x, y)."""
    patch = FancyBboxPatch(
        (x - width / 2, y - height / 2), width, height, boxstyle="round,pad=0.02,rounding_size=0.08",
        facecolor=color + "30", edgecolor=color,
    )  # fmt: skip
    ax.add_patch(patch)
    ax.text(x, y, text, ha="center", va="center", fontsize=8.5, linespacing=1.25)


def arrow(ax: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    """Draw an arrow."""
    ax.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": plt.rcParams["text.color"]})


def canvas(width: float, height: float, size: tuple[float, float]) -> tuple[Figure, Axes]:
    """Return a figure with an empty drawing area."""
    figure, ax = plt.subplots(figsize=size, layout="constrained")
    ax.set_xlim(0, width)
    ax.set_ylim(0, height)
    ax.axis("off")
    return figure, ax


def network() -> Figure:
    """Draw one training step: the classified images, and the pair that the regularizer sees."""
    figure, ax = canvas(11.2, 4.3, (8.4, 3.3))
    box(ax, 0.9, 3.6, "64 training\nimages")
    box(ax, 0.9, 1.9, "k images i\nof the pairs")
    box(ax, 0.9, 0.7, "k images j\nof the pairs")
    for y, color in ((3.6, GRAY), (1.9, BLUE), (0.7, BLUE)):
        for place in range(5):
            ax.add_patch(
                FancyBboxPatch((2.5 + 0.55 * place, y - 0.3), 0.32, 0.6, boxstyle="round,pad=0.02",
                               facecolor=color + "30", edgecolor=color)
            )  # fmt: skip
        arrow(ax, (1.7, y), (2.42, y))
    ax.text(3.75, 2.75, "one network, the same weights three times;\nits five feature maps", ha="center", va="center",
            fontsize=8.5)  # fmt: skip
    box(ax, 6.6, 3.6, "linear layer")
    arrow(ax, (5.2, 3.6), (5.8, 3.6))
    box(ax, 6.6, 1.3, "cosine similarity\nat each map,\nweighted sum", height=0.95, color=BLUE)
    arrow(ax, (5.2, 1.9), (5.78, 1.55))
    arrow(ax, (5.2, 0.7), (5.78, 1.05))
    box(ax, 8.7, 3.6, "cross-entropy")
    arrow(ax, (7.4, 3.6), (7.9, 3.6))
    box(ax, 8.7, 1.3, "distance to\nthe targets\n(arctanh)", height=0.95, color=BLUE)
    arrow(ax, (7.4, 1.3), (7.9, 1.3))
    box(ax, 10.4, 2.45, "loss", width=1.0, color=RED)
    arrow(ax, (9.5, 3.45), (10.2, 2.85))
    arrow(ax, (9.5, 1.5), (10.2, 2.05))
    ax.text(10.0, 1.5, "times alpha", va="center", fontsize=8)
    return figure


def strengths() -> Figure:
    """Draw one digit, clean and changed by each kind of noise and by a small worst-case change."""
    images = digits(1347)
    labels = load_dataset("digits", "train", ROOT / "data")[1][:1347]
    pixels = images.float() / 255
    # The gradient of a linear classifier stands for that of a network: the picture shows how large eps is, no result.
    linear = LogisticRegression(max_iter=300).fit(pixels.flatten(1).numpy(), labels.numpy())
    chosen = 3
    own, other = linear.coef_[int(labels[chosen])], linear.coef_[8]
    direction = torch.tensor(np.sign(other - own), dtype=torch.float32).reshape(1, *pixels.shape[2:])
    shown = [("clean", pixels[chosen])]
    for kind, eps in (("Gaussian", 0.4), ("Uniform", 0.5), ("SaltPepper", 0.3)):
        shown.append((f"{kind} noise\n{eps}", add_noise(kind, pixels[chosen : chosen + 1], eps, 0)[0]))
    for eps in (0.05, 0.1):
        shown.append((f"every pixel moved\nby eps = {eps}", (pixels[chosen] + eps * direction).clamp(0, 1)))
    figure, axes = plt.subplots(1, len(shown), figsize=(8, 1.8), layout="constrained")
    for ax, (title, image) in zip(axes, shown, strict=True):
        show(ax, image, title)
    return figure


def search() -> Figure:
    """Draw what a search does, and which images each step sees."""
    figure, ax = canvas(11.6, 4.4, (8.4, 3.4))
    for left, width, text, color in (
        (0.1, 4.5, "training images", GRAY), (4.75, 3.2, "validation images", BLUE), (8.1, 3.4, "test images", RED),
    ):  # fmt: skip
        patch = FancyBboxPatch((left, 0.25), width, 3.75, boxstyle="round,pad=0.02", facecolor=color + "14",
                               edgecolor="none")  # fmt: skip
        ax.add_patch(patch)
        ax.text(left + width / 2, 4.15, text, ha="center", va="center", fontsize=9, color=color, weight="bold")
    box(ax, 1.25, 3.2, "search space\n(YAML)", 1.7)
    box(ax, 3.5, 3.2, "proposal\n(surrogate)", 1.6)
    box(ax, 3.5, 1.4, "one trial:\ntrain a network\n(Ray Tune)", 1.7, 1.0)
    box(ax, 6.35, 1.4, "after each epoch:\nproxy; low ones\nare stopped (ASHA)", 2.5, 1.0, BLUE)
    box(ax, 6.35, 3.2, "objective: clean and\nAutoAttack accuracy", 2.5, 0.8, BLUE)
    box(ax, 9.8, 3.2, "confirm: retrain with\nnew seeds, AutoAttack\nstandard, paired tests", 2.8, 1.0, RED)
    arrow(ax, (2.15, 3.2), (2.65, 3.2))
    arrow(ax, (3.5, 2.85), (3.5, 1.95))
    arrow(ax, (4.4, 1.4), (5.05, 1.4))
    arrow(ax, (6.35, 1.95), (6.35, 2.75))
    arrow(ax, (5.05, 3.2), (4.35, 3.2))
    ax.text(4.7, 3.35, "outcome", ha="center", va="bottom", fontsize=8)
    arrow(ax, (7.65, 3.2), (8.35, 3.2))
    ax.text(7.95, 3.35, "best", ha="center", va="bottom", fontsize=8)
    return figure


def squares() -> Figure:
    """Draw what image_size makes of a wide and of a high image: the shorter side as long, and the middle square."""
    sheet = digits(6)[:, 0].reshape(2, 3, 16, 16).permute(0, 2, 1, 3).reshape(32, 48)
    wide, high = sheet.repeat_interleave(3, 0).repeat_interleave(3, 1), sheet[:, :16].repeat_interleave(4, 1)
    high = torch.cat([high, high]).repeat_interleave(2, 0)
    figure, axes = plt.subplots(1, 4, figsize=(7.2, 2.2), layout="constrained", width_ratios=(1.5, 1, 0.6, 1))
    for before, after, image in ((axes[0], axes[1], wide), (axes[2], axes[3], high)):
        height, width = image.shape
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        show(before, image[None], f"{width} x {height}")
        before.add_patch(Rectangle((left - 0.5, top - 0.5), side, side, fill=False, edgecolor=RED, linewidth=2))
        view = square_view(32)
        show(after, torch.from_numpy(np.array(view(Image.fromarray(image.numpy()))))[None], "--image_size=32")
    return figure


def cluster() -> Figure:
    """Draw the processes of a search on several nodes, and what each writes and reads."""
    figure, ax = canvas(11.6, 5.0, (8.4, 3.7))
    for left, width, text in ((0.1, 3.9, "the machine of the driver"), (4.4, 3.3, "a node"), (8.1, 3.3, "a node")):
        patch = FancyBboxPatch((left, 2.15), width, 2.35, boxstyle="round,pad=0.02", facecolor=GRAY + "14",
                               edgecolor="none")  # fmt: skip
        ax.add_patch(patch)
        ax.text(left + width / 2, 4.7, text, ha="center", va="center", fontsize=9, weight="bold")
    box(ax, 2.05, 3.85, "driver: brainreg tune\n(asks, tells, recommends)", 3.4, 0.75, RED)
    box(ax, 2.05, 2.65, "Ray's head and dashboard", 3.4, 0.6)
    for x in (6.05, 9.75):
        box(ax, x, 3.85, "worker: one trial", 2.7, 0.6, BLUE)
        box(ax, x, 2.65, "worker: one trial", 2.7, 0.6, BLUE)
    arrow(ax, (3.85, 3.85), (4.6, 3.85))
    ax.text(4.22, 4.05, "trials", ha="center", va="bottom", fontsize=8)
    arrow(ax, (2.05, 3.0), (2.05, 3.42))
    box(
        ax,
        5.8,
        1.0,
        "results: a shared folder or s3://\na record and a checkpoint for each trial, the study, the report",
        7.2,
        0.8,
        GREEN,
    )
    for x in (2.05, 6.05, 9.75):
        arrow(ax, (x, 2.1), (min(max(x, 2.6), 9.0), 1.45))
    box(ax, 1.05, 0.25, "another terminal", 1.9, 0.42)
    ax.text(2.15, 0.25, "brainreg status, stop, extend, pause, report --follow", va="center", fontsize=8)
    return figure


def slurm() -> Figure:
    """Draw how a job of Slurm ends before its time is over, and goes on in its next turn."""
    figure, ax = canvas(11.6, 3.0, (8.4, 2.3))
    for left, text in ((0.2, "the job's first turn"), (7.9, "its next turn")):
        patch = FancyBboxPatch((left, 0.95), 3.3, 1.5, boxstyle="round,pad=0.02", facecolor=GRAY + "14",
                               edgecolor="none")  # fmt: skip
        ax.add_patch(patch)
        ax.text(left + 1.65, 2.68, text, ha="center", va="center", fontsize=9, weight="bold")
    box(ax, 1.85, 1.7, "brainreg tune\n--name=week\n--resume-if-begun", 2.8, 1.05, BLUE)
    box(ax, 9.55, 1.7, "the same command\ngoes on with week", 2.8, 1.05, BLUE)
    box(ax, 6.4, 1.7, "the queue", 1.4, 0.62)
    arrow(ax, (3.3, 1.7), (5.65, 1.7))
    ax.text(4.55, 1.8, "SIGTERM, then\nscontrol requeue", ha="center", va="bottom", fontsize=8)
    arrow(ax, (7.15, 1.7), (8.1, 1.7))
    box(ax, 5.7, 0.35, "results/week: every trial, its checkpoint and its record", 6.6, 0.5, GREEN)
    arrow(ax, (1.85, 1.1), (2.9, 0.65))
    arrow(ax, (8.5, 0.65), (9.5, 1.1))
    return figure


def distributions() -> Figure:
    """Draw what each kind of distribution of a search space draws."""
    space = load_space("digits_double")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    drawn = pd.DataFrame([space(study.ask()) for _ in range(400)])
    figure, axes = plt.subplots(1, 4, figsize=(8.4, 2.3), layout="constrained")
    axes[0].hist(drawn.reg_alpha, bins=np.geomspace(0.02, 1, 16), color=BLUE)
    axes[0].set_xscale("log")
    axes[0].set_title("low, high, log: true", fontsize=9)
    axes[0].set_xlabel("reg_alpha")
    axes[1].hist(drawn.reg_image_num, bins=np.arange(190, 1011, 20), color=BLUE)
    axes[1].set_title("low, high, step: 100", fontsize=9)
    axes[1].set_xlabel("reg_image_num")
    axes[2].hist(drawn.reg_batch_size, bins=np.arange(7.5, 17.6, 1), color=BLUE)
    axes[2].set_title("choices: [8, 16]", fontsize=9)
    axes[2].set_xlabel("reg_batch_size")
    axes[3].scatter(drawn.reg_thresh, drawn.reg_thresh_2, s=4, color=BLUE)
    axes[3].set_title("times: reg_thresh", fontsize=9)
    axes[3].set_xlabel("reg_thresh")
    axes[3].set_ylabel("reg_thresh_2")
    axes[0].set_ylabel("of 400 draws")
    return figure


def layers() -> Figure:
    """Draw the packages: a row may import from the rows below it."""
    figure, ax = canvas(10, len(LAYERS) * 0.8 + 0.2, (6.4, 4.9))
    for depth, row in enumerate(LAYERS):
        width = 7.4 / len(row)
        for place, name in enumerate(row):
            x = 1.1 + width * (place + 0.5)
            color = RED if name in KNOW_RAY else BLUE if depth < len(LAYERS) - 1 else GRAY
            box(ax, x, (len(LAYERS) - depth - 0.4) * 0.8, name, width - 0.15, 0.55, color)
    arrow(ax, (0.6, len(LAYERS) * 0.8 - 0.2), (0.6, 0.3))
    ax.text(0.35, len(LAYERS) * 0.4, "imports", rotation=90, ha="center", va="center", fontsize=9)
    ax.text(8.75, (len(LAYERS) - 2.4) * 0.8, "know Ray", color=RED, fontsize=9, va="center")
    return figure


def found() -> Figure:
    """Draw accuracy by strength in three rows of the table, a point for each network, lines through the means."""
    rows = (
        ("MNIST", "mnist_mnist_narrow"),
        ("FashionMNIST", "fashionmnist_fashionmnist_narrow"),
        ("CIFAR-10", "cifar10_cifar10_narrow"),
    )
    styles = {
        "found": (BLUE, "o", "found by the search"),
        "published": (GREEN, "^", "published setting"),
        "unregularized": (plt.rcParams["text.color"], "s", "unregularized"),
        "early_stopped": (RED, "D", "unregularized, stopped early"),
    }
    attacks = (
        ("AutoAttack standard Linf", "AutoAttack", "eps, largest change of a pixel in [0, 1]"),
        ("Gaussian", "Gaussian noise", "standard deviation, pixels in [0, 1]"),
    )
    figure, grid = plt.subplots(len(attacks), len(rows), figsize=(9.6, 5.6), sharey=True, layout="constrained")
    for (data, folder), axes in zip(rows, grid.T, strict=True):
        table = pd.read_csv(ROOT / "analysis/results" / folder / "confirmation.csv")
        table = table[(table["rank"] <= 1) & (table.split == "test")]
        for ax, (attack, title, label) in zip(axes, attacks, strict=True):
            for name, (color, marker, text) in styles.items():
                own = table[(table.setting == name) & table.attack.isin([attack, "clean"])]
                own = own.drop_duplicates(["seed", "eps"])
                means = own.groupby("eps").accuracy.mean() * 100
                width = means.index.max()
                offset = (list(styles).index(name) - 1.5) * 0.008 * width
                ax.plot(means.index, means, color=color, marker=marker, markersize=4, label=text)
                ax.scatter(own.eps + offset, own.accuracy * 100, s=7, color=color, alpha=0.55, linewidths=0)
            ax.set_title(f"{data}, {title}", fontsize=10)
            ax.set_xlabel(label)
            ax.set_ylim(0, 100)
            ax.locator_params(axis="x", nbins=6)
            ax.grid(axis="y", alpha=0.3)
    for ax in grid[:, 0]:
        ax.set_ylabel("accuracy, test images (%)")
    handles, names = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=len(names), frameon=False)
    return figure


def told() -> Figure:
    """Draw what a search tells of its best setting, and what is true of it, by its length: the former and this rule."""
    runs = pd.read_csv(ROOT / "benchmarks/results/recommendation_search.csv")
    figure, axes = plt.subplots(1, 2, figsize=(8, 3.1), sharey=True, layout="constrained")
    panels = (
        ("today", "before: one seed a setting, the largest objective"),
        ("search", "now: the largest expected objective"),
    )
    for ax, (rule, title) in zip(axes, panels, strict=True):
        by_length = runs[runs.rule == rule].groupby("trainings")
        for column, color, marker, text in (("told", RED, "o", "told"), ("plain", BLUE, "s", "true")):
            mean, error = by_length[column].mean(), by_length[column].sem()
            ax.plot(mean.index, mean, color=color, marker=marker, label=text)
            ax.fill_between(mean.index, mean - 2 * error, mean + 2 * error, color=color, alpha=0.2, linewidth=0)
        ax.set_title(title, fontsize=10)
        ax.set_xlabel("length of the search, in trainings")
        ax.set_xscale("log", base=2)
        ax.set_xticks([10, 20, 40, 80], ["10", "20", "40", "80"])
        ax.grid(axis="y", alpha=0.3)
    axes[0].set_ylabel("objective of the recommended setting")
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=2, frameon=False)
    return figure


PICTURES: tuple[Callable[[], Figure], ...] = (
    similarity,
    ranges,
    network,
    strengths,
    search,
    cluster,
    squares,
    slurm,
    distributions,
    layers,
    found,
    told,
)


def main() -> None:
    """Draw all of them, or those that are named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    every = {draw.__name__: draw for draw in PICTURES}
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(every))
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent, help="where the pictures are written")
    arguments = parser.parse_args()
    folder, names = arguments.folder, arguments.names or [*every]
    for name in names:
        if name not in every:
            parser.error(f"NAME={name}: no such picture; must be one of {', '.join(every)}")
    matplotlib.use("agg")
    for theme, color in THEMES.items():
        own = {
            name: color for name in ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
        }
        fixed = {"svg.hashsalt": "brainreg", "axes.spines.top": False, "axes.spines.right": False, "font.size": 9}
        with plt.rc_context(own | fixed):
            for name in names:
                figure = every[name]()
                path = folder / f"{name}-{theme}.svg"
                figure.savefig(path, transparent=True, metadata={"Date": None})
                plt.close(figure)
                print(path)


if __name__ == "__main__":
    main()
