"""Conditional requests (RFC 9110, section 13): the state that a caller requires of a document."""

from msgspec import Struct

from service.core.errors import PreconditionFailed
from service.core.values import DocumentState


class Tags(Struct, frozen=True):
    """The value of an If-Match or an If-None-Match: revisions, or `*` for any document that exists."""

    revisions: frozenset[int] = frozenset()
    star: bool = False

    def match(self, document: DocumentState | None) -> bool:
        """Whether the document exists and has one of the revisions; None: there is no document."""
        if document is None:
            return False
        return not document.deleted if self.star else document.revision in self.revisions


class Preconditions(Struct, frozen=True):
    """A request's If-Match and If-None-Match; None: the request has no such header."""

    if_match: Tags | None = None
    if_none_match: Tags | None = None

    def check(self, document: DocumentState | None) -> None:
        """Check both conditions, If-Match first, against the document before the request.

        Raises:
            PreconditionFailed: a condition is false.
        """
        self.check_match(document)
        if document is not None and self.is_known(document):
            raise PreconditionFailed(
                f'the document exists, and its revision is "{document.revision}": '
                "If-None-Match requires another state"
            )

    def check_match(self, document: DocumentState | None) -> None:
        """Check If-Match alone.

        Raises:
            PreconditionFailed: the document has another revision, or does not exist.
        """
        if self.if_match is None or self.if_match.match(document):
            return
        if document is None or document.deleted:
            raise PreconditionFailed("the document does not exist, so it has no revision")
        raise PreconditionFailed(
            f'the document is at revision "{document.revision}" now: read it again'
        )

    def is_known(self, document: DocumentState) -> bool:
        """Whether If-None-Match matches the document: the caller has read this revision before."""
        return self.if_none_match is not None and self.if_none_match.match(document)

    def check_untagged(self, *, exists: bool) -> None:
        """Check both conditions for an entity. It has no ETag, so only `*` can match it.

        Raises:
            PreconditionFailed: a condition is false.
        """
        if self.if_match is not None and not (self.if_match.star and exists):
            raise PreconditionFailed(
                "the entity does not exist"
                if self.if_match.star
                else "an entity has no ETag: send `If-Match: *`, or no If-Match"
            )
        if self.if_none_match is not None and self.if_none_match.star and exists:
            raise PreconditionFailed(
                "the entity exists, and If-None-Match requires that it does not"
            )
