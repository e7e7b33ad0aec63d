"""`POST /v1/links/batch`: many links and unlinks, of many documents, in one transaction."""

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType, structs
from starlette.routing import Route

from service.core.errors import Conflict, NotFound, Refusal
from service.core.events import EventLink, event_link
from service.core.ids import type_of
from service.core.links import DocumentStates, LinksWrite
from service.core.values import AddLink, Change, DocumentKey, EntityKey, LinkKey, Outcome, Unlink
from service.core.writes import Reply
from service.edge.calls.call import Call, invalid_field
from service.edge.calls.endpoint import WRITE, Endpoint, Path
from service.edge.calls.problems import EdgeError, Problem, problem
from service.edge.shapes.messages import NO_PREFIX, EntityType, Id, Role, encode
from service.store.writing.group import GroupWriter

MAX_OPERATIONS = 500


class Operation(Struct, frozen=True, forbid_unknown_fields=True):
    """One link or unlink: of a resource id with a known prefix, or of an entity type and id."""

    op: Literal["link", "unlink"]
    document_id: Id
    resource_id: Id | None = None
    entity_type: EntityType | None = None
    entity_id: Id | None = None
    role: Role | None = None


class BatchRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """Operations, carried out in order; with `atomic`, all or none.

    `atomic` is false by default: each operation succeeds or fails alone.
    """

    operations: Annotated[list[Operation], Meta(min_length=1, max_length=MAX_OPERATIONS)]
    atomic: bool = False


class OperationOutcome(Struct, frozen=True):
    """The result of an operation: `link` and `restored`, or the `problem` for which it was refused."""

    index: int
    status: int
    link: EventLink | UnsetType = UNSET
    restored: bool | UnsetType = UNSET
    problem: Problem | UnsetType = UNSET


class BatchReply(Struct, frozen=True):
    """One outcome for each operation, in order."""

    data: list[OperationOutcome]
    message: str


class Batch:
    """Handler of the batch call."""

    def __init__(self, writer: GroupWriter) -> None:
        self._writer = writer

    async def apply(self, call: Call, body: BatchRequest) -> Reply:
        """Link and unlink up to 500 times; each operation has its own outcome, unless atomic.

        An operation is refused alone, with a `problem` as its outcome, if its document, entity or link
        does not exist, if the prefix of its `resource_id` stands for no type, or if the entity is named
        in both ways or in none. With `atomic`, the first such problem is the answer, with its `index`,
        and nothing is written.

        A malformed operation makes the whole body invalid (400): an unknown field or `op`, a missing
        `document_id`, a value of a wrong type, an invalid id or role. So do 0 or over 500 operations.
        """
        changes: list[Change] = []
        refused: dict[int, EdgeError] = {}
        for index, operation in enumerate(body.operations):
            try:
                changes.append(_change(call.key.workspace_id, operation, index))
            except EdgeError as error:
                if body.atomic:
                    error.index = index
                    raise
                refused[index] = error

        def respond(outcomes: list[Outcome | Refusal], _: DocumentStates | None = None) -> Reply:
            rest = iter(outcomes)
            merged = [refused.get(n) or next(rest) for n in range(len(body.operations))]
            return _reply(merged, call.request_id)

        # If-Match is ignored, since a batch has no single document. If malformed, it is answered 400.
        _ = call.preconditions
        write = LinksWrite(
            caller=call.caller,
            idempotency=call.idempotency,
            cause="batch",
            changes=changes,
            respond=respond,
            atomic=body.atomic,
        )
        if not changes and write.idempotency is None:
            return respond([])  # nothing to write, and no reply to store
        return await self._writer.write(write)


def routes(batch: Batch) -> list[Route]:
    """Return the route of the batch."""
    apply = Endpoint(
        batch.apply, scope=WRITE, replies={200: BatchReply}, refusals=(NotFound, Conflict)
    )
    return [Route("/v1/links/batch", Path(POST=apply))]


def _change(workspace_id: str, operation: Operation, index: int) -> Change:
    """Return the change that the operation asks for.

    Raises:
        EdgeError: `validation_error`: the entity is not named, named twice, or of no known type.
    """
    where = f"operations[{index}]"
    entity_type, entity_id = operation.entity_type, operation.entity_id
    if operation.resource_id is not None:
        if entity_type is not None or entity_id is not None:
            raise invalid_field(
                f"{where}.resource_id", "cannot be combined with entity_type or entity_id"
            )
        entity_type, entity_id = type_of(operation.resource_id), operation.resource_id
        if entity_type is None:
            raise invalid_field(f"{where}.resource_id", NO_PREFIX)
    if entity_type is None or entity_id is None:
        raise invalid_field(where, "needs resource_id, or entity_type and entity_id")
    key = LinkKey(
        DocumentKey(workspace_id, operation.document_id),
        EntityKey(workspace_id, entity_type, entity_id),
    )
    return AddLink(key, operation.role) if operation.op == "link" else Unlink(key)


def _reply(outcomes: list[Outcome | Refusal | EdgeError], request_id: str) -> Reply:
    data: list[OperationOutcome] = []
    applied = 0
    for index, outcome in enumerate(outcomes):
        if isinstance(outcome, Outcome) and outcome.link is not None:
            status = 201 if outcome.kind == "created" else 200
            link, restored = event_link(outcome.link), outcome.kind == "restored"
            data.append(OperationOutcome(index, status, link, restored))
            applied += 1
        elif isinstance(outcome, Exception):
            described = structs.replace(problem(outcome, request_id), index=UNSET)
            data.append(OperationOutcome(index, described.status, problem=described))
    message = f"{applied} of {len(data)} operation{'' if len(data) == 1 else 's'} applied"
    return Reply(200, encode(BatchReply(data, message)))
