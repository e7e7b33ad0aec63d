"""The worker's commands as processes: their output, their JSON and their exit codes."""

import json
import re
from datetime import UTC, datetime, timedelta
from urllib.parse import quote

import asyncpg
import pytest
from aiokafka import AIOKafkaProducer

from outbox_worker.kafka.records import partition_of
from outbox_worker.operator.status import collect
from outbox_worker.settings import read
from tests.support.programs.command import Operator
from tests.support.relay import links
from tests.support.relay.worker import Worker
from tests.support.topic import topics
from tests.support.topic.events import event_of

DOCUMENTS = 5
ENTITIES = 4


@pytest.fixture
async def connection(connection: asyncpg.Connection) -> asyncpg.Connection:
    """Yield a connection of the owner to a database with documents and entities."""
    await links.seed(connection, DOCUMENTS, ENTITIES)
    return connection


@pytest.fixture
def operator(worker: Worker) -> Operator:
    """Return an operator with the worker's environment."""
    return Operator(worker.env)


async def publish(connection: asyncpg.Connection, kafka: str, topic: str) -> int:
    """Toggle links until all events are in the topic; return their number."""
    for document in range(1, DOCUMENTS + 1):
        for entity in range(1, ENTITIES + 1):
            for _ in range(1 + (document + entity) % 3):
                await links.toggle(connection, f"doc_{document}", str(entity))
    count: int = await connection.fetchval("SELECT count(*) FROM outbox")
    await topics.wait_for_count(kafka, topic, count)
    return count


async def plant(kafka: str, topic: str, key: bytes, value: bytes) -> None:
    """Send a record to the topic as another producer."""
    producer = AIOKafkaProducer(bootstrap_servers=kafka)
    async with producer:
        await producer.send_and_wait(topic, value, key, partition_of(key, 12))


async def test_verify_passes_a_correct_topic(
    connection: asyncpg.Connection, kafka: str, topic: str, operator: Operator
) -> None:
    """For a topic with each event once and in order, `verify` exits with 0."""
    count = await publish(connection, kafka, topic)
    done = await operator.run("verify", "--json")
    assert done.code == 0, done.errors
    assert (done.report["outbox_events"], done.report["topic_records"]) == (count, count)
    assert done.report["faults"] == {}
    assert "nothing missing" in (await operator.run("verify")).output


async def test_verify_finds_each_kind_of_fault(
    connection: asyncpg.Connection, kafka: str, topic: str, operator: Operator
) -> None:
    """`verify` counts and names a duplicate, a lost, a changed and a misplaced event, and exits with 1."""
    await publish(connection, kafka, topic)
    records = await topics.read_all(kafka, topic)
    await plant(kafka, topic, records[0].key, records[0].value)
    rows = await connection.fetch("SELECT event_id::text AS id, key FROM outbox ORDER BY position")
    moved = rows[1]
    after_it = [row["id"] for row in rows[2:] if row["key"] == moved["key"]]
    await connection.execute("UPDATE outbox SET payload = payload || ' ' WHERE position = 1")
    # What is written now under an old xid counts as published, and is not in the topic.
    await connection.execute(
        "INSERT INTO outbox (xid, event_id, event_type, key, payload)"
        " SELECT xid, gen_random_uuid(), event_type, key, payload FROM outbox WHERE position = 4"
    )
    await connection.execute("UPDATE outbox SET position = DEFAULT WHERE position = 2")
    done = await operator.run("verify", "--json")
    assert done.code == 1, done.errors
    faults, examples = done.report["faults"], done.report["examples"]
    assert faults == {
        "duplicated": 1, "missing": 1, "altered": 1, "out_of_order": len(after_it)
    }  # fmt: skip
    assert examples["duplicated"] == [json.loads(records[0].value)["id"]]
    assert examples["altered"] == [rows[0]["id"]]
    assert examples["out_of_order"][0] == after_it[0]


async def test_status_shows_leader_lag_and_topic(
    connection: asyncpg.Connection, kafka: str, topic: str, worker: Worker, operator: Operator
) -> None:
    """`status` shows the leader, the published events, the ring and the topic, as JSON and as text."""
    count = await publish(connection, kafka, topic)
    report = (await operator.run("status", "--json")).report
    assert report["leader"]["backend"] > 0
    assert (report["lag_events"], report["lag_seconds"], report["published"]) == (0, 0.0, count)
    assert len(report["slots"]) == 16
    assert report["topic"]["partitions"] == 12
    worker.end()
    await links.toggle(connection, "doc_1", "1")
    report = (await operator.run("status", "--json")).report
    assert (report["leader"], report["lag_events"]) == (None, 1)
    text = await operator.run("status")
    assert (text.code, "leader" in text.output) == (0, True)


