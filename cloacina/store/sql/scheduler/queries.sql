-- Queries of the scheduler's store. `?` are parameters, in the order the caller gives them.

-- name: insert_definition
-- A definition is immutable: the same id again is the same content.
INSERT INTO definitions (definition_id, tenant_id, workflow_name, package_id, package_digest, body)
VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (definition_id) DO NOTHING;

-- name: definition
-- One definition by id.
SELECT definition_id, tenant_id, workflow_name, package_id, package_digest, body
FROM definitions WHERE definition_id = ?;

-- name: insert_execution
INSERT INTO executions (execution_id, tenant_id, workflow_name, definition_id, status, reason, error, input, output,
    request_id, traceparent, trigger_origin, idempotency_key, created_at, started_at, finished_at, cancelling, sequence,
    priority, parent_execution_id, parent_task, parent_claim_id, depth, owner)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: update_execution
-- What changes of an execution; the id comes last.
UPDATE executions SET status = ?, reason = ?, error = ?, output = ?, started_at = ?, finished_at = ?, cancelling = ?,
    sequence = ?
WHERE execution_id = ?;

-- name: insert_task
INSERT INTO tasks (execution_id, task_index, task_name, max_attempts, status, attempt, claim_id, executor_id,
    lost_claims, deferred, retry_due, output, error, details, reason, created_at, ready_at, claimed_at, started_at,
    finished_at, updated_at, instances)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: insert_new_task
-- A task that waits for its dependencies.
INSERT INTO tasks (execution_id, task_index, task_name, max_attempts, created_at, updated_at, status, attempt, claim_id,
    executor_id, lost_claims, deferred)
VALUES (?, ?, ?, ?, ?, ?, 'Pending', 1, 0, '', 0, FALSE);

-- name: update_task
-- What changes of a task; its key comes last.
UPDATE tasks SET status = ?, attempt = ?, claim_id = ?, executor_id = ?, lost_claims = ?, deferred = ?, retry_due = ?,
    output = ?, error = ?, details = ?, reason = ?, ready_at = ?, claimed_at = ?, started_at = ?, finished_at = ?,
    updated_at = ?, instances = ?
WHERE execution_id = ? AND task_index = ?;

-- name: claim_task
-- A task that was ready, maybe since this very transaction, is given to an executor.
UPDATE tasks SET status = 'Running', claim_id = ?, executor_id = ?, ready_at = ?, claimed_at = ?, started_at = NULL,
    retry_due = NULL, updated_at = ?
WHERE execution_id = ? AND task_index = ?;

-- name: complete_task
-- A task that ran has succeeded.
UPDATE tasks SET status = 'Completed', output = ?, started_at = ?, finished_at = ?, deferred = FALSE, retry_due = NULL,
    updated_at = ?
WHERE execution_id = ? AND task_index = ?;

-- name: insert_event
INSERT INTO events (execution_id, sequence, event_type, task_name, at, data) VALUES (?, ?, ?, ?, ?, ?);

-- name: upsert_executor
-- An executor's lease with one owner, renewed.
INSERT INTO executors (owner, executor_id, slots, version, lease_expires_at, updated_at) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (owner, executor_id) DO UPDATE SET slots = excluded.slots, version = excluded.version,
    lease_expires_at = excluded.lease_expires_at, updated_at = excluded.updated_at;

-- name: delete_executor
DELETE FROM executors WHERE owner = ? AND executor_id = ?;

-- name: executors
SELECT owner, executor_id, slots, version, lease_expires_at, updated_at FROM executors ORDER BY owner, executor_id;

-- name: raise_epoch
-- Whoever changes owners does this first: the row's lock makes them take turns, and what follows sees what was before.
UPDATE epochs SET epoch = epoch + 1 WHERE name = ?;

-- name: join_owner
-- An owner, new or again, under the epoch that was just raised. The lease is counted on the database's clock.
INSERT INTO owners (owner_id, epoch, target, joined_at, lease_expires_at)
VALUES (?, (SELECT epoch FROM epochs WHERE name = 'claims'), ?, CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER),
    CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER) + ?)
