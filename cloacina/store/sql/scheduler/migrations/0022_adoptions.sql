-- The number of an owner's last adoption, which nobody else's has: with it the owner's claims are larger than those of
-- whom it took over from, who may have joined later.
ALTER TABLE owners ADD COLUMN adoption BIGINT NOT NULL DEFAULT 0;
