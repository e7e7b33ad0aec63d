"""The cases of the relay's alerts."""

from typing import Final

from tests.unit.alerts.case import ALWAYS, Case, counter, gauge
from tests.unit.alerts.series import (
    CHECKPOINT,
    ERRORS,
    EVENTS,
    FENCED,
    LAG,
    LEADER,
    OS_ERRORS,
    OTHER_LEADER,
    PAUSED,
    RELAY,
    SERVICE,
    STANDBYS,
    STARTED,
    STARTS,
    TOPIC_LOST,
    TRANSACTION,
    YOUNG,
)

NO_LEADER: Final = gauge((10, 1), (30, 0), (30, 1))
ONCE: Final = counter((15, 0), (0.5, 2), (60, 0))

CASES: Final = [
    Case(
        "OutboxNoLeader",
        "Kafka is unreachable: no worker leads, events wait, and errors are counted",
        RELAY
        | {
            LEADER: NO_LEADER,
            LAG: gauge((10, 0), (30, 1800), (30, 0)),
            OS_ERRORS: counter((10, 0), (30, 30), (30, 0)),
        },
        quiet=10,
        fires=25,
    ),
    Case(
        "OutboxNoLeader",
        "Postgres is unreachable: no worker leads, and none can measure the lag",
        RELAY | {LEADER: NO_LEADER, LAG: gauge((10, 0), (30, None), (30, 0))},
        quiet=10,
        fires=25,
        over=41,
    ),
    Case(
        "OutboxNoWorker",
        "a job is no longer scraped",
        {LEADER: gauge((10, 1), (20, None), (60, 1)), LAG: gauge((10, 1), (20, None), (60, 1))},
        quiet=10,
        fires=20,
        over=31,
    ),
    Case(
        "OutboxNoWorker",
        "the only job is no longer scraped",
        SERVICE | {name: gauge((10, 1)) for name in (LEADER, LAG)},
        quiet=10,
        fires=20,
        beside=False,
    ),
    Case(
        "OutboxNoWorker",
        "no worker was ever scraped",
        SERVICE,
        quiet=0.5,
        fires=2,
        of_job=False,
        beside=False,
    ),
    Case(
        "OutboxNoStandby",
        "the standby has ended",
        RELAY | {OTHER_LEADER: gauge((10, 0)), STANDBYS: gauge((10, 1), (30, 0), (30, 1))},
        quiet=24,
        fires=26,
        over=41,
    ),
    Case(
        "OutboxPaused",
        "events wait while the relay is paused for more than an hour, and are late afterwards",
        RELAY
        | {PAUSED % number: gauge((10, 0), (70, 600), (ALWAYS, 0)) for number in (1, 2)}
        | {LAG: gauge((10, 0), (75, 1800), (ALWAYS, 0))}
        | {EVENTS: counter((10, 1000), (70, 0), (5, 10_000), (ALWAYS, 1000))}
        | {YOUNG: counter((10, 1000), (70, 0), (5, 0), (ALWAYS, 1000))},
        quiet=69,
        fires=75,
        over=86,
    ),
    Case(
        "OutboxTwoLeaders",
        "a standby leads as well",
        RELAY | {OTHER_LEADER: gauge((10, 0), (30, 1), (30, 0))},
        quiet=10,
        fires=11,
        over=41,
    ),
    Case(
        "OutboxTwoLeaders",
        "two leaders fence each other",
        RELAY | {OTHER_LEADER: gauge((10, 0), (30, 1), (30, 0)), FENCED: counter((11, 0), (29, 1))},
        quiet=10,
        fires=30,
    ),
    Case(
        "OutboxLag",
        "an event waits for more than a minute",
        RELAY | {LAG: gauge((10, 60), (30, 61), (30, 0))},
        quiet=10.5,
        fires=12,
        over=41,
    ),
    Case(
        "OutboxLagUnknown",
        "a worker leads and cannot measure the lag",
        RELAY | {LAG: gauge((10, 0), (30, None), (30, 0))},
        quiet=11,
        fires=18,
        over=41,
    ),
    Case(
        "OutboxRingStuck",
        "events wait for five days",
        RELAY | {LAG: gauge((10, 0), (30, 5 * 86_400 + 1), (30, 0))},
        quiet=9,
        fires=13,
        over=41,
    ),
    Case(
        "OutboxRepeated",
        "a take-over from a checkpoint",
        RELAY | {CHECKPOINT: ONCE},
        quiet=14,
        fires=16,
        over=28,
    ),
    Case(
        "OutboxRepeated",
        "the counters of two workers are 1 when they are first seen",
        RELAY | {STARTS % (each, "checkpoint"): gauge((15, None), (60, 1)) for each in (1, 2)},
        quiet=14,
        fires=16,
        over=28,
    ),
    Case(
        "OutboxRepeated",
        "the counter is 1 again after a restart",
        RELAY | {CHECKPOINT: gauge((60, 1)), STARTED: gauge((20, 0), (40, 20 * 60))},
        quiet=19,
        fires=21,
        over=31,
    ),
    Case(
        "OutboxFenced",
        "a worker was fenced",
        RELAY | {FENCED: ONCE},
        quiet=14,
        fires=16,
        over=28,
    ),
    Case(
        "OutboxTopicLost",
        "the event topic is gone, and no worker leads",
        RELAY
        | {
            LEADER: NO_LEADER,
            LAG: gauge((10, 0), (30, 1800), (30, 0)),
            TOPIC_LOST: counter((10, None), (30, 30), (60, 0)),
        },
        quiet=10,
        fires=20,
        over=46,
    ),
    Case(
        "OutboxErrors",
        "more than ten errors of two kinds in ten minutes",
        RELAY
        | {OS_ERRORS: counter((10, 0), (30, 1), (60, 0))}
        | {ERRORS % "KafkaError": counter((10, 0), (30, 1), (60, 0))},
        quiet=12,
        fires=30,
        over=51,
    ),
    Case(
        "OutboxTransactionOpen",
        "a transaction is open for an hour",
        RELAY | {TRANSACTION: gauge((10, 3600), (30, 3601), (10, 0))},
        quiet=9,
        fires=11,
        over=41,
    ),
]
