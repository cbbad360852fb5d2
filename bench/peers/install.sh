#!/usr/bin/env bash
# Installs the peers that Fanfare is measured beside: Node packages from the registry by their lock file, Rust
# peers built into target/peers. Quick when nothing has changed.
set -euo pipefail
cd "$(dirname "$0")"
root=$(cd ../.. && pwd)
export PATH=$root/target/tools/bin:$PATH

for program in cargo node npm nats-server redis-server; do
    command -v "$program" >/dev/null || [ -x "/usr/sbin/$program" ] || {
        echo "peers: $program is missing; tests/deps.sh test installs it" >&2
        exit 1
    }
done

# What was installed last says itself from which lock file.
if ! cmp -s node/package-lock.json node/node_modules/.installed; then
    npm ci --prefix node --ignore-scripts --no-audit --no-fund --loglevel=error
    cp node/package-lock.json node/node_modules/.installed
fi

cargo build --release --locked --quiet --manifest-path rust/Cargo.toml --target-dir "$root/target/peers"
