#!/bin/sh
# Run by the image of PostgreSQL when it fills a new volume: the database is to be owned by an ordinary user, whom
# row-level security holds (docs/security.md). The superuser stays with the container.
set -eu
psql --no-psqlrc --quiet --set=ON_ERROR_STOP=1 --set=password="$CLOACINA_PASSWORD" \
    --username="$POSTGRES_USER" --dbname="$POSTGRES_DB" <<'SQL'
CREATE ROLE cloacina LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOBYPASSRLS PASSWORD :'password';
ALTER DATABASE cloacina OWNER TO cloacina;
SQL
