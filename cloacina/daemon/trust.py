"""What the signature of a package file is worth to a daemon: keys that its configuration trusts, no others."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

from cloacina.errors import InvalidRequest
from cloacina.packages.errors import PackageRefused
from cloacina.packages.signature import key_id_of, read_public_key, read_signature

log = logging.getLogger(__name__)


class TrustedKeys:
    """The keys.

    Args:
        files: of public keys, PEM or base64.
        required: whether a package that none of them signed is refused.

    Raises:
        InvalidRequest: a file cannot be read, or holds no key; or signatures are required and there is no key.
    """

    def __init__(self, files: Iterable[Path], *, required: bool) -> None:
        self._required = required
        self._keys = {key_id_of(key): (file, key) for file, key in ((file, _read(file)) for file in files)}
        if required and not self._keys:
            raise InvalidRequest(
                "require_signatures is on, and no key is trusted: name the files of public keys in trusted_keys"
            )

    def judge(self, archive: Path) -> None:
        """Looks at the signature of an archive, before anything else of it is read. A signature that names a trusted
        key must be of it, whether signatures are required or not.

        Raises:
            PackageRefused: it is not acceptable.
        """
        signature = read_signature(archive)
        if signature is None:
            self._refuse_where_required(
                "the package is not signed, and this daemon takes signed packages only; sign it with: cloacinactl "
                "package sign FILE --key KEYFILE",
                "signature_required",
            )
            return
        file, key = self._keys.get(signature.key_id, (None, b""))
        if file is None:
            self._refuse_where_required(
                f"the package is signed by the key {signature.key_id}, which this daemon does not trust; if it should, "
                "add the file of its public key to trusted_keys",
                "signing_key_unknown",
            )
        elif not signature.made_by(key):
            raise PackageRefused(
                f"the signature is not one of the key in {file} on this archive: the archive was changed after it was "
                "signed; sign it again",
                code="signature_invalid",
            )
        else:
            log.info("the package is signed by a trusted key", extra={"signing_key": signature.key_id})

    def _refuse_where_required(self, message: str, code: str) -> None:
        if self._required:
            raise PackageRefused(message, code=code)


def _read(file: Path) -> bytes:
    try:
        return read_public_key(file.read_text(encoding="ascii"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise InvalidRequest(f"trusted_keys: {file} cannot be read: {reason}") from None
    except InvalidRequest as error:
        raise InvalidRequest(f"trusted_keys: {file}: {error.message}") from None
