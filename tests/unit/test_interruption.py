"""An interruption of deploy.local while it starts a program."""

import signal
import subprocess
import sys
from pathlib import Path

CODE = """
import os, signal, sys
from pathlib import Path
from deploy.local.__main__ import _until_interrupted
from deploy.local.process import Process

def interrupt_twice():
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGTERM)

process = Process("sleep", ["sleep", "600"], Path(sys.argv[1]))
with _until_interrupted():
    os.register_at_fork(after_in_parent=interrupt_twice)
    try:
        process.start()
        print("not interrupted")
    finally:
        print(process.end())
"""


def test_a_signal_in_fork_interrupts_and_the_program_is_ended(tmp_path: Path) -> None:
    """The exception is not lost in fork()'s callbacks, and the program that was being started is ended."""
    command = [sys.executable, "-c", CODE, str(tmp_path / "log")]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=30)
    assert (done.stdout.strip(), done.stderr.strip()) == (str(-signal.SIGTERM), "stopped")
    assert done.returncode == 0
