-- Log lines of executions: chunks of some lines each, JSON objects ended by line breaks, numbered from 1 within their
-- execution. `total` is the bytes of all chunks up to this one, `batch` tells a chunk that is sent again.
CREATE TABLE execution_logs (
    execution_id TEXT COLLATE "C" NOT NULL,
    chunk        BIGINT NOT NULL,
    tenant_id    TEXT COLLATE "C" NOT NULL,
    batch        TEXT NOT NULL,
    total        BIGINT NOT NULL,
    lines        TEXT NOT NULL,
    PRIMARY KEY (execution_id, chunk)
);
ALTER TABLE execution_logs ENABLE ROW LEVEL SECURITY;
ALTER TABLE execution_logs FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON execution_logs
    USING ((SELECT current_setting('cloacina.tenant_id', true)) IN (tenant_id, '*'));
