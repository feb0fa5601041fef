//! The book of open connections: which there are, which of them are silent, and which must go.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::calls::Activity;
use crate::identity::{Identity, household};

/// The number of open files that are kept for databases, connections to shards and everything else.
const RESERVE: usize = 256;

/// How many connections a server may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// Connections in all. Those that are being closed do not count.
    pub total: usize,
    /// Connections of one IPv4 address or one IPv6 network of 64 bits, whatever their ports. Those that are being
    /// closed do not count.
    pub per_address: usize,
    /// Connections of one identity, wherever they come from. It is known after the TLS handshake.
    pub per_identity: usize,
    /// Of those that have made no call yet.
    pub silent: usize,
    /// How long a connection may be silent.
    pub first_call: Duration,
    /// How long a connection may be idle after its last call.
    pub idle: Duration,
    /// How long it must have been idle to make room for a new connection.
    pub spare_after: Duration,
    /// How old a connection becomes, if there is a limit. Then its peer is asked to make its further calls on a new
    /// one; what is still open ends after as long again, or 150 s. So an open stream does not outlive its right.
    pub age: Option<Duration>,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            total: 4096,
            per_address: 1024,
            per_identity: 256,
            silent: 256,
            first_call: Duration::from_secs(10),
            idle: Duration::from_secs(600),
            spare_after: Duration::from_secs(30),
            age: None,
        }
    }
}

impl ConnectionLimits {
    /// The same limits for connections that become this old.
    #[must_use]
    pub fn aged(self, age: Duration) -> Self {
        Self { age: Some(age), ..self }
    }

    /// The age at which a connection is closed whatever is still open: a payload may take 120 s.
    pub(super) fn end(&self) -> Option<Duration> {
        self.age.map(|age| age + age.min(Duration::from_secs(150)))
    }

    /// Limits that leave some of `descriptors` open files to everything else.
    #[must_use]
    pub fn within(self, descriptors: u64) -> Self {
        let descriptors = usize::try_from(descriptors).unwrap_or(usize::MAX);
        let free = descriptors.saturating_sub(RESERVE).max(descriptors / 4).max(16);
        Self {
            total: self.total.min(free),
            per_address: self.per_address.min(free / 2),
            per_identity: self.per_identity.min(free / 2),
            silent: self.silent.min(free / 4),
            ..self
        }
    }
}

/// One connection in the book.
#[derive(Debug)]
struct Row {
    address: IpAddr,
    /// `None` before the TLS handshake, and for a peer without a certificate.
    identity: Option<Arc<Identity>>,
    close: CancellationToken,
    activity: Arc<Activity>,
}

/// The open connections. Numbers ascend, so the first of a map is the oldest.
#[derive(Debug)]
struct Book {
    limits: ConnectionLimits,
    next: u64,
    silent: BTreeMap<u64, Row>,
    used: BTreeMap<u64, Row>,
    /// Those that were told to close and are still there.
    closing: BTreeMap<u64, Row>,
    per_address: HashMap<IpAddr, usize>,
}

impl Book {
    fn admit(&mut self, address: IpAddr) -> Option<(u64, CancellationToken, Arc<Activity>)> {
        let of_address = self.per_address.get(&address).copied().unwrap_or_default();
        // Those that close are gone in a moment. If they are not, there is no room.
        if self.closing.len() >= self.limits.silent {
            return None;
        }
        if of_address >= self.limits.per_address
            && !self.close_oldest_silent(|row| row.address == address)
            && !self.close_most_idle(|row| row.address == address)
        {
            return None;
        }
        if self.silent.len() + self.used.len() >= self.limits.total
            && !self.close_a_silent_one()
            && !self.close_most_idle(|_| true)
        {
            return None;
        }
        if self.silent.len() >= self.limits.silent {
            self.close_a_silent_one();
        }
        let (number, close, activity) = (self.next, CancellationToken::new(), Arc::<Activity>::default());
        self.next += 1;
        *self.per_address.entry(address).or_default() += 1;
        let row = Row { address, identity: None, close: close.clone(), activity: Arc::clone(&activity) };
        self.silent.insert(number, row);
        Some((number, close, activity))
    }