ON CONFLICT (owner_id) DO UPDATE SET epoch = excluded.epoch, target = excluded.target, joined_at = excluded.joined_at,
    lease_expires_at = excluded.lease_expires_at;

-- name: delete_other_owners
-- Where one process has the store to itself every other owner has ended.
DELETE FROM owners WHERE owner_id <> ?;

-- name: delete_predecessors
-- Two processes cannot listen at the same place: whoever was there before has ended.
DELETE FROM owners WHERE target = ? AND owner_id <> ?;

-- name: delete_lapsed_owners
-- Of others: whoever asks is alive.
DELETE FROM owners WHERE owner_id <> ? AND lease_expires_at <= CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER);

-- name: give_up_owner
-- One that is known to have ended, unless it has renewed its lease since that was found.
DELETE FROM owners WHERE epoch = ? AND lease_expires_at = ?;

-- name: number_adoption
UPDATE owners SET adoption = (SELECT epoch FROM epochs WHERE name = 'claims') WHERE owner_id = ?;

-- name: adopt_executions
-- Takes what belongs to no owner; the number of the adoption tells it from what was taken before.
UPDATE executions SET owner = (SELECT epoch FROM owners WHERE owner_id = ?),
    adoption = (SELECT epoch FROM epochs WHERE name = 'claims')
WHERE finished_at IS NULL AND owner NOT IN (SELECT epoch FROM owners);

-- name: adopt_schedules
UPDATE epochs SET epoch = (SELECT epoch FROM owners WHERE owner_id = ?)
WHERE name = 'schedules' AND epoch NOT IN (SELECT epoch FROM owners);

-- name: delete_executors_of_nobody
DELETE FROM executors WHERE owner NOT IN (SELECT epoch FROM owners);

-- name: check_owner
-- The fence: first in every transaction of an owner. It changes nothing, and finds no row once the owner was given up;
-- nobody else writes while a transaction of SQLite does.
SELECT epoch FROM owners WHERE owner_id = ? AND epoch = ?;

-- name: renew_owner
UPDATE owners SET lease_expires_at = CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER) + ?
WHERE owner_id = ? AND epoch = ?;

-- name: leave_owner
DELETE FROM owners WHERE owner_id = ? AND epoch = ?;

-- name: owners
-- Those there are, the eldest first: when the lease ends, what time it is, and whether it fires the schedules.
SELECT o.owner_id, o.epoch, o.target, o.joined_at, o.lease_expires_at,
    CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER), o.epoch = s.epoch
FROM owners o CROSS JOIN epochs s WHERE s.name = 'schedules' ORDER BY o.epoch;

-- name: owner_epoch
SELECT epoch FROM owners WHERE owner_id = ?;

-- name: owner_of_execution
-- The epoch of an execution's owner, who that is (nobody: NULL), and whether the execution has ended.
SELECT e.owner, o.owner_id, o.target, e.finished_at
FROM executions e LEFT JOIN owners o ON o.epoch = e.owner WHERE e.execution_id = ? AND e.tenant_id = ?;

-- name: last_adoption
-- The number of an owner's last adoption, or of its joining, which adopts as well.
SELECT adoption FROM owners WHERE epoch = ?;

-- name: reopen_execution
-- An execution that has ended goes on with a new owner; of two that want to reopen it one finds no row.
UPDATE executions SET owner = ? WHERE execution_id = ? AND finished_at IS NOT NULL;

-- name: live_executions
-- What an owner has that has not ended; the partial index holds nothing else. The number of the last event is that of
-- the events: the row has it as of the last change of the execution itself.
SELECT e.execution_id, e.tenant_id, e.workflow_name, e.definition_id, e.status, e.reason, e.error, e.input, e.output,
    e.request_id, e.traceparent, e.trigger_origin, e.idempotency_key, e.created_at, e.started_at, e.finished_at,
    e.cancelling, coalesce((SELECT max(v.sequence) FROM events v
        WHERE v.execution_id = e.execution_id AND v.sequence > e.sequence), e.sequence),
    e.priority, e.parent_execution_id, e.parent_task, e.parent_claim_id, e.depth
