//! A wire between two processes that can be cut: in one direction, or altogether.
//!
//! A cut in one direction holds the bytes back, as a network does that loses packets: neither side is
//! told. A broken wire closes its connections and takes no new ones.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::Result;

/// Between two looks at what is wanted of the wire.
const LOOK: Duration = Duration::from_millis(1);

/// How long one write may wait for its receiver.
const WRITE_LIMIT: Duration = Duration::from_secs(5);

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From whoever connects to whoever is connected to.
    Forth,
    /// The other way.
    Back,
}

/// A wire to a process. Whoever connects to its address speaks to that process.
#[derive(Debug)]
pub struct Wire {
    address: SocketAddr,
    state: Arc<State>,
    acceptor: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct State {
    target: Mutex<Option<SocketAddr>>,
    forth_held: AtomicBool,
    back_held: AtomicBool,
    broken: AtomicBool,
    /// Connections of an earlier generation are closed.
    generation: AtomicU64,
    ended: AtomicBool,
}

impl State {
    fn held(&self, direction: Direction) -> &AtomicBool {
        match direction {
            Direction::Forth => &self.forth_held,
            Direction::Back => &self.back_held,
        }
    }

    fn is_over(&self, generation: u64) -> bool {
        self.ended.load(Ordering::Relaxed) || self.generation.load(Ordering::Relaxed) != generation
    }
}

impl Wire {
    /// A wire that leads nowhere yet: connections wait for [`Wire::lead_to`].
    ///
    /// # Errors
    /// When there is no port or no thread to be had.
    pub fn new() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let state = Arc::new(State::default());
        let shared = Arc::clone(&state);
        let acceptor =
            thread::Builder::new().name("wire".into()).spawn(move || accept(&listener, &shared))?;
        Ok(Self { address, state, acceptor: Some(acceptor) })
    }

    /// Where it leads.
    ///
    /// # Errors
    /// When this is no address.
    pub fn lead_to(&self, address: &str) -> Result<()> {
        *self.state.target.lock().unwrap_or_else(PoisonError::into_inner) = Some(address.parse()?);
        Ok(())
    }

    /// The address to connect to.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// The same as a URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Holds all bytes of one direction back.
    pub fn hold(&self, direction: Direction) {
        self.state.held(direction).store(true, Ordering::Relaxed);
    }

    /// Lets them go.
    pub fn release(&self, direction: Direction) {
        self.state.held(direction).store(false, Ordering::Relaxed);
    }

    /// Closes all connections and takes no new ones.
    pub fn tear(&self) {
        self.state.broken.store(true, Ordering::Relaxed);
        self.state.generation.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes connections again.
    pub fn mend(&self) {
        self.state.broken.store(false, Ordering::Relaxed);
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.state.ended.store(true, Ordering::Relaxed);
        if let Some(acceptor) = self.acceptor.take() {
            // It has nothing to say, however it ended.
            let _ = acceptor.join();
        }
    }
}

fn accept(listener: &TcpListener, state: &Arc<State>) {
    let mut threads: Vec<JoinHandle<()>> = Vec::new();
    while !state.ended.load(Ordering::Relaxed) {
        let target = *state.target.lock().unwrap_or_else(PoisonError::into_inner);
        match (target, listener.accept()) {
            // Dropped: the other side sees a connection that is closed at once.
            (_, Ok(_)) if state.broken.load(Ordering::Relaxed) => {}
            (Some(target), Ok((near, _))) => threads.extend(join_up(near, target, state).unwrap_or_default()),
            (_, _) => thread::sleep(LOOK),
        }
    }
    for copier in threads {
        let _ = copier.join();
    }
}

/// A thread for each direction of a new connection.
fn join_up(near: TcpStream, target: SocketAddr, state: &Arc<State>) -> io::Result<Vec<JoinHandle<()>>> {
    near.set_nonblocking(false)?;
    let far = TcpStream::connect(target)?;
    let generation = state.generation.load(Ordering::Relaxed);
    let mut threads = Vec::new();
    for (direction, from, to) in [(Direction::Forth, &near, &far), (Direction::Back, &far, &near)] {
        let (from, to, state) = (from.try_clone()?, to.try_clone()?, Arc::clone(state));
        from.set_nodelay(true)?;
        from.set_read_timeout(Some(LOOK * 5))?;
        to.set_write_timeout(Some(WRITE_LIMIT))?;
        let copier = move || {
            // However it ends, both sides are to see it.
            let _ = copy(&from, &to, &state, direction, generation);
            let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
        };
        threads.push(thread::Builder::new().name("wire-copy".into()).spawn(copier)?);
    }
    Ok(threads)
}

fn copy(
    mut from: &TcpStream,
    mut to: &TcpStream,
    state: &State,
    direction: Direction,
    generation: u64,
) -> io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    while !state.is_over(generation) {
        if state.held(direction).load(Ordering::Relaxed) {
            thread::sleep(LOOK);
            continue;
        }
        let read = match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(read) => read,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => continue,
            Err(error) => return Err(error),
        };
        // What was read as the wire was cut is held too.
        while state.held(direction).load(Ordering::Relaxed) && !state.is_over(generation) {
            thread::sleep(LOOK);
        }
        to.write_all(buffer.get(..read).unwrap_or_default())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wait::{wait_until, within};

    #[test]
    fn a_cut_wire_delivers_when_it_is_whole_again() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let wire = Wire::new().unwrap();
        wire.lead_to(&listener.local_addr().unwrap().to_string()).unwrap();
        let mut near = TcpStream::connect(wire.address()).unwrap();
        let (mut far, _) = listener.accept().unwrap();
        wire.hold(Direction::Forth);
        near.write_all(b"word").unwrap();
        far.write_all(b"back").unwrap();
        let mut heard = [0; 4];
        near.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"back");
        far.set_read_timeout(Some(Duration::from_millis(30))).unwrap();
        assert!(far.read(&mut heard).is_err(), "the word came through a wire that was cut");
        wire.release(Direction::Forth);
        far.set_read_timeout(Some(within(10))).unwrap();
        far.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"word");
        wire.tear();
        wait_until(within(10), "the connection ends", || Ok(matches!(far.read(&mut heard), Ok(0)))).unwrap();
    }
}
