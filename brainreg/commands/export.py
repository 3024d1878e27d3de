"""Take a network along: as safetensors and ONNX, with a model card, and the lines that load it.

brainreg export NAME
brainreg export runs/NAME/checkpoint.pt --save_dir=exported

Of a search, it is the network of the recommended setting that `best/` holds.
"""

from collections.abc import Sequence

from brainreg.commands.search_name import check_name, find_named, search_parser

_OR_ELSE = ", or a checkpoint.pt that brainreg train wrote"


def main(arguments: Sequence[str]) -> int:
    """Run the command line; return its exit status."""
    parser = search_parser(__doc__, or_else=_OR_ELSE)
    parser.add_flag(
        "save_dir",
        help="folder of the files (default: export in the search's folder, of one on s3:// in the working folder, or"
        " beside the checkpoint)",
    )
    flags = parser.parse_args(arguments)
    name = check_name(flags, _OR_ELSE)
    from brainreg.commands.export_files import export_files  # slow, and no help needs it

    return export_files(name, None if name.endswith(".pt") else find_named(flags), flags.save_dir)
