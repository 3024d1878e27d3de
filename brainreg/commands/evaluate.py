"""Measure the robustness of a trained checkpoint: a table, and a report that any browser shows.

brainreg evaluate --checkpoint=runs/NAME/checkpoint.pt
brainreg evaluate --checkpoint=PATH --attacks=autoattack,autoattack-l2 --num-images=500 --split=validation
brainreg evaluate --checkpoint=PATH --attacks=square --eps=0.01,0.02,0.04

Interrupted, it goes on where it was when it is started again.
"""

from collections.abc import Sequence
from pathlib import Path

from brainreg._utils.files import check_writable
from brainreg._utils.flags import DATA_DIR, Parser, from_flags, use_threads
from brainreg.errors import InputError, checked_value, nearest
from brainreg.evaluation.settings import Evaluation
from brainreg.hyperparameters import Hyperparameters


def main(arguments: Sequence[str]) -> int:
    """Run the command line; return its exit status."""
    parser = Parser(__doc__)
    parser.add_flag("checkpoint", help="checkpoint.pt that brainreg train or a search wrote")
    parser.add_flag("split", default="test", help="test or validation: the images that are measured (default: test)")
    parser.add_flag("seed", help="of the attacks and of the choice of images (default: the one it was trained with)")
    parser.add_flags(Evaluation, "what is measured", skip=("attack",))
    parser.add_flag("surrogate", help="checkpoint whose gradient transfer-fgsm transfers (default: one is trained)")
    parser.add_flag("data_dir", default=DATA_DIR, help=f"folder of the data sets (default: {DATA_DIR})")
    parser.add_flag("save_dir", help="folder of table and report (default: evaluation-SPLIT beside the checkpoint)")
    parser.add_flag("threads", help="CPU threads (default: PyTorch's, at most the cores)")
    flags = parser.parse_args(arguments)
    # here: slow, and no help needs it
    from brainreg.evaluation.subject import (
        SPLITS,
        Subject,
        evaluate_subject,
        evaluation_folder,
        load_split,
        load_subject,
        show,
    )
    from brainreg.training.checkpoint import load_checkpoint

    if flags.checkpoint is None:
        raise InputError("--checkpoint: missing; name a checkpoint.pt that brainreg train or a search wrote")
    if flags.split not in SPLITS:
        raise InputError(f"--split={flags.split}: no such split; {nearest(flags.split, SPLITS)}")
    evaluation = from_flags(Evaluation, flags)
    use_threads(flags.threads)
    classifier, settings = load_subject("checkpoint", flags.checkpoint)
    seed = settings.seed if flags.seed is None else checked_value(Hyperparameters, "seed", flags.seed, "--seed")
    trained_on = load_checkpoint(flags.checkpoint)["data"]
    images, labels = load_split(settings, flags.split, flags.data_dir, trained_on)
    subject = Subject(classifier, settings, images, labels, flags.split, seed)
    folder = Path(flags.save_dir or Path(flags.checkpoint).parent / evaluation_folder(flags.split))
    check_writable("--save_dir", folder)
    subject.check(evaluation)
    robustness = evaluate_subject(
        subject, evaluation, folder, flags.data_dir, source=flags.checkpoint, surrogate=flags.surrogate
    )
    show(robustness, folder)
    return 0
