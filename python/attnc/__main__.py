"""The command `attnc`, also as `python -m attnc`: the program in this package."""

import os
import sys


def main() -> None:
    folder = os.path.dirname(os.path.abspath(__file__))
    # In a build, the program is where the others are.
    for place in (folder, os.path.join(folder, "..", "..", "bin")):
        program = os.path.join(place, "attnc")
        if os.path.isfile(program):
            os.execv(program, ["attnc", *sys.argv[1:]])
    sys.exit(f"attnc: error: expected the program {folder}/attnc, which is part "
             "of the package, got nothing; reinstall attnc")


if __name__ == "__main__":
    main()
