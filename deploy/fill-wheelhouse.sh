#!/bin/sh
# Downloads the wheels that the image holds into a folder: fill-wheelhouse.sh [FOLDER]   (default: deploy/wheelhouse)
# PYTHON: an interpreter with pip, 3.11 or newer; TARGET: Python version of the image; MACHINE: its architecture.
set -eu
cd "$(dirname "$0")/.."
folder=${1:-deploy/wheelhouse}
python=${PYTHON:-python3}
target=${TARGET:-3.13}
machine=${MACHINE:-$(uname -m)}
wanted=$(mktemp)
trap 'rm -f "$wanted"' EXIT
"$python" - >"$wanted" <<'PROGRAM'
import tomllib

with open("pyproject.toml", "rb") as file:
    project = tomllib.load(file)
print(*project["project"]["dependencies"], *project["build-system"]["requires"], sep="\n")
PROGRAM
"$python" -m pip download --quiet --disable-pip-version-check --only-binary :all: --dest "$folder" \
    --implementation cp --python-version "$target" --abi "cp$(echo "$target" | tr -d .)" --abi abi3 --abi none \
    --platform "manylinux_2_28_$machine" --platform "manylinux_2_17_$machine" --platform "manylinux2014_$machine" \
    --constraint requirements.lock --requirement "$wanted"
echo "$(ls "$folder"/*.whl | wc -l) wheels for Python $target on $machine are in $folder"
