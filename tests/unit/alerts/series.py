"""The series of a service and of two workers that have no fault."""

from typing import Final

from tests.unit.alerts.case import ALWAYS, Values, counter, gauge

BUILD: Final = 'links_build_info{instance="1", version="1.0.0"}'
LINKS: Final = 'route="/v1/documents/{id}/links"'
CALLS: Final = f'links_http_requests_total{{instance="1", method="POST", status="201", {LINKS}}}'
FAILED: Final = f'links_http_requests_total{{instance="1", method="POST", status="503", {LINKS}}}'
UNROUTED: Final = (
    'links_http_requests_total{instance="1", method="POST", route="none", status="%d"}'
)
PROBES: Final = (
    'links_http_requests_total{instance="1", method="GET", route="/readyz", status="503"}'
)
TIMED: Final = f'links_http_request_duration_seconds_count{{instance="1", {LINKS}}}'
IN_TIME: Final = f'links_http_request_duration_seconds_bucket{{instance="1", le="0.1", {LINKS}}}'
BATCHES: Final = 'links_http_request_duration_seconds_count{instance="1", route="/v1/links/batch"}'
STORAGE_AWAY: Final = 'links_rate_limit_storage_away{instance="%d"}'
SWEPT: Final = 'links_expiry_finished_timestamp_seconds{instance="1"}'
UNREACHABLE: Final = 'links_database_unreachable{instance="%d"}'
OLDEST_WRITE: Final = 'links_write_queue_oldest_seconds{instance="%d"}'
KEY_ENDS: Final = 'links_key_expiry_timestamp_seconds{instance="%d"}'
UNKNOWN_COMMITS: Final = 'links_commits_unknown_total{instance="%d"}'
LEADER: Final = 'outbox_leader{instance="1"}'
OTHER_LEADER: Final = 'outbox_leader{instance="2"}'
LAG: Final = 'outbox_lag_seconds{instance="1"}'
TRANSACTION: Final = 'outbox_oldest_transaction_seconds{instance="1"}'
STARTS: Final = 'outbox_starts_total{instance="%d", source="%s"}'
STANDBYS: Final = 'outbox_standbys{instance="1"}'
EVENTS: Final = 'outbox_event_age_seconds_count{instance="1"}'
YOUNG: Final = 'outbox_event_age_seconds_bucket{instance="1", le="1.0"}'
PAUSED: Final = 'outbox_paused_timestamp_seconds{instance="%d"}'
CHECKPOINT: Final = STARTS % (1, "checkpoint")
FENCED: Final = 'outbox_fenced_total{instance="1"}'
ERRORS: Final = 'outbox_errors_total{instance="1", kind="%s"}'
OS_ERRORS: Final = ERRORS % "OSError"
TOPIC_LOST: Final = ERRORS % "TopicLostError"
STARTED: Final = 'process_start_time_seconds{instance="1"}'

SERVICE: Final[dict[str, Values]] = {
    BUILD: gauge((ALWAYS, 1)),
    CALLS: counter((ALWAYS, 1000)),
    FAILED: counter((ALWAYS, 0)),
    UNROUTED % 401: counter((ALWAYS, 1000)),
    PROBES: counter((ALWAYS, 12)),
    TIMED: counter((ALWAYS, 1000)),
    IN_TIME: counter((ALWAYS, 1000)),
    BATCHES: counter((ALWAYS, 100)),
    STORAGE_AWAY % 1: gauge((ALWAYS, 0)),
    SWEPT: gauge((ALWAYS, 0)),
    UNREACHABLE % 1: gauge((ALWAYS, 0)),
    OLDEST_WRITE % 1: gauge((ALWAYS, 0.1)),
    UNKNOWN_COMMITS % 1: counter((ALWAYS, 0)),
}
"""1,000 calls a minute. Calls with a wrong key, failed probes and slow batches use no error budget."""

RELAY: Final[dict[str, Values]] = {
    LEADER: gauge((ALWAYS, 1)),
    OTHER_LEADER: gauge((ALWAYS, 0)),
    LAG: gauge((ALWAYS, 0)),
    STANDBYS: gauge((ALWAYS, 1)),
    EVENTS: counter((ALWAYS, 1000)),
    YOUNG: counter((ALWAYS, 1000)),
    TRANSACTION: gauge((ALWAYS, 0)),
    STARTS % (1, "progress"): gauge((ALWAYS, 1)),
    FENCED: counter((ALWAYS, 0)),
    OS_ERRORS: counter((ALWAYS, 0)),
    STARTED: gauge((ALWAYS, 0)),
    PAUSED % 1: gauge((ALWAYS, 0)),
}
"""A leader and a standby."""
