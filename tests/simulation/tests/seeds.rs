//! A bounded number of seeds, for every change; `make simulate` runs as many as wanted.

use std::process::{Command, Output};

#[expect(clippy::unwrap_used, reason = "a test reports by panicking")]
fn simulate(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_simulation"))
        .args(arguments)
        .env_remove("RUST_LOG")
        .output()
        .unwrap()
}

#[test]
fn nothing_is_lost_doubled_or_reordered() {
    let output = simulate(&["--seeds", "60"]);
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{told}\nagain: cargo run -p simulation -- --seed N"
    );
}

#[test]
fn a_seed_gives_the_same_run_again() {
    for seed in ["1", "7", "23", "38", "692"] {
        let (one, other) = (simulate(&["--seed", seed]), simulate(&["--seed", seed]));
        assert!(one.status.success(), "{}", String::from_utf8_lossy(&one.stderr));
        assert!(!one.stdout.is_empty());
        assert_eq!(
            String::from_utf8_lossy(&one.stdout),
            String::from_utf8_lossy(&other.stdout)
        );
    }
    assert_ne!(
        simulate(&["--seed", "1"]).stdout,
        simulate(&["--seed", "2"]).stdout
    );
}
