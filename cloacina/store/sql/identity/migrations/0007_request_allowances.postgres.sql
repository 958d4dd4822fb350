-- When each tenant that has a limit has used up what it may send, if it had sent it evenly: microseconds since the epoch.
CREATE TABLE request_allowances (
    tenant_id TEXT COLLATE "C" PRIMARY KEY,
    due       BIGINT NOT NULL
);
ALTER TABLE request_allowances ENABLE ROW LEVEL SECURITY;
ALTER TABLE request_allowances FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON request_allowances
    USING ((SELECT current_setting('cloacina.tenant_id', true)) IN (tenant_id, '*'));
