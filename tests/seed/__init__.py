"""What the guide that operators read says of the system, statement by statement, of a system started as users do."""
