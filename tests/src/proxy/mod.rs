//! A TCP proxy between two processes, with faults on the way: bytes that are held, late or slow,
//! separately for each direction, and connections that are reset.
//!
//! A proxy keeps one address for its lifetime. Its target may change, because restarted processes have
//! new ports. While it has no target, connections are refused, as at an address where no process
//! listens. While it is cut, connections are accepted and held, because a cut gives no signal to either
//! side. The proxy ignores the content of the connection, loses no byte and keeps the order, as TCP
//! does.
//!
//! Each connection has a thread for reading and one for writing in either direction, with a bounded
//! queue between the two, so that waiting bytes do not delay the departure of those behind them. All
//! threads are joined when the proxy is dropped.

mod carry;
mod door;
#[cfg(test)]
mod tests;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use socket2::{Domain, Protocol, Socket, Type};

use carry::Connection;
use door::Door;

/// The direction of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    /// From the connecting side to the target.
    ToTarget,
    /// From the target to the connecting side.
    ToClient,
}

/// The condition of one direction. The default is a link without faults.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Shape {
    /// Whether no byte arrives. Connections stay open, and sent bytes are held.
    pub cut: bool,
    /// The additional delay of every byte.
    pub delay: Duration,
    /// The maximum rate, in bytes per second; `None` if there is no limit.
    pub bytes_per_second: Option<u64>,
}

/// A proxy. Dropping it resets its connections.
#[derive(Debug)]
pub struct Proxy {
    shared: Arc<Shared>,
    address: SocketAddr,
    /// Holds the port even while no thread listens on it.
    _holder: Socket,
    door: Option<Door>,
}

/// The state that all threads of a proxy share.
#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// Notified after a change of the state or of a connection.
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    target: Option<SocketAddr>,
    to_target: Shape,
    to_client: Shape,
    connections: Vec<Weak<Connection>>,
    /// The threads of the connections. They are joined once they have ended, or when the proxy is dropped.
    carriers: Vec<JoinHandle<()>>,
}

impl Proxy {
    /// Starts a proxy on a free port, without a target.
    ///
    /// # Errors
    /// An error if there is no free port.
    pub fn start() -> Result<Self> {
        let holder = socket(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
        let address = holder.local_addr()?.as_socket().context("not an internet address")?;
        Ok(Self { shared: Arc::default(), address, _holder: holder, door: None })
    }

    /// The address that clients connect to: 127.0.0.1 with a port that the proxy keeps.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// The proxy's address as a URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Sets the target of new connections; `None` refuses them. Existing connections stay.
    ///
    /// # Errors
    /// An error if the proxy cannot listen on its port.
    pub fn lead_to(&mut self, target: Option<SocketAddr>) -> Result<()> {
        self.shared.change(|state| state.target = target);
        self.open_or_close()
    }

    /// Sets the condition of one direction.
    ///
    /// # Errors
    /// An error if the proxy cannot listen on its port.
    pub fn shape(&mut self, direction: Direction, shape: Shape) -> Result<()> {
        self.shared.change(|state| *state.shape_mut(direction) = shape);
        self.open_or_close()
    }

    /// Resets every connection at once, on both sides.
    pub fn reset(&self) {
        let connections = self.shared.lock().connections.clone();
        for connection in connections.iter().filter_map(Weak::upgrade) {
            connection.abort();
        }
        self.shared.change(|_| {});
    }

    /// The number of open connections.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.shared.lock().connections.iter().filter(|connection| connection.strong_count() > 0).count()
    }

    fn open_or_close(&mut self) -> Result<()> {
        let open = {
            let state = self.shared.lock();
            state.target.is_some() || state.is_cut()
        };
        if !open {
            self.door = None;
        } else if self.door.is_none() {
            self.door = Some(Door::open(self.address, &self.shared)?);
        }
        Ok(())
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // First refuse new connections, then close the existing ones.
        self.door = None;
        self.reset();
        let carriers = std::mem::take(&mut self.shared.lock().carriers);
        for carrier in carriers {
            // A thread that panicked has already printed its message.
            let _ = carrier.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }

    /// Waits until bytes that arrived at `arrived` may pass in this direction; with a rate limit not before
    /// `free`. Returns the direction's condition; `None` if the connection has ended.
    fn pass(
        &self,
        connection: &Connection,
        direction: Direction,
        arrived: Instant,
        free: Instant,
    ) -> Option<Shape> {
        let mut state = self.lock();
        loop {
            if connection.is_gone() {
                return None;
            }
            let shape = *state.shape_mut(direction);
            let ready = arrived + shape.delay;
            let due = if shape.bytes_per_second.is_some() { ready.max(free) } else { ready };
            let left = due.saturating_duration_since(Instant::now());
            if !shape.cut && left.is_zero() {
                return Some(shape);
            }
            state = if shape.cut {
                self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
            } else {
                self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0
            };
        }
    }

    /// Waits until neither direction is cut, or until the connection has ended.
    fn wait_until_whole(&self, connection: &Connection) {
        let mut state = self.lock();
        while state.is_cut() && !connection.is_gone() {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl State {
    const fn shape_mut(&mut self, direction: Direction) -> &mut Shape {
        match direction {
            Direction::ToTarget => &mut self.to_target,
            Direction::ToClient => &mut self.to_client,
        }
    }

    const fn is_cut(&self) -> bool {
        self.to_target.cut || self.to_client.cut
    }
}

/// Creates a socket bound to an address that several sockets of this process share.
fn socket(address: SocketAddr) -> Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.bind(&address.into()).with_context(|| format!("{address} cannot be bound"))?;
    Ok(socket)
}
