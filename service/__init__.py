"""The HTTP API that links documents to resources. Start with `service.app` and `service.store.writing`."""

import os
import signal
from typing import NoReturn


def _end(number: int, _: object) -> NoReturn:
    raise SystemExit(128 + number)


# The kernel drops a signal that process 1 of a container does not handle. Without this handler, SIGTERM
# would have no effect during the half second of imports before the command sets its own handler.
if os.getpid() == 1:
    signal.signal(signal.SIGTERM, _end)
