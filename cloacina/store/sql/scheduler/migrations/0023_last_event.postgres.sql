-- Nothing changes in the tables. From here on the number of an unfinished execution's last event is that of its events,
-- and its row has it as of the last change of the execution itself. Programs before this one would take the row's.
COMMENT ON COLUMN executions.sequence IS
    'Number of the last event as of the last change of this row; the events of one that has not ended may go on.';
