"""What is shown, beside what, and what it is meant to reach."""

from dataclasses import dataclass
from typing import NamedTuple

from tests.benchmarks.relay import AT_LEAST_ONCE, EXACTLY_ONCE, Variant

BESIDE = "  beside"


@dataclass(frozen=True)
class Row:
    """One line: a figure, the figure that it stands beside, and the bound of one of them.

    `at_least` and `at_most` bound the ratio where there is something beside, else the figure.
    """

    title: str
    figure: str
    unit: str
    beside: str | None = None
    beside_title: str = ""
    at_least: float | None = None
    at_most: float | None = None
    topic: str = ""
    """What a title that goes on from the line above is about."""

    @property
    def compares_only(self) -> bool:
        """Whether the line says nothing without what it stands beside."""
        return self.title == BESIDE

    @property
    def full_title(self) -> str:
        """The title as it stands by itself."""
        beside = f" {self.beside_title}" if self.compares_only else ""
        return f"{self.topic}{self.title.strip()}{beside}"

    @property
    def of_ratio(self) -> bool:
        """Whether the target is a ratio."""
        return self.beside is not None

    @property
    def target(self) -> str:
        """The target as text; nothing where there is none."""
        unit = "×" if self.of_ratio else f" {self.unit}"
        if self.at_least is not None:
            return f"≥ {self.at_least:g}{unit}"
        return "" if self.at_most is None else f"≤ {self.at_most:g}{unit}"

    def met(self, value: float) -> bool:
        """Whether a value meets the target."""
        return value >= (self.at_least or value) and value <= (self.at_most or value)


PGBENCH = ("pgbench.c32.rate", "pgbench, 32 clients")
ONE = ("new links, 1 worker, 32 connections", "links.w1c32.rate", "/s")
LINKS = (
    Row(
        "new links, 2 workers, 128 connections", "links.w2c128.rate", "/s", *PGBENCH, at_least=1.2
    ),
    Row("  p99", "links.w2c128.p99", "ms"),
    Row("  CPU of the service a link", "links.w2c128.cpu_us", "µs"),
    Row(*ONE, *PGBENCH, at_least=0.8),
    Row("  p50", "links.w1c32.p50", "ms"),
    Row("  p99", "links.w1c32.p99", "ms"),
    Row(*ONE, "openfga.c32.rate", "OpenFGA, write", at_least=4),
    Row(*ONE, "fastapi.c32.rate", "FastAPI, SQLAlchemy", at_least=15),
    Row("new links, 1 connection, p50", "links.w1c1.p50", "ms", "openfga.c1.p50", "OpenFGA", at_most=0.9),
    Row("  p99", "links.w1c1.p99", "ms"),
    Row("  rate", "links.w1c1.rate", "/s"),
    Row("links in batches of 500, 2 workers", "batch.w2c4.rate", "/s", *PGBENCH, at_least=3),
)  # fmt: skip


DEBEZIUM = ("debezium", "Debezium")
CDC = ("cdc", "Go, franz-go")
POLLING = ("polling", "Python, SKIP LOCKED")


class Bounds(NamedTuple):
    """What the ratios to Debezium's figures, and the processor time of an event, are meant to reach.

    None: no target.
    """

    rate: float | None = None
    p50: float | None = None
    p99: float | None = None
    cpu_us: float | None = None


class Lines(NamedTuple):
    """Makes the lines of a figure of our worker, one for each peer."""

    variant: Variant

    def beside_all(self, figure: str, unit: str, topic: str) -> list[Row]:
        """Return lines without a target, which follow that of the figure alone."""
        return [self._beside(BESIDE, figure, unit, peer, topic=topic) for peer in self._peers()]

    def rate(self, title: str, figure: str, at_least: float | None) -> list[Row]:
        """Return lines whose target, but for Debezium's, is not to be behind."""
        debezium, *others = self._peers()
        topic = f"{title}, "
        return [
            self._beside(title, figure, "/s", debezium, at_least=at_least),
            *(self._beside(BESIDE, figure, "/s", each, at_least=1, topic=topic) for each in others),
        ]

    def wait(self, title: str, figure: str, at_most: float | None, topic: str = "") -> list[Row]:
        """Return lines whose target, but for Debezium's, is not to be behind."""
        debezium, *others = self._peers()
        of = f"{topic}{title.strip()}, "
        return [
            self._beside(title, figure, "ms", debezium, at_most=at_most, topic=topic),
            *(self._beside(BESIDE, figure, "ms", each, at_most=1, topic=of) for each in others),
        ]

    def _peers(self) -> list[tuple[str, str]]:
        """Return the relays that have the delivery guarantee."""
        polling = [POLLING] if self.variant.delivery == AT_LEAST_ONCE else []
        return [DEBEZIUM, CDC, *polling]

    def _beside(  # noqa: PLR0913 - a line
        self,
        title: str,
        figure: str,
        unit: str,
        peer: tuple[str, str],
        *,
        at_least: float | None = None,
        at_most: float | None = None,
        topic: str = "",
    ) -> Row:
        name = self.variant.name
        theirs = figure.replace(name, f"{peer[0]}.{name}")
        return Row(title, figure, unit, theirs, peer[1], at_least, at_most, topic)


