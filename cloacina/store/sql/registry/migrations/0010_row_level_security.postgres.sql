-- The second wall between tenants, behind the tenant in every WHERE: docs/decisions/0020-row-level-security.md.
-- A session sees the rows of the tenant that it names, with '*' those of all, and without a name none.
ALTER TABLE packages ENABLE ROW LEVEL SECURITY;
ALTER TABLE packages FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON packages USING ((SELECT current_setting('cloacina.tenant_id', true)) IN (tenant_id, '*'));
ALTER TABLE secrets ENABLE ROW LEVEL SECURITY;
ALTER TABLE secrets FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON secrets USING ((SELECT current_setting('cloacina.tenant_id', true)) IN (tenant_id, '*'));
ALTER TABLE paused_workflows ENABLE ROW LEVEL SECURITY;
ALTER TABLE paused_workflows FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON paused_workflows USING ((SELECT current_setting('cloacina.tenant_id', true)) IN (tenant_id, '*'));
ALTER TABLE signing_keys ENABLE ROW LEVEL SECURITY;
ALTER TABLE signing_keys FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON signing_keys USING ((SELECT current_setting('cloacina.tenant_id', true)) IN (tenant_id, '*'));
