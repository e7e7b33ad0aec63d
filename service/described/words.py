"""The prose of the OpenAPI and AsyncAPI documents."""

from typing import Final

LICENCE: Final = {"name": "MIT", "url": "https://opensource.org/license/mit"}

API: Final = """\
Links documents to business resources. Every change of a link is told to subscribers of a Kafka topic, \
exactly once: see `/docs/events`.

**Keys.** `Authorization: Bearer wbk_…` or `X-API-KEY: wbk_…`, either one on every call. One valid \
key is enough: an `Authorization` that is meant for a gateway is ignored beside a valid `X-API-KEY`. \
If both hold a valid key, the one in `Authorization` counts. A key belongs to a workspace and sees \
nothing of any other.

**Bodies** are JSON in UTF-8 without a content coding. Parameters of `Content-Type` other than \
`charset` are ignored, and so is a byte order mark. `Accept` and `Range` are ignored too: every answer \
is whole, and JSON.

**Ids** of documents and entities are opaque: 1 to 128 of `A-Z a-z 0-9 _ - .`, the first a letter \
or digit. A link has one id, a UUIDv7 that `/link` shows as `dlnk_` and 26 base32 characters; \
both forms are accepted everywhere.

**Retries** are safe. The same link again is the existing one; with an `Idempotency-Key`, any \
call that changes something is carried out once, and its first answer is given again for 24 hours \
(`Idempotent-Replayed: true`).

**Conditional requests** (RFC 9110, section 13). `ETag` is a document's revision, which also links \
and unlinks of it change; their answers carry it too. A write with `If-Match` is refused (412) if \
somebody else has written since, and one with `If-None-Match: *` if the document exists. A read with \
`If-None-Match` is 304 if nothing has changed. The conditions on dates are ignored, since no answer \
has a `Last-Modified`; so are conditions on a batch and on lists, which are no single document. \
Entities have no `ETag`: of their conditions only `*` can hold.

**Errors** are `application/problem+json` (RFC 9457), with a `code` to branch on and, for \
`validation_error`, every field that is wrong. Checks come in this order: key, rate limit, path and \
method, scope, form of the request, replay, existence and conflict, precondition.

**Methods.** Each path answers OPTIONS with `Allow`, and HEAD wherever it answers GET.

**Lists** have pages; `Link: <?…>; rel="next"`, relative to the request, leads to the next one by a \
cursor, under which no link that stays is missed or seen twice, whatever is written meanwhile. \
`Next-Cursor` has this cursor alone, to be sent as `cursor` with the same filters. A page without these \
headers is the last. A page that is named by its number begins after at most 100,000 items: behind those, \
follow the links.

**Bounds.** A document has at most 5,000 active links: one more is 409, with the number in `detail`. \
A list of `resources` has at most 5,000 items, a batch 500 operations, a body 1 MiB, metadata 100 \
levels, a page 100 items.
"""

EVENTS: Final = """\
One event for each change of a link between a document and a business resource: CloudEvents 1.0, \
structured mode, in JSON. A message's value is the whole event.

The key is `{workspace_id}/{document_id}`, so that all events of a document are in one partition, in \
commit order. Applied from the beginning, the events give exactly the active links. JSON Schemas of the \
event types are at `/schemas/{type}.json`, and `/docs/events` shows this document to people.

## Reading exactly once

Read with `isolation.level=read_committed`. The worker publishes a batch of events in a Kafka \
transaction; a consumer that reads uncommitted records also gets the events of aborted transactions, \
and gets them again when they are published.

A consumer that crashes gets the records after its last committed offset again. So keep the \
`document_version` of the last event that was applied to each document, by the record's key, and write it \
in the same transaction as the effect of the event. Apply an event only if its version is greater. The \
same check covers the rare cases in which the topic itself has an event twice, such as after a failover \
of the database: a repeated event has the same `id` and the same version.

Ignore event types and fields that you do not know, because more may be added.

## Versions, duplicates and gaps

`document_version` (and `sequence`, which is the same number as a text) grows by exactly one with each \
event of a document. A version that is one above the last applied one is the next event. A version that \
is not above it is a duplicate: skip it.

A version that is more than one above it is a gap: the consumer has not seen the events between. A \
consumer that began in the middle of the topic sees a gap at each document that was changed before: read \
the topic from its beginning, or begin with a snapshot. For a consumer that has read everything, a gap is \
a loss. Do not apply later events of the document; tell the operator, who compares the topic with the \
database (`outbox_worker verify`) and can publish the events again (`replay`) or a snapshot.

## Snapshots

A subscriber that cannot read the topic from its beginning asks an operator for a snapshot: all active \
links, in a topic of their own. The channel of snapshots says how to apply one, and from where to read on.

## Replays

An operator can publish again the events that the database still holds, by default to `<topic>.replay`. \
They have the header `replay: true`, and the `id` and `document_version` that they had the first time. So \
the check of versions skips those that were applied before.
"""
