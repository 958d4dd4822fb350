#!/bin/sh
# Writes .env from .env.example with random secrets; leaves a .env that exists alone.
set -eu
cd "$(dirname "$0")/.."
if [ -e .env ]; then
    echo ".env exists and is left as it is"
    exit 0
fi
secret() {
    head -c 24 /dev/urandom | od -An -v -tx1 | tr -d ' \n'
}
umask 077
sed -e "s|^CLOACINA_RPC_TOKEN=.*|CLOACINA_RPC_TOKEN=$(secret)|" \
    -e "s|^POSTGRES_PASSWORD=.*|POSTGRES_PASSWORD=$(secret)|" \
    -e "s|^POSTGRES_ADMIN_PASSWORD=.*|POSTGRES_ADMIN_PASSWORD=$(secret)|" \
    -e "s|^GRAFANA_PASSWORD=.*|GRAFANA_PASSWORD=$(secret)|" .env.example >.env
echo "wrote .env with random secrets (mode 0600)"