def _relay(variant: Variant, bounds: Bounds) -> list[Row]:
    title = variant.name.replace(".", ", ")
    drain, latency = f"drain.{variant.name}", f"latency.{variant.name}"
    arrival = f"answer to event at 1,000/s, {title}, "
    cpu, memory, rest = f"{drain}.cpu_us", f"{drain}.peak_mib", f"{latency}.rest_cores"
    lines, of = Lines(variant), f"{title}, "
    return [
        *lines.rate(f"drain, {title}", f"{drain}.rate", bounds.rate),
        Row("  CPU an event", cpu, "µs", at_most=bounds.cpu_us, topic=of),
        *lines.beside_all(cpu, "µs", f"{title}, CPU an event, "),
        Row("  memory at most", memory, "MiB", at_most=150, topic=of),
        *lines.beside_all(memory, "MiB", f"{title}, memory at most, "),
        *lines.wait(f"{arrival}p50", f"{latency}.p50", bounds.p50),
        *lines.wait("  p99", f"{latency}.p99", bounds.p99, arrival),
        Row("  CPU at rest", rest, "cores", at_most=0.02, topic=of),
        *lines.beside_all(rest, "cores", f"{title}, CPU at rest, "),
    ]


HELD = ("held.none.rate", "without")
SMALL = ("backlog.small.rate", "of 100,000")
AMONG_FEW = "among 1,000 links"
GROWN = (
    Row("drain beside an open transaction", "held.writer.rate", "/s", *HELD, at_least=0.9),
    Row("drain beside a REPEATABLE READ reader", "held.reader.rate", "/s", *HELD, at_least=0.9),
    Row("drain of a great backlog", "backlog.great.rate", "/s", *SMALL, at_least=0.85),
    *(
        Row(
            f"{call} in a great workspace, p50",
            f"growth.many.{call}.p50",
            "ms",
            f"growth.few.{call}.p50",
            AMONG_FEW,
            at_most=1.5,
        )
        for call in ("link", "list")
    ),
    Row("memory after very many requests", "memory.many.mib", "MiB", at_most=120),
    Row(
        BESIDE,
        "memory.many.mib",
        "MiB",
        "memory.few.mib",
        "after 10,000",
        at_most=1.05,
        topic="memory after very many requests, ",
    ),
)

PLAIN = "compression.none"
COMPRESSED = tuple(
    row
    for codec in ("lz4", "zstd")
    for row in (
        Row(f"drain, exactly-once, {codec}", f"compression.{codec}.rate", "/s", f"{PLAIN}.rate", "none"),
        Row("  CPU an event", f"compression.{codec}.cpu_us", "µs", f"{PLAIN}.cpu_us", "none"),
        Row("  an event on the topic", f"compression.{codec}.bytes", "bytes", f"{PLAIN}.bytes", "none"),
    )
)  # fmt: skip

ROWS = (
    *LINKS,
    *_relay(Variant(AT_LEAST_ONCE), Bounds(rate=4, p50=1.0, p99=1.0, cpu_us=7)),
    *_relay(Variant(AT_LEAST_ONCE, "zstd"), Bounds(p50=1.0, p99=1.0)),
    *_relay(Variant(EXACTLY_ONCE), Bounds(rate=5, p50=1.0, p99=0.2, cpu_us=7)),
    *_relay(Variant(EXACTLY_ONCE, "zstd"), Bounds(rate=5, p50=0.6, p99=0.5)),
    *GROWN,
    *COMPRESSED,
)
