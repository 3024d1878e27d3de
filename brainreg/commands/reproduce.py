"""Find a row of the published table again: a search, its confirmation on test images and the notebooks' figures.

brainreg reproduce mnist_mnist                  (or: make reproduce ROW=mnist_mnist)
brainreg reproduce cifar10_cifar10_ranges --size=full --budget=600
brainreg reproduce --table

A row is the name of a space. It says what it will cost before it begins. Interrupted, the same command goes on.
Settings, numbers and figures are put in analysis/results/; `--table` shows what lies there, as README and docs/found.md
do.
"""

from collections.abc import Sequence

from brainreg._utils.files import check_writable
from brainreg._utils.flags import Parser, from_flags, given_values
from brainreg.errors import InputError
from brainreg.reproduction.settings import Reproduction
from brainreg.search.options import SEARCH_ONLY, SearchOptions
from brainreg.spaces.files import SPACES_FOLDER, load_space

# Narrow networks on a part of the images, for a CPU: a space file a row.
_NARROW = "narrow"

# Flags of a search that mean nothing here, or that are the reproduction's own.
_OTHERS = (*SEARCH_ONLY, "address")


def _find_row(row: str, size: str | None) -> tuple[str, str]:
    """The size that is meant, and the name of its space."""
    from brainreg.training.device import default_device

    narrow = SPACES_FOLDER / _NARROW / f"{row}.yaml"
    load_space(row)  # or it is no row
    if row.startswith(f"{_NARROW}/"):
        raise InputError(f"ROW={row}: must be the row's own name; --size=narrow makes it narrow")
    if size == _NARROW and not narrow.exists():
        names = ", ".join(sorted(path.stem for path in narrow.parent.glob("*.yaml")))
        raise InputError(f"--size=narrow: {row} has no narrow size; these have: {names}")
    size = size or (_NARROW if narrow.exists() and default_device().type == "cpu" else "full")
    return size, f"{_NARROW}/{row}" if size == _NARROW else row


def main(arguments: Sequence[str]) -> int:
    """Run the command line; return its exit status."""
    parser = Parser(__doc__)
    parser.add_argument("row", nargs="?", metavar="ROW", help="name of a space, such as mnist_mnist")
    parser.add_flag("table", action="store_true", help="show what was reproduced, and exit")
    parser.add_flag("dry-run", action="store_true", help="say what it would cost, and exit")
    parser.add_flags(Reproduction, "how much")
    parser.add_flags(SearchOptions, "the machine", skip=_OTHERS)
    flags = parser.parse_args(arguments)
    asked, options = from_flags(Reproduction, flags), from_flags(SearchOptions, flags)
    if flags.table:
        # Here and below: slow, and no help needs it.
        from brainreg.reproduction.table import gains_table, markdown_table

        print(f"{gains_table(asked.save_dir)}\n\n{markdown_table(asked.save_dir)}")
        return 0
    if flags.row is None:
        raise InputError("ROW: missing; name a space, such as mnist_mnist")
    if "://" in options.storage_path:
        raise InputError(f"--storage_path={options.storage_path}: must be a folder of this machine")
    for flag, folder in (("--save_dir", asked.save_dir), ("--storage_path", options.storage_path)):
        check_writable(flag, folder)
    try:
        import papermill  # noqa: F401
    except ImportError as error:
        raise InputError("ROW: its notebooks need papermill; install '.[analysis]'") from error
    size, space_name = _find_row(flags.row, asked.size)
    given = {name: value for name, value in given_values(SearchOptions, flags).items() if name not in _OTHERS}
    amounts = {
        key: value for key, value in given_values(Reproduction, flags).items() if key not in ("size", "save_dir")
    }
    for one, other in (("trials", "seeds"), ("seeds", "trials")):
        if one in amounts and (other not in amounts or "budget" in amounts):
            also = f"--{other} is missing" if other not in amounts else f"--budget={amounts['budget']:g} is given, too"
            raise InputError(f"--{one}={amounts[one]}: {also}; give trials and seeds, or a budget")
    if "images" in amounts and "trials" not in amounts:
        raise InputError(f"--images={amounts['images']}: --trials and --seeds are missing; images go with them")
    from brainreg._utils.console import sigterm_as_interrupt
    from brainreg.data.sources import to_download
    from brainreg.reproduction.row import Row

    space = load_space(space_name)
    if asked.precision is not None:
        space = space.override({"precision": asked.precision}, {}, {})
    row = Row(flags.row, size, space, space_name, options, given, amounts, asked.save_dir)
    if flags.dry_run:
        names = row.space.task, row.space.reg_data
        if missing := to_download(names, options.data_dir):
            print(
                f"--data_dir={options.data_dir}: {', '.join(missing)} not there, and would be downloaded; only then can"
                " its cost be told"
            )
        else:
            row.plan(dry_run=True)
        print("nothing was started (--dry-run)")
        return 0
    with sigterm_as_interrupt():
        return row.go()
