-- Tickets for WebSockets: each opens one, within a minute, in the name of a key. Of a ticket only the SHA-256 is kept.
-- The same table in PostgreSQL's types.
CREATE TABLE ws_tickets (
    ticket_hash BYTEA PRIMARY KEY,
    key_id      TEXT COLLATE "C" NOT NULL,
    expires_at  BIGINT NOT NULL
);
CREATE INDEX ws_tickets_expiry ON ws_tickets (expires_at);
