#!/usr/bin/env bash
# runtime_image.sh ARCH: makes a stand-in for AWS's python3.13 Lambda image from Debian trixie, for
# machines that cannot reach AWS's registry. Same interpreter version and same runtime interface
# client; another libc (glibc 2.41 against 2.34), which is why the layer build checks symbol versions.
set -euo pipefail
arch=${1:?usage: runtime_image.sh x86_64|arm64}
case $arch in
  x86_64) debian=amd64 wheels=x86_64 platform=linux/amd64 ;;
  arm64) debian=arm64 wheels=aarch64 platform=linux/arm64 ;;
  *) echo "runtime_image.sh: no such architecture: $arch (x86_64 or arm64)" >&2; exit 2 ;;
esac
tag=public.ecr.aws/lambda/python:3.13-$arch
python=${PYTHON:-python3}
if docker image inspect "$tag" >/dev/null 2>&1; then echo "$tag is there"; exit 0; fi

root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
# Unpacked, never configured: Python needs no maintainer script, and an arm64 root's would all run
# under emulation.
unpack() {
  rm -rf "${root:?}"/* # what a broken download left
  debootstrap --foreign --variant=minbase --include=python3 --arch="$debian" trixie "$root" \
    ${DEBIAN_MIRROR:+"$DEBIAN_MIRROR"} >"$root.log"
}
unpack || { sleep 5; unpack; } || { sleep 20; unpack; } ||
  { tail -20 "$root.log" >&2; echo "runtime_image.sh: no Debian for $arch, tried three times" >&2; exit 1; }
for package in "$root"/var/cache/apt/archives/*.deb; do
  dpkg-deb --fsys-tarfile "$package" | tar -C "$root" -x --keep-directory-symlink
done
rm -rf "$root"/debootstrap "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/usr/share/{doc,locale,man} "$root.log"

mkdir -p "$root"/var/{runtime,task} "$root"/opt
# AWS's runtime carries boto3 beside the client; so does this one.
"$python" -m pip install --quiet --disable-pip-version-check --target "$root/var/runtime" \
  --only-binary=:all: --no-deps --no-compile --python-version 3.13 --implementation cp \
  --platform "manylinux_2_17_$wheels" --platform "manylinux2014_$wheels" --platform "manylinux_2_28_$wheels" \
  awslambdaric==4.2.2 snapshot-restore-py==1.0.0 simplejson==4.3.0 boto3==1.43.108 botocore==1.43.127 \
  s3transfer==0.19.3 jmespath==1.1.0 python-dateutil==2.9.0.post0 six==1.17.0 urllib3==2.8.0
cat >"$root/var/runtime/bootstrap" <<'BOOTSTRAP'
#!/bin/sh
export PYTHONPATH="/var/task:/opt/python/lib/python3.13/site-packages:/opt/python:/var/runtime${PYTHONPATH:+:$PYTHONPATH}"
export LD_LIBRARY_PATH="/opt/lib:/var/task/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
cd /var/task && exec /usr/bin/python3.13 -m awslambdaric "$_HANDLER"
BOOTSTRAP
chmod 755 "$root/var/runtime/bootstrap" "$root"

# AWS's image carries bytecode. Debian's maintainer scripts would have written it here; without it
# every start compiles the standard library and botocore, emulated for half a minute. Bytecode is
# the same on every processor, so a foreign root gets its from the native image.
compile=(/usr/bin/python3.13 -m compileall -q --invalidation-mode unchecked-hash)
if [ "$wheels" = "$(uname -m)" ]; then
  chroot "$root" "${compile[@]}" /usr/lib/python3.13 /var/runtime
else
  native=public.ecr.aws/lambda/python:3.13-x86_64
  docker run --rm --volume "$root:/foreign" --entrypoint "${compile[0]}" "$native" "${compile[@]:1}" \
    -s /foreign /foreign/usr/lib/python3.13 /foreign/var/runtime
fi

# Lambda's arm64 is Graviton2, a Neoverse N1. QEMU would emulate every extension it knows, and
# OpenVINO then emits instructions that it does not: "illegal instruction" (QEMU 7.2).
processor=neoverse-n1
# `docker import` of older daemons records the daemon's own architecture, and `sam local` refuses
# the mismatch: hand over a whole image, which names its own.
image=$(mktemp -d)
trap 'rm -rf "$root" "$image"' EXIT
tar -C "$root" --numeric-owner --owner=0 --group=0 -cf "$image/layer.tar" .
digest=$(sha256sum "$image/layer.tar" | cut -d' ' -f1)
cat >"$image/config.json" <<CONFIG
{"architecture": "${platform#linux/}", "os": "linux",
 "config": {"Env": ["QEMU_CPU=$processor"], "WorkingDir": "/var/task",
            "Entrypoint": ["/var/runtime/bootstrap"]},
 "rootfs": {"type": "layers", "diff_ids": ["sha256:$digest"]}}
CONFIG
echo "[{\"Config\": \"config.json\", \"RepoTags\": [\"$tag\"], \"Layers\": [\"layer.tar\"]}]" >"$image/manifest.json"
tar -C "$image" -c . | docker load --quiet
