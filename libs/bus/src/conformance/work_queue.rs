//! What every engine of [`WorkQueue`] must do.

use std::{collections::HashSet, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::future::join_all;

use super::{soon, unique};
use crate::{DeadLetter, NewJob, WorkError, WorkQueue};

/// Runs every check on an engine from `make`, which may be the same one each time. Its deadline should be short: some
/// checks wait for it.
///
/// # Panics
/// When the engine does not conform.
pub async fn work_queue(make: impl AsyncFn() -> Arc<dyn WorkQueue>) {
    tokio::join!(
        async { a_job_is_done_once(&*make().await).await },
        async { an_id_is_one_job(&*make().await).await },
        async { queues_know_nothing_of_each_other(&*make().await).await },
        async { a_retry_comes_after_its_time(&*make().await).await },
        async { the_last_attempt_ends_in_a_dead_letter(&*make().await).await },
        async { what_a_worker_drops_comes_again(&*make().await).await },
        async { what_nobody_settles_is_buried(&*make().await).await },
        async { who_works_keeps_the_job(&*make().await).await },
        async { workers_share_the_jobs(make().await).await },
        async { letters_are_read_in_order(&*make().await).await },
        async { names_are_checked(&*make().await).await },
    );
}

fn queue() -> String {
    format!("q-{:x}", unique())
}

fn job(queue: &str, id: &str) -> NewJob {
    NewJob {
        queue: queue.to_owned(),
        id: id.to_owned(),
        payload: Bytes::from(format!("payload of {id}")),
    }
}

/// Nothing comes for a moment. A job that comes too late is not noticed; one that must not come is, mostly.
async fn is_idle(work: &dyn WorkQueue, queue: &str) -> bool {
    let moment = Duration::from_millis(200);
    tokio::time::timeout(moment, work.take(queue, 9)).await.is_err()
}

async fn a_job_is_done_once(work: &dyn WorkQueue) {
    let queue = queue();
    soon(work.enqueue(job(&queue, "a"))).await.unwrap();
    let taken = soon(work.take(&queue, 3)).await.unwrap();
    assert_eq!((taken.id(), taken.attempt()), ("a", 1));
    assert_eq!(taken.payload(), "payload of a");
    soon(taken.done()).await.unwrap();
    assert!(is_idle(work, &queue).await);
}

async fn an_id_is_one_job(work: &dyn WorkQueue) {
    let queue = queue();
    for id in ["a", "a", "b"] {
        soon(work.enqueue(job(&queue, id))).await.unwrap();
    }
    for id in ["a", "b"] {
        let taken = soon(work.take(&queue, 3)).await.unwrap();
        assert_eq!(taken.id(), id);
        soon(taken.done()).await.unwrap();
    }
    soon(work.enqueue(job(&queue, "a"))).await.unwrap();
    assert!(is_idle(work, &queue).await, "it was done");
}

async fn queues_know_nothing_of_each_other(work: &dyn WorkQueue) {
    let (one, other) = (queue(), queue());
    soon(work.enqueue(job(&one, "a"))).await.unwrap();
    soon(work.enqueue(job(&other, "a"))).await.unwrap();
    for queue in [&other, &one] {
        soon(soon(work.take(queue, 3)).await.unwrap().done())
            .await
            .unwrap();
    }
}

async fn a_retry_comes_after_its_time(work: &dyn WorkQueue) {
    let queue = queue();
    soon(work.enqueue(job(&queue, "a"))).await.unwrap();
    let taken = soon(work.take(&queue, 3)).await.unwrap();
    let after = Duration::from_millis(300);
    let begun = tokio::time::Instant::now();
    assert!(soon(taken.retry(after, "not now")).await.unwrap());
    let taken = soon(work.take(&queue, 3)).await.unwrap();
    assert_eq!(taken.attempt(), 2);
    // Clocks of server and client need not agree to the millisecond.
    assert!(begun.elapsed() >= after / 2, "{:?}", begun.elapsed());
    soon(taken.done()).await.unwrap();
    assert_eq!(soon(work.buried(&queue, 0, 9)).await.unwrap(), []);
}

async fn the_last_attempt_ends_in_a_dead_letter(work: &dyn WorkQueue) {
    let queue = queue();
    soon(work.enqueue(job(&queue, "a"))).await.unwrap();
    for attempt in 1..=2 {
        let taken = soon(work.take(&queue, 2)).await.unwrap();
        assert_eq!(taken.attempt(), attempt);
        let again = soon(taken.retry(Duration::ZERO, "is\nbroken")).await.unwrap();
        assert_eq!(again, attempt < 2);
    }
    assert!(is_idle(work, &queue).await);
    let letters = soon(work.buried(&queue, 0, 9)).await.unwrap();
    let expected = DeadLetter {
        queue: queue.clone(),
        id: "a".to_owned(),
        payload: Bytes::from("payload of a"),
        attempts: 2,
        reason: "is broken".to_owned(),
    };
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].letter, expected);
    assert!(letters[0].time_ms > 0);

    soon(work.enqueue(job(&queue, "b"))).await.unwrap();
    let taken = soon(work.take(&queue, 2)).await.unwrap();
    soon(taken.give_up("never")).await.unwrap();
    let letters = soon(work.buried(&queue, letters[0].place, 9)).await.unwrap();
    assert_eq!(letters.len(), 1);
    assert_eq!(
        (&*letters[0].letter.id, &*letters[0].letter.reason),
        ("b", "never")
    );
}

