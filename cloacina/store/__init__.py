"""Where each service keeps what it owns: one interface, a driver per database, SQL in .sql files."""
