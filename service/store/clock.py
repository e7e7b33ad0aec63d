"""A server's clock, which a session reads from each answer that shows it."""

import time
from datetime import datetime, timedelta


class ServerClock:
    """The time of a server, as its last answer has shown it and as the own clock has gone on since."""

    def __init__(self, shown: datetime) -> None:
        self.set(shown)

    def set(self, shown: datetime) -> None:
        """Note the time that an answer has just shown."""
        self._shown, self._at = shown, time.monotonic()

    def later(self, seconds: float) -> datetime:
        """Return the time so many seconds later than now, if the server's clock was not moved."""
        return self._shown + timedelta(seconds=time.monotonic() - self._at + seconds)
