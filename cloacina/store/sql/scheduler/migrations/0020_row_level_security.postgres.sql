-- The second wall between tenants, behind the tenant in every WHERE: docs/decisions/0020-row-level-security.md.
-- A session sees the rows of the tenant that it names, with '*' those of all, and without a name none.
ALTER TABLE definitions ENABLE ROW LEVEL SECURITY;
ALTER TABLE definitions FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON definitions USING ((SELECT current_setting('cloacina.tenant_id', true)) IN (tenant_id, '*'));
ALTER TABLE executions ENABLE ROW LEVEL SECURITY;
ALTER TABLE executions FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON executions USING ((SELECT current_setting('cloacina.tenant_id', true)) IN (tenant_id, '*'));
ALTER TABLE schedules ENABLE ROW LEVEL SECURITY;
ALTER TABLE schedules FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON schedules USING ((SELECT current_setting('cloacina.tenant_id', true)) IN (tenant_id, '*'));
ALTER TABLE instances ENABLE ROW LEVEL SECURITY;
ALTER TABLE instances FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON instances USING ((SELECT current_setting('cloacina.tenant_id', true)) IN (tenant_id, '*'));
ALTER TABLE retired_keys ENABLE ROW LEVEL SECURITY;
ALTER TABLE retired_keys FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON retired_keys USING ((SELECT current_setting('cloacina.tenant_id', true)) IN (tenant_id, '*'));
