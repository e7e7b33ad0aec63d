"""Every metric and log event of the service: deploy/telemetry.md is made from it (`make telemetry`).

A metric that is missing here cannot be made (`edge.gate.metrics`). A test compares the log events with
the source, and every log line of a test with this list.
"""

from typing import Final

from service.catalogue import LogEvent, Metric, by_name

METRICS: Final = by_name(
    Metric(
        "links_build_info",
        "gauge",
        "1",
        "Always 1.",
        {"version": "release of the process", "python": "version of Python"},
    ),
    Metric(
        "links_http_requests_total",
        "counter",
        "requests",
        "Requests that were answered.",
        {
            "method": "HTTP method, or `other`",
            "route": "template of the path, such as `/v1/documents/{document_id}/links`; `none`: no route",
            "status": "HTTP status",
        },
    ),
    Metric(
        "links_http_request_duration_seconds",
        "histogram",
        "seconds",
        "From the end of a request's headers to the end of its response.",
        {"route": "template of the path"},
    ),
    Metric(
        "links_transaction_calls",
        "histogram",
        "calls",
        "Calls that a transaction has taken from a queue, to write them together.",
    ),
    Metric(
        "links_transaction_changes",
        "histogram",
        "changes",
        "Changes that the calls of a transaction ask for.",
    ),
    Metric(
        "links_write_queue_duration_seconds",
        "histogram",
        "seconds",
        "From the arrival of a write until a transaction takes it; again for each retry in another one.",
    ),
    Metric(
        "links_write_queue_calls", "gauge", "calls", "Writes that no transaction has taken yet."
    ),
    Metric(
        "links_write_queue_oldest_seconds",
        "gauge",
        "seconds",
        "Age of the oldest write that no transaction has taken yet; 0: there is none.",
    ),
    Metric(
        "links_transaction_duration_seconds",
        "histogram",
        "seconds",
        "From the first statement of a transaction that writes to its end, however it ends.",
    ),
    Metric(
        "links_round_trip_duration_seconds",
        "histogram",
        "seconds",
        "Each step of a transaction that writes. A step is one round trip to Postgres, or a few.",
        {
            "step": "`begin`; `replies`: look up stored replies; `wait`: wait for the locks of contended "
            "documents; `lock`: lock and read rows; `count`: count the links of a document that may have too "
            "many; `save`; `commit`; `rollback`: nothing was written; `statement`: the one statement of a "
            "lone new link"
        },
    ),
    Metric(
        "links_calls_retried_total",
        "counter",
        "calls",
        "Writes that were tried again, most of them in a transaction of their own.",
        {
            "reason": "`locked`: another transaction held a lock; `rows_missing`: a row did not exist, or "
            "the whole document was locked or has many links; `key_in_flight`: a call with the same "
            "Idempotency-Key was being written; `rows_changed`: a row was inserted or removed meanwhile; "
            "`interrupted`: the transaction was not committed; `failed`: an error of one call or of the "
            "service"
        },
    ),
    Metric(
        "links_lock_timeouts_total",
        "counter",
        "transactions",
        "Transactions that did not get a lock in time: 0.25 s for several contended documents, else 2 s.",
    ),
    Metric(
        "links_commits_retried_total",
        "counter",
        "transactions",
        "COMMITs that had no effect, after which the writes are tried again.",
    ),
    Metric(
        "links_commits_unknown_total",
        "counter",
        "transactions",
        "COMMITs whose outcome was not found out in time: the calls are answered 503.",
    ),
    Metric(
        "links_replies_replayed_total",
        "counter",
        "calls",
        "Calls that found the stored reply to an earlier call with the same Idempotency-Key.",
    ),
    Metric(
        "links_last_write_timestamp_seconds",
        "gauge",
        "seconds since 1970",
        "End of the last transaction that wrote; 0: none since the start.",
    ),
    Metric(
        "links_pool_connections",
        "gauge",
        "connections",
        "Connections of the pool. Each process has two more, for joint transactions and for NOTIFY.",
        {
            "pool": "`all`: every connection; `writers`: those lent to transactions that may wait for locks, "
            "at most 80 % of `LINKS_POOL_SIZE`",
            "state": "`used` or `idle`",
        },
    ),
    Metric(
        "links_pool_waiting",
        "gauge",
        "tasks",
        "Tasks that wait for a connection of the pool.",
        {"pool": "as of `links_pool_connections`"},
    ),
    Metric(
        "links_calls_in_progress",
        "gauge",
        "calls",
        "Calls under `/v1/` that are not answered yet, since their bodies are complete.",
        {
            "state": "`working`: at most 128 in each process, and 256 more that have taken over 0.5 s; "
            "`waiting`: until the process works on fewer calls, at most for 1.4 s"
        },
    ),
    Metric(
        "links_calls_refused_total",
        "counter",
        "calls",
        "Calls that were answered 503 after they had waited for 1.4 s, because the process is overloaded.",
    ),
    Metric(
        "links_database_unreachable",
        "gauge",
        "0 or 1",
        "1 from a call that failed because the database is unreachable, until a query succeeds.",
    ),
    Metric(
        "links_keys_refreshed_total",
        "counter",
        "keys",
        "Cached keys that were to be read again, which is done every 4 s.",
        {"outcome": "`valid`, `revoked`, or `failed`: the database did not answer"},
    ),
    Metric(
        "links_unknown_keys_total",
        "counter",
        "keys",
        "Presented keys that are unknown or revoked.",
    ),
    Metric(
        "links_key_expiry_timestamp_seconds",
        "gauge",
        "seconds since 1970",
        "When the first key expires, of the valid keys that were used in the last 10 minutes. A key that is "
        "used more rarely is missing between its uses. Absent: none of these keys expires.",
    ),
    Metric(
        "links_rate_limited_calls_total",
        "counter",
        "calls",
        "Calls that were answered 429 for the rate limit of their key.",
        {
            "key": "id of the key if `LINKS_METRICS_RATE_LIMITED_KEYS` is `true`, and `other` beyond 1,000 "
            "keys; otherwise empty"
        },
    ),
    Metric(
        "links_rate_limit_storage_away",
        "gauge",
        "0 or 1",
        "1 while a process cannot reach the shared storage of the rate limits, and counts by itself.",
    ),
    Metric(
        "links_expired_rows_total",
        "counter",
        "rows",
        "Rows that were removed LINKS_KEEP_DELETED_DAYS after their deletion.",
        {"table": "`documents` or `document_links`"},
    ),
    Metric(
        "links_expiry_finished_timestamp_seconds",
        "gauge",
        "seconds since 1970",
        "End of the last sweep that removed expired rows; 0: none yet, or rows are kept for ever.",
    ),
)

