"""The HTTP API that links documents to resources. Start with `service.app` and `service.store.writing`."""

import os
import signal
from typing import NoReturn


def _end(number: int, _: object) -> NoReturn:
    os._exit(128 + number)


# The kernel drops a signal that process 1 of a container does not handle. Without this handler, SIGTERM
# would have no effect during the half second of imports before the command sets its own handler. The
# handler raises no exception: it would be raised anywhere in the code that is imported, which may catch
# it, or lose it while it makes an ImportError of its own, as `ssl` does.
if os.getpid() == 1:
    signal.signal(signal.SIGTERM, _end)
