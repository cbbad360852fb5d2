mod names;

use std::{panic::AssertUnwindSafe, time::Duration};

use futures_util::FutureExt;
use names::Names;
use tokio::sync::oneshot;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Named, tracked tasks: the one place where tasks are spawned. Cheap to clone; clones share the
/// tasks.
///
/// A task costs no allocation and no lock for being tracked. A panic in one is logged with its name
/// and ends that task alone.
#[derive(Clone, Debug, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    names: Names,
    stopping: CancellationToken,
}

impl Tasks {
    /// No tasks.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Runs `future` until it ends or panics.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn spawn(&self, name: &'static str, future: impl Future<Output = ()> + Send + 'static) {
        let running = self.names.begin(name);
        #[expect(
            clippy::disallowed_methods,
            reason = "this is where tasks get their name and owner"
        )]
        // No async block: it would keep room for `future` twice, and each connection is a task.
        self.tracker
            .spawn(AssertUnwindSafe(future).catch_unwind().map(move |result| {
                if result.is_err() {
                    tracing::error!(task = name, "a task has panicked; the others go on");
                }
                drop(running);
            }));
    }

    /// Runs `future` until it ends, even if the caller stops waiting for its result; `None` when it has panicked.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn apart<T, F>(
        &self,
        name: &'static str,
        future: F,
    ) -> impl Future<Output = Option<T>> + Send + use<T, F>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let (done, result) = oneshot::channel();
        self.spawn(
            name,
            future.map(|value| {
                // Nobody may wait any more.
                let _ = done.send(value);
            }),
        );
        result.map(Result::ok)
    }

    /// Runs `future`, which needs no ending of its own, until [`Tasks::shutdown`].
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn background(&self, name: &'static str, future: impl Future<Output = ()> + Send + 'static) {
        let stopping = self.stopping.clone();
        self.spawn(name, async move {
            stopping.run_until_cancelled(future).await;
        });
    }

    /// How many tasks run.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tracker.len()
    }

    /// Whether no task runs.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tracker.is_empty()
    }

    /// Who runs, by name and number, e.g. `accept, connection (3)`.
    #[must_use]
    pub fn running(&self) -> String {
        self.names.running()
    }

    /// Ends the background tasks and waits for the others to end, at most `budget`. Those that are late are logged by
    /// name and end with the runtime; their number is the answer.
    ///
    /// Cancel safe: waiting again is fine.
    pub async fn shutdown(&self, budget: Duration) -> usize {
        self.stopping.cancel();
        self.tracker.close();
        if tokio::time::timeout(budget, self.tracker.wait()).await.is_err() {
            tracing::warn!(?budget, tasks = %self.running(), "tasks are late");
        }
        self.tracker.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_ends_its_own_task_alone() {
        let tasks = Tasks::new();
        let (sender, receiver) = tokio::sync::oneshot::channel();
        tasks.spawn("panics", async { panic!("on purpose") });
        tasks.spawn("goes on", async move {
            tokio::task::yield_now().await;
            sender.send(7).unwrap();
        });
        assert_eq!(receiver.await.unwrap(), 7);
        assert_eq!(tasks.shutdown(Duration::from_secs(5)).await, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn late_tasks_are_counted() {
        let tasks = Tasks::new();
        tasks.background("ends when told", std::future::pending());
        tasks.spawn("never ends", std::future::pending());
        assert_eq!(tasks.running(), "ends when told, never ends");
        assert_eq!(tasks.shutdown(Duration::from_secs(5)).await, 1);
        assert_eq!(tasks.running(), "never ends");
    }
}
