"""A problem that lasts over many retries is logged when it changes. Both programs have the same file."""

import time
from collections.abc import Callable


class Incident:
    """A problem from its first failure to its end; each kind of failure is logged once in this time.

    Two kinds may alternate, for example a refused connection and a time-out, so all kinds are remembered. A
    success ends the incident only if the last failure is `quiet_s` ago, because calls may alternately
    succeed and fail.
    """

    def __init__(self, quiet_s: float = 0, clock: Callable[[], float] = time.monotonic) -> None:
        self.lasts = False
        self._quiet_s = quiet_s
        self._clock = clock
        self._kinds: set[str] = set()
        self._failures = 0
        self._failed_at = 0.0

    def fail(self, kind: str) -> bool:
        """Note a failure; return whether it is the first one of its kind in this incident."""
        is_new = kind not in self._kinds
        self._kinds.add(kind)
        self._failures += 1
        self._failed_at = self._clock()
        self.lasts = True
        return is_new

    def succeed(self) -> int:
        """Note a success; return the number of failures if it ends an incident, else 0."""
        if not self.lasts or self._clock() - self._failed_at < self._quiet_s:
            return 0
        failures, self._failures = self._failures, 0
        self._kinds.clear()
        self.lasts = False
        return failures
