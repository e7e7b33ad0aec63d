"""The seeds of fuzzed tests: the same in each `make test`, fresh ones in `make test-faults`."""

import os
import random
from collections.abc import Sequence
from typing import Final

FRESH: Final = int(os.environ.get("FRESH_SEEDS", "0"))
"""How many fresh seeds a fuzzed test takes; 0: its fixed ones."""


def seeds(fixed: Sequence[int]) -> list[int]:
    """Return the seeds; the ids of the tests that are made from them show each one."""
    fresh = random.SystemRandom()
    return [fresh.randrange(2**32) for _ in range(FRESH)] or list(fixed)
