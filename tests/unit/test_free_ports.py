"""Free ports: each is given out once, also among concurrent runs."""

import subprocess
import sys

from deploy.local.process import free_port

CHOOSE = """
import random
from deploy.local import process
random.sample = lambda ports, count: [{}, *range(ports.start, ports.stop)]
print(process.free_port())
"""


def test_port_that_nobody_listens_on_yet_is_not_given_twice() -> None:
    """Another run that tries the same port gets another one, until this run ends."""
    port = free_port()
    other = subprocess.run(
        [sys.executable, "-c", CHOOSE.format(port)], check=True, capture_output=True, text=True
    )
    assert int(other.stdout) != port