ERROR: Final = {"error": "class and text of the error"}
TRACEBACK: Final = {"exception": "traceback"}
DEFECT: Final = {**ERROR, "exception": "traceback, unless the database was unreachable"}
OVER: Final = {"failures": "number of failed attempts"}
TASK: Final = {"task": "name of the task"}
OK: Final = "nothing"
CALL: Final = {"method": "HTTP method", "path": "path of the request"}
CHECK_DATABASE: Final = "check the database; report the traceback if there is one"

LOG_EVENTS: Final = by_name(
    LogEvent(
        "service.starting",
        "info",
        "The program has read its settings and begins.",
        {"version": "release of the process"},
    ),
    LogEvent(
        "http.listening",
        "info",
        "The service listens on these addresses.",
        {"urls": "list of addresses"},
    ),
    LogEvent(
        "http.fewer_connections",
        "warning",
        "The limit on open files allows fewer connections than `LINKS_MAX_CONNECTIONS`.",
        {
            "connections": "number that is allowed now",
            "wanted": "open files that the setting needs",
            "reason": "the limit",
        },
        "raise the limit on open files, or lower the setting",
    ),
    LogEvent(
        "http.accept_failed",
        "warning",
        "A connection could not be accepted, most often because too many files are open. Logged again "
        "only after a minute without such a failure.",
        {"error": "text of the error"},
        "raise the limit on open files, or lower `LINKS_MAX_CONNECTIONS`",
    ),
    LogEvent(
        "http.unavailable",
        "warning",
        "The database did not answer a call, or refused it: the call was answered 503.",
        {**CALL, **ERROR},
        "check the database; if `error` names a lock, end the session that holds it",
    ),
    LogEvent("http.available", "warning", "Calls succeed again.", OVER, OK),
    LogEvent(
        "http.overloaded",
        "warning",
        "A call waited for 1.4 s because the process works on as many other calls as it can: it was "
        "answered 503.",
        {**CALL, **ERROR},
        "start another process of the service; see the runbook",
    ),
    LogEvent(
        "http.not_overloaded",
        "warning",
        "For 10 s no call was refused because of overload.",
        {"failures": "number of refused calls"},
        OK,
    ),
    LogEvent(
        "http.failed",
        "error",
        "A call was answered 500.",
        {**CALL, **TRACEBACK},
        "report the traceback",
    ),
    LogEvent(
        "http.served",
        "debug",
        "A call was answered.",
        {**CALL, "status": "HTTP status", "ms": "duration in milliseconds"},
    ),
    LogEvent(
        "write.group_failed",
        "error",
        "A transaction of several writes failed; each of them is retried in a transaction of its own.",
        {
            "members": "number of writes",
            "request_ids": "ids of their requests",
            **TRACEBACK,
        },
        "report the traceback",
    ),
    LogEvent(
        "notify.failed",
        "warning or error",
        "The relay could not be notified of new events, and finds them at its next poll, within 0.5 s.",
        DEFECT,
        CHECK_DATABASE,
    ),
    LogEvent("notify.recovered", "warning", "The relay is notified again.", OVER, OK),
    LogEvent(
        "keys.refresh_failed",
        "warning or error",
        "Keys could not be read from the database. A key that was read within the last 9 s is still valid.",
        DEFECT,
        CHECK_DATABASE,
    ),
    LogEvent("keys.refresh_recovered", "warning", "Keys are read again.", OVER, OK),
    LogEvent(
        "keys.uses_unrecorded",
        "warning or error",
        "When keys were last used cannot be recorded, so `keys list` may show older times; the service "
        "retries every ten minutes.",
        DEFECT,
        "grant SELECT, INSERT, UPDATE on `api_key_uses` (`doctor` prints the GRANT); check the database",
    ),
    LogEvent("keys.uses_recorded", "warning", "Uses of keys are recorded again.", OVER, OK),
    LogEvent(
        "rate_limits.storage_away",
        "warning",
        "Redis is slow or does not answer: each process continues with the last shared count that it has "
        "read, and adds its own calls to the shared count later.",
        {"error": "text of the error"},
        "check Redis",
    ),
    LogEvent("rate_limits.storage_back", "warning", "Redis answers again.", action=OK),
    LogEvent(
        "rate_limits.each_process_on_its_own",
        "info or warning",
        "Each process counts a key's calls by itself, so the limit applies to each process. Warning: "
        "there are several processes.",
        {"workers": "number of processes"},
        "give `LINKS_RATE_LIMIT_STORAGE` a Redis URL if several processes serve",
    ),
    LogEvent(
        "idempotency.forget_failed",
        "warning or error",
        "Stored replies older than 24 h were not deleted. They are not replayed, and the deletion is "
        "retried.",
        DEFECT,
        CHECK_DATABASE,
    ),
    LogEvent(
        "idempotency.forget_recovered", "warning", "Stored replies are deleted again.", OVER, OK
    ),
    LogEvent(
        "expiry.failed",
        "warning or error",
        "Rows older than `LINKS_KEEP_DELETED_DAYS` were not removed; the sweep goes on later from the same "
        "place.",
        DEFECT,
        CHECK_DATABASE,
    ),
    LogEvent("expiry.recovered", "warning", "Expired rows are removed again.", OVER, OK),
    LogEvent(
        "expiry.swept",
        "info",
        "A sweep has removed all expired rows.",
        {"documents": "number removed", "links": "number removed"},
    ),
    LogEvent(
        "database.statements_lost",
        "error",
        "A pooler between the service and Postgres loses prepared statements, so the service is not ready.",
        {"detail": "poolers that keep them"},
        "use one of these, or connect to the server itself",
    ),
    LogEvent(
        "migrate.lock_held",
        "warning",
        "A step of `migrate` waits for a lock. Between its attempts it does not keep writers waiting.",
        {"step": "file of the step", "detail": "the session that holds the lock"},
        "nothing; or end the session with `SELECT pg_terminate_backend(pid)`",
    ),
    LogEvent(
        "task.ended",
        "error",
        "A background task ended unexpectedly, and is restarted.",
        {**TASK, **ERROR, "exception": "traceback, if the task ended with an error"},
        "report the traceback",
    ),
    LogEvent(
        "task.failing",
        "error",
        "A background task has failed three times in a row. `/readyz` answers 503 with its name, and calls "
        "that need it are answered 503 within their time limit.",
        {**TASK, **ERROR, "exception": "traceback, if the task ended with an error"},
        "report the traceback; restart the process if the task does not recover",
    ),
    LogEvent("task.recovered", "warning", "A failing task has run for 5 s.", TASK, OK),
    LogEvent(
        "service.draining",
        "info",
        "A stop signal has come: `/readyz` answers 503, and connections are still accepted.",
        {"seconds": "`LINKS_DRAIN_SECONDS`"},
    ),
    LogEvent(
        "service.supervisor_gone",
        "error",
        "The process that started this worker process was killed, so this process stops.",
        action="start the service again; look for the cause (memory)",
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
        "log.lines_dropped",
        "warning",
        "Standard error was not read, or could not be written to; the program continues.",
        {"lines": "number of lines that are missing here"},
        "check the collector of the logs",
    ),
)
