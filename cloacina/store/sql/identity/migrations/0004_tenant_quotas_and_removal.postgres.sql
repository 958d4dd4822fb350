-- Quotas of tenants, and the tenants that are being removed. NULL is the default of the gateway's settings, 0 no limit.
ALTER TABLE tenants ADD COLUMN removing_at BIGINT;
ALTER TABLE tenants ADD COLUMN requests_per_s DOUBLE PRECISION;
ALTER TABLE tenants ADD COLUMN max_executions BIGINT;
ALTER TABLE tenants ADD COLUMN max_package_bytes BIGINT;
