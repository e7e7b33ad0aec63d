"""What the doctor reports: one line for each check."""

import msgspec


class Check(msgspec.Struct):
    """What was looked at, what was found, and what mends it."""

    name: str
    passed: bool
    found: str
    mend: str = ""


class Report(msgspec.Struct):
    """All lines."""

    checks: list[Check]

    @property
    def passed(self) -> bool:
        """Whether every line passes."""
        return all(check.passed for check in self.checks)
