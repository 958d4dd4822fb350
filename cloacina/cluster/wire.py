"""What an executor and a host of workers on a cluster say to each other, beside the frames of the workers themselves.

The host connects to the executor over TLS. The executor has a new certificate at each start: the host was given it with
its order, and a token for this one worker. Everything that a worker and the executor say (`frames`) then goes over this
connection. It ends with the worker's last task; the process stays warm on the cluster.
"""

from __future__ import annotations

import datetime
import ssl
from functools import lru_cache
from typing import Any, TypedDict

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

HELLO = "hello"
"""From the host, first: ``token``, ``version``, ``has_archive``."""
ARCHIVE = "archive"
"""To the host that has no such package: a piece of it is the body; ``last`` says whether it is the last."""
GO = "go"
"""To the host: the order stands. What follows is for the worker."""
KILL = "kill"
"""To the host: the process must end, and is not kept."""
EXITED = "exited"
"""From the host, last: the process ended; ``description``."""

PIECE_BYTES = 4 << 20
SERVER_NAME = "executor.cloacina.internal"
CONNECT_DEADLINE_S = 10.0


class HostOrder(TypedDict):
    """What a cluster's worker is told to do. It is pickled by Dask, so it is plain data.

    `address` and `certificate` (PEM) are the executor's, `token` is good for one connection. `load` has the fields of
    `cloacina.worker.hosting.LoadOrder` but for the folder; `variables` are those that user code may see.
    """

    address: tuple[str, int]
    certificate: str
    token: str
    tenant_id: str
    digest: str
    workflow_name: str
    load: dict[str, Any]
    variables: dict[str, str]
    idle_s: float


def make_certificate() -> tuple[bytes, bytes]:
    """A certificate that only those trust who are given it, and its key, as PEM.

    It is kept in memory, and ends with the process.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, SERVER_NAME)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))  # clocks of a cluster differ
        .not_valid_after(now + datetime.timedelta(days=3650))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(SERVER_NAME)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    return certificate.public_bytes(pem), key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


@lru_cache(maxsize=8)
def client_context(certificate: str) -> ssl.SSLContext:
    """For a host: trusts this one certificate."""
    context = ssl.create_default_context(cadata=certificate)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context
