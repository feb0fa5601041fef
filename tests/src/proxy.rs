//! A TCP proxy between two processes, and what goes wrong on the way: bytes that are held, late or
//! slow, each direction by itself, and connections that are reset.
//!
//! A proxy has one address for its whole life. Where it leads to may change, as processes that are
//! started again have new ports. While it leads nowhere, connections are refused, as at an address
//! where no process listens; but while it is cut they are taken and held, as nobody is told anything
//! then. It knows nothing of what it carries, loses no byte and changes no order: TCP would not.
//!
//! Each connection has a thread for reading and one for writing in either direction, with a bounded
//! queue between the two, so that bytes that wait do not keep those behind them from setting out.
//! All threads are joined when the proxy is dropped.

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

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    /// From those who connect to where the proxy leads.
    ToTarget,
    /// Back.
    ToClient,
}

/// What one direction is like. The default is a link without faults.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Shape {
    /// Nothing arrives. Connections stay, what is sent is held.
    pub cut: bool,
    /// How much later everything arrives.
    pub delay: Duration,
    /// How much gets through.
    pub bytes_per_second: Option<u64>,
}

/// A proxy. Dropping it resets its connections.
#[derive(Debug)]
pub struct Proxy {
    shared: Arc<Shared>,
    address: SocketAddr,
    /// Has the port even while nobody listens at it.
    _holder: Socket,
    door: Option<Door>,
}

/// What all threads of a proxy look at.
#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// Something in the state, or a connection, is not what it was.
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    target: Option<SocketAddr>,
    to_target: Shape,
    to_client: Shape,
    connections: Vec<Weak<Connection>>,
    /// The threads that carry, joined when they are seen to have ended, or at the end.
    carriers: Vec<JoinHandle<()>>,
}

impl Proxy {
    /// Takes a free port. It leads nowhere yet.
    ///
    /// # Errors
    /// When there is none.
    pub fn start() -> Result<Self> {
        let holder = socket(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
        let address = holder.local_addr()?.as_socket().context("not an internet address")?;
        Ok(Self { shared: Arc::default(), address, _holder: holder, door: None })
    }

    /// Where to connect.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where to connect, as shards and clients are told.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on new connections lead there, or are refused. Those that are there stay.
    ///
    /// # Errors
    /// When the port cannot be listened at.
    pub fn lead_to(&mut self, target: Option<SocketAddr>) -> Result<()> {
        self.shared.change(|state| state.target = target);
        self.open_or_close()
    }

    /// From now on this direction is like that.
    ///
    /// # Errors
    /// When the port cannot be listened at.
    pub fn shape(&mut self, direction: Direction, shape: Shape) -> Result<()> {
        self.shared.change(|state| *state.shape_mut(direction) = shape);
        self.open_or_close()
    }

    /// Resets every connection, on both sides and at once.
    pub fn reset(&self) {
        let connections = self.shared.lock().connections.clone();
        for connection in connections.iter().filter_map(Weak::upgrade) {
            connection.abort();
        }
        self.shared.change(|_| {});
    }

    /// How many connections there are.
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
        // First nobody comes in any more, then everybody goes.
        self.door = None;
        self.reset();
        let carriers = std::mem::take(&mut self.shared.lock().carriers);
        for carrier in carriers {
            // One that panicked has said so by itself.
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

    /// Waits until what arrived then may go on in this direction, but not before `free` where it is
    /// narrow. Returns how the direction is; nothing if the connection is gone.
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

    /// Waits until neither direction is cut, or the connection is gone.
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

/// A socket bound to an address that several sockets of this process share.
fn socket(address: SocketAddr) -> Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.bind(&address.into()).with_context(|| format!("{address} cannot be bound"))?;
    Ok(socket)
}
