-- Tickets for WebSockets: each opens one, within a minute, in the name of a key. Of a ticket only the SHA-256 is kept.
CREATE TABLE ws_tickets (
    ticket_hash BLOB PRIMARY KEY,
    key_id      TEXT NOT NULL,
    expires_at  BIGINT NOT NULL
);
CREATE INDEX ws_tickets_expiry ON ws_tickets (expires_at);
