"""A checkpoint that cannot be written: the message gives the system's reason, not a guess."""

from __future__ import annotations

import errno
import io
import os
import resource
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from reidx.errors import RunError
from reidx.runs import checkpoint as checkpoints

CONTENT = {"state_dict": {"w": torch.zeros(200_000)}}

REMEDIES = {
    errno.ENOSPC: "Free some space",
    errno.EDQUOT: "Free some space",
    errno.EFBIG: "Allow larger files (ulimit -f)",
    errno.EROFS: "Remount the file system read-write",
    errno.EACCES: "Make the folder writable",
    errno.EIO: "Fix the cause",
    errno.ESTALE: "Fix the cause",
}


@pytest.mark.parametrize("code", REMEDIES)
@pytest.mark.parametrize("when", ["open", "write", "close"])
def test_reason_is_that_of_the_system(code: int, when: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = [0]

    class Disk(io.FileIO):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            self.refuse("open")

        def refuse(self, now: str) -> None:
            if now == when:
                raise OSError(code, os.strerror(code))

        def write(self, content: Any) -> int:
            written[0] += len(content)
            if written[0] > 100_000:
                self.refuse("write")
            return super().write(content)

        def close(self) -> None:
            closed = self.closed
            super().close()
            if not closed and when == "close":
                self.refuse("close")

    monkeypatch.setattr(io, "FileIO", Disk)
    with pytest.raises(RunError) as refused:
        checkpoints.save(tmp_path / "epoch_1.pth", CONTENT)
    message = str(refused.value)
    assert message.startswith(f"{tmp_path / 'epoch_1.pth'} cannot be written: {os.strerror(code)}")
    assert message.endswith(f"No partial file was left behind. {REMEDIES[code]} and continue with --resume.")
    assert (" MB are free" in message) == (code in (errno.ENOSPC, errno.EDQUOT))
    assert not list(tmp_path.iterdir())


def test_limit_of_file_sizes_is_named(tmp_path: Path) -> None:
    before, ignored = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
        with pytest.raises(RunError, match=r"File too large\. .*ulimit -f"):
            checkpoints.save(tmp_path / "epoch_1.pth", CONTENT)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)


def test_file_system_without_inodes_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class NoInodes:
        f_favail, f_files = 0, 1000

    def refuse(partial: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "statvfs", lambda folder: NoInodes())
    with pytest.raises(RunError, match=r"No space left on device \(the file system has no free inodes\)"):
        checkpoints.write_atomically(tmp_path / "done.json", refuse)


def test_checkpoint_equals_that_of_torch(tmp_path: Path) -> None:
    checkpoints.save(tmp_path / "epoch_1.pth", CONTENT)
    assert torch.equal(torch.load(tmp_path / "epoch_1.pth")["state_dict"]["w"], CONTENT["state_dict"]["w"])