    /// Notes whose connection this is; returns whether it may stay. If the identity has as many connections as it
    /// may have, its oldest silent one makes room, or its most idle one.
    fn identify(&mut self, number: u64, identity: &Arc<Identity>) -> bool {
        let is_its = |row: &Row| row.identity.as_ref() == Some(identity);
        let its = self.silent.values().chain(self.used.values()).filter(|row| is_its(row)).count();
        if its >= self.limits.per_identity
            && !self.close_oldest_silent(is_its)
            && !self.close_most_idle(is_its)
        {
            return false;
        }
        if let Some(row) = self.silent.get_mut(&number).or_else(|| self.used.get_mut(&number)) {
            row.identity = Some(Arc::clone(identity));
        }
        true
    }

    /// Closes the connection in use that has been idle for the longest time, of those that `counts` names, if that
    /// is long enough. Returns whether there was one.
    fn close_most_idle(&mut self, counts: impl Fn(&Row) -> bool) -> bool {
        let rows = self.used.iter().filter(|(_, row)| counts(row));
        let idle = rows.filter_map(|(number, row)| Some((row.activity.idle()?, *number)));
        match idle.max() {
            Some((idle, number)) if idle >= self.limits.spare_after => {
                if let Some(row) = self.used.remove(&number) {
                    self.close(number, row);
                }
                true
            }
            _ => false,
        }
    }

    fn close(&mut self, number: u64, row: Row) {
        row.close.cancel();
        self.forget(row.address);
        self.closing.insert(number, row);
    }

    /// Closes the oldest silent connection of those that `counts` names. Returns whether there was one.
    fn close_oldest_silent(&mut self, counts: impl Fn(&Row) -> bool) -> bool {
        let mut silent = self.silent.iter().filter(|(_, row)| counts(row));
        let Some(number) = silent.next().map(|(number, _)| *number) else { return false };
        if let Some(row) = self.silent.remove(&number) {
            self.close(number, row);
        }
        true
    }

    /// Closes the oldest silent connection of the address that has the most of them, so that one address cannot
    /// push out the new connections of others. Returns whether there was one.
    fn close_a_silent_one(&mut self) -> bool {
        let mut counts: HashMap<IpAddr, usize> = HashMap::new();
        for row in self.silent.values() {
            *counts.entry(row.address).or_default() += 1;
        }
        // Of several such addresses, the one with the oldest connection.
        let most = counts.values().copied().max().unwrap_or_default();
        let crowd = self.silent.values().find(|row| counts.get(&row.address) == Some(&most));
        let Some(address) = crowd.map(|row| row.address) else { return false };
        self.close_oldest_silent(|row| row.address == address)
    }

    /// Moves a connection from the silent ones to those in use; returns whether it is one of these now.
    fn heard(&mut self, number: u64) -> bool {
        if let Some(row) = self.silent.remove(&number) {
            self.used.insert(number, row);
        }
        self.used.contains_key(&number)
    }

    fn gone(&mut self, number: u64) {
        if self.closing.remove(&number).is_some() {
            return;
        }
        if let Some(row) = self.silent.remove(&number).or_else(|| self.used.remove(&number)) {
            self.forget(row.address);
        }
    }

    fn forget(&mut self, address: IpAddr) {
        if let Some(count) = self.per_address.get_mut(&address) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.per_address.remove(&address);
            }
        }
    }
}

/// The book of one server.
#[derive(Debug, Clone)]
pub(super) struct SharedBook(Arc<Mutex<Book>>);

impl SharedBook {
    pub(super) fn new(limits: ConnectionLimits) -> Self {
        let (silent, used, closing, per_address) = Default::default();
        Self(Arc::new(Mutex::new(Book { limits, next: 0, silent, used, closing, per_address })))
    }

