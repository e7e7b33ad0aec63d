"""Every metric and log event of the worker: deploy/telemetry.md is made from it (`make telemetry`).

A metric that is missing here cannot be made (`relay.metrics`). A test compares the log events with the
source, and every log line of a test with this list.
"""

from typing import Final

from outbox_worker.catalogue import LogEvent, Metric, by_name

RUNBOOK: Final = "see the cases in the [runbook](runbook.md)"

TASK: Final = {"task": "`replay`, `snapshot` or `rebase`"}

METRICS: Final = by_name(
    Metric("outbox_build_info", "gauge", "1", "Always 1.", {"version": "release of the process"}),
    Metric("outbox_leader", "gauge", "0 or 1", "1 while this process leads."),
    Metric(
        "outbox_events_published_total", "counter", "events", "Events that Kafka has acknowledged."
    ),
    Metric(
        "outbox_published_bytes_total",
        "counter",
        "bytes",
        "Record batches that Kafka has acknowledged, in the size in which they were sent: compressed, unless "
        "the codec in force is `none`.",
    ),
    Metric(
        "outbox_page_retries_total",
        "counter",
        "pages",
        "Pages whose publication failed. The next term reads their events again, and publishes them unless "
        "Kafka has committed them.",
    ),
    Metric(
        "outbox_event_age_seconds",
        "histogram",
        "seconds",
        "Age of each event when Kafka has acknowledged it, by Postgres' clock. It counts from the beginning "
        "of the transaction that wrote the event: it exceeds the time since the commit by the duration of "
        "that transaction, most often milliseconds. In a backlog, the age of one event in 32 counts for all.",
    ),
    Metric(
        "outbox_starts_total",
        "counter",
        "take-overs",
        "Take-overs of this process.",
        {"source": "what the cursor was read from: `progress`, `checkpoint` or `beginning`"},
    ),
    Metric("outbox_fenced_total", "counter", "times", "Times that another relay fenced this one."),
    Metric(
        "outbox_errors_total",
        "counter",
        "errors",
        "Errors after which the worker began again.",
        {"kind": "class of the error"},
    ),
    Metric("outbox_batch_events", "histogram", "events", "Events of a page that was published."),
    Metric(
        "outbox_batch_duration_seconds",
        "histogram",
        "seconds",
        "From the end of reading a page to Kafka's commit.",
    ),
    Metric(
        "outbox_last_publish_timestamp_seconds",
        "gauge",
        "seconds since 1970",
        "Commit of the last page; 0: none yet.",
    ),
    Metric(
        "outbox_lag_events",
        "gauge",
        "events",
        "Approximate number of committed events that are not published. Absent while this process does not "
        "know.",
    ),
    Metric(
        "outbox_lag_seconds",
        "gauge",
        "seconds",
        "Age of the oldest event that is not published; 0: there is none. Absent while this process does "
        "not know.",
    ),
    Metric(
        "outbox_oldest_transaction_seconds",
        "gauge",
        "seconds",
        "Age of the oldest open transaction, which may still add late events; 0: there is none. Absent "
        "while this process does not know.",
    ),
    Metric(
        "outbox_paused_timestamp_seconds",
        "gauge",
        "seconds since 1970",
        "Begin of the pause (`outbox_worker pause`); 0: not paused. Absent while this process does not "
        "know.",
    ),
    Metric(
        "outbox_standbys",
        "gauge",
        "workers",
        "Workers that stand by: sessions of other workers that wait for the leader's lock. Absent while this "
        "process does not know.",
    ),
    Metric(
        "outbox_ring_days",
        "gauge",
        "days",
        "Days of the ring. Absent while this process does not know.",
        {
            "state": "`empty`; `published`: all its events are published; `unpublished`: some events may not "
            "be; `clearing`: its rows are being checked or removed"
        },
    ),
    Metric(
        "outbox_ring_bytes",
        "gauge",
        "bytes",
        "Size of the ring with its indexes. Absent while this process does not know.",
    ),
    Metric(
        "outbox_task_progress_ratio",
        "gauge",
        "ratio",
        "Progress of a command that runs now, from 0 to 1. Absent while none runs, or its end is unknown.",
        TASK,
    ),
    Metric(
        "outbox_task_events",
        "gauge",
        "events",
        "Events that a command which runs now has published; rows for `rebase`. Absent while none runs.",
        TASK,
    ),
    Metric("outbox_slots_cleared_total", "counter", "slots", "Days of the ring that were cleared."),
)

