"""What the doctor has found, as a page of text or as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

OK, WARNING, FAULT = "ok", "warning", "fault"
_MARKS = {OK: "ok     ", WARNING: "WARNING", FAULT: "FAULT  "}


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        area: its heading.
        kind: ok, warning (training works, and something is not as it should be) or fault (it will not work).
        text: what was found.
        remedy: what to do; empty where nothing is to be done.
    """

    area: str
    kind: str
    text: str
    remedy: str = ""


@dataclass
class Report:
    """Findings in their order, and the command that they lead to.

    Attributes:
        command: of train.py; empty where there is none.
        estimate: numbers behind the estimated time, by name with their unit.
    """

    findings: list[Finding] = field(default_factory=list)
    command: str = ""
    estimate: dict[str, float] = field(default_factory=dict)

    def ok(self, area: str, text: str) -> None:
        """Note something that is as it should be."""
        self.findings.append(Finding(area, OK, text))

    def warn(self, area: str, text: str, remedy: str) -> None:
        """Note something that training survives."""
        self.findings.append(Finding(area, WARNING, text, remedy))

    def fault(self, area: str, text: str, remedy: str = "") -> None:
        """Note something that stops training."""
        self.findings.append(Finding(area, FAULT, text, remedy))

    def count(self, kind: str) -> int:
        """How many findings are of that kind."""
        return sum(finding.kind == kind for finding in self.findings)

    @property
    def status(self) -> int:
        """The exit status: 1 where there is a fault."""
        return int(self.count(FAULT) > 0)

    def text(self) -> str:
        """The report to be read."""
        lines: list[str] = []
        for area in dict.fromkeys(finding.area for finding in self.findings):
            lines += ["", area]
            for finding in self.findings:
                if finding.area == area:
                    first, *more = finding.text.splitlines()
                    lines.append(f"  {_MARKS[finding.kind]}  {first}")
                    lines += [f"           {line.strip()}" for line in more]
                    lines += [f"           -> {finding.remedy}"] if finding.remedy else []
        if self.command:
            lines += ["", "command", f"  {self.command}"]
        faults, warnings = self.count(FAULT), self.count(WARNING)
        verdict = "training can start" if not faults else "mend the faults first"
        lines += ["", f"{_some(faults, 'fault')}, {_some(warnings, 'warning')}: {verdict}"]
        return "\n".join(lines).lstrip("\n")

    def json(self) -> str:
        """The report for programs."""
        content: dict[str, Any] = {
            "status": self.status,
            "findings": [asdict(finding) for finding in self.findings],
            "command": self.command,
            "estimate": self.estimate,
        }
        return json.dumps(content, indent=1)


def _some(count: int, what: str) -> str:
    return f"{count or 'no'} {what}{'' if count == 1 else 's'}"
