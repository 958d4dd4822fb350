-- Where PostgreSQL needs other words than queries.sql. What a group commit writes by the thousand goes to the server as
-- one statement over arrays, one array a column, in place of one statement a row: docs/decisions/0003-postgresql-driver.md
-- has the figures. A key may occur once in the arrays of an update.
-- What a transaction writes with nothing but such statements is one statement in the end, in which none sees what another
-- writes: docs/decisions/0023-group-commit-in-one-statement.md.

-- name: insert_definition (rows as arrays)
INSERT INTO definitions (definition_id, tenant_id, workflow_name, package_id, package_digest, body)
SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::bytea[]) AS new
ON CONFLICT (definition_id) DO NOTHING;

-- name: insert_execution (rows as arrays)
INSERT INTO executions (execution_id, tenant_id, workflow_name, definition_id, status, reason, error, input, output,
    request_id, traceparent, trigger_origin, idempotency_key, created_at, started_at, finished_at, cancelling,
    sequence, priority, parent_execution_id, parent_task, parent_claim_id, depth, owner)
SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[],
    $8::bytea[], $9::bytea[], $10::text[], $11::text[], $12::text[], $13::text[], $14::bigint[], $15::bigint[],
    $16::bigint[], $17::text[], $18::bigint[], $19::integer[], $20::text[], $21::text[], $22::bigint[],
    $23::integer[], $24::bigint[]) AS new;

-- name: update_execution (rows as arrays)
UPDATE executions AS old SET status = new.status, reason = new.reason, error = new.error, output = new.output,
    started_at = new.started_at, finished_at = new.finished_at, cancelling = new.cancelling, sequence = new.sequence
FROM unnest($1::text[], $2::text[], $3::text[], $4::bytea[], $5::bigint[], $6::bigint[], $7::text[], $8::bigint[],
    $9::text[])
    AS new (status, reason, error, output, started_at, finished_at, cancelling, sequence, execution_id)
WHERE old.execution_id = new.execution_id;

-- name: insert_task (rows as arrays)
INSERT INTO tasks (execution_id, task_index, task_name, max_attempts, status, attempt, claim_id, executor_id,
    lost_claims, deferred, retry_due, output, error, details, reason, created_at, ready_at, claimed_at, started_at,
    finished_at, updated_at, instances)
SELECT * FROM unnest($1::text[], $2::integer[], $3::text[], $4::integer[], $5::text[], $6::integer[], $7::bigint[],
    $8::text[], $9::integer[], $10::boolean[], $11::bigint[], $12::bytea[], $13::text[], $14::text[], $15::text[],
    $16::bigint[], $17::bigint[], $18::bigint[], $19::bigint[], $20::bigint[], $21::bigint[], $22::integer[]) AS new;

-- name: update_task (rows as arrays)
UPDATE tasks AS old SET status = new.status, attempt = new.attempt, claim_id = new.claim_id, executor_id =
    new.executor_id, lost_claims = new.lost_claims, deferred = new.deferred, retry_due = new.retry_due, output =
    new.output, error = new.error, details = new.details, reason = new.reason, ready_at = new.ready_at, claimed_at =
    new.claimed_at, started_at = new.started_at, finished_at = new.finished_at, updated_at = new.updated_at,
    instances = new.instances
FROM unnest($1::text[], $2::integer[], $3::bigint[], $4::text[], $5::integer[], $6::boolean[], $7::bigint[],
    $8::bytea[], $9::text[], $10::text[], $11::text[], $12::bigint[], $13::bigint[], $14::bigint[], $15::bigint[],
    $16::bigint[], $17::integer[], $18::text[], $19::integer[])
    AS new (status, attempt, claim_id, executor_id, lost_claims, deferred, retry_due, output, error, details,
    reason, ready_at, claimed_at, started_at, finished_at, updated_at, instances, execution_id, task_index)
WHERE old.execution_id = new.execution_id AND old.task_index = new.task_index;

