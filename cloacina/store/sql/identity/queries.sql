-- Queries of the gateway's store.

-- name: insert_tenant
INSERT INTO tenants (name, description, created_at) VALUES (?, ?, ?);

-- name: tenants
SELECT name, description, created_at FROM tenants ORDER BY name;

-- name: tenant
SELECT name, description, created_at FROM tenants WHERE name = ?;

-- name: insert_key
INSERT INTO api_keys (key_id, tenant_id, name, key_hash, role, is_admin, created_at, revoked_at)
VALUES (?, ?, ?, ?, ?, ?, ?, ?);

-- name: key_by_hash
SELECT key_id, tenant_id, name, key_hash, role, is_admin, created_at, revoked_at FROM api_keys WHERE key_hash = ?;

-- name: keys
-- Of one tenant, or of all.
SELECT key_id, tenant_id, name, key_hash, role, is_admin, created_at, revoked_at FROM api_keys
WHERE ? OR tenant_id = ? ORDER BY created_at, key_id;

-- name: revoke_key
UPDATE api_keys SET revoked_at = ? WHERE key_id = ? AND revoked_at IS NULL;

-- name: admin_keys
SELECT count(*) FROM api_keys WHERE is_admin = 1 AND revoked_at IS NULL;
