//! A bounded number of seeds, for every change; `make simulate` runs as many as wanted.

/// In debug builds a seed takes some 0.2 s.
const SEEDS: u64 = 100;

/// As many groups as there are tests, so that they run in parallel.
fn group(number: u64) {
    for seed in (number..SEEDS).step_by(4) {
        let outcome = simulation::run(seed);
        assert!(
            outcome.broken.is_none(),
            "{}\n\nagain: cargo run -p simulation -- --seed {seed}",
            outcome.broken.unwrap_or_default()
        );
        assert!(outcome.acknowledged > 0, "{outcome}");
    }
}

#[test]
fn nothing_is_lost_doubled_or_reordered_1() {
    group(0);
}

#[test]
fn nothing_is_lost_doubled_or_reordered_2() {
    group(1);
}

#[test]
fn nothing_is_lost_doubled_or_reordered_3() {
    group(2);
}

#[test]
fn nothing_is_lost_doubled_or_reordered_4() {
    group(3);
}

#[test]
fn a_seed_gives_the_same_run_again() {
    for seed in [1, 7, 23] {
        let (one, other) = (simulation::run(seed), simulation::run(seed));
        assert_eq!(one.trace, other.trace);
        assert_eq!(one.hash, other.hash);
    }
    assert_ne!(simulation::run(1).hash, simulation::run(2).hash);
}
