-- Firings that started nothing are deleted by age: this finds them without a look at the others.
CREATE INDEX schedule_firings_idle ON schedule_firings (fired_at) WHERE execution_id IS NULL;
