"""Confirm what a search found: train its best settings anew with fresh seeds, and measure them on the test images.

brainreg confirm results/NAME
brainreg confirm results/NAME --top=3 --seeds=5
brainreg confirm s3://BUCKET/NAME --address=auto --num-images=500

Beside the best settings, the published and the unregularized one are trained with the same seeds, and the latter once
more with its best epoch chosen by the search's objective; they are compared in pairs. Interrupted, it goes on where it
was when it is started again.
"""

from collections.abc import Sequence

from brainreg._utils.console import make_console, make_printer
from brainreg._utils.flags import Parser, given_values
from brainreg.confirmation.settings import Extent, TestEvaluation
from brainreg.errors import InputError
from brainreg.search.options import SEARCH_ONLY, SearchOptions

# Flags of a search that mean nothing here.
_OTHERS = (*SEARCH_ONLY, "storage_path")


def main(arguments: Sequence[str]) -> int:
    """Run the command line; return its exit status."""
    parser = Parser(__doc__)
    parser.add_argument("experiment", nargs="?", metavar="EXPERIMENT", help="folder of a search, or s3://BUCKET/PATH")
    parser.add_flag("dry-run", action="store_true", help="check everything, say what would be trained, and exit")
    parser.add_flags(Extent, "how much is trained; what was begun goes on as it began")
    parser.add_flags(TestEvaluation, "what is measured on the test images", skip=("attack",))
    parser.add_flags(SearchOptions, "the machine", skip=_OTHERS, default="the search's")
    flags = parser.parse_args(arguments)
    if not flags.experiment:
        raise InputError("EXPERIMENT: missing; name the folder of a search, results/NAME or s3://BUCKET/PATH")
    from brainreg.confirmation.plan import plan_confirmation  # here: slow, and no help needs it
    from brainreg.confirmation.run import run_confirmation, show_plan
    from brainreg.confirmation.worker import read_result

    given = (given_values(model, flags) for model in (Extent, TestEvaluation, SearchOptions))
    console = make_console()
    plan = plan_confirmation(flags.experiment, *given)
    if flags.dry_run:
        done = sum(read_result(plan.folder, job) is not None for job in plan.jobs)
        show_plan(plan, done, make_printer(console))
        print("nothing was started (--dry-run)")
        return 0
    table = run_confirmation(plan, console)
    return 0 if table.groupby(["setting", "rank", "seed"]).ngroups == len(plan.jobs) else 1
