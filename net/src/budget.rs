//! A budget of bytes that all peers of a server share: what they send is counted before it is kept, and given
//! back when it has been handled. One peer can have half of it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use crate::identity::Account;

/// How long a payload waits for room.
const WAIT: Duration = Duration::from_secs(2);

/// There is no room for a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the {what} in flight take {limit} bytes, the most that they may; try again in a second")]
pub struct BudgetFull {
    /// What the budget is for.
    pub what: &'static str,
    /// The limit that was reached: the budget's, or a peer's share of it.
    pub limit: usize,
}

/// A budget. Copies share it.
#[derive(Debug, Clone)]
pub struct Budget(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    what: &'static str,
    limit: usize,
    used: Mutex<Used>,
    freed: Notify,
}

#[derive(Debug, Default)]
struct Used {
    total: usize,
    by_account: HashMap<Account, usize>,
}

impl Budget {
    /// A budget of this many bytes.
    #[must_use]
    pub fn new(what: &'static str, limit: usize) -> Self {
        Self(Arc::new(Shared { what, limit, used: Mutex::default(), freed: Notify::new() }))
    }

    /// Begins to count for a payload of this peer.
    #[must_use]
    pub fn open(&self, account: Account) -> Reservation {
        Reservation { budget: self.clone(), account, bytes: 0 }
    }

    fn take(&self, account: &Account, bytes: usize) -> Result<(), BudgetFull> {
        let Shared { what, limit, used, .. } = &*self.0;
        let (limit, share) = (*limit, *limit / 2);
        let mut used = used.lock();
        let own = used.by_account.get(account).copied().unwrap_or_default();
        let room = limit.saturating_sub(used.total);
        if own.saturating_add(bytes) > share {
            return Err(BudgetFull { what, limit: share });
        }
        if bytes > room {
            return Err(BudgetFull { what, limit });
        }
        used.total += bytes;
        used.by_account.insert(account.clone(), own + bytes);
        Ok(())
    }

    fn give_back(&self, account: &Account, bytes: usize) {
        if bytes == 0 {
            return;
        }
        let mut used = self.0.used.lock();
        used.total = used.total.saturating_sub(bytes);
        if let Some(own) = used.by_account.get_mut(account) {
            *own = own.saturating_sub(bytes);
            if *own == 0 {
                used.by_account.remove(account);
            }
        }
        drop(used);
        self.0.freed.notify_waiters();
    }
}

/// The bytes of one payload. They are given back when it is dropped.
#[derive(Debug)]
pub struct Reservation {
    budget: Budget,
    account: Account,
    bytes: usize,
}

impl Reservation {
    /// Counts further bytes, and waits for a limited time if there is no room for them.
    ///
    /// # Errors
    /// [`BudgetFull`] if there is still no room then. What was counted before stays counted.
    pub async fn add(&mut self, bytes: usize) -> Result<(), BudgetFull> {
        let until = Instant::now() + WAIT;
        loop {
            // From here on no notification is missed.
            let freed = self.budget.0.freed.notified();
            let Err(full) = self.budget.take(&self.account, bytes) else { break };
            if timeout_at(until, freed).await.is_err() {
                return Err(full);
            }
        }
        self.bytes += bytes;
        Ok(())
    }
}

impl Reservation {
    /// Counts this many bytes from now on, instead of those before. It does not wait for room.
    ///
    /// # Errors
    /// [`BudgetFull`] if there is no room for more. What was counted before stays counted.
    pub fn set(&mut self, bytes: usize) -> Result<(), BudgetFull> {
        if bytes > self.bytes {
            self.budget.take(&self.account, bytes - self.bytes)?;
        } else {
            self.budget.give_back(&self.account, self.bytes - bytes);
        }
        self.bytes = bytes;
        Ok(())
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.budget.give_back(&self.account, self.bytes);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn account(last: u8) -> Account {
        Account::Address([10, 0, 0, last].into())
    }

    #[tokio::test(start_paused = true)]
    async fn one_peer_can_have_half_and_all_together_no_more_than_all() {
        let budget = Budget::new("payloads", 100);
        let (mut first, mut second, mut third) =
            (budget.open(account(1)), budget.open(account(2)), budget.open(account(3)));
        first.add(50).await.unwrap();
        assert_eq!(first.add(1).await.unwrap_err().limit, 50);
        let mut other = budget.open(account(1));
        assert_eq!(other.add(1).await.unwrap_err().limit, 50, "its payloads count together");
        second.add(49).await.unwrap();
        assert_eq!(third.add(2).await.unwrap_err().limit, 100);
        third.add(1).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_given_back_is_there_for_those_who_wait() {
        let budget = Budget::new("payloads", 100);
        let (mut first, mut second) = (budget.open(account(1)), budget.open(account(2)));
        first.add(50).await.unwrap();
        second.add(50).await.unwrap();
        let mut third = budget.open(account(3));
        let waiting = tokio::spawn(async move { third.add(30).await });
        tokio::task::yield_now().await;
        drop(first);
        assert_eq!(waiting.await.unwrap(), Ok(()));
        drop(second);
        let used = budget.0.used.lock();
        assert!(used.total == 0 && used.by_account.is_empty(), "all of it was given back");
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_has_an_end() {
        let budget = Budget::new("payloads", 10);
        let mut first = budget.open(account(1));
        first.add(5).await.unwrap();
        let began = Instant::now();
        assert!(first.add(1).await.is_err());
        assert_eq!(began.elapsed(), WAIT);
    }
}
