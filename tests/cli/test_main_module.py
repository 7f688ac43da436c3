"""``python -m reidx`` in a folder with a folder `reidx`, such as that of a clone, finds the package."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import reidx

PACKAGE = Path(reidx.__file__).parent
EDITABLE = """
import importlib.machinery, importlib.util, runpy, sys
from pathlib import Path

class Finder:  # as setuptools writes for an editable install: its turn is after all folders of sys.path
    @staticmethod
    def find_spec(name, path=None, target=None):
        file = {{"reidx": "__init__.py", "reidx.__main__": "__main__.py"}}.get(name)
        return file and importlib.util.spec_from_file_location(name, Path({package!r}) / file)

sys.meta_path.insert(sys.meta_path.index(importlib.machinery.PathFinder) + 1, Finder)
sys.path[:] = [{folder!r}, *(p for p in sys.path if p and Path(p) != Path({package!r}).parent)]
sys.argv[1:] = ["--version"]
runpy.run_module("reidx", run_name="__main__", alter_sys=True)
"""


def test_folder_of_a_clone_does_not_hide_the_package(tmp_path: Path) -> None:
    (tmp_path / "reidx").mkdir()
    code = EDITABLE.format(package=str(PACKAGE), folder=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert (done.stdout, done.stderr) == (f"reidx {reidx.__version__}\n", "")
