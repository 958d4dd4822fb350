-- Queries of the gateway's store.

-- name: insert_tenant
INSERT INTO tenants (name, description, created_at, requests_per_s, max_executions, max_package_bytes)
VALUES (?, ?, ?, ?, ?, ?);

-- name: tenants
SELECT name, description, created_at, requests_per_s, max_executions, max_package_bytes FROM tenants ORDER BY name;

-- name: tenant
-- One that is being removed is not there any more.
SELECT name, description, created_at, requests_per_s, max_executions, max_package_bytes FROM tenants
WHERE name = ? AND removing_at IS NULL;

-- name: insert_key
INSERT INTO api_keys (key_id, tenant_id, name, key_hash, role, is_admin, created_at, revoked_at, expires_at, session_id)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: key_by_hash
-- A key of a tenant that is being removed is none.
SELECT key_id, tenant_id, name, key_hash, role, is_admin, created_at, revoked_at, expires_at, session_id
FROM api_keys k WHERE key_hash = ? AND (tenant_id IS NULL OR EXISTS (
    SELECT 1 FROM tenants t WHERE t.name = k.tenant_id AND t.removing_at IS NULL));

-- name: keys
-- Of one tenant, or of all; not those that sessions show.
SELECT key_id, tenant_id, name, key_hash, role, is_admin, created_at, revoked_at, expires_at, session_id
FROM api_keys
WHERE session_id IS NULL AND (? OR tenant_id = ?) ORDER BY created_at, key_id;

-- name: revoke_key
UPDATE api_keys SET revoked_at = ? WHERE key_id = ? AND revoked_at IS NULL;

-- name: admin_keys
SELECT count(*) FROM api_keys WHERE is_admin AND revoked_at IS NULL;

-- name: key_by_id
SELECT key_id, tenant_id, name, key_hash, role, is_admin, created_at, revoked_at, expires_at, session_id
FROM api_keys k WHERE key_id = ? AND (tenant_id IS NULL OR EXISTS (
    SELECT 1 FROM tenants t WHERE t.name = k.tenant_id AND t.removing_at IS NULL));

-- name: insert_ws_ticket
INSERT INTO ws_tickets (ticket_hash, key_id, expires_at) VALUES (?, ?, ?);

-- name: ws_ticket
SELECT key_id FROM ws_tickets WHERE ticket_hash = ? AND expires_at > ?;

-- name: take_ws_ticket
-- Of those who show the same ticket, one deletes it.
DELETE FROM ws_tickets WHERE ticket_hash = ?;

-- name: delete_expired_ws_tickets
DELETE FROM ws_tickets WHERE expires_at <= ?;

-- name: raise_revision
UPDATE revisions SET revision = revision + 1 WHERE name = ?;

-- name: revision
SELECT revision FROM revisions WHERE name = ?;

-- name: insert_account
INSERT INTO accounts (account_id, tenant_id, username, password_hash, role, disabled_at, created_at)
VALUES (?, ?, ?, ?, ?, ?, ?);

-- name: account
SELECT account_id, tenant_id, username, password_hash, role, disabled_at, created_at FROM accounts
WHERE tenant_id = ? AND account_id = ?;

-- name: account_by_id
SELECT account_id, tenant_id, username, password_hash, role, disabled_at, created_at FROM accounts WHERE account_id = ?;

-- name: account_by_name
SELECT account_id, tenant_id, username, password_hash, role, disabled_at, created_at FROM accounts
WHERE tenant_id = ? AND username = ?;

-- name: accounts
SELECT account_id, tenant_id, username, password_hash, role, disabled_at, created_at FROM accounts
WHERE tenant_id = ? ORDER BY username;

-- name: disable_account
UPDATE accounts SET disabled_at = ? WHERE tenant_id = ? AND account_id = ?;

-- name: set_password
UPDATE accounts SET password_hash = ? WHERE tenant_id = ? AND account_id = ?;

-- name: insert_session
INSERT INTO sessions (session_id, account_id, started_at, deadline_at) VALUES (?, ?, ?, ?);

-- name: session
SELECT session_id, account_id, started_at, deadline_at FROM sessions WHERE session_id = ?;

-- name: delete_session
DELETE FROM sessions WHERE session_id = ?;

-- name: delete_sessions_of_account
DELETE FROM sessions WHERE account_id = ?;

