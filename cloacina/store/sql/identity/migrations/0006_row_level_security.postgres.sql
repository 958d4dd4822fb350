-- The second wall between tenants, behind the tenant in every WHERE: docs/decisions/0020-row-level-security.md.
-- A session sees the rows of the tenant that it names, with '*' those of all, and without a name none.
ALTER TABLE api_keys ENABLE ROW LEVEL SECURITY;
ALTER TABLE api_keys FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON api_keys USING ((SELECT current_setting('cloacina.tenant_id', true)) IN (tenant_id, '*'));
ALTER TABLE accounts ENABLE ROW LEVEL SECURITY;
ALTER TABLE accounts FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON accounts USING ((SELECT current_setting('cloacina.tenant_id', true)) IN (tenant_id, '*'));