async fn what_a_worker_drops_comes_again(work: &dyn WorkQueue) {
    let queue = queue();
    soon(work.enqueue(job(&queue, "a"))).await.unwrap();
    drop(soon(work.take(&queue, 3)).await.unwrap());
    let taken = soon(work.take(&queue, 3)).await.unwrap();
    assert_eq!((taken.id(), taken.attempt()), ("a", 2));
    soon(taken.done()).await.unwrap();
}

async fn what_nobody_settles_is_buried(work: &dyn WorkQueue) {
    let queue = queue();
    soon(work.enqueue(job(&queue, "a"))).await.unwrap();
    drop(soon(work.take(&queue, 1)).await.unwrap());
    soon(work.enqueue(job(&queue, "b"))).await.unwrap();
    let taken = soon(work.take(&queue, 1)).await.unwrap();
    assert_eq!(taken.id(), "b");
    soon(taken.done()).await.unwrap();
    let letters = soon(async {
        loop {
            // Somebody must ask for work to notice.
            let moment = Duration::from_millis(100);
            assert!(tokio::time::timeout(moment, work.take(&queue, 1)).await.is_err());
            let letters = work.buried(&queue, 0, 9).await.unwrap();
            if !letters.is_empty() {
                return letters;
            }
        }
    });
    let letters = letters.await;
    assert_eq!((&*letters[0].letter.id, letters[0].letter.attempts), ("a", 1));
}

async fn who_works_keeps_the_job(work: &dyn WorkQueue) {
    let queue = queue();
    soon(work.enqueue(job(&queue, "a"))).await.unwrap();
    let taken = soon(work.take(&queue, 3)).await.unwrap();
    for _ in 0..8 {
        soon(taken.working()).await.unwrap();
        assert!(is_idle(work, &queue).await);
    }
    soon(taken.done()).await.unwrap();
}

async fn workers_share_the_jobs(work: Arc<dyn WorkQueue>) {
    let queue = queue();
    for number in 0..40 {
        soon(work.enqueue(job(&queue, &number.to_string())))
            .await
            .unwrap();
    }
    let workers = (0..4).map(|_| async {
        let mut done = Vec::new();
        for _ in 0..10 {
            let taken = soon(work.take(&queue, 9)).await.unwrap();
            done.push((taken.id().to_owned(), taken.attempt()));
            soon(taken.done()).await.unwrap();
        }
        done
    });
    let done: Vec<_> = join_all(workers).await.concat();
    let firsts: HashSet<_> = done.iter().map(|(id, _)| id.clone()).collect();
    assert_eq!(firsts.len(), 40, "{done:?}");
}

async fn letters_are_read_in_order(work: &dyn WorkQueue) {
    let queue = queue();
    let letter = |id: &str| DeadLetter {
        queue: queue.clone(),
        id: id.to_owned(),
        payload: Bytes::from("x"),
        attempts: 0,
        reason: "r".repeat(600),
    };
    for id in ["a", "b", "b", "c"] {
        soon(work.bury(letter(id))).await.unwrap();
    }
    let page = soon(work.buried(&queue, 0, 2)).await.unwrap();
    let rest = soon(work.buried(&queue, page[1].place, 9)).await.unwrap();
    let ids: Vec<_> = page
        .iter()
        .chain(&rest)
        .map(|buried| buried.letter.id.as_str())
        .collect();
    assert_eq!(ids, ["a", "b", "c"]);
    assert_eq!(page[0].letter.reason.len(), 500);
}

async fn names_are_checked(work: &dyn WorkQueue) {
    for (queue, id) in [
        ("", "a"),
        ("a.b", "a"),
        ("a b", "a"),
        ("*", "a"),
        ("a", ""),
        ("a", "b\nc"),
        ("a", "é"),
    ] {
        let enqueued = soon(work.enqueue(job(queue, id))).await;
        assert!(
            matches!(enqueued, Err(WorkError::InvalidName(_))),
            "{queue:?} {id:?}"
        );
    }
    assert!(soon(work.take(">", 1)).await.is_err());
    assert!(soon(work.buried("a.b", 0, 1)).await.is_err());
}