-- name: delete_expired_sessions
DELETE FROM sessions WHERE deadline_at <= ?;

-- name: delete_expired_session_keys
DELETE FROM api_keys WHERE session_id IS NOT NULL AND expires_at <= ?;

-- name: delete_keys_of_session
DELETE FROM api_keys WHERE session_id = ?;

-- name: delete_keys_of_account
DELETE FROM api_keys WHERE session_id IN (SELECT session_id FROM sessions WHERE account_id = ?);

-- name: delete_session_key
DELETE FROM api_keys WHERE key_id = ? AND session_id IS NOT NULL;

-- name: login_attempts
SELECT attempts, window_ends_at FROM login_attempts WHERE subject = ? AND window_ends_at > ?;

-- name: delete_past_login_attempts
DELETE FROM login_attempts WHERE window_ends_at <= ?;

-- name: count_login_attempt
INSERT INTO login_attempts (subject, attempts, window_ends_at) VALUES (?, 1, ?)
ON CONFLICT (subject) DO UPDATE SET attempts = login_attempts.attempts + 1;

-- name: forget_login_attempts
DELETE FROM login_attempts WHERE subject = ?;

-- name: uncount_login_attempt
UPDATE login_attempts SET attempts = attempts - 1 WHERE subject = ? AND attempts > 0;

-- name: set_tenant_quotas
UPDATE tenants SET requests_per_s = ?, max_executions = ?, max_package_bytes = ? WHERE name = ? AND removing_at IS NULL;

-- name: tenant_being_removed
SELECT removing_at FROM tenants WHERE name = ? AND removing_at IS NOT NULL;

-- name: tenants_being_removed
SELECT name FROM tenants WHERE removing_at IS NOT NULL ORDER BY name;

-- name: begin_tenant_removal
UPDATE tenants SET removing_at = ? WHERE name = ? AND removing_at IS NULL;

-- name: count_valid_keys_of_tenant
SELECT count(*) FROM api_keys WHERE tenant_id = ? AND revoked_at IS NULL AND session_id IS NULL;

-- name: revoke_keys_of_tenant
UPDATE api_keys SET revoked_at = ? WHERE tenant_id = ? AND revoked_at IS NULL AND session_id IS NULL;

-- name: delete_session_keys_of_tenant
DELETE FROM api_keys WHERE tenant_id = ? AND session_id IS NOT NULL;

-- name: delete_sessions_of_tenant
DELETE FROM sessions WHERE account_id IN (SELECT account_id FROM accounts WHERE tenant_id = ?);

-- name: delete_ws_tickets_of_tenant
DELETE FROM ws_tickets WHERE key_id IN (SELECT key_id FROM api_keys WHERE tenant_id = ?);

-- name: delete_accounts_of_tenant
DELETE FROM accounts WHERE tenant_id = ?;

-- name: delete_keys_of_tenant
DELETE FROM api_keys WHERE tenant_id = ?;

-- name: delete_removed_tenant
DELETE FROM tenants WHERE name = ? AND removing_at IS NOT NULL;

-- name: insert_oidc_login
INSERT INTO oidc_logins (state_hash, nonce, code_verifier, expires_at) VALUES (?, ?, ?, ?);

-- name: oidc_login
SELECT nonce, code_verifier FROM oidc_logins WHERE state_hash = ? AND expires_at > ?;

-- name: take_oidc_login
-- Of those who show the same state, one deletes it.
DELETE FROM oidc_logins WHERE state_hash = ?;

-- name: delete_expired_oidc_logins
DELETE FROM oidc_logins WHERE expires_at <= ?;

-- name: set_account_role
UPDATE accounts SET role = ? WHERE tenant_id = ? AND account_id = ?;

-- name: request_allowance
-- When a tenant has used up its requests, and what time it is: one clock for all gateways.
SELECT coalesce((SELECT due FROM request_allowances WHERE tenant_id = ?), 0),
    CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER);

-- name: open_request_allowance
INSERT INTO request_allowances (tenant_id, due) VALUES (?, 0) ON CONFLICT DO NOTHING;

-- name: spend_request_allowance
UPDATE request_allowances SET due = ? WHERE tenant_id = ? AND due = ?;

-- name: delete_request_allowance
DELETE FROM request_allowances WHERE tenant_id = ?;
