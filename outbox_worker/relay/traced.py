"""The span of each batch, made by a class in place of the term.

The worker uses it if traces are on. Its parent and its links are the calls that made the batch's events:
the service puts the context of each call into the outbox, from where it also gets into the event and into
the header `traceparent` of its record.
"""

from dataclasses import dataclass

from opentelemetry.trace import SpanKind, Status, StatusCode

from outbox_worker.kafka.publisher import Round
from outbox_worker.postgres.window import Page
from outbox_worker.relay.term import Term
from outbox_worker.tracing import Tracing


@dataclass(kw_only=True)
class TracedTerm(Term):
    """A term that makes a span for each batch, from the packed page to the end of Kafka's transaction."""

    traces: Tracing
    topic: str

    async def publish(self, page: Page, rounds: list[Round]) -> dict[int, int]:
        """Publish a page within its span."""
        span = self.traces.start_batch_span(
            f"send {self.topic}",
            (row["traceparent"] for row in page.rows),
            SpanKind.PRODUCER,
            {
                "messaging.system": "kafka",
                "messaging.operation.name": "send",
                "messaging.operation.type": "send",
                "messaging.destination.name": self.topic,
                "messaging.batch.message_count": len(page.rows),
            },
        )
        try:
            return await super().publish(page, rounds)
        except BaseException as error:
            span.set_attribute("error.type", type(error).__name__)
            span.set_status(Status(StatusCode.ERROR))
            raise
        finally:
            span.end()