TOPIC: Final = {"topic": "name of the topic"}
MADE: Final = {**TOPIC, "partitions": "their number", "replicas": "their number"}

LOG_EVENTS: Final = by_name(
    LogEvent(
        "worker.started",
        "info",
        "The process has begun, and serves its HTTP pages.",
        {
            "version": "release of the process",
            **TOPIC,
            "delivery": "`exactly-once` or `at-least-once`",
            "url": "address of the HTTP pages",
        },
    ),
    LogEvent(
        "worker.state",
        "info",
        "The worker has changed its state.",
        {
            "state": "`starting`, `standby`, `leading` or `stopping`",
            "before": "the state before",
        },
    ),
    LogEvent(
        "worker.failing",
        "error",
        "The worker cannot go on, and retries until it can.",
        {
            "problem": "class of the error",
            "detail": "text of the error",
            "during": "module and function in which the error was raised",
        },
        RUNBOOK,
    ),
    LogEvent(
        "worker.recovered",
        "info",
        "The worker makes progress again.",
        {"problem": "class of the last error"},
    ),
    LogEvent(
        "worker.standby_cannot_lead",
        "error",
        "A standby could not lead, because it cannot use Kafka; it is not ready.",
        {"problem": "class of the error", "detail": "text of the error"},
        "follow `detail`; in a roll-out, correct the settings or roll back",
    ),
    LogEvent(
        "worker.standby_can_lead",
        "info",
        "The standby could lead again.",
        {"problem": "class of the last error"},
    ),
    LogEvent(
        "worker.stop_forced",
        "warning",
        "The page in flight was not committed within 4 s of the stop signal, so it is aborted.",
        action="nothing; if it happens at each stop, Kafka is slow to answer",
    ),
    LogEvent("worker.stopped", "info", "The process ends after a stop signal."),
    LogEvent(
        "worker.crashed",
        "error",
        "An unexpected error ends the process with exit code 1.",
        {"exception": "traceback"},
        "restart the worker (systemd and Kubernetes do); report the traceback",
    ),
    LogEvent(
        "relay.started",
        "info or warning",
        "The worker leads, and publishes from this cursor on. Warning: some events are published twice.",
        {
            "source": "what the cursor was read from: `progress`, `checkpoint` or `beginning`",
            "reason": "why from there",
            "s0": "snapshot of the cursor",
            "compression": "the codec of the event batches: `OUTBOX_COMPRESSION`, or the recorded one",
        },
        RUNBOOK,
    ),
    LogEvent(
        "relay.paused",
        "info",
        "An operator has paused the relay: after the page in flight, this leader publishes nothing.",
        {
            "since": "begin of the pause, in seconds since 1970",
            "by": "user and host of the command",
        },
    ),
    LogEvent(
        "relay.resumed",
        "info",
        "The pause has ended, and this leader publishes again.",
        {"paused_s": "duration of the pause in seconds"},
    ),
    LogEvent(
        "relay.pause_unreadable",
        "warning",
        "The worker cannot read whether the relay is paused, and publishes.",
        {},
        "run `migrate` if the table `outbox_pause` is missing; `doctor` prints a missing GRANT",
    ),
    LogEvent(
        "relay.place_unreadable",
        "warning",
        "Postgres does not tell the identity of the cluster, so some faults cannot be detected.",
        {"undetected": "the faults that are not detected"},
        "start no worker on a copy of the database; after a failover run `outbox_worker verify`",
    ),
    LogEvent(
        "leader.hung_holder_ended",
        "warning",
        "This standby has ended the session of a leader that was silent for 8 s.",
        {"backend": "process id of that session's backend"},
        "find out why the leader hung (CPU limits, a paused machine)",
    ),
    LogEvent(
        "progress.stray_records",
        "warning",
        "The progress topic has records of other producers; the worker skips them.",
        {
            **TOPIC,
            "offsets": "offsets of the first ten of them",
            "records": "their number",
        },
        "revoke the right to write from that producer",
    ),
    LogEvent(
        "retention.failed",
        "warning",
        "The ring cannot be cleared, so it grows; the worker retries every ten minutes.",
        {"kind": "class of the error", "detail": "text of the error"},
        "correct the cause: most often a missing TRUNCATE privilege (`doctor` prints the GRANT)",
    ),
    LogEvent(
        "retention.recovered",
        "info",
        "The ring can be cleared again.",
        {"failures": "number of failed attempts"},
    ),
    LogEvent(
        "lag.unknown",
        "warning",
        "The lag cannot be measured, so its metrics, those of the ring and of standbys are absent. The "
        "worker retries every second.",
        {"error": "class and text of the error"},
        "check the database; if `error` is a time-out, vacuum the table `outbox`",
    ),
    LogEvent(
        "lag.known",
        "info",
        "The lag is measured again.",
        {"failures": "number of failed attempts"},
    ),
    LogEvent(
        "wakeup.failed",
        "warning",
        "The session for notifications does not answer and cannot be replaced. The relay finds new events "
        "at its next poll, within 0.5 s.",
        {"error": "class and text of the error"},
        "check the database; most often it has no free connection",
    ),
    LogEvent(
        "wakeup.recovered",
        "info",
        "The relay is notified of new events again.",
        {"failures": "number of failed attempts"},
    ),
    LogEvent(
        "retention.slot_held",
        "info",
        "A slot of the ring is due, but another session reads it; the worker retries every ten minutes.",
        {"slot": "number of the slot"},
        "end the session that has been reading the slot for hours",
    ),
    LogEvent(
        "retention.slot_cleared",
        "info",
        "A slot of the ring was truncated.",
        {"slot": "number of the slot"},
    ),
    LogEvent("topic.made", "info", "The worker has made a topic.", MADE),
    LogEvent(
        "topic.few_replicas",
        "warning",
        "A topic got fewer replicas than the brokers are configured with, because brokers were missing.",
        {**MADE, "configured": "replicas that the brokers are configured with"},
        "`kafka-reassign-partitions.sh`; `doctor` tells how many",
    ),
    LogEvent(
        "topic.forgets",
        "warning",
        "Brokers delete or compact events of the event topic, so it cannot rebuild the database.",
        {
            **TOPIC,
            "cleanup_policy": "its `cleanup.policy`",
            "retention_ms": "its `retention.ms`",
            "retention_bytes": "its `retention.bytes`",
        },
        "`retention.ms=-1`, `retention.bytes=-1`, `cleanup.policy=delete`; `doctor` prints the command",
    ),
    LogEvent(
        "topic.grown",
        "warning",
        "The event topic has more partitions than the relay uses: keys stay in their partitions.",
        {"partitions": "their number", "hashed_by": "number over which keys are hashed"},
        "nothing; to use the new partitions, make a new topic and a snapshot",
    ),
    LogEvent(
        "task.unrecorded",
        "warning",
        "The progress of a command cannot be recorded, so that it could not be resumed; it goes on.",
        {
            "task": "`replay`, `snapshot` or `rebase`",
            "error": "class and text of the error",
        },
        "run `migrate` if the table `outbox_tasks` is missing; `doctor` prints a missing GRANT",
    ),
    LogEvent(
        "traces.on",
        "info",
        "Spans are exported.",
        {"exporters": "names of the exporters, as their packages register them"},
    ),
    LogEvent(
        "traces.off",
        "warning",
        "An `OTEL_…` variable asks for traces, and there are none; the program works without them.",
        {"error": "class and text of the error"},
        "correct the variable, or install the missing package",
    ),
    LogEvent(
        "traces.export_failed",
        "warning",
        "Spans are dropped: they could not be exported, or the queue for the exporter was full.",
        {"error": "text of the error"},
        "check the collector and `OTEL_EXPORTER_OTLP_…`; for a full queue, raise `OTEL_BSP_MAX_QUEUE_SIZE`, "
        "or sample fewer calls with `OTEL_TRACES_SAMPLER`",
    ),
    LogEvent(
        "traces.export_recovered",
        "warning",
        "Two exports in a row have succeeded, and no span was dropped between them.",
        action="nothing",
    ),
    LogEvent(
        "page.failed",
        "error",
        "A part of the worker's page could not be updated; it is retried every 5 s. The relay goes on.",
        {"exception": "traceback"},
        "report the traceback",
    ),
    LogEvent(
        "log.lines_dropped",
        "warning",
        "Standard error was not read, or could not be written to; the program continues.",
        {"lines": "number of lines that are missing here"},
        "check the collector of the logs",
    ),
)
