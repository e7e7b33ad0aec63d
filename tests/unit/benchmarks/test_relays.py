"""What the benchmark says of relays."""

from tests.benchmarks.drain import Identity, out_of_order
from tests.benchmarks.relay import AT_LEAST_ONCE, COMPRESSIONS, DELIVERIES, Variant
from tests.benchmarks.targets import ROWS

PEERS = {"debezium", "cdc", "polling"}


def identity(document: str, sequence: int) -> Identity:
    """Return an event."""
    return Identity(f"{document}/{sequence}", document, f"{sequence:020}")


def test_events_are_ordered_by_document() -> None:
    """An event out of order is one after a later event of the same document, or after itself."""
    assert (
        out_of_order([identity("a", 1), identity("b", 1), identity("a", 2), identity("b", 9)]) == 0
    )
    assert out_of_order([identity("a", 2), identity("a", 10), identity("a", 9)]) == 1
    assert out_of_order([identity("a", 1), identity("a", 1)]) == 1


def test_each_line_of_a_relay_stands_beside_every_peer() -> None:
    """Each figure is compared with those of all peers that have the delivery guarantee."""
    for delivery in DELIVERIES:
        for compression in COMPRESSIONS:
            name = Variant(delivery, compression).name
            peers = PEERS if delivery == AT_LEAST_ONCE else PEERS - {"polling"}
            for kind, of in {
                "drain": ("rate", "cpu_us", "peak_mib"),
                "latency": ("p50", "p99"),
            }.items():
                for unit in of:
                    compared = {row.beside for row in ROWS if row.figure == f"{kind}.{name}.{unit}"}
                    assert compared - {None} == {f"{kind}.{peer}.{name}.{unit}" for peer in peers}


def test_each_target_has_a_title_of_its_own() -> None:
    """The JSON names each target so that two of them cannot be confused."""
    titles = [(row.full_title, row.beside_title) for row in ROWS if row.target]
    assert len(titles) == len(set(titles))
