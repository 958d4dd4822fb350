-- Logins with an OpenID provider that are under way: each is finished once, within minutes, by the browser that began it.
CREATE TABLE oidc_logins (
    state_hash    BYTEA PRIMARY KEY,
    nonce         TEXT NOT NULL,
    code_verifier TEXT NOT NULL,
    expires_at    BIGINT NOT NULL
);
CREATE INDEX oidc_logins_expiry ON oidc_logins (expires_at);