FROM executions e WHERE e.finished_at IS NULL AND e.owner = ? AND e.adoption > ? ORDER BY e.execution_id;

-- name: live_tasks
SELECT t.execution_id, t.task_index, t.task_name, t.max_attempts, t.status, t.attempt, t.claim_id, t.executor_id,
    t.lost_claims, t.deferred, t.retry_due, t.output, t.error, t.details, t.reason, t.created_at, t.ready_at,
    t.claimed_at, t.started_at, t.finished_at, t.updated_at, t.instances
FROM executions e JOIN tasks t ON t.execution_id = e.execution_id
WHERE e.finished_at IS NULL AND e.owner = ? AND e.adoption > ? ORDER BY t.execution_id, t.task_index;

-- name: execution
SELECT execution_id, tenant_id, workflow_name, definition_id, status, reason, error, input, output, request_id,
    traceparent, trigger_origin, idempotency_key, created_at, started_at, finished_at, cancelling, sequence, priority,
    parent_execution_id, parent_task, parent_claim_id, depth
FROM executions WHERE execution_id = ? AND tenant_id = ?;

-- name: execution_by_key
-- Also when it was deleted since: its key is kept for longer.
SELECT execution_id FROM executions WHERE tenant_id = ? AND workflow_name = ? AND idempotency_key = ?
UNION ALL
SELECT execution_id FROM retired_keys WHERE tenant_id = ? AND workflow_name = ? AND idempotency_key = ?;

-- name: list_executions
-- Newest first. An empty filter matches all; the cursor is (created_at, execution_id) of the last row seen.
SELECT execution_id, tenant_id, workflow_name, definition_id, status, reason, error, request_id, traceparent,
    trigger_origin, created_at, started_at, finished_at
FROM executions
WHERE tenant_id = ? AND (? = '' OR status = ?)
    AND (created_at, execution_id) < (?, ?)
ORDER BY created_at DESC, execution_id DESC LIMIT ? OFFSET ?;

-- name: list_executions_of_workflow
-- Like list_executions, along the index of workflows.
SELECT execution_id, tenant_id, workflow_name, definition_id, status, reason, error, request_id, traceparent,
    trigger_origin, created_at, started_at, finished_at
FROM executions
WHERE tenant_id = ? AND workflow_name = ? AND (? = '' OR status = ?)
    AND (created_at, execution_id) < (?, ?)
ORDER BY created_at DESC, execution_id DESC LIMIT ? OFFSET ?;

-- name: list_executions_ended_badly
-- Failed or cancelled ones, along their own index.
SELECT execution_id, tenant_id, workflow_name, definition_id, status, reason, error, request_id, traceparent,
    trigger_origin, created_at, started_at, finished_at
FROM executions
WHERE tenant_id = ? AND status IN ('Failed', 'Cancelled') AND status = ? AND (? = '' OR workflow_name = ?)
    AND (created_at, execution_id) < (?, ?)
ORDER BY created_at DESC, execution_id DESC LIMIT ? OFFSET ?;

-- name: list_unfinished_executions
-- Those of a status that is no end, among the unfinished ones.
SELECT execution_id, tenant_id, workflow_name, definition_id, status, reason, error, request_id, traceparent,
    trigger_origin, created_at, started_at, finished_at
FROM executions
WHERE tenant_id = ? AND finished_at IS NULL AND status = ? AND (? = '' OR workflow_name = ?)
    AND (created_at, execution_id) < (?, ?)
ORDER BY created_at DESC, execution_id DESC LIMIT ? OFFSET ?;

-- name: count_executions
-- As many as match, up to a bound: the last parameter.
SELECT count(*) FROM (SELECT 1 FROM executions
    WHERE tenant_id = ? AND (? = '' OR status = ?)
    LIMIT ?) AS matching;

-- name: count_executions_of_workflow
SELECT count(*) FROM (SELECT 1 FROM executions
    WHERE tenant_id = ? AND workflow_name = ? AND (? = '' OR status = ?)
    LIMIT ?) AS matching;

