//! A change of the replica: a delta or a fetched state.
//!
//! A call that changes the replica may be given up while a step of it runs on a blocking thread, and the step runs on.
//! The next change must wait for the step, or both would write to the replica.

use std::sync::Arc;

use common::endpoint::PeerError;
use net::bounded::BoundedExecutor;
use tokio::sync::{Mutex, OwnedMutexGuard};

/// The right to change the replica. It lasts until the change is dropped and its last step has ended.
#[derive(Debug)]
pub(crate) struct Change {
    turn: Arc<OwnedMutexGuard<()>>,
    blocking: BoundedExecutor,
}

impl Change {
    /// Waits until no other change is under way.
    pub(crate) async fn begin(changing: &Arc<Mutex<()>>, blocking: &BoundedExecutor) -> Self {
        let turn = Arc::new(Arc::clone(changing).lock_owned().await);
        Self { turn, blocking: blocking.clone() }
    }

    /// Runs a step of the change on a blocking thread.
    ///
    /// # Errors
    /// [`PeerError::Protocol`] if the step panics.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        step: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, PeerError> {
        let turn = Arc::clone(&self.turn);
        let step = move || {
            let done = step();
            drop(turn);
            done
        };
        self.blocking.run(step).await
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_change_that_is_given_up_lasts_until_its_step_has_ended() {
        let (changing, blocking) = (Arc::default(), BoundedExecutor::new("test", 2));
        let change = Change::begin(&changing, &blocking).await;
        let ((begins, begun), (end, ends)) = (std::sync::mpsc::channel(), std::sync::mpsc::channel());
        let step = tokio::spawn(async move {
            let step = move || {
                begins.send(()).unwrap();
                ends.recv().unwrap();
            };
            change.run(step).await
        });
        tokio::task::spawn_blocking(move || begun.recv().unwrap()).await.unwrap();
        step.abort();
        assert!(step.await.unwrap_err().is_cancelled());
        assert!(changing.try_lock().is_err(), "another change may begin beside the step");
        end.send(()).unwrap();
        let next = Change::begin(&changing, &blocking);
        tokio::time::timeout(Duration::from_secs(30), next).await.unwrap();
    }
}
