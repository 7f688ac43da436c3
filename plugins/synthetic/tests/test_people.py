"""The data set of rendered people: its contract, one rendering, and no process or folder left by a killed one."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from reidx_synthetic.domain import render_domain
from reidx_synthetic.people import People

from reidx.errors import DataError
from reidx.registry.registry import Entry
from reidx.testing import conformance


@pytest.mark.parametrize(("entry", "check"), conformance.cases("synthetic"), ids=conformance.label)
def test_contract(entry: Entry, check: Callable[[Entry], None]) -> None:
    check(entry)


def test_domain_is_rendered_once(tmp_path: Path) -> None:
    wanted = {"identities": (2, 2), "images_per_camera": 2, "cameras": 2, "size": (32, 16)}
    first = People(str(tmp_path), "target", **wanted, seed=3)
    written = {path: Path(path).stat().st_mtime_ns for path in first.train.paths}
    again = People(str(tmp_path), "target", **wanted, seed=3)
    assert {path: Path(path).stat().st_mtime_ns for path in again.train.paths} == written
    assert first.card()["train"] == {"images": 8, "ids": 2, "cameras": 2}
    assert first.card()["query"] == {"images": 4, "ids": 2, "cameras": 2}
    assert first.root == str(tmp_path / "target-seed3")
    with Image.open(first.query.paths[0]) as image:
        assert image.size == (16, 32)
    with pytest.raises(DataError, match="holds another synthetic domain"):
        People(str(tmp_path), "target", **{**wanted, "cameras": 3}, seed=3)


RENDERING = """
import sys
from pathlib import Path
from reidx_synthetic.domain import render_domain
if __name__ == "__main__":
    render_domain(Path(sys.argv[1]), identities=(60, 60), workers=2, progress=lambda done, _: print(done, flush=True))
"""


def helpers_of(process: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text(encoding="utf-8").split()]


def gone(processes: list[int], seconds: float = 20.0) -> bool:
    """Return whether the processes end within some seconds; a zombie has ended."""

    def lives(process: int) -> bool:
        try:
            return Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] not in "ZX"
        except OSError:
            return False

    until = time.monotonic() + seconds
    while any(map(lives, processes)) and time.monotonic() < until:
        time.sleep(0.05)
    return not any(map(lives, processes))


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="reads /proc")
def test_killed_rendering_leaves_no_process(tmp_path: Path) -> None:
    (tmp_path / "render.py").write_text(RENDERING, encoding="utf-8")  # a file, because the pool's processes import it
    root = tmp_path / "domain"
    with subprocess.Popen([sys.executable, tmp_path / "render.py", root], stdout=subprocess.PIPE, text=True) as rendering:
        assert rendering.stdout is not None and rendering.stdout.readline()
        helpers = helpers_of(rendering.pid)
        assert len(helpers) >= 2
        rendering.kill()
    assert gone(helpers)
    assert len(list(tmp_path.glob(".domain.*.partial"))) == 1 and not root.exists()
    render_domain(root, identities=(2, 2), workers=1)
    assert not list(tmp_path.glob(".*.partial")) and root.is_dir()