-- name: count_executions_ended_badly
SELECT count(*) FROM (SELECT 1 FROM executions
    WHERE tenant_id = ? AND status IN ('Failed', 'Cancelled') AND status = ? AND (? = '' OR workflow_name = ?)
    LIMIT ?) AS matching;

-- name: count_unfinished_executions
SELECT count(*) FROM (SELECT 1 FROM executions
    WHERE tenant_id = ? AND finished_at IS NULL AND status = ? AND (? = '' OR workflow_name = ?)
    LIMIT ?) AS matching;

-- name: list_tasks
SELECT t.execution_id, t.task_index, t.task_name, t.max_attempts, t.status, t.attempt, t.claim_id, t.executor_id,
    t.lost_claims, t.deferred, t.retry_due, t.output, t.error, t.details, t.reason, t.created_at, t.ready_at,
    t.claimed_at, t.started_at, t.finished_at, t.updated_at, t.instances
FROM executions e JOIN tasks t ON t.execution_id = e.execution_id
WHERE e.execution_id = ? AND e.tenant_id = ? ORDER BY t.task_index;

-- name: list_events
SELECT v.execution_id, v.sequence, v.event_type, v.task_name, v.at, v.data
FROM executions e JOIN events v ON v.execution_id = e.execution_id
WHERE e.execution_id = ? AND e.tenant_id = ? AND v.sequence > ? ORDER BY v.sequence LIMIT ?;

-- name: execution_progress
-- Whose an execution is, whether it has ended, and the number of its last event then. An empty tenant matches all.
SELECT tenant_id, sequence, finished_at FROM executions
WHERE execution_id = ? AND (? = '' OR tenant_id = ?);

-- name: task_claim
-- The last claim of a task, and whose its execution is if that has not ended.
SELECT t.claim_id, e.owner, e.finished_at
FROM executions e JOIN tasks t ON t.execution_id = e.execution_id WHERE e.execution_id = ? AND t.task_name = ?;

-- name: held_claim
-- Whether a claim is the current one of a task that runs.
SELECT 1 FROM executions e JOIN tasks t ON t.execution_id = e.execution_id
WHERE e.execution_id = ? AND e.finished_at IS NULL AND t.claim_id = ? AND t.status = 'Running';

-- name: insert_schedule
INSERT INTO schedules (schedule_id, tenant_id, name, kind, workflows, source, package_id, package_digest, cron,
    timezone, poll_interval_ms, allow_concurrent, catch_up, catch_up_cap, params, paused_at, next_run_at, last_run_at,
    last_poll_at, last_outcome, last_error, created_at, updated_at)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: update_schedule
-- Only if next_run_at is still what was read: a firing is decided once, whoever decides. The key and that come last.
UPDATE schedules SET tenant_id = ?, name = ?, kind = ?, workflows = ?, source = ?, package_id = ?, package_digest = ?,
    cron = ?, timezone = ?, poll_interval_ms = ?, allow_concurrent = ?, catch_up = ?, catch_up_cap = ?, params = ?,
    paused_at = ?, next_run_at = ?, last_run_at = ?, last_poll_at = ?, last_outcome = ?, last_error = ?,
    created_at = ?, updated_at = ?
WHERE schedule_id = ? AND next_run_at IS ?;

-- name: delete_schedule
DELETE FROM schedules WHERE schedule_id = ?;

-- name: delete_firings_of_schedule
DELETE FROM schedule_firings WHERE schedule_id = ?;

-- name: insert_firing
INSERT INTO schedule_firings (firing_key, firing_id, schedule_id, workflow_name, execution_id, outcome, error,
    context_hash, scheduled_at, fired_at)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: schedules
SELECT schedule_id, tenant_id, name, kind, workflows, source, package_id, package_digest, cron, timezone,
    poll_interval_ms, allow_concurrent, catch_up, catch_up_cap, params, paused_at, next_run_at, last_run_at,
    last_poll_at, last_outcome, last_error, created_at, updated_at
FROM schedules ORDER BY schedule_id;

