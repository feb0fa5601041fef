//! Runs blocking work off the runtime's workers, with a limit on concurrent pieces. Further calls wait
//! in their callers, where the wait is visible.

use std::sync::Arc;

use common::endpoint::PeerError;
use tokio::sync::Semaphore;

/// Runs blocking work, up to a fixed number of pieces at once.
#[derive(Debug, Clone)]
pub struct BoundedExecutor {
    name: &'static str,
    permits: Arc<Semaphore>,
}

impl BoundedExecutor {
    /// Creates an executor for at most `most` concurrent pieces, at least one.
    #[must_use]
    pub fn new(name: &'static str, most: usize) -> Self {
        Self { name, permits: Arc::new(Semaphore::new(most.max(1))) }
    }

    /// Runs `work` as soon as the limit allows. If the caller stops waiting before the work starts, the
    /// work does not run. Once started, it runs to its end and occupies its place until then.
    ///
    /// # Errors
    /// [`PeerError::Protocol`] if the work panics.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, PeerError> {
        let failed = |reason: String| PeerError::Protocol(format!("{}: {reason}", self.name));
        let permit =
            Arc::clone(&self.permits).acquire_owned().await.map_err(|error| failed(error.to_string()))?;
        let run = move || {
            let _permit = permit;
            work()
        };
        let done = tokio::task::spawn_blocking(run).await;
        done.map_err(|error| failed(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[tokio::test]
    async fn no_more_than_the_bound_run_at_once() {
        let executor = BoundedExecutor::new("test", 2);
        let running = Arc::new(AtomicUsize::new(0));
        let most = Arc::new(AtomicUsize::new(0));
        let mut calls = tokio::task::JoinSet::new();
        for _ in 0..20 {
            let (executor, running, most) = (executor.clone(), Arc::clone(&running), Arc::clone(&most));
            calls.spawn(async move {
                executor
                    .run(move || {
                        most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                        std::thread::yield_now();
                        running.fetch_sub(1, Ordering::SeqCst);
                    })
                    .await
            });
        }
        while let Some(call) = calls.join_next().await {
            assert!(matches!(call, Ok(Ok(()))));
        }
        assert!((1..=2).contains(&most.load(Ordering::SeqCst)));
    }

    #[tokio::test]
    async fn a_panic_is_an_error_and_frees_its_room() {
        let executor = BoundedExecutor::new("test", 1);
        let failed = executor.run(|| std::panic::resume_unwind(Box::new("broken"))).await;
        assert!(matches!(failed, Err::<(), _>(PeerError::Protocol(_))));
        assert_eq!(executor.run(|| 7).await, Ok(7));
    }
}