async def test_status_without_kafka(
    connection: asyncpg.Connection, kafka: str, topic: str, worker: Worker
) -> None:
    """`status` shows leader and ring, says why Kafka's part is unknown, and exits with 1."""
    await publish(connection, kafka, topic)
    operator = Operator({**worker.env, "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1"})
    done = await operator.run("status", "--json")
    assert (done.code, list(done.report["problems"])) == (1, ["kafka"])
    assert done.report["leader"]["backend"] > 0
    assert len(done.report["slots"]) == 16
    assert (done.report["topic"], done.report["lag_events"]) == (None, None)
    text = await operator.run("status")
    assert text.code == 1
    assert re.search(r"kafka +cannot be read: KafkaConnectionError", text.output)
    assert re.search(r"lag +unknown", text.output)
    assert re.search(r"leader +backend \d", text.output)


async def test_status_without_postgres(
    connection: asyncpg.Connection, kafka: str, topic: str, worker: Worker
) -> None:
    """`status` shows the topic, and says that the leader is unknown."""
    await publish(connection, kafka, topic)
    nowhere = {"DATABASE_URL": "postgresql://postgres@127.0.0.1:1/none"}
    done = await Operator({**worker.env, **nowhere}).run("status", "--json")
    assert (done.code, list(done.report["problems"])) == (1, ["postgres"])
    assert done.report["topic"]["partitions"] == 12
    assert (done.report["leader"], done.report["slots"]) == (None, None)


async def test_commands_read_the_checkpoint_if_the_progress_topic_is_lost(
    connection: asyncpg.Connection, kafka: str, topic: str, worker: Worker, operator: Operator
) -> None:
    """A stopped worker's checkpoint tells what is published; `doctor` tells that the topic is lost."""
    count = await publish(connection, kafka, topic)
    await lose_progress(connection, kafka, topic, worker)
    status = await operator.run("status", "--json")
    assert (status.code, status.report["published"], status.report["lag_events"]) == (0, count, 0)
    verified = await operator.run("verify", "--json")
    assert (verified.code, verified.report["outbox_events"]) == (0, count)
    assert "starts from its checkpoint" in (await remedies(operator))["progress"]


async def test_commands_fail_if_nothing_tells_which_events_are_published(
    connection: asyncpg.Connection, kafka: str, topic: str, worker: Worker, operator: Operator
) -> None:
    """Without progress record and checkpoint, `verify` has no proof and `status` no lag: exit 1."""
    await publish(connection, kafka, topic)
    name = await lose_progress(connection, kafka, topic, worker)
    await connection.execute("DELETE FROM outbox_checkpoints")
    unknown = f"which events relay {name} has published is unknown: neither topic {topic}.progress"
    verified = await operator.run("verify")
    assert (verified.code, verified.output) == (1, "")
    assert verified.errors.startswith(f"outbox_worker: {unknown}")
    status = await operator.run("status", "--json")
    assert (status.code, status.report["lag_events"]) == (1, None)
    assert status.report["problems"]["kafka"].startswith(unknown)
    assert re.search(r"lag +unknown", (await operator.run("status")).output)


async def test_verify_of_an_outbox_without_published_events_does_not_praise_the_topic(
    worker: Worker, operator: Operator
) -> None:
    """With nothing to look for, `verify` says that, and not that nothing is missing."""
    await worker.leading()
    done = await operator.run("verify")
    assert (done.code, "nothing missing" in done.output) == (0, False)
    assert "the outbox holds no published event" in done.output


async def lose_progress(
    connection: asyncpg.Connection, kafka: str, topic: str, worker: Worker
) -> str:
    """Stop the worker and delete its progress topic; return the relay's name."""
    assert worker.end() == 0
    name: str = await connection.fetchval("SELECT name FROM outbox_relay")
    await topics.delete(kafka, f"{topic}.progress.{name}")
    return name


async def test_status_computes_a_rate(
    connection: asyncpg.Connection, kafka: str, topic: str, worker: Worker
) -> None:
    """Events a second are counted between two reads, by the clock; the delivery is that of the settings."""
    await publish(connection, kafka, topic)
    settings = read({**worker.env, "OUTBOX_DELIVERY": "at-least-once"})
    before = await collect(settings)
    assert before.published is not None
    assert before.published_at is not None
    before.published -= 10
    before.published_at -= 100
    after = await collect(settings, before)
    assert after.rate == pytest.approx(0.1, abs=0.01)
    assert after.configured_delivery == "at-least-once"


