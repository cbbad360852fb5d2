#!/usr/bin/env bash
# Builds the image by deploy/docker/Dockerfile and runs the rendered chart with it, as far as a machine without a container
# engine, registry and cluster can: buildah and podman as root, on this machine's own network, everything in a
# directory that is removed in the end. The build stage is the program that lies in target/ already, the bases are made
# of what the program links; nats-server and redis-server are this machine's.
# Usage: image.sh [PROGRAM]; ports 3001, 3002, 4222, 6379, 7001 to 7104 and 9091 to 9193 must be free.
set -euo pipefail
cd "$(dirname "$0")/../../.."

root=$PWD
program=${1:-target/release/fanfare}
tools=$root/target/tools
export PATH=$tools/bin:$PATH:/usr/sbin
work=$(mktemp -d /tmp/fanfare-image-XXXXXX)
export CONTAINERS_CONF=$work/containers.conf CONTAINERS_STORAGE_CONF=$work/storage.conf

cleanup() {
    [ ! -e "$work/pods.yaml" ] || podman play kube --down "$work/pods.yaml" >/dev/null 2>&1 || true
    podman rm --force --all --time 5 >/dev/null 2>&1 || true
    rm -rf "$work"
}
trap cleanup EXIT

# A machine without systemd, and less of everything than a container may ask for by default.
cat >"$CONTAINERS_CONF" <<END
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
[containers]
default_ulimits = ["nofile=20000:20000", "nproc=20000:20000"]
END
printf '[storage]\ndriver = "vfs"\ngraphroot = "%s/storage"\nrunroot = "%s/run"\n' "$work" "$work" >"$CONTAINERS_STORAGE_CONF"

step() { printf '\n== %s\n' "$*"; }

# A directory with a program and what it links, as an image of nothing else.
image_of() { # NAME DIRECTORY PROGRAM... ; further lines of the Dockerfile on standard input
    local name=$1 files=$2 library
    shift 2
    mkdir -p "$files/root/etc/ssl/certs" "$files/root/tmp"
    cp -L /etc/ssl/certs/ca-certificates.crt "$files/root/etc/ssl/certs/"
    for program in "$@"; do
        for library in $(ldd "$program" 2>/dev/null | grep -o '/[^ ]*'); do
            mkdir -p "$files/root$(dirname "$library")"
            cp -L "$library" "$files/root$library"
        done
    done
    { echo "FROM scratch"; echo "COPY root/ /"; cat; } >"$files/Dockerfile"
    buildah bud --isolation chroot --quiet --tag "localhost/$name:test" "$files" >/dev/null
}

step "the image, from its Dockerfile"
mkdir -p "$work/built"
strip -o "$work/built/fanfare" "$program"
image_of runtime "$work/runtime" "$program" </dev/null
buildah bud --isolation chroot --format docker --pull-never --file deploy/docker/Dockerfile \
    --ignorefile deploy/docker/Dockerfile.dockerignore --build-context "build=$work/built" \
    --build-arg BUILD_IMAGE=localhost/runtime:test --build-arg RUNTIME_IMAGE=localhost/runtime:test \
    --tag localhost/fanfare:test . >"$work/build.log" 2>&1 || { cat "$work/build.log"; exit 1; }
buildah images --format '{{.Name}} {{.Size}}' localhost/fanfare:test

step "standalone: read-only, no capabilities, not root"
podman run --detach --name standalone --no-healthcheck --network host --read-only --cap-drop all --memory 256m \
    --security-opt no-new-privileges localhost/fanfare:test >/dev/null
podman exec standalone /usr/local/bin/fanfare probe --within 20s
podman top standalone user capeff | tail -1
curl --silent --fail http://127.0.0.1:3001/health
echo
podman stop --time 45 standalone >/dev/null
[ "$(podman inspect standalone --format '{{.State.ExitCode}}')" = 0 ]

step "the chart: two of each role, NATS, Redis"
nats=$(readlink -f "$(command -v nats-server-current || command -v nats-server)")
redis=$(readlink -f "$(command -v redis-server)")
mkdir -p "$work/nats/root/usr/bin" "$work/redis/root/usr/bin"
cp "$nats" "$work/nats/root/usr/bin/nats-server"
cp "$redis" "$work/redis/root/usr/bin/redis-server"
mkdir "$work/nats/data" # podman has no fsGroup: the volume takes the owner that the image says
printf 'COPY --chown=10001:10001 data /data\nENTRYPOINT ["/usr/bin/nats-server"]\n' | image_of nats "$work/nats" "$nats"
echo 'ENV PATH=/usr/bin' | image_of redis "$work/redis" "$redis"
helm template try helm/fanfare --values helm/fanfare/ci/try-out-values.yaml --set tests.enabled=false \
    --set image.repository=localhost/fanfare,image.tag=test,image.pullPolicy=Never \
    --set nats.builtIn.image=localhost/nats:test,redis.builtIn.image=localhost/redis:test |
    "$tools/deploy/venv/bin/python" tests/tests/deploy/play.py >"$work/pods.yaml"
podman play kube --network host "$work/pods.yaml" >"$work/play.log" 2>&1 || { cat "$work/play.log"; exit 1; }
for port in 9091 9191 9092 9192 9093 9193; do
    printf '%s ' "$port"
    "$work/built/fanfare" probe --within 60s --admin "127.0.0.1:$port" && continue
    for container in $(podman ps --all --format '{{.Names}}'); do
        echo "-- $container"
        podman logs --tail 5 "$container"
    done
    exit 1
done

step "stock clients at both gateways"
FANFARE_URLS=http://127.0.0.1:3001,http://127.0.0.1:3002 node tests/compat/cluster/hello.mjs
podman ps --format '{{.Names}} {{.Status}}'
