"""A month of hourly air measurements: fetched, cleaned in parallel branches, aggregated, written out."""
