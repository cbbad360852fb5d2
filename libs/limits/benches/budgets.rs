//! What a limit costs an event: the budget of a user at hand, alone and with a share of a limit in common. Run with
//! `cargo bench -p limits`.
#![allow(missing_docs, reason = "criterion's macros make undocumented functions")]
#![allow(clippy::expect_used, reason = "inputs are fixed")]

use std::{hint::black_box, num::NonZeroUsize, sync::Arc, time::Duration};

use criterion::{Criterion, criterion_group, criterion_main};
use limits::{
    Budgets, Limit,
    rate_limiter::memory::{MemoryLimiter, system_clock},
};

fn budgets(criterion: &mut Criterion) {
    let limit = Limit::new(u32::MAX, Duration::from_secs(60)).expect("a limit");
    let alone = Budgets::new(limit, 80, NonZeroUsize::MAX, system_clock());
    let budget = alone.budget("ada");
    criterion.bench_function("spend, alone", |bencher| {
        bencher.iter(|| black_box(budget.spend()))
    });

    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime");
    let limiter = Arc::new(MemoryLimiter::new(limit, NonZeroUsize::MAX, system_clock()));
    let (shared, upkeep) = Budgets::in_common(limit, 80, NonZeroUsize::MAX, system_clock(), limiter);
    let budget = shared.budget("ada");
    runtime.block_on(async {
        // Long enough to find the limiter; then a share, which is 171 million events.
        let _ = tokio::time::timeout(Duration::from_millis(10), upkeep.run()).await;
        budget.ask().await
    });
    criterion.bench_function("spend, of a share", |bencher| {
        bencher.iter(|| black_box(budget.spend()));
    });
    criterion.bench_function("find by name", |bencher| {
        bencher.iter(|| black_box(shared.budget(black_box("ada"))));
    });
}

criterion_group!(benches, budgets);
criterion_main!(benches);