-- name: insert_new_task (rows as arrays)
INSERT INTO tasks (execution_id, task_index, task_name, max_attempts, created_at, updated_at, status, attempt, claim_id,
    executor_id, lost_claims, deferred)
SELECT new.*, 'Pending', 1, 0, '', 0, FALSE
FROM unnest($1::text[], $2::integer[], $3::text[], $4::integer[], $5::bigint[], $6::bigint[]) AS new;

-- name: claim_task (rows as arrays)
UPDATE tasks AS old SET status = 'Running', claim_id = new.claim_id, executor_id = new.executor_id,
    ready_at = new.ready_at, claimed_at = new.claimed_at, started_at = NULL, retry_due = NULL, updated_at = new.updated_at
FROM unnest($1::bigint[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::text[], $7::integer[])
    AS new (claim_id, executor_id, ready_at, claimed_at, updated_at, execution_id, task_index)
WHERE old.execution_id = new.execution_id AND old.task_index = new.task_index;

-- name: complete_task (rows as arrays)
UPDATE tasks AS old SET status = 'Completed', output = new.output, started_at = new.started_at,
    finished_at = new.finished_at, deferred = FALSE, retry_due = NULL, updated_at = new.updated_at
FROM unnest($1::bytea[], $2::bigint[], $3::bigint[], $4::bigint[], $5::text[], $6::integer[])
    AS new (output, started_at, finished_at, updated_at, execution_id, task_index)
WHERE old.execution_id = new.execution_id AND old.task_index = new.task_index;

-- name: insert_event (rows as arrays)
INSERT INTO events (execution_id, sequence, event_type, task_name, at, data)
SELECT * FROM unnest($1::text[], $2::bigint[], $3::text[], $4::text[], $5::bigint[], $6::text[]) AS new;

-- name: upsert_executor (rows as arrays)
INSERT INTO executors (owner, executor_id, slots, version, lease_expires_at, updated_at)
SELECT * FROM unnest($1::bigint[], $2::text[], $3::integer[], $4::text[], $5::bigint[], $6::bigint[]) AS new
ON CONFLICT (owner, executor_id) DO UPDATE SET slots = excluded.slots, version = excluded.version,
    lease_expires_at = excluded.lease_expires_at, updated_at = excluded.updated_at;

-- name: delete_executor (rows as arrays)
DELETE FROM executors AS old USING unnest($1::bigint[], $2::text[]) AS gone (owner, executor_id)
WHERE old.owner = gone.owner AND old.executor_id = gone.executor_id;

-- name: update_schedule
UPDATE schedules SET tenant_id = ?, name = ?, kind = ?, workflows = ?, source = ?, package_id = ?, package_digest = ?,
    cron = ?, timezone = ?, poll_interval_ms = ?, allow_concurrent = ?, catch_up = ?, catch_up_cap = ?, params = ?,
    paused_at = ?, next_run_at = ?, last_run_at = ?, last_poll_at = ?, last_outcome = ?, last_error = ?,
    created_at = ?, updated_at = ?
WHERE schedule_id = ? AND next_run_at IS NOT DISTINCT FROM ?;

-- name: join_owner
INSERT INTO owners (owner_id, epoch, target, joined_at, lease_expires_at)
VALUES (?, (SELECT epoch FROM epochs WHERE name = 'claims'), ?, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint,
    (extract(epoch FROM clock_timestamp()) * 1000000)::bigint + ?)
ON CONFLICT (owner_id) DO UPDATE SET epoch = excluded.epoch, target = excluded.target, joined_at = excluded.joined_at,
    lease_expires_at = excluded.lease_expires_at;

-- name: delete_predecessors
DELETE FROM owners WHERE owner_id IN
    (SELECT owner_id FROM owners WHERE target = ? AND owner_id <> ? FOR UPDATE SKIP LOCKED);

-- name: delete_lapsed_owners
-- One that is in the midst of a transaction is not waited for: it may still renew its lease.
DELETE FROM owners WHERE owner_id IN
    (SELECT owner_id FROM owners WHERE owner_id <> ?
    AND lease_expires_at <= (extract(epoch FROM clock_timestamp()) * 1000000)::bigint
    FOR UPDATE SKIP LOCKED);

-- name: give_up_owner
DELETE FROM owners WHERE owner_id IN
    (SELECT owner_id FROM owners WHERE epoch = ? AND lease_expires_at = ? FOR UPDATE SKIP LOCKED);

-- name: check_owner (rows as arrays)
-- The row's lock is shared, so that nothing is written for it; who gives the owner up waits for the end of this
-- transaction, or else this one waits for that and finds no row.
SELECT 1 FROM owners AS here JOIN unnest($1::text[], $2::bigint[]) AS own (owner_id, epoch)
    ON here.owner_id = own.owner_id AND here.epoch = own.epoch FOR SHARE OF here;

-- name: renew_owner
UPDATE owners SET lease_expires_at = (extract(epoch FROM clock_timestamp()) * 1000000)::bigint + ?
WHERE owner_id = ? AND epoch = ?;

-- name: owners
SELECT o.owner_id, o.epoch, o.target, o.joined_at, o.lease_expires_at,
    (extract(epoch FROM clock_timestamp()) * 1000000)::bigint, o.epoch = s.epoch
FROM owners o CROSS JOIN epochs s WHERE s.name = 'schedules' ORDER BY o.epoch;

-- name: retire_key (rows as arrays)
INSERT INTO retired_keys (tenant_id, workflow_name, idempotency_key, execution_id, created_at)
SELECT tenant_id, workflow_name, idempotency_key, execution_id, created_at FROM executions
WHERE execution_id = ANY($1::text[]) AND idempotency_key IS NOT NULL;

-- name: delete_ended_execution (rows as arrays)
DELETE FROM executions WHERE execution_id = ANY($1::text[]) AND finished_at IS NOT NULL;

-- name: delete_tasks (rows as arrays)
DELETE FROM tasks WHERE execution_id = ANY($1::text[]);

-- name: delete_events (rows as arrays)
DELETE FROM events WHERE execution_id = ANY($1::text[]);

-- name: delete_firings_of_execution (rows as arrays)
DELETE FROM schedule_firings WHERE execution_id = ANY($1::text[]);

-- name: append_log_chunk
-- Its execution cannot be deleted until this is committed; that needs no lock on what the committer changes of it.
INSERT INTO execution_logs (execution_id, chunk, tenant_id, batch, total, lines)
SELECT given.execution_id, coalesce(last.chunk, 0) + 1, given.tenant_id, given.batch,
    coalesce(last.total, 0) + given.size,
    CASE WHEN coalesce(last.total, 0) + given.size >= given.room THEN given.lines || given.closing ELSE given.lines END
FROM (SELECT e.execution_id, e.tenant_id, p.batch, p.size, p.room, p.lines, p.closing
    FROM (SELECT ?::text AS execution_id, ?::text AS tenant_id, ?::text AS batch, ?::bigint AS size, ?::bigint AS room,
        ?::text AS lines, ?::text AS closing) AS p
    JOIN executions e ON e.execution_id = p.execution_id AND p.tenant_id IN ('', e.tenant_id)
    FOR KEY SHARE OF e) AS given
LEFT JOIN execution_logs last ON last.execution_id = given.execution_id
    AND last.chunk = (SELECT max(chunk) FROM execution_logs WHERE execution_id = given.execution_id)
WHERE coalesce(last.total, 0) < given.room
    AND NOT EXISTS (SELECT 1 FROM execution_logs again WHERE again.execution_id = given.execution_id
        AND again.chunk > last.chunk - 4 AND again.batch = given.batch);

-- name: delete_logs (rows as arrays)
DELETE FROM execution_logs WHERE execution_id = ANY($1::text[]);
