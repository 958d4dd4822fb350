"""Envelope encryption of secrets: each under a data key of its own, which the operator's key wraps.

AES-256-GCM for both. The tenant and the name of a secret are associated data of both: a row that was copied to another
tenant or another name does not open. A data key seals one set of values and no second; changing the operator's key
changes what wraps the data keys, never the values.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import orjson
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from cloacina.errors import InvalidRequest, Unavailable

KEY_BYTES = 32
_NONCE_BYTES = 12
_SHAPE = 1
"""Part of the associated data: another way to seal gets another number."""


class KeyEncryptionKeyError(InvalidRequest):
    """The key that secrets are encrypted with is malformed, or cannot be read."""

    default_code = "secret_kek"


class SecretUnreadable(Unavailable):
    """No key at hand opens a secret, or what is stored of it was changed."""

    default_code = "secret_unreadable"


@dataclass(frozen=True, slots=True)
class Sealed:
    """A secret's values as they are stored.

    Args:
        ciphertext: the values under the data key.
        data_key: the data key, wrapped.
        kek_id: the key that wraps it.
    """

    ciphertext: bytes
    data_key: bytes
    kek_id: str


class Keyring:
    """The operator's keys: one that seals, and former ones that still open.

    Args:
        current: 32 bytes.
        former: 32 bytes each.
    """

    def __init__(self, current: bytes, former: Iterable[bytes] = ()) -> None:
        self.current_id = key_id(current)
        self._keys = {key_id(key): AESGCM(key) for key in (*former, current)}

    def __repr__(self) -> str:
        return f"Keyring(current_id={self.current_id!r}, keys={len(self._keys)})"

    def seal(self, tenant_id: str, name: str, fields: Mapping[str, str]) -> Sealed:
        """Encrypts values under a fresh data key, and wraps that with the current key."""
        data_key = AESGCM.generate_key(KEY_BYTES * 8)
        plaintext = orjson.dumps(dict(fields))
        ciphertext = _encrypt(AESGCM(data_key), plaintext, _about("fields", tenant_id, name))
        wrapped = _encrypt(self._keys[self.current_id], data_key, _about("data key", tenant_id, name))
        return Sealed(ciphertext, wrapped, self.current_id)

    def open(self, tenant_id: str, name: str, sealed: Sealed) -> dict[str, str]:
        """Decrypts values.

        Raises:
            SecretUnreadable: the key that wraps it is not there, or what is stored is not what was sealed for this
                tenant and name.
        """
        data_key = self._unwrap(tenant_id, name, sealed)
        try:
            plaintext = _decrypt(AESGCM(data_key), sealed.ciphertext, _about("fields", tenant_id, name))
        except InvalidTag:
            raise _changed(name) from None
        fields: dict[str, str] = orjson.loads(plaintext)
        return fields

    def opens(self, sealed: Sealed) -> bool:
        """Whether the key that wraps it is at hand."""
        return sealed.kek_id in self._keys

    def rewrap(self, tenant_id: str, name: str, sealed: Sealed) -> Sealed:
        """The same values with the data key wrapped by the current key.

        Raises:
            SecretUnreadable: see `open`.
        """
        data_key = self._unwrap(tenant_id, name, sealed)
        wrapped = _encrypt(self._keys[self.current_id], data_key, _about("data key", tenant_id, name))
        return Sealed(sealed.ciphertext, wrapped, self.current_id)

    def _unwrap(self, tenant_id: str, name: str, sealed: Sealed) -> bytes:
        key = self._keys.get(sealed.kek_id)
        if key is None:
            raise SecretUnreadable(
                f"the secret {name!r} was encrypted with another key (id {sealed.kek_id}): add that one to "
                "CLOACINA_SECRET_KEK_OLD, or rotate the secret"
            )
        try:
            return _decrypt(key, sealed.data_key, _about("data key", tenant_id, name))
        except InvalidTag:
            raise _changed(name) from None


class KeySettings(Protocol):
    """Where the keys are: in the settings of whoever keeps secrets."""

    @property
    def secret_kek(self) -> str:
        """The current key; empty for none here."""

    @property
    def secret_kek_file(self) -> Path | None:
        """A file that holds it instead."""

    @property
    def secret_kek_old(self) -> str:
        """Former keys, comma-separated."""


def keyring_from(settings: KeySettings) -> Keyring | None:
    """The keys that the settings name; ``None`` without any: then there are no secrets.

    Raises:
        KeyEncryptionKeyError: one is malformed or cannot be read; the message names the variable, never the value.
    """
    if settings.secret_kek and settings.secret_kek_file is not None:
        raise KeyEncryptionKeyError("CLOACINA_SECRET_KEK and CLOACINA_SECRET_KEK_FILE are both set; set one of them")
    current = settings.secret_kek
    if settings.secret_kek_file is not None:
        current = _read(settings.secret_kek_file)
    former = [each for each in settings.secret_kek_old.split(",") if each.strip()]
    if not current.strip():
        if former or settings.secret_kek_file is not None:
            raise KeyEncryptionKeyError(
                "there is no current key to encrypt secrets with: set CLOACINA_SECRET_KEK to one, base64 or hex of "
                "32 bytes"
            )
        return None
    named = "CLOACINA_SECRET_KEK" if settings.secret_kek else "CLOACINA_SECRET_KEK_FILE"
    return Keyring(parse_key(current, named), [parse_key(each, "CLOACINA_SECRET_KEK_OLD") for each in former])


def parse_key(text: str, variable: str) -> bytes:
    """A key from base64 (standard alphabet) or hex.

    Args:
        text: the encoded key; white space around it does not count.
        variable: where it comes from, for the message.

    Raises:
        KeyEncryptionKeyError: it is not 32 bytes.
    """
    for decode in (_from_base64, bytes.fromhex):
        try:
            key = decode(text.strip())
        except ValueError:
            continue
        if len(key) == KEY_BYTES:
            return key
    raise KeyEncryptionKeyError(
        f"{variable} must be base64 or hex of exactly {KEY_BYTES} bytes; make one with: openssl rand -base64 32"
    )


def key_id(key: bytes) -> str:
    """A name for a key that says nothing of it."""
    return hashlib.sha256(b"cloacina secret kek\x00" + key).hexdigest()[:16]


def _from_base64(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def _read(path: Path) -> str:
    try:
        return path.expanduser().read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise KeyEncryptionKeyError(f"CLOACINA_SECRET_KEK_FILE: {path} cannot be read: {reason}") from None


def _about(what: str, tenant_id: str, name: str) -> bytes:
    return orjson.dumps(["cloacina secret", _SHAPE, what, tenant_id, name])


def _encrypt(key: AESGCM, plaintext: bytes, about: bytes) -> bytes:
    nonce = os.urandom(_NONCE_BYTES)
    return nonce + key.encrypt(nonce, plaintext, about)


def _decrypt(key: AESGCM, sealed: bytes, about: bytes) -> bytes:
    if len(sealed) < _NONCE_BYTES:
        raise InvalidTag
    return key.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], about)


def _changed(name: str) -> SecretUnreadable:
    return SecretUnreadable(
        f"what is stored of the secret {name!r} is not what was encrypted for this tenant and name: rotate it"
    )
