"""Train one network with the pixel-similarity regularizer, and measure its accuracy and robustness.

brainreg train --task=CIFAR10 --archi=ResNet18 --reg_data=CIFAR10 --reg_alpha=10 --reg_thresh=0.8
brainreg train --task=digits --base_channels=8 --epoch_num=8 --resnet_batch_size=16
"""

from collections.abc import Sequence
from pathlib import Path

from brainreg._utils.flags import DATA_DIR, Parser, from_flags, use_threads
from brainreg.evaluation.settings import Evaluation
from brainreg.hyperparameters import Hyperparameters
from brainreg.spaces.published import published_setting


def main(arguments: Sequence[str]) -> int:
    """Run the command line; return its exit status."""
    parser = Parser(__doc__)
    parser.add_flag("published", help='row of the published table, say "CIFAR-10 - ImageNet"; other flags change it')
    parser.add_flags(Hyperparameters, "hyperparameters")
    parser.add_flags(Evaluation, "evaluation on the test images")
    parser.add_flag("data_dir", default=DATA_DIR, help=f"folder of the data sets (default: {DATA_DIR})")
    parser.add_flag("save_dir", default="runs", help="folder of the runs' folders (default: runs)")
    parser.add_flag(
        "threads",
        help="CPU threads; the same number repeats a run on such a CPU (default: PyTorch's, at most the cores)",
    )
    parser.add_flag("ignore_existing", action="store_true", help="repeat a run that is already in save_dir")
    flags = parser.parse_args(arguments)
    published = published_setting(flags.published) if flags.published is not None else {}
    settings, evaluation = from_flags(Hyperparameters, flags, **published), from_flags(Evaluation, flags)
    use_threads(flags.threads)
    from brainreg.commands.training_run import run_training  # slow, and no help needs it

    return run_training(settings, evaluation, Path(flags.save_dir), flags.data_dir, flags.ignore_existing)
