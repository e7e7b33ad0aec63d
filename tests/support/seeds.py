"""The seeds of fuzzed tests: fixed in `make test`, new ones in `make test-faults`."""

import os
import random
from collections.abc import Sequence
from typing import Any, Final

import pytest

ParameterSet = Any  # pytest has no public name for its type
FRESH: Final = int(os.environ.get("FRESH_SEEDS", "0"))
"""The number of new seeds of a fuzzed test; 0: the test uses its fixed ones."""
SEED: Final = int(os.environ.get("SEED", "0"))
"""The seed of the new seeds and of hypothesis; all processes of a run have the same."""


def seeds(fixed: Sequence[int]) -> list[ParameterSet]:
    """Return the seeds as parameters that mark a test as fuzzed; the test's name shows its seed."""
    fresh = random.Random(SEED)
    numbers = [fresh.randrange(2**32) for _ in range(FRESH)] or fixed
    return [pytest.param(number, marks=pytest.mark.fuzzed) for number in numbers]
