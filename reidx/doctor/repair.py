"""Repair of a data set: unreadable and refused files are moved aside, suffixes are renamed; nothing is deleted."""

from __future__ import annotations

import csv
import glob
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from reidx.data.decode import FORMATS
from reidx.doctor.file_checks import usual_suffix
from reidx.doctor.findings import Report
from reidx.errors import DataError

ASIDE = ".set_aside"
"""End of the name of the folder, next to the data set's own, into which files are moved."""
LIST = "moved.csv"
LISTS = (".txt", ".list", ".csv", ".json")
LARGEST = 64 << 20
"""Largest list of images in bytes that is searched."""


@dataclass(frozen=True)
class Step:
    """A file that gets another path, with the reason; ``refusal`` is the reason if it keeps its path."""

    source: Path
    target: Path
    reason: str
    refusal: str = ""


def plan(report: Report) -> list[Step]:
    """The possible steps: unreadable and refused files are moved aside, suffixes renamed."""
    root = Path(report.path if os.path.isdir(report.path) else os.path.dirname(report.path)).resolve()
    aside, lists = root.with_name(root.name + ASIDE), _lists(root)
    steps = []
    for finding in report.findings:
        for place in finding.places:
            source = Path(place.path)
            if finding.check in ("names", "images") and source.is_file():
                target = aside / os.path.relpath(source.resolve(), root)
                steps.append(_step(source, target, place.note or finding.message, lists))
            elif finding.check == "suffixes" and (suffix := _renamed(source, report)):
                steps.append(_step(source, source.with_suffix(suffix), "suffix", lists))
            elif finding.check == "names" and (there := _under_other_suffix(source)) is not None:
                steps.append(_step(there, source, "suffix", {}))
    return list({step.source: step for step in reversed(steps)}.values())[::-1]


def _step(source: Path, target: Path, reason: str, lists: dict[Path, str]) -> Step:
    named = next((path for path, text in lists.items() if source.name in text), None)
    if named is not None:
        return Step(source, target, reason, f"{named.name} lists it: restore the file, or drop the line")
    if target.exists() or target.is_symlink():
        return Step(source, target, reason, f"there is a file {target}")
    if ".." in target.parts:
        return Step(source, target, reason, "it is outside the data set's folder")
    return Step(source, target, reason)


def _lists(root: Path) -> dict[Path, str]:
    """The texts of the lists in a data set's folder and the folders directly below."""
    found = sorted(path for pattern in ("*", "*/*") for path in root.glob(pattern) if path.suffix.lower() in LISTS)
    return {
        path: path.read_text(encoding="utf-8", errors="replace")
        for path in found
        if path.is_file() and path.stat().st_size <= LARGEST
    }


def _renamed(source: Path, report: Report) -> str:
    """The usual suffix, if it is another spelling of the file's; else an empty string."""
    odd = {place.path for finding in report.findings if finding.check == "suffixes" for place in finding.places}
    others = [str(path) for path in source.parent.iterdir() if str(path) not in odd]
    usual = usual_suffix([path for path in others if os.path.splitext(path)[1].lower() in _family(source.suffix)])
    return usual if usual and usual != source.suffix else ""


def _family(suffix: str) -> tuple[str, ...]:
    return next((family for family in FORMATS.values() if suffix.lower() in family), ())


def _under_other_suffix(path: Path) -> Path | None:
    """The file that differs from a missing one by the spelling of its suffix alone."""
    if path.exists() or not path.parent.is_dir():
        return None
    family = _family(path.suffix)
    others = sorted(path.parent.glob(f"{glob.escape(path.stem)}.*"))
    return next((other for other in others if other.suffix.lower() in family), None)


def carry_out(steps: list[Step], root: str) -> Iterator[Step]:
    """Move and rename, and yield each step once done; a list of all moves is kept in the folder of the moved files.

    Raises :class:`DataError` if a file cannot be moved; the steps before it are done and listed.
    """
    top = Path(root if os.path.isdir(root) else os.path.dirname(root)).resolve()
    record = top.with_name(top.name + ASIDE) / LIST
    for step in steps:
        if step.refusal:
            continue
        try:
            record.parent.mkdir(parents=True, exist_ok=True)
            step.target.parent.mkdir(parents=True, exist_ok=True)
            with record.open("a", encoding="utf-8", newline="") as file:
                rows = csv.writer(file)
                if not file.tell():
                    rows.writerow(("from", "to", "reason"))
                rows.writerow((step.source, step.target, step.reason))
            os.rename(step.source, step.target)
        except OSError as error:
            raise DataError(f"{step.source} cannot be moved to {step.target}: {error.strerror}.") from error
        yield step
