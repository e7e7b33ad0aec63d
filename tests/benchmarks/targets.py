"""What is shown, beside what, and what it is meant to reach."""

from dataclasses import dataclass

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
        return f"{self.topic}{self.title.strip()}"

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


def _relay(delivery: str, *, rate: float, p50: float, p99: float) -> list[Row]:
    drain, latency, topic = f"drain.{delivery}", f"latency.{delivery}", f"{delivery}, "

    def beside(figure: str) -> tuple[str, str]:
        return figure.replace(delivery, f"debezium.{delivery}"), "Debezium"

    def row(title: str, figure: str, unit: str, most: float | None = None, of: str = "") -> Row:
        return Row(title, figure, unit, *beside(figure), at_most=most, topic=of and topic + of)

    return [
        Row(f"drain, {delivery}", f"{drain}.rate", "/s", *beside(f"{drain}.rate"), at_least=rate),
        Row("  CPU an event", f"{drain}.cpu_us", "µs", at_most=7, topic=topic),
        row(BESIDE, f"{drain}.cpu_us", "µs"),
        Row("  memory at most", f"{drain}.peak_mib", "MiB", at_most=150, topic=topic),
        row(BESIDE, f"{drain}.peak_mib", "MiB"),
        row(f"answer to event at 1,000/s, {delivery}, p50", f"{latency}.p50", "ms", p50),
        row("  p99", f"{latency}.p99", "ms", p99, of="answer to event, "),
        Row("  CPU at rest", f"{latency}.rest_cores", "cores", at_most=0.02, topic=topic),
        row(BESIDE, f"{latency}.rest_cores", "cores"),
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
    *_relay("at-least-once", rate=4, p50=1.0, p99=1.0),
    *_relay("exactly-once", rate=5, p50=1.0, p99=0.2),
    *GROWN,
    *COMPRESSED,
)
