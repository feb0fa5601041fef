//! How many side blocks each client may have executed: some at once, and then one after each interval. The fleet
//! leaves the chain and comes back for each of them, so they cost more than other blocks.
//!
//! Clients are forgotten once they have their full allowance again. The number of clients that are remembered is
//! bounded: a client beyond it must wait until another one is forgotten.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Client, IntakeLimits};

/// The most clients that are remembered.
const MOST_CLIENTS: usize = 4096;

/// The side blocks of every client.
#[derive(Debug, Clone, Default)]
pub(super) struct Allowances(BTreeMap<Client, Allowance>);

#[derive(Debug, Clone, Copy)]
struct Allowance {
    left: u32,
    /// When the last one was added.
    since: Duration,
}

impl Allowances {
    /// Takes a side block off the client's allowance.
    ///
    /// # Errors
    /// The time until the client has one again.
    pub(super) fn take(
        &mut self,
        client: &Client,
        now: Duration,
        limits: &IntakeLimits,
    ) -> Result<(), Duration> {
        let (most, every) = (limits.side_blocks, limits.side_block_every);
        for allowance in self.0.values_mut() {
            allowance.refill(now, every);
        }
        self.0.retain(|_, allowance| allowance.left < most);
        if !self.0.contains_key(client) && self.0.len() >= MOST_CLIENTS {
            return Err(every);
        }
        let allowance = self.0.entry(client.clone()).or_insert(Allowance { left: most, since: now });
        match allowance.left.checked_sub(1) {
            Some(left) => {
                allowance.left = left;
                Ok(())
            }
            None => Err(every.saturating_sub(now.saturating_sub(allowance.since))),
        }
    }
}

impl Allowance {
    /// Adds what has come since. What is full then is forgotten by the caller.
    fn refill(&mut self, now: Duration, every: Duration) {
        let passed = now.saturating_sub(self.since).as_nanos();
        let added = passed.checked_div(every.as_nanos()).and_then(|added| u32::try_from(added).ok());
        let added = added.unwrap_or(u32::MAX);
        self.left = self.left.saturating_add(added);
        self.since = self.since.saturating_add(every.saturating_mul(added));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: IntakeLimits =
        IntakeLimits { side_blocks: 3, side_block_every: Duration::from_secs(10), ..IntakeLimits::DEFAULT };

    #[test]
    fn a_client_has_some_at_once_and_then_one_after_each_interval() {
        let (mut allowances, ann) = (Allowances::default(), Client::from("ann"));
        let mut at = |seconds| allowances.take(&ann, Duration::from_secs(seconds), &LIMITS);
        assert_eq!([at(0), at(0), at(1)], [Ok(()); 3]);
        assert_eq!(at(2), Err(Duration::from_secs(8)));
        assert_eq!(at(10), Ok(()));
        assert_eq!(at(11), Err(Duration::from_secs(9)));
        assert_eq!([at(35), at(35)], [Ok(()); 2]);
        assert_eq!(at(36), Err(Duration::from_secs(4)));
        // Never more than the allowance, however long it was quiet.
        assert_eq!([at(9000), at(9000), at(9000)], [Ok(()); 3]);
        assert!(at(9000).is_err());
    }

    #[test]
    fn clients_do_not_share_and_are_forgotten() {
        let mut allowances = Allowances::default();
        let (ann, bob) = (Client::from("ann"), Client::from("bob"));
        for _ in 0..3 {
            assert_eq!(allowances.take(&ann, Duration::ZERO, &LIMITS), Ok(()));
        }
        assert!(allowances.take(&ann, Duration::ZERO, &LIMITS).is_err());
        assert_eq!(allowances.take(&bob, Duration::from_secs(100), &LIMITS), Ok(()));
        assert_eq!(allowances.0.len(), 1, "ann has all of them again");
    }

    #[test]
    fn the_number_of_clients_is_bounded() {
        let mut allowances = Allowances::default();
        for number in 0..MOST_CLIENTS {
            let client = Client::from(format!("client {number}").as_str());
            assert_eq!(allowances.take(&client, Duration::ZERO, &LIMITS), Ok(()));
        }
        assert!(allowances.take(&Client::from("one more"), Duration::ZERO, &LIMITS).is_err());
        assert!(allowances.take(&Client::from("one more"), Duration::from_secs(60), &LIMITS).is_ok());
    }
}
