-- Queries of the reconciler's store.

-- name: insert_package
INSERT INTO packages (package_id, tenant_id, package_name, version, digest, size_bytes, workflow_name, description,
    build_status, build_error, contents, created_at, deleted_at, signed_by, signature_verified)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: insert_artifact_part
-- The same digest is the same content.
INSERT INTO artifacts (digest, part, data) VALUES (?, ?, ?) ON CONFLICT (digest, part) DO NOTHING;

-- name: set_build
UPDATE packages SET build_status = ?, build_error = ?, contents = ? WHERE package_id = ?;

-- name: mark_deleted
UPDATE packages SET deleted_at = ? WHERE package_id = ? AND deleted_at IS NULL;

-- name: packages
-- Every package that is not deleted, oldest first.
SELECT package_id, tenant_id, package_name, version, digest, size_bytes, workflow_name, description, build_status,
    build_error, contents, created_at, deleted_at, signed_by, signature_verified
FROM packages WHERE deleted_at IS NULL ORDER BY created_at, package_id;

-- name: artifact_part
SELECT data FROM artifacts WHERE digest = ? AND part = ?;

-- name: package_contents
-- What a package declares, also after it was deleted: executions that run keep theirs.
SELECT workflow_name, contents FROM packages WHERE package_id = ? AND tenant_id = ?;

-- name: insert_secret
INSERT INTO secrets (secret_id, tenant_id, name, field_names, ciphertext, data_key, kek_id, version, created_at,
    updated_at)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: replace_secret
UPDATE secrets SET field_names = ?, ciphertext = ?, data_key = ?, kek_id = ?, version = version + 1, updated_at = ?
WHERE tenant_id = ? AND name = ?;

-- name: rewrap_secret
-- Only if it is still what was read: a rotation in between has sealed it anew.
UPDATE secrets SET data_key = ?, kek_id = ? WHERE secret_id = ? AND version = ?;

-- name: delete_secret
DELETE FROM secrets WHERE tenant_id = ? AND name = ?;

-- name: secret
SELECT secret_id, tenant_id, name, field_names, ciphertext, data_key, kek_id, version, created_at, updated_at
FROM secrets WHERE tenant_id = ? AND name = ?;

-- name: secrets_of_tenant
SELECT secret_id, tenant_id, name, field_names, ciphertext, data_key, kek_id, version, created_at, updated_at
FROM secrets WHERE tenant_id = ? ORDER BY name;

-- name: secrets_under_other_keys
SELECT secret_id, tenant_id, name, field_names, ciphertext, data_key, kek_id, version, created_at, updated_at
FROM secrets WHERE kek_id <> ? ORDER BY tenant_id, name;
-- name: pause_workflow
-- To pause what is paused changes nothing.
INSERT INTO paused_workflows (tenant_id, workflow_name, paused_at) VALUES (?, ?, ?)
ON CONFLICT (tenant_id, workflow_name) DO NOTHING;

-- name: resume_workflow
DELETE FROM paused_workflows WHERE tenant_id = ? AND workflow_name = ?;

-- name: paused_workflows
-- Every workflow that is paused.
SELECT tenant_id, workflow_name FROM paused_workflows;

-- name: insert_signing_key
INSERT INTO signing_keys (tenant_id, key_id, name, public_key, created_at, created_by, revoked_at, revoked_by)
VALUES (?, ?, ?, ?, ?, ?, ?, ?);

-- name: revoke_signing_key
UPDATE signing_keys SET revoked_at = ?, revoked_by = ? WHERE tenant_id = ? AND key_id = ? AND revoked_at IS NULL;

-- name: signing_keys
-- Those of every tenant, oldest first.
SELECT tenant_id, key_id, name, public_key, created_at, created_by, revoked_at, revoked_by
FROM signing_keys ORDER BY created_at, key_id;

-- name: tenant_registry_size
SELECT (SELECT count(*) FROM packages WHERE tenant_id = ?), (SELECT count(*) FROM secrets WHERE tenant_id = ?);

-- name: tenant_delete_artifacts
-- The archives of a tenant's packages that no other tenant's package has.
DELETE FROM artifacts WHERE digest IN (SELECT digest FROM packages WHERE tenant_id = ?)
    AND digest NOT IN (SELECT digest FROM packages WHERE tenant_id <> ?);

-- name: tenant_delete_packages
DELETE FROM packages WHERE tenant_id = ?;

-- name: tenant_delete_secrets
DELETE FROM secrets WHERE tenant_id = ?;

-- name: tenant_delete_pauses
DELETE FROM paused_workflows WHERE tenant_id = ?;

-- name: tenant_delete_signing_keys
DELETE FROM signing_keys WHERE tenant_id = ?;