    /// Enters a connection; `None` if there is no room for it.
    pub(super) fn admit(&self, address: IpAddr) -> Option<Entry> {
        let address = household(address);
        let (limits, admitted) = {
            let mut book = self.0.lock();
            (book.limits, book.admit(address))
        };
        let (number, close, activity) = admitted?;
        Some(Entry { book: self.clone(), number, close, activity, limits })
    }

    /// Closes a silent connection. Returns whether there was one.
    pub(super) fn close_a_silent_one(&self) -> bool {
        self.0.lock().close_a_silent_one()
    }
}

/// A connection's entry. It leaves the book when it is dropped.
#[derive(Debug)]
pub(super) struct Entry {
    book: SharedBook,
    number: u64,
    close: CancellationToken,
    activity: Arc<Activity>,
    limits: ConnectionLimits,
}

impl Entry {
    /// The connection is no longer silent. Returns whether it may stay: it may have been told to close before.
    pub(super) fn heard(&self) -> bool {
        self.book.0.lock().heard(self.number)
    }

    /// Notes whose connection this is. Returns whether the identity may have one more.
    pub(super) fn identify(&self, identity: &Arc<Identity>) -> bool {
        self.book.0.lock().identify(self.number, identity)
    }

    /// What the calls of the connection show of it.
    pub(super) fn activity(&self) -> &Arc<Activity> {
        &self.activity
    }

    /// How long the connection may be silent, and how long idle.
    pub(super) fn limits(&self) -> &ConnectionLimits {
        &self.limits
    }

    /// The token that is cancelled when the connection must make room.
    pub(super) fn close_token(&self) -> CancellationToken {
        self.close.clone()
    }

    /// Resolves when the connection must make room.
    pub(super) async fn closed(&self) {
        self.close.cancelled().await;
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.book.0.lock().gone(self.number);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::net::Ipv4Addr;

    use super::*;
    use crate::calls::OpenCall;

    fn address(last: u8) -> IpAddr {
        Ipv4Addr::new(10, 0, 0, last).into()
    }

    fn book(total: usize, per_address: usize, silent: usize) -> SharedBook {
        SharedBook::new(ConnectionLimits { total, per_address, silent, ..ConnectionLimits::default() })
    }

    fn identity(role: &str) -> Arc<Identity> {
        Arc::new(Identity { fleet: "test".into(), role: role.parse().unwrap() })
    }

    fn is_closed(entry: &Entry) -> bool {
        entry.close.is_cancelled()
    }

    #[test]
    fn silent_connections_make_room_oldest_first() {
        let book = book(3, 3, 3);
        let entries: Vec<_> = (1..=3).map(|last| book.admit(address(last)).unwrap()).collect();
        assert!(entries[0].heard());
        let fourth = book.admit(address(4)).unwrap();
        assert_eq!(entries.iter().map(is_closed).collect::<Vec<_>>(), [false, true, false]);
        assert!(!entries[1].heard(), "it was told to close");
        entries[2].heard();
        fourth.heard();
        assert!(book.admit(address(5)).is_none(), "all of them are in use");
        drop(entries);
        assert!(book.admit(address(5)).is_some());
    }

    #[test]
    fn one_address_cannot_take_all_connections() {
        let book = book(100, 2, 100);
        let other = book.admit(address(2)).unwrap();
        let first = book.admit(address(1)).unwrap();
        let second = book.admit(address(1)).unwrap();
        let third = book.admit(address(1)).unwrap();
        assert!(is_closed(&first) && !is_closed(&second) && !is_closed(&other), "its own oldest has to go");
        second.heard();
        third.heard();
        assert!(book.admit(address(1)).is_none());
        assert!(book.admit(address(2)).is_some());
    }

    #[test]
    fn one_identity_cannot_take_all_connections_from_many_addresses() {
        let limits = ConnectionLimits { per_identity: 2, ..ConnectionLimits::default() };
        let book = SharedBook::new(limits);
        let (ann, bob) = (identity("client/ann"), identity("client/bob"));
        let of = |last, identity: &Arc<Identity>| {
            let entry = book.admit(address(last)).unwrap();
            entry.identify(identity).then_some(entry)
        };
        let (first, second) = (of(1, &ann).unwrap(), of(2, &ann).unwrap());
        assert!(second.heard());
        let third = of(3, &ann).unwrap();
        assert!(is_closed(&first) && !is_closed(&second), "its own silent one has to go");
        assert!(third.heard());
        assert!(of(4, &ann).is_none(), "both have been in use a moment ago");
        assert!(of(4, &bob).is_some());
        drop(second);
        assert!(of(5, &ann).is_some());
    }

    #[test]
    fn idle_connections_make_room_and_those_with_open_calls_do_not() {
        let limits = ConnectionLimits { total: 3, per_address: 2, ..ConnectionLimits::default() };
        let open = |spare_after| SharedBook::new(ConnectionLimits { spare_after, ..limits });
        let fill = |book: &SharedBook| {
            let entries = [1, 1, 2].map(|last| book.admit(address(last)).unwrap());
            entries.iter().for_each(|entry| assert!(entry.heard()));
            entries
        };
        let book = open(Duration::ZERO);
        let [first, second, third] = fill(&book);
        let calls = (OpenCall::of(&first.activity), OpenCall::of(&second.activity));
        assert!(book.admit(address(1)).is_none(), "the idle one is of another address");
        drop(calls.1);
        let _fourth = book.admit(address(1)).unwrap();
        assert_eq!([&first, &second, &third].map(is_closed), [false, true, false]);
        let busy = open(Duration::from_secs(60));
        let _entries = fill(&busy);
        assert!(busy.admit(address(3)).is_none(), "none has been idle for long");
    }

    #[test]
    fn the_addresses_of_an_ipv6_network_count_as_one() {
        let book = book(100, 2, 100);
        let of = |last: u16| std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, last).into();
        let entries: Vec<_> = (1..=2).map(|last| book.admit(of(last)).unwrap()).collect();
        entries.iter().for_each(|entry| assert!(entry.heard()));
        assert!(book.admit(of(3)).is_none());
    }

