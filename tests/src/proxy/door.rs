//! The thread that accepts a proxy's connections while the proxy listens.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::Result;

use super::carry::{Connection, carry};
use super::{Shared, socket};

/// The maximum number of connections that wait to be accepted.
const BACKLOG: i32 = 128;

/// The longest time for this process to connect to itself.
const KNOCK_WITHIN: Duration = Duration::from_secs(5);

/// A listening port. Dropping it closes the port; accepted connections stay.
#[derive(Debug)]
pub(super) struct Door {
    address: SocketAddr,
    closing: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Door {
    /// Listens on the proxy's port, and starts the thread that accepts connections.
    pub(super) fn open(address: SocketAddr, shared: &Arc<Shared>) -> Result<Self> {
        let listener = socket(address)?;
        listener.listen(BACKLOG)?;
        let listener = TcpListener::from(listener);
        let closing = Arc::new(AtomicBool::new(false));
        let (shared, stop) = (Arc::clone(shared), Arc::clone(&closing));
        let thread = thread::Builder::new()
            .name("proxy-door".to_owned())
            .spawn(move || take_connections(&listener, &shared, &stop))?;
        Ok(Self { address, closing, thread: Some(thread) })
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.closing.store(true, Ordering::Release);
        // The thread waits for a connection, so connect to wake it. Any other connection wakes it too.
        let knock = TcpStream::connect_timeout(&self.address, KNOCK_WITHIN);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        drop(knock);
    }
}

/// Accepts connections until the door is closing and another connection arrives.
fn take_connections(listener: &TcpListener, shared: &Arc<Shared>, closing: &AtomicBool) {
    loop {
        let taken = listener.accept();
        if closing.load(Ordering::Acquire) {
            return;
        }
        // The connection was reset before it was accepted.
        let Ok((client, _)) = taken else { continue };
        let connection = Arc::new(Connection::new(client));
        let mut state = shared.lock();
        state.connections.retain(|connection| connection.strong_count() > 0);
        state.connections.push(Arc::downgrade(&connection));
        let carrying = Arc::clone(shared);
        let thread = thread::Builder::new()
            .name("proxy-carry".to_owned())
            .spawn(move || carry(&carrying, &connection));
        let (ended, running): (Vec<_>, Vec<_>) =
            std::mem::take(&mut state.carriers).into_iter().partition(JoinHandle::is_finished);
        state.carriers = running;
        // Without a thread the connection is dropped, and its client sees the end.
        state.carriers.extend(thread);
        drop(state);
        for thread in ended {
            let _ = thread.join();
        }
    }
}