-- name: live_firings
-- The executions that schedules started and that have not ended.
SELECT f.schedule_id, f.execution_id, f.context_hash
FROM executions e JOIN schedule_firings f ON f.execution_id = e.execution_id
WHERE e.finished_at IS NULL;

-- name: list_firings
-- Newest first, with the end of the execution.
SELECT f.firing_key, f.firing_id, f.schedule_id, f.workflow_name, f.execution_id, f.outcome, f.error, f.context_hash,
    f.scheduled_at, f.fired_at, e.finished_at
FROM schedules s JOIN schedule_firings f ON f.schedule_id = s.schedule_id
    LEFT JOIN executions e ON e.execution_id = f.execution_id
WHERE s.schedule_id = ? AND s.tenant_id = ? ORDER BY f.fired_at DESC, f.firing_key DESC LIMIT ? OFFSET ?;

-- name: count_firings
-- All firings of schedules of a kind since a time, and those that started an execution.
SELECT count(*), count(f.execution_id)
FROM schedule_firings f JOIN schedules s ON s.schedule_id = f.schedule_id
WHERE s.kind = ? AND f.fired_at >= ?;

-- name: insert_instance
INSERT INTO instances (instance_id, tenant_id, workflow_name, instance_name, params, cron_expression, timezone, enabled,
    paused, next_run_at, last_run_at, created_at)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: delete_instance
DELETE FROM instances WHERE tenant_id = ? AND workflow_name = ? AND instance_name = ?;

-- name: instance
SELECT instance_id, tenant_id, workflow_name, instance_name, params, cron_expression, timezone, enabled, paused,
    next_run_at, last_run_at, created_at
FROM instances WHERE tenant_id = ? AND workflow_name = ? AND instance_name = ?;

-- name: instance_by_id
SELECT instance_id, tenant_id, workflow_name, instance_name, params, cron_expression, timezone, enabled, paused,
    next_run_at, last_run_at, created_at
FROM instances WHERE instance_id = ?;

-- name: scheduled_instances
-- Of all tenants, those whose schedule is on.
SELECT instance_id, tenant_id, workflow_name, instance_name, params, cron_expression, timezone, enabled, paused,
    next_run_at, last_run_at, created_at
FROM instances WHERE cron_expression IS NOT NULL AND enabled ORDER BY created_at, instance_id;

-- name: list_instances
-- Oldest first.
SELECT instance_id, tenant_id, workflow_name, instance_name, params, cron_expression, timezone, enabled, paused,
    next_run_at, last_run_at, created_at
FROM instances WHERE tenant_id = ? AND workflow_name = ? ORDER BY created_at, instance_id LIMIT ? OFFSET ?;

-- name: count_instances
SELECT count(*) FROM instances WHERE tenant_id = ? AND workflow_name = ?;

-- name: executions_of_request
-- What a request began, oldest first. An empty tenant matches all.
SELECT execution_id, tenant_id, workflow_name, definition_id, status, reason, error, request_id, traceparent,
    trigger_origin, created_at, started_at, finished_at
FROM executions
WHERE request_id = ? AND (? = '' OR tenant_id = ?) ORDER BY created_at, execution_id LIMIT ?;

-- name: latest_waits
-- When an execution was paused, or began to be cancelled, or a task of it gave its slot back, failed for a while, or was
-- set back to be run again, last.
SELECT v.event_type, coalesce(v.task_name, ''), max(v.at)
FROM executions e JOIN events v ON v.execution_id = e.execution_id
WHERE e.execution_id = ? AND e.tenant_id = ?
AND v.event_type IN ('workflow_paused', 'workflow_cancelling', 'task_deferred', 'task_retry_scheduled', 'task_reset')
GROUP BY v.event_type, v.task_name;

-- name: expired_executions
-- Those that ended before a time, with how many events and tasks each has, and bytes of log lines; ids are ordered by
-- time. The cursor is the last id seen.
SELECT e.execution_id, (SELECT count(*) FROM events v WHERE v.execution_id = e.execution_id),
    (SELECT count(*) FROM tasks t WHERE t.execution_id = e.execution_id),
    coalesce((SELECT l.total FROM execution_logs l WHERE l.execution_id = e.execution_id ORDER BY l.chunk DESC LIMIT 1),
        0)