    #[test]
    fn the_address_with_the_most_silent_connections_makes_room() {
        let book = book(100, 100, 4);
        let honest = book.admit(address(1)).unwrap();
        let mut crowd = Vec::new();
        for _ in 0..10 {
            crowd.push(book.admit(address(2)).unwrap());
            crowd.retain(|entry| !is_closed(entry));
        }
        assert!(!is_closed(&honest));
        assert_eq!(crowd.len(), 3);
    }

    #[test]
    fn what_does_not_close_takes_room() {
        let book = book(100, 100, 2);
        let mut entries: Vec<_> = (0..4).map(|_| book.admit(address(1)).unwrap()).collect();
        assert!(book.admit(address(1)).is_none(), "two were told to close and are still there");
        entries.remove(0);
        assert!(book.admit(address(1)).is_some());
    }

    #[test]
    fn few_connections_are_silent_at_a_time() {
        let book = book(100, 100, 2);
        let entries: Vec<_> = (0..4).map(|_| book.admit(address(1)).unwrap()).collect();
        assert_eq!(entries.iter().filter(|entry| !is_closed(entry)).count(), 2);
        assert!(!is_closed(&entries[3]));
    }

    #[test]
    fn what_has_left_is_forgotten() {
        let book = book(10, 10, 10);
        for _ in 0..100 {
            let entry = book.admit(address(1)).unwrap();
            entry.heard();
            entry.heard();
        }
        let inner = book.0.lock();
        assert!(inner.silent.is_empty() && inner.used.is_empty() && inner.closing.is_empty());
        assert!(inner.per_address.is_empty());
    }

    #[test]
    fn limits_leave_descriptors_for_the_rest() {
        let limits = ConnectionLimits::default().within(1024);
        assert_eq!((limits.total, limits.per_address, limits.silent), (768, 384, 192));
        assert_eq!(ConnectionLimits::default().within(300).per_identity, 37);
        assert_eq!(ConnectionLimits::default().within(1 << 20), ConnectionLimits::default());
        assert!(ConnectionLimits::default().within(1).total > 0);
    }
}
