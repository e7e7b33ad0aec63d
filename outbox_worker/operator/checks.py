"""The report of `doctor`: one line for each check."""

import msgspec


class Check(msgspec.Struct):
    """The name of a check, its finding, and the remedy. A warning is no failure, but has a remedy too."""

    name: str
    passed: bool
    found: str
    mend: str = ""
    warning: bool = False


class Report(msgspec.Struct):
    """The result of all checks."""

    checks: list[Check]

    @property
    def passed(self) -> bool:
        """Whether every check has passed."""
        return all(check.passed for check in self.checks)
