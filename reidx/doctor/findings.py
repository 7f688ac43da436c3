"""Findings about a data set: errors, warnings and facts, with the files concerned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

Severity = Literal["error", "warning", "fact"]
SEVERITIES: Mapping[Severity, str] = {"error": "errors", "warning": "warnings", "fact": "facts"}
"""The severities and the headings of their lists, the worst first.

An error makes a run fail or its result wrong, or shows that this is not the published data set. A warning may be intended.
"""


class Place(NamedTuple):
    """A file (or the location of a line), and a note on it."""

    path: str
    note: str = ""


def counted(number: int, thing: str, plural: str = "") -> str:
    """Return a number with its noun: ``1 image``, ``2,000 images``."""
    return f"{number:,} {thing if number == 1 else plural or f'{thing}s'}"


@dataclass(frozen=True)
class Finding:
    """A finding: its ``check``, a sentence, and all places concerned."""

    severity: Severity
    check: str
    message: str
    places: Sequence[Place] = ()


@dataclass
class Report:
    """The findings about a data set; ``files`` is the number of images examined, ``seconds`` the time that it took."""

    path: str
    component: str
    spec: Mapping[str, Any]
    findings: list[Finding] = field(default_factory=list)
    files: int = 0
    seconds: float = 0.0

    def of(self, severity: Severity) -> list[Finding]:
        """The findings of one severity, in the order of the checks."""
        return [finding for finding in self.findings if finding.severity == severity]

    def as_json(self) -> dict[str, Any]:
        """The whole report as plain data."""
        lists = {
            heading: [
                {
                    "check": finding.check,
                    "message": finding.message,
                    "files": [{"path": path, **({"note": note} if note else {})} for path, note in finding.places],
                }
                for finding in self.of(severity)
            ]
            for severity, heading in SEVERITIES.items()
        }
        about = {"path": self.path, "component": self.component, "spec": dict(self.spec)}
        return {**about, "images": self.files, "seconds": round(self.seconds, 1), **lists}
