-- Accounts of people, their sessions, and what limits guessing. A session shows itself as a key that expires. Of the key only
-- the SHA-256 is kept, of a password only its argon2id hash. Times are microseconds since the Unix epoch, UTC.
ALTER TABLE api_keys ADD COLUMN expires_at BIGINT;
ALTER TABLE api_keys ADD COLUMN session_id TEXT;
CREATE INDEX api_keys_session ON api_keys (session_id) WHERE session_id IS NOT NULL;
CREATE TABLE accounts (
    account_id    TEXT PRIMARY KEY,
    tenant_id     TEXT NOT NULL,
    username      TEXT NOT NULL,
    password_hash TEXT,
    role          TEXT NOT NULL,
    disabled_at   BIGINT,
    created_at    BIGINT NOT NULL,
    UNIQUE (tenant_id, username)
);
CREATE TABLE sessions (
    session_id  TEXT PRIMARY KEY,
    account_id  TEXT NOT NULL,
    started_at  BIGINT NOT NULL,
    deadline_at BIGINT NOT NULL
);
CREATE INDEX sessions_account ON sessions (account_id);
CREATE TABLE login_attempts (
    subject        BLOB PRIMARY KEY,
    attempts       INTEGER NOT NULL,
    window_ends_at BIGINT NOT NULL
);
CREATE INDEX login_attempts_window ON login_attempts (window_ends_at);
-- Raised whenever something stops being valid. What gateways remember of an older revision they ask again.
CREATE TABLE revisions (
    name     TEXT PRIMARY KEY,
    revision BIGINT NOT NULL
);
INSERT INTO revisions (name, revision) VALUES ('access', 0);
