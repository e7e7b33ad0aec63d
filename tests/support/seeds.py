"""The seeds of fuzzed tests: the same in each `make test`, fresh ones in `make test-faults`."""

import os
import random
from collections.abc import Sequence
from typing import Any, Final

import pytest

ParameterSet = Any  # pytest has no public name for its type
FRESH: Final = int(os.environ.get("FRESH_SEEDS", "0"))
"""How many fresh seeds a fuzzed test takes; 0: its fixed ones."""
SEED: Final = int(os.environ.get("SEED", "0"))
"""What the fresh seeds are made from, and hypothesis' examples: the same in all processes of a run."""


def seeds(fixed: Sequence[int]) -> list[ParameterSet]:
    """Return the seeds as parameters of a test, which they mark as fuzzed; its name shows each one."""
    fresh = random.Random(SEED)
    numbers = [fresh.randrange(2**32) for _ in range(FRESH)] or fixed
    return [pytest.param(number, marks=pytest.mark.fuzzed) for number in numbers]
