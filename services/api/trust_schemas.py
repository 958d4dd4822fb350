"""The shapes of requests and answers about signing keys; see `services.api.schemas`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import TypedDict

from services.api.schemas import Label, Timestamp

KeyId = Annotated[str, Field(description="SHA-256 of the public key's 32 bytes, in hex.")]


class TrustKeyRequest(BaseModel):
    """A public key to trust."""

    model_config = ConfigDict(extra="forbid")

    name: Label = Field(description="What people call it: whose it is, say.")
    public_key: str = Field(max_length=4096, description="Ed25519, as PEM or its 32 bytes in base64.")


class SigningKeyInfo(TypedDict):
    """A public key that signs packages."""

    key_id: KeyId
    name: str
    tenant_id: str
    public_key: Annotated[str, Field(description="PEM.")]
    created_at: Timestamp
    created_by: Annotated[str, Field(description="Name of the API key that trusted it.")]
    revoked_at: Annotated[str | None, Field(description="null while it is trusted.")]
    revoked_by: str | None


class SigningKeyList(TypedDict):
    """Signing keys of a tenant, revoked ones too, oldest first."""

    tenant_id: str
    items: list[SigningKeyInfo]
    total: int


class SigningKeyRevokedResponse(TypedDict):
    """No package that the key signed is accepted from now on; those that are loaded stay."""

    status: Literal["revoked"]
    key_id: KeyId
