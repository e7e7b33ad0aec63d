"""What the doctor reports: one line for each check."""

import msgspec


class Check(msgspec.Struct):
    """What was checked, what was found, and how to mend it."""

    name: str
    passed: bool
    found: str
    mend: str = ""


class Report(msgspec.Struct):
    """The result of all checks."""

    checks: list[Check]

    @property
    def passed(self) -> bool:
        """Whether every check has passed."""
        return all(check.passed for check in self.checks)
