"""`python -m forecaster` is the `forecaster` command."""

import sys

from forecaster.cli import main

if __name__ == "__main__":
    sys.exit(main())
