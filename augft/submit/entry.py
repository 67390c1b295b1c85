"""What a submitted job runs: augft's command line, once it is sure that augft is there, and of the right version.

A file of its own, sent along with each job, that needs nothing but Python.
"""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, version

_INPUT_IS_WRONG = 2


def main(wanted: str, *arguments: str) -> None:
    """Run `augft ARGUMENTS`, if this is augft WANTED."""
    try:
        found = version("augft")
    except PackageNotFoundError:
        found = None
    if found != wanted:
        what = "no augft" if found is None else f"augft {found}"
        print(
            f"augft: the cluster has {what} for {sys.executable}, the job was submitted by {wanted}; install "
            f"augft {wanted} on each node, in the Python that runs Ray, and have that Python first on Ray's PATH",
            file=sys.stderr,
        )
        sys.exit(_INPUT_IS_WRONG)
    from augft.cli import main as command_line

    sys.argv = ["augft", *arguments]
    command_line()


if __name__ == "__main__":
    main(*sys.argv[1:])