FROM executions e
WHERE e.execution_id > ? AND e.execution_id < ? AND e.finished_at < ? ORDER BY e.execution_id LIMIT ?;

-- name: expired_events
-- Executions that ended before a time and have events, with how many. The cursor is the last id seen.
SELECT v.execution_id, count(*)
FROM events v JOIN executions e ON e.execution_id = v.execution_id
WHERE v.execution_id > ? AND v.execution_id < ? AND e.finished_at < ?
GROUP BY v.execution_id ORDER BY v.execution_id LIMIT ?;

-- name: count_expired_executions
SELECT count(*) FROM executions WHERE execution_id < ? AND finished_at < ?;

-- name: count_expired_events
SELECT count(*) FROM events v JOIN executions e ON e.execution_id = v.execution_id
WHERE v.execution_id < ? AND e.finished_at < ?;

-- name: tenants_with_executions
-- Steps from tenant to tenant in the index, however many executions each has.
WITH RECURSIVE tenants (tenant_id) AS (
    SELECT min(tenant_id) FROM executions
    UNION ALL
    SELECT (SELECT min(e.tenant_id) FROM executions e WHERE e.tenant_id > t.tenant_id) FROM tenants t
    WHERE t.tenant_id IS NOT NULL
)
SELECT tenant_id FROM tenants WHERE tenant_id IS NOT NULL;

-- name: newest_beyond
-- The newest execution of a tenant behind the first so many.
SELECT created_at, execution_id FROM executions WHERE tenant_id = ?
ORDER BY created_at DESC, execution_id DESC LIMIT 1 OFFSET ?;

-- name: superfluous_executions
-- Of a tenant, what has ended, after a cursor and up to an execution, both (created_at, execution_id); oldest first.
SELECT e.execution_id, (SELECT count(*) FROM events v WHERE v.execution_id = e.execution_id),
    (SELECT count(*) FROM tasks t WHERE t.execution_id = e.execution_id),
    coalesce((SELECT l.total FROM execution_logs l WHERE l.execution_id = e.execution_id ORDER BY l.chunk DESC LIMIT 1),
        0), e.created_at
FROM executions e
WHERE e.tenant_id = ? AND (e.created_at, e.execution_id) > (?, ?) AND (e.created_at, e.execution_id) <= (?, ?)
    AND e.finished_at IS NOT NULL
ORDER BY e.created_at, e.execution_id LIMIT ?;

-- name: retire_key
INSERT INTO retired_keys (tenant_id, workflow_name, idempotency_key, execution_id, created_at)
SELECT tenant_id, workflow_name, idempotency_key, execution_id, created_at FROM executions
WHERE execution_id = ? AND idempotency_key IS NOT NULL;

-- name: delete_ended_execution
-- Only what has ended: it may have been opened again since it was looked up.
DELETE FROM executions WHERE execution_id = ? AND finished_at IS NOT NULL;

-- name: delete_tasks
DELETE FROM tasks WHERE execution_id = ?;

-- name: delete_events
DELETE FROM events WHERE execution_id = ?;

-- name: delete_events_up_to
DELETE FROM events WHERE execution_id = ? AND sequence <= ?;

-- name: delete_firings_of_execution
DELETE FROM schedule_firings WHERE execution_id = ?;

-- name: expired_firings
-- Firings that started nothing: skipped and failed ones.
SELECT firing_key FROM schedule_firings WHERE execution_id IS NULL AND fired_at < ? LIMIT ?;

-- name: delete_firing
DELETE FROM schedule_firings WHERE firing_key = ?;

-- name: lapsed_keys
SELECT tenant_id, workflow_name, idempotency_key FROM retired_keys WHERE created_at < ? ORDER BY created_at LIMIT ?;

