"""Conditional requests (RFC 9110, section 13): the state of a document that a caller requires."""

from msgspec import Struct

from service.core.changes import DocumentState
from service.core.errors import PreconditionFailed


class Tags(Struct, frozen=True):
    """The value of an If-Match or an If-None-Match: revisions, or `*` for any document that exists."""

    revisions: frozenset[int] = frozenset()
    star: bool = False

    def match(self, document: DocumentState | None) -> bool:
        """Whether the document is one of those that are named; None: there is no document."""
        if document is None:
            return False
        return not document.deleted if self.star else document.revision in self.revisions


class Preconditions(Struct, frozen=True):
    """The two conditions that an entity tag can state; None: the caller did not state it."""

    if_match: Tags | None = None
    if_none_match: Tags | None = None

    def check(self, document: DocumentState | None) -> None:
        """Hold the document, as it is before the call, against both; If-Match counts first.

        Raises:
            PreconditionFailed: one of them is false.
        """
        self.check_match(document)
        if document is not None and self.is_known(document):
            raise PreconditionFailed(
                f'the document exists, and its revision is "{document.revision}": '
                "If-None-Match requires another state"
            )

    def check_match(self, document: DocumentState | None) -> None:
        """Hold the document against If-Match alone.

        Raises:
            PreconditionFailed: somebody has written to it since, or it does not exist.
        """
        if self.if_match is None or self.if_match.match(document):
            return
        if document is None or document.deleted:
            raise PreconditionFailed("the document does not exist, so it has no revision")
        raise PreconditionFailed(
            f'the document is at revision "{document.revision}" now: read it again'
        )

    def is_known(self, document: DocumentState) -> bool:
        """Whether If-None-Match names the document: a reader has it already."""
        return self.if_none_match is not None and self.if_none_match.match(document)

    def check_untagged(self, *, exists: bool) -> None:
        """Hold a resource that has no entity tag against both: no tag can match it, `*` can.

        Raises:
            PreconditionFailed: one of them is false.
        """
        if self.if_match is not None and not (self.if_match.star and exists):
            raise PreconditionFailed(
                "it does not exist"
                if self.if_match.star
                else "it has no ETag: the only If-Match that can hold is `*`"
            )
        if self.if_none_match is not None and self.if_none_match.star and exists:
            raise PreconditionFailed("it exists, and If-None-Match requires that it does not")
