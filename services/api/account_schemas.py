"""The shapes of requests and answers about people: logging in, sessions, accounts, tickets."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr
from typing_extensions import TypedDict

from services.api.passwords import MAX_LENGTH, MIN_LENGTH
from services.api.schemas import KeyRole, Label, Timestamp, Uuid


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)


class LocalLoginRequest(_Request):
    """A name and a password."""

    username: str = Field(max_length=255)
    password: SecretStr = Field(max_length=MAX_LENGTH)
    tenant: str | None = Field(None, max_length=63, description="Whose account it is; accounts belong to a tenant.")


class LocalLoginResponse(TypedDict):
    """What a person who is logged in shows. The only answer that ever holds the key."""

    key: Annotated[str, Field(description="Shown once; goes into `Authorization: Bearer`.")]
    role: Annotated[str, Field(description="read, write or admin.")]
    tenant_id: str | None
    expires_at: Annotated[Timestamp | None, Field(description="Until when, unless it is refreshed before.")]


class LogoutResponse(TypedDict):
    """The session has ended; an API key is kept: it is revoked with DELETE /v1/auth/keys/{key_id}."""

    status: Literal["logged_out", "key_kept"]


class CreateAccountRequest(_Request):
    """A new account."""

    username: Label = Field(description="Unique within the tenant.")
    password: SecretStr = Field(min_length=MIN_LENGTH, max_length=MAX_LENGTH)
    role: KeyRole


class ResetPasswordRequest(_Request):
    """A new password."""

    password: SecretStr = Field(min_length=MIN_LENGTH, max_length=MAX_LENGTH)


class AccountInfo(TypedDict):
    """An account, without its password."""

    id: Uuid
    username: str
    role: Annotated[str, Field(description="read, write or admin.")]
    status: Literal["active", "disabled"]


class AccountList(TypedDict):
    """Accounts, by name."""

    items: list[AccountInfo]
    total: int


class AccountActionResponse(TypedDict):
    """What was done, and to which account."""

    status: Literal["disabled", "password_reset"]
    id: Uuid


class WsTicketResponse(TypedDict):
    """Opens one WebSocket."""

    ticket: Annotated[str, Field(description="Shown once; good for one upgrade.")]
    expires_in_seconds: Annotated[int, Field(ge=0)]
