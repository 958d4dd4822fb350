#!/bin/sh
# Proves docker-compose.yml by running it: as root, on Debian or Ubuntu, without pulling one image. Takes minutes; the
# file systems and wheels that it makes are kept in CLOACINA_PROVE_CACHE (~/.cache/cloacina-prove) for the next time.
#   CLOACINA_PROVE_STORE   postgres (default) or sqlite
#   PYTHON                 Python of an environment with requirements.lock; without it that of make test
# What is given goes to pytest: sh deploy/prove.sh -k crashed
set -eu
cd "$(dirname "$0")/.."
if [ "$(id -u)" != 0 ]; then
    echo "prove.sh: it starts a Docker Engine of its own and must be root: sudo sh deploy/prove.sh" >&2
    exit 1
fi
if [ -z "${PYTHON:-}" ]; then
    make .venv/.installed
    PYTHON=.venv/bin/python
fi
"$PYTHON" -m tests.deploy.stand_in_images
# The engine is in a network namespace of its own: it leaves this machine's firewall alone, and nothing can be downloaded.
export PYTHON CLOACINA_PROVE_COMPOSE=1
exec unshare --net sh -c 'ip link set lo up && exec "$PYTHON" -m pytest -ra -v tests/deploy/test_compose_up.py "$@"' prove.sh "$@"