async def test_replay_counts_asks_and_publishes_again(
    connection: asyncpg.Connection, kafka: str, topic: str, operator: Operator
) -> None:
    """With --yes, `replay` publishes the same events, marked, to another topic; otherwise nothing."""
    count = await publish(connection, kafka, topic)
    now = datetime.now(UTC)
    times = [
        "--from",
        (now - timedelta(hours=1)).isoformat(),
        "--to",
        (now + timedelta(hours=1)).isoformat(),
    ]
    dry = await operator.run("replay", *times, "--dry-run", "--json")
    assert dry.report == {"topic": f"{topic}.replay", "events": count, "published": False}
    assert (await operator.run("replay", *times)).code == 1
    assert await topics.read_all(kafka, f"{topic}.replay") == []
    done = await operator.run("replay", *times, "--yes", "--json")
    assert done.report["published"], done.errors
    again = await topics.read_all(kafka, f"{topic}.replay")
    before = await topics.read_all(kafka, topic)
    assert [(r.key, r.value) for r in again] == [(r.key, r.value) for r in before]
    assert all(dict(record.headers)["replay"] == b"true" for record in again)


async def test_replay_of_one_document(
    connection: asyncpg.Connection, kafka: str, topic: str, operator: Operator
) -> None:
    """`replay` of one document publishes only that document's events."""
    await publish(connection, kafka, topic)
    done = await operator.run(
        "replay", "--from", "2020-01-01", "--to", "2100-01-01", "--document", "doc_2", "--yes"
    )
    assert done.code == 0, done.errors
    again = await topics.read_all(kafka, f"{topic}.replay")
    assert {record.key.decode() for record in again} == {f"{links.WORKSPACE}/doc_2"}


async def test_snapshot_and_later_events_give_the_active_links(
    connection: asyncpg.Connection, kafka: str, topic: str, operator: Operator
) -> None:
    """A snapshot and the events after its offsets, applied by version, give the active links."""
    await publish(connection, kafka, topic)
    done = await operator.run("snapshot", "--yes", "--json")
    assert done.code == 0, done.errors
    for entity in range(1, ENTITIES + 1):
        await links.toggle(connection, "doc_1", str(entity))
    count = await connection.fetchval("SELECT count(*) FROM outbox")
    live = await topics.wait_for_count(kafka, topic, count)
    active: set[str] = set()
    versions: dict[str, int] = {}
    for record in await topics.read_all(kafka, f"{topic}.snapshot"):
        assert dict(record.headers)["snapshot"] == b"true"
        event = event_of(record.value)
        if event["type"] != "document.linked":  # a marker
            continue
        data = event["data"]
        active.add(data["link"]["id"])
        versions[data["document_id"]] = data["document_version"]
    assert len(active) == done.report["links"]
    for record in live:
        event = event_of(record.value)
        fresh = event["data"]["document_version"] > versions.get(event["subject"], 0)
        if record.offset >= done.report["continue_from"][str(record.partition)] and fresh:
            change = active.discard if event["type"] == "document.unlinked" else active.add
            change(event["data"]["link"]["id"])
    assert active == await links.active_links(connection)


async def test_doctor_passes_a_healthy_installation(
    connection: asyncpg.Connection, kafka: str, topic: str, operator: Operator
) -> None:
    """All checks but that of fsync, which the tests switch off, pass."""
    await publish(connection, kafka, topic)
    done = await operator.run("doctor", "--json")
    failed = {check["name"] for check in done.report["checks"] if not check["passed"]}
    assert failed <= {"durability"}
    names = {check["name"] for check in done.report["checks"]}
    assert names >= {"schema", "privileges", "topic", "retention", "clock", "ring", "session"}
    assert names >= {"tls", "kafka tls"}


async def test_doctor_gives_remedies(
    connection: asyncpg.Connection, kafka: str, topic: str, worker: Worker
) -> None:
    """A role without rights and a topic that deletes records fail a check, whose remedy can be pasted."""
    await publish(connection, kafka, topic)
    role = f"Reader {topic[-8:]}"
    await connection.execute(f'CREATE ROLE "{role}" LOGIN')
    await topics.configure(
        kafka, topic, {"retention.ms": "1000000000", "cleanup.policy": "compact"}
    )
    dsn = worker.env["DATABASE_URL"].replace("postgres@", f"{quote(role)}@")
    operator = Operator({**worker.env, "DATABASE_URL": dsn})
    grants = (await remedies(operator))["privileges"]
    assert f'GRANT INSERT ON outbox_checkpoints TO "{role}";' in grants
    assert f'outbox_14, outbox_15 TO "{role}";' in grants
    await connection.execute(grants)
    mend = await remedies(operator)
    assert "privileges" not in mend
    at = f"--bootstrap-server {kafka} --topic {topic} --alter --add-config"
    assert mend["retention"] == f"kafka-configs.sh {at} retention.ms=-1,retention.bytes=-1"
    assert mend["compaction"] == f"kafka-configs.sh {at} cleanup.policy=delete"
    await connection.execute(f'DROP OWNED BY "{role}"; DROP ROLE "{role}"')


