#!/bin/sh
# Makes the virtual environment: make_venv.sh PYTHON FOLDER
# Debian and Ubuntu ship Python without venv; as root it is installed, otherwise the command to do so is named.
set -eu
python=$1
folder=$2
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "Python 3.11 or newer is needed; $python is $("$python" --version 2>&1). Set PYTHON=python3.11, say." >&2
    exit 1
}
if ! "$python" -c 'import venv, ensurepip' 2>/dev/null; then
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        echo "Installing python$version-venv"
        (apt-get update -qq || true) && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "python$version-venv" >/dev/null
    else
        echo "Python lacks the module venv. Install it with: sudo apt-get install python$version-venv" >&2
        exit 1
    fi
fi
echo "Setting up $folder (once; half a minute to a minute)"
"$python" -m venv --clear "$folder"
"$folder/bin/pip" install --quiet --disable-pip-version-check -r requirements.lock
"$folder/bin/pip" install --quiet --disable-pip-version-check --no-deps --editable .
