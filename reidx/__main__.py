"""``python -m reidx``: the same as the ``reidx`` command."""

import sys

from reidx.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
