-- Public keys whose signatures a tenant trusts, and who signed a package. A revoked key is kept: that it was revoked is
-- worth knowing for ever. Times are microseconds since the Unix epoch, UTC.
CREATE TABLE signing_keys (
    tenant_id  TEXT NOT NULL,
    key_id     TEXT NOT NULL,
    name       TEXT NOT NULL,
    public_key BLOB NOT NULL,
    created_at BIGINT NOT NULL,
    created_by TEXT NOT NULL,
    revoked_at BIGINT,
    revoked_by TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (tenant_id, key_id)
);
ALTER TABLE packages ADD COLUMN signed_by TEXT NOT NULL DEFAULT '';
ALTER TABLE packages ADD COLUMN signature_verified BIGINT NOT NULL DEFAULT 0;
