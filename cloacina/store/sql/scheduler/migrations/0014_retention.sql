-- Idempotency keys of executions that retention deleted: until they lapse, the same key still names the same execution.
CREATE TABLE retired_keys (
    tenant_id       TEXT NOT NULL,
    workflow_name   TEXT NOT NULL,
    idempotency_key TEXT NOT NULL,
    execution_id    TEXT NOT NULL,
    created_at      BIGINT NOT NULL,
    PRIMARY KEY (tenant_id, workflow_name, idempotency_key)
);
CREATE INDEX retired_keys_oldest ON retired_keys (created_at);
