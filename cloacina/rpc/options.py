"""Settings of every channel and server, each with its reason."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import grpc

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


@dataclass(frozen=True, slots=True)
class Tls:
    """Certificates of this process, PEM files.

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
