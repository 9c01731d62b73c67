#!/usr/bin/env bash
# run.sh: every function in the image of its runtime, by `sam local invoke`. Starts what it needs
# (Docker, emulation of arm64, the images) where it is missing, and stops what it started.
set -euo pipefail
cd "$(dirname "$0")/../.."
export PATH="$PWD/.venv/bin:$PATH" SAM_CLI_TELEMETRY=0

architectures="x86_64 arm64"
[ "$(uname -m)" = aarch64 ] && architectures=arm64
emulator=/usr/lib/binfmt.d/qemu-aarch64.conf
{ docker info || command -v dockerd; } >/dev/null 2>&1 && command -v debootstrap >/dev/null &&
  { [ "$architectures" = arm64 ] || [ -e $emulator ]; } || scripts/install-system-packages docker

if ! docker info >/dev/null 2>&1; then
  [ "$(id -u)" -eq 0 ] || { echo "test-sam: Docker is not running, and only root can start it" >&2; exit 1; }
  log=$(mktemp)
  # Without its proxy a port is closed until the emulator listens, and `sam local` waits for it.
  setsid dockerd --userland-proxy=false >"$log" 2>&1 &
  trap 'kill $(cat /var/run/docker.pid)' EXIT
  for _ in $(seq 60); do docker info >/dev/null 2>&1 && break; sleep 1; done
  docker info >/dev/null 2>&1 || { tail -20 "$log" >&2; echo "test-sam: dockerd did not start" >&2; exit 1; }
fi

binfmt=/proc/sys/fs/binfmt_misc
if [ "$architectures" != arm64 ]; then
  [ -e $binfmt/register ] || mount -t binfmt_misc binfmt_misc $binfmt
  [ -e $binfmt/qemu-aarch64 ] || cat $emulator >$binfmt/register
fi
for architecture in $architectures; do
  tests/sam/runtime_image.sh "$architecture"
done
COSMICAI_TEST_SAM="$architectures" python -m pytest tests/sam -m "" -v --durations=0 --timeout=1200 "$@"