-- name: delete_retired_key
DELETE FROM retired_keys WHERE tenant_id = ? AND workflow_name = ? AND idempotency_key = ?;
-- name: tenant_unfinished
SELECT count(*) FROM executions WHERE tenant_id = ? AND finished_at IS NULL;

-- name: tenant_executions
-- Some that a tenant has, to be deleted.
SELECT execution_id FROM executions WHERE tenant_id = ? ORDER BY created_at, execution_id LIMIT ?;

-- name: tenant_delete_events
DELETE FROM events WHERE execution_id = ?;

-- name: tenant_delete_tasks
DELETE FROM tasks WHERE execution_id = ?;

-- name: tenant_delete_execution
DELETE FROM executions WHERE execution_id = ?;

-- name: tenant_delete_firings
DELETE FROM schedule_firings WHERE schedule_id IN (SELECT schedule_id FROM schedules WHERE tenant_id = ?);

-- name: tenant_delete_schedules
DELETE FROM schedules WHERE tenant_id = ?;

-- name: tenant_delete_instances
DELETE FROM instances WHERE tenant_id = ?;

-- name: tenant_delete_retired_keys
DELETE FROM retired_keys WHERE tenant_id = ?;

-- name: tenant_delete_definitions
DELETE FROM definitions WHERE tenant_id = ?;

-- name: instances_of_tenant
SELECT instance_id, tenant_id, workflow_name, instance_name, params, cron_expression, timezone, enabled, paused,
    next_run_at, last_run_at, created_at
FROM instances WHERE tenant_id = ? ORDER BY created_at, instance_id;

-- name: append_log_chunk
-- Behind the last chunk of its execution, if that exists, is the tenant's (an empty one matches all) and has room, and
-- if the chunk is none of the last ones already. The one that leaves no room ends with a line that says so.
INSERT INTO execution_logs (execution_id, chunk, tenant_id, batch, total, lines)
SELECT given.execution_id, coalesce(last.chunk, 0) + 1, given.tenant_id, given.batch,
    coalesce(last.total, 0) + given.size,
    CASE WHEN coalesce(last.total, 0) + given.size >= given.room THEN given.lines || given.closing ELSE given.lines END
FROM (SELECT e.execution_id, e.tenant_id, p.batch, p.size, p.room, p.lines, p.closing
    FROM (SELECT ? AS execution_id, ? AS tenant_id, ? AS batch, ? AS size, ? AS room, ? AS lines, ? AS closing) AS p
    JOIN executions e ON e.execution_id = p.execution_id AND p.tenant_id IN ('', e.tenant_id)) AS given
LEFT JOIN execution_logs last ON last.execution_id = given.execution_id
    AND last.chunk = (SELECT max(chunk) FROM execution_logs WHERE execution_id = given.execution_id)
WHERE coalesce(last.total, 0) < given.room
    AND NOT EXISTS (SELECT 1 FROM execution_logs again WHERE again.execution_id = given.execution_id
        AND again.chunk > last.chunk - 4 AND again.batch = given.batch);

-- name: full_log
-- Whether the lines of an execution leave no room.
SELECT 1 FROM execution_logs WHERE execution_id = ? AND total >= ? ORDER BY chunk DESC LIMIT 1;

-- name: log_chunks
-- Behind a chunk, oldest first.
SELECT l.chunk, l.lines
FROM executions e JOIN execution_logs l ON l.execution_id = e.execution_id
WHERE e.execution_id = ? AND e.tenant_id = ? AND l.chunk >= ? ORDER BY l.chunk LIMIT ?;

-- name: attempts_ended
-- The events up to a number by which a task's next attempt begins, or its first one again.
SELECT v.task_name, v.event_type, v.data FROM executions e JOIN events v ON v.execution_id = e.execution_id
WHERE e.execution_id = ? AND e.tenant_id = ? AND v.sequence <= ?
    AND v.event_type IN ('task_retry_scheduled', 'task_reset') ORDER BY v.sequence;

-- name: delete_logs
DELETE FROM execution_logs WHERE execution_id = ?;

-- name: tenant_delete_logs
DELETE FROM execution_logs WHERE execution_id = ?;
