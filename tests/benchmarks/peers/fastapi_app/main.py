"""The same call with FastAPI, SQLAlchemy 2 and asyncpg, as a product team would write it.

Runs in an environment of its own (requirements.txt): `python main.py` makes its tables.
"""
# What it imports is not installed where mypy runs:
# mypy: ignore-errors
# A peer, in the manner of its kind, and no package of ours:
# ruff: noqa: D101, D103, INP001, RUF012

import asyncio
import hashlib
import os
import time
import uuid
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException, Path, Response, status
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import BigInteger, DateTime, Identity, Text, UniqueConstraint, func, select
from sqlalchemy.dialects.postgresql import JSONB, insert
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

KEY_CACHED_S = 10.0
engine = create_async_engine(os.environ["DATABASE_URL"], pool_size=16, max_overflow=0)
make_session = async_sessionmaker(engine, expire_on_commit=False)
app = FastAPI(title="Document links")


class Base(DeclarativeBase):
    type_annotation_map = {datetime: DateTime(timezone=True), str: Text, dict[str, Any]: JSONB}


class ApiKey(Base):
    __tablename__ = "api_keys"
    hash: Mapped[bytes] = mapped_column(primary_key=True)
    workspace_id: Mapped[uuid.UUID]


class Document(Base):
    __tablename__ = "documents"
    workspace_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    id: Mapped[str] = mapped_column(primary_key=True)


class Entity(Base):
    __tablename__ = "entities"
    workspace_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    type: Mapped[str] = mapped_column(primary_key=True)
    id: Mapped[str] = mapped_column(primary_key=True)


class DocumentLink(Base):
    __tablename__ = "document_links"
    __table_args__ = (UniqueConstraint("workspace_id", "document_id", "entity_type", "entity_id"),)
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    workspace_id: Mapped[uuid.UUID]
    document_id: Mapped[str]
    entity_type: Mapped[str]
    entity_id: Mapped[str]
    role: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Outbox(Base):
    __tablename__ = "outbox"
    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    event_type: Mapped[str]
    aggregate_id: Mapped[str]
    payload: Mapped[dict[str, Any]]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class LinkRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")
    entity_type: str = Field(min_length=1, max_length=64)
    entity_id: str = Field(min_length=1, max_length=128)
    role: str | None = Field(default=None, max_length=64)


class LinkOut(BaseModel):
    model_config = ConfigDict(from_attributes=True)
    link_id: uuid.UUID = Field(validation_alias="id")
    document_id: str
    entity_type: str
    entity_id: str
    role: str | None
    created_at: datetime


class LinkResponse(BaseModel):
    data: LinkOut


async def get_session() -> AsyncIterator[AsyncSession]:
    async with make_session() as session:
        yield session


SessionDep = Annotated[AsyncSession, Depends(get_session)]
CredentialsDep = Annotated[HTTPAuthorizationCredentials, Depends(HTTPBearer())]
known_keys: dict[bytes, tuple[uuid.UUID, float]] = {}


async def get_workspace(session: SessionDep, credentials: CredentialsDep) -> uuid.UUID:
    digest = hashlib.sha256(credentials.credentials.encode()).digest()
    workspace_id, until = known_keys.get(digest, (None, 0.0))
    if workspace_id is not None and until > time.monotonic():
        return workspace_id
    workspace_id = await session.scalar(select(ApiKey.workspace_id).where(ApiKey.hash == digest))
    if workspace_id is None:
        raise HTTPException(status.HTTP_401_UNAUTHORIZED, "invalid API key")
    known_keys[digest] = (workspace_id, time.monotonic() + KEY_CACHED_S)
    return workspace_id


WorkspaceDep = Annotated[uuid.UUID, Depends(get_workspace)]


@app.get("/healthz")
async def healthz() -> str:
    return "ok"


@app.post("/v1/documents/{document_id}/link", status_code=status.HTTP_201_CREATED)
async def link_document(
    document_id: Annotated[str, Path(min_length=1, max_length=128)],
    body: LinkRequest,
    response: Response,
    workspace_id: WorkspaceDep,
    session: SessionDep,
) -> LinkResponse:
    if await session.get(Document, (workspace_id, document_id)) is None:
        raise HTTPException(status.HTTP_404_NOT_FOUND, "document not found")
    if await session.get(Entity, (workspace_id, body.entity_type, body.entity_id)) is None:
        raise HTTPException(status.HTTP_404_NOT_FOUND, "entity not found")
    triple = {
        "document_id": document_id,
        "entity_type": body.entity_type,
        "entity_id": body.entity_id,
    }
    new = insert(DocumentLink).values(workspace_id=workspace_id, role=body.role, **triple)
    link = await session.scalar(new.on_conflict_do_nothing().returning(DocumentLink))
    if link is None:
        link = await session.scalar(
            select(DocumentLink).filter_by(workspace_id=workspace_id, **triple)
        )
        response.status_code = status.HTTP_200_OK
        return LinkResponse(data=LinkOut.model_validate(link))
    out = LinkOut.model_validate(link)
    session.add(
        Outbox(event_type="document.linked", aggregate_id=document_id, payload=linked_event(out))
    )
    await session.commit()
    return LinkResponse(data=out)


def linked_event(link: LinkOut) -> dict[str, Any]:
    return {
        "specversion": "1.0",
        "id": str(uuid.uuid4()),
        "type": "document.linked",
        "source": "/services/document-links",
        "subject": link.document_id,
        "time": link.created_at.isoformat(),
        "datacontenttype": "application/json",
        "data": link.model_dump(mode="json"),
    }


async def make_tables() -> None:
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    await engine.dispose()


if __name__ == "__main__":
    asyncio.run(make_tables())
