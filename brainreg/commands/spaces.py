"""List what can be searched.

brainreg spaces
"""

from collections.abc import Sequence

from brainreg._utils.flags import Parser
from brainreg.spaces.files import load_space, narrow_names, space_names, variant_names


def main(arguments: Sequence[str]) -> int:
    """Run the command line; return its exit status."""
    Parser(__doc__).parse_args(arguments)
    for name in space_names():
        print(f"{name:<25} {load_space(name).description}")
    print(f"\nsmall enough for two CPU cores: {', '.join(narrow_names())}")
    print(f"after any name, another range or a baseline: {', '.join(f'_{name}' for name in variant_names())}")
    return 0