async def test_doctor_finds_a_topic_with_a_limit_of_bytes(
    connection: asyncpg.Connection, kafka: str, topic: str, operator: Operator
) -> None:
    """A topic with retention.bytes fails the check, although its retention.ms is unlimited."""
    await publish(connection, kafka, topic)
    await topics.configure(kafka, topic, {"retention.ms": "-1", "retention.bytes": "1000000000"})
    assert "retention" in await remedies(operator)


async def test_doctor_finds_lost_topics(
    connection: asyncpg.Connection, kafka: str, topic: str, worker: Worker, operator: Operator
) -> None:
    """An event topic that is gone, or a progress topic without a record, is not taken for a new one."""
    await publish(connection, kafka, topic)
    name = await lose_progress(connection, kafka, topic, worker)
    await topics.make(kafka, f"{topic}.progress.{name}", 1, {"cleanup.policy": "compact"})
    await topics.delete(kafka, topic)
    mend = await remedies(operator)
    assert "--accept-topic" in mend["topic"]
    assert "starts from its checkpoint" in mend["progress"]


async def remedies(operator: Operator) -> dict[str, str]:
    """Return the checks that do not pass, each with its remedy."""
    done = await operator.run("doctor", "--json")
    assert done.code == 1
    return {check["name"]: check["mend"] for check in done.report["checks"] if not check["passed"]}


async def test_doctor_reports_wrong_settings_as_json() -> None:
    """Wrong settings are a check in the JSON report, and the exit code is 2."""
    done = await Operator({"OUTBOX_TOPICS": "a"}).run("doctor", "--json")
    (check,) = done.report["checks"]
    assert (done.code, check["name"], check["passed"]) == (2, "settings", False)
    assert "did you mean OUTBOX_TOPIC?" in check["found"]


async def test_doctor_says_what_it_does_not_check() -> None:
    """The help of `doctor` says that only the rights to the event topic are checked."""
    help_text = " ".join((await Operator({}).run("doctor", "--help")).output.split())
    assert "Of the rights in Kafka, those on the event topic are checked" in help_text


async def test_doctor_without_database_or_kafka_still_answers() -> None:
    """Without Postgres and Kafka each fails its check with one line, and the exit code is 1."""
    nowhere = {
        "DATABASE_URL": "postgresql://postgres@127.0.0.1:1/none",
        "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1",
    }
    done = await Operator(nowhere).run("doctor")
    assert done.code == 1
    assert "fail database" in done.output
    assert "fail kafka" in done.output


@pytest.mark.parametrize("name", ["verify", "snapshot", "replay"])
async def test_commands_without_a_schema(empty_database: str, name: str) -> None:
    """Each command prints one line, with the command that makes the schema."""
    env = {"DATABASE_URL": empty_database, "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1"}
    times = ["--from", "2020-01-01", "--to", "2100-01-01"] if name == "replay" else []
    done = await Operator(env).run(name, *times)
    assert done.code == 1
    assert done.errors == (
        "outbox_worker: the database has no schema of this program: "
        "run `python -m service migrate`; if that was done, correct the search_path of the role or "
        "the database\n"
    )


@pytest.mark.parametrize("name", ["verify", "snapshot", "rebase"])
async def test_commands_without_a_database(name: str) -> None:
    """Each command prints one line, with the variable to check."""
    env = {
        "DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none",
        "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1",
    }
    done = await Operator(env).run(name)
    assert (done.code, len(done.errors.splitlines())) == (1, 1)
    assert "the database cannot be reached" in done.errors
    assert "check DATABASE_URL" in done.errors


async def test_commands_before_the_first_start(database: str, kafka: str, topic: str) -> None:
    """Before the worker's first start `verify`, `snapshot` and `rebase` end with one line."""
    env = {"DATABASE_URL": database, "KAFKA_BOOTSTRAP_SERVERS": kafka, "OUTBOX_TOPIC": topic}
    for name in ("verify", "snapshot", "rebase"):
        done = await Operator(env).run(name)
        assert done.code == 1
        assert len(done.errors.strip().splitlines()) == 1


@pytest.mark.parametrize("name", ["run", "status", "verify", "snapshot", "rebase", "doctor"])
@pytest.mark.parametrize(
    "url",
    ["postgresql://u@127.0.0.1/db?sslmode=foo", "postgresql:///db?host=127.0.0.1&port=s3cret"],
)
async def test_url_with_a_wrong_parameter_is_one_line(name: str, url: str) -> None:
    """Each command names the parameter and exits with 2, without a traceback or the URL."""
    env = {"DATABASE_URL": url, "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1", "OUTBOX_HTTP_PORT": "0"}
    done = await Operator(env).run(name)
    said = [line for line in (done.output + done.errors).splitlines() if "DATABASE_URL: " in line]
    assert (done.code, len(said)) == (2, 1)
    assert "Traceback" not in done.errors
    assert "s3cret" not in done.output + done.errors
