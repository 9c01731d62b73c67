#!/usr/bin/env bash
# run.sh: real `sam build` and `sam deploy` against an emulator of AWS with IAM enforced, and the
# command line against what it deployed. Needs a Python 3.13, the functions' runtime: PYTHON313,
# or python3.13 on PATH.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-python3}
python313=${PYTHON313:-python3.13}
# A pyenv shim runs the version that this names.
runtime() { PYENV_VERSION=${PYENV_VERSION-3.13} "$python313" "$@"; }
runtime -c 'import sys; sys.exit(sys.version_info[:2] != (3, 13))' 2>/dev/null || {
  echo "test-deploy: the emulator runs the functions with Python 3.13, and $python313 is none." \
    "Install it (python3.13 and python3.13-venv, pyenv, uv) or name one in PYTHON313." >&2
  exit 1
}
# environment FOLDER REQUIREMENTS PYTHON...: a virtual environment, made again when its list changed.
environment() {
  local folder=$1 requirements=$2
  cmp -s "$requirements" "$folder/requirements.txt" && return
  rm -rf "$folder"
  "${@:3}" -m venv "$folder"
  "$folder/bin/pip" install --quiet --disable-pip-version-check -r "$requirements"
  cp "$requirements" "$folder/requirements.txt"
}
environment .ministack tests/deploy/requirements.txt runtime
# What a newcomer has who installed the SAM command line and nothing else.
pinned=$(mktemp)
trap 'rm "$pinned"' EXIT
sed -n 's/^\(aws-sam-cli==[^ ]*\).*/\1/p' requirements.txt >"$pinned"
environment .sam-cli "$pinned" "$python"
COSMICAI_TEST_DEPLOY=1 .venv/bin/python -m pytest tests/deploy -m "" -v --durations=10 --timeout=900 "$@"
