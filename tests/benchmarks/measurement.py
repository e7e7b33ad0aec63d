"""A measurement of the benchmark: something to open, and to measure round after round."""

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from tests.benchmarks.figures import Figures
from tests.benchmarks.stage import Stage

Round = Callable[[], Awaitable[Figures]]


@dataclass(frozen=True)
class Measurement:
    """Figures that belong together. `long` ones are left out unless asked for."""

    open: Callable[[Stage], AbstractAsyncContextManager[Round]]
    long: bool = False
    once: bool = False
