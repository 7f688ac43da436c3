"""``python -m reidx``: the same as the ``reidx`` command."""

import os
import sys

import reidx

if getattr(reidx, "__file__", None) is None:  # an editable install, hidden by a folder `reidx` such as that of a clone
    hiding = set(reidx.__path__)
    sys.path[:] = [folder for folder in sys.path if os.path.join(folder or os.getcwd(), "reidx") not in hiding]
    del sys.modules["reidx"]

from reidx.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
