"""Logging a condition when it changes, and not each time that it is found again."""


class OnChange:
    """Remembers the last value that was found for each subject."""

    def __init__(self) -> None:
        self._last: dict[str, object] = {}

    def is_new(self, subject: str, value: object | None) -> bool:
        """Remember a value, and return whether it differs from the last one; None is never new."""
        before, self._last[subject] = self._last.get(subject), value
        return value is not None and value != before
