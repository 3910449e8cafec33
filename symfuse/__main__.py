"""`python -m symfuse` is `symfuse`."""

import sys

from symfuse.cli import main

if __name__ == "__main__":
    sys.exit(main())
