"""Settings of every channel and server, each with its reason."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

import grpc

from cloacina.errors import InvalidRequest

MAX_MESSAGE_BYTES = 32 * 1024 * 1024
"""A stream message carries lists: 32 assignments of a 1 MiB context must fit in one. Archives travel in chunks."""

CHUNK_BYTES = 1024 * 1024
"""Bytes of an archive in one message."""

_SIZES: list[tuple[str, int]] = [
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
]

CHANNEL_OPTIONS: list[tuple[str, int]] = [
    *_SIZES,
    ("grpc.keepalive_time_ms", 20_000),  # notices a peer whose machine is gone
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),  # a restarted service is found again at once
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.dns_min_time_between_resolutions_ms", 1_000),  # a pod that takes another's place has another address
    ("grpc.enable_retries", 0),  # whoever calls decides what is safe to call again
]

SERVER_OPTIONS: list[tuple[str, int]] = [
    *_SIZES,
    ("grpc.so_reuseport", 0),  # a second server on the port must fail, not share it
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
]


class TlsError(InvalidRequest):
    """Certificates or keys cannot be used; the message names the setting."""

    default_code = "tls"


@dataclass(frozen=True, slots=True)
class Tls:
    """Certificates of this process, PEM files. They are read at the start; new ones need a restart.

    Args:
        cert, key: its own.
        ca: what the peer's certificate must be signed by; both sides show one (mTLS).
    """

    cert: Path
    key: Path
    ca: Path

    def channel_credentials(self) -> grpc.ChannelCredentials:
        """For the side that dials."""
        return grpc.ssl_channel_credentials(self.ca.read_bytes(), self.key.read_bytes(), self.cert.read_bytes())

    def server_credentials(self) -> grpc.ServerCredentials:
        """For the side that listens; a client without a certificate is refused."""
        pair = (self.key.read_bytes(), self.cert.read_bytes())
        return grpc.ssl_server_credentials([pair], self.ca.read_bytes(), require_client_auth=True)

    def check(self) -> None:
        """Reads them all, so that what is wrong is said at the start and by its name.

        Raises:
            TlsError: one cannot be read, is no PEM, or the key is not the certificate's.
        """
        server_context(self.cert, self.key, setting="CLOACINA_TLS")
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(self.ca)
        except (OSError, ssl.SSLError) as error:
            raise TlsError(f"CLOACINA_TLS_CA={self.ca} cannot be used: {_reason(error)}") from None


def server_context(cert: Path, key: Path, *, setting: str) -> ssl.SSLContext:
    """What a listener shows of itself; TLS 1.2 or newer.

    Args:
        cert, key: PEM files; `cert` may hold the whole chain.
        setting: beginning of the names of the two environment variables, for messages.

    Raises:
        TlsError: they cannot be read, or do not belong together.
    """
    for file, variable in ((cert, f"{setting}_CERT"), (key, f"{setting}_KEY")):
        try:
            file.read_bytes()
        except OSError as error:
            raise TlsError(f"{variable}={file} cannot be read: {_reason(error)}") from None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        # a key under a password would ask for it on the terminal of whoever started this
        context.load_cert_chain(cert, key, password="")
    except (OSError, ssl.SSLError) as error:
        raise TlsError(
            f"{setting}_CERT={cert} and {setting}_KEY={key} cannot be used: {_reason(error)}; they must be PEM, "
            "belong together, and the key must have no password"
        ) from None
    return context


def _reason(error: OSError) -> str:
    reason = getattr(error, "reason", None) or error.strerror
    return str(reason or error)
