//! One connection through a proxy.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use socket2::SockRef;

use super::{Direction, Shared};

/// The size of one read, in bytes.
const PART_BYTES: usize = 16 << 10;

/// The maximum number of parts in flight in one direction: 4 MiB, enough for half a second of a fast
/// link.
const PARTS: usize = 256;

/// The longest time for a connection to the target. A frozen target still accepts at once.
const CONNECT_WITHIN: Duration = Duration::from_secs(2);

/// How often a writing thread checks whether the connection has ended.
const LOOK: Duration = Duration::from_millis(50);

/// The number of portions per second in which a rate-limited link takes its bytes.
const TURNS: u64 = 50;

/// Both ends of a connection.
#[derive(Debug)]
pub(super) struct Connection {
    client: TcpStream,
    target: OnceLock<TcpStream>,
    gone: AtomicBool,
}

impl Connection {
    pub(super) const fn new(client: TcpStream) -> Self {
        Self { client, target: OnceLock::new(), gone: AtomicBool::new(false) }
    }

    pub(super) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    /// Makes both ends reset as soon as the connection's threads release them. The caller must notify
    /// waiting threads of the change.
    pub(super) fn abort(&self) {
        self.gone.store(true, Ordering::Release);
        for end in [Some(&self.client), self.target.get()].into_iter().flatten() {
            // Closing a socket with a linger time of zero resets the connection. Shutting down the read side
            // wakes the reading thread and sends nothing to the peer. A failed end needs neither.
            let _ = SockRef::from(end).set_linger(Some(Duration::ZERO));
            let _ = end.shutdown(Shutdown::Read);
        }
    }
}

/// A result of one read.
struct Part {
    arrived: Instant,
    content: Content,
}

enum Content {
    Bytes(Vec<u8>),
    /// The sender has closed its side.
    End,
    /// The connection has failed.
    Reset,
}

/// Carries a connection until it has ended.
pub(super) fn carry(shared: &Shared, connection: &Connection) {
    let target = shared.lock().target;
    let reached = target.map(|target| TcpStream::connect_timeout(&target, CONNECT_WITHIN));
    let Some(Ok(target)) = reached else {
        // A refusal would have to pass the link as well, so it waits until the link is whole.
        shared.wait_until_whole(connection);
        connection.abort();
        return;
    };
    let target = connection.target.get_or_init(|| target);
    for end in [&connection.client, target] {
        // A link that cannot be tuned is only slower.
        let _ = end.set_nodelay(true);
        let _ = end.set_write_timeout(Some(LOOK));
    }
    if connection.is_gone() {
        connection.abort();
        return;
    }
    thread::scope(|scope| {
        let ways = [
            (&connection.client, target, Direction::ToTarget),
            (target, &connection.client, Direction::ToClient),
        ];
        for (from, to, direction) in ways {
            let (sender, receiver) = sync_channel(PARTS);
            scope.spawn(move || read(from, connection, &sender));
            scope.spawn(move || write(to, shared, connection, direction, &receiver));
        }
    });
}

/// Reads until the end of the bytes, or until the writing side has ended.
fn read(mut from: &TcpStream, connection: &Connection, sender: &SyncSender<Part>) {
    let mut buffer = vec![0; PART_BYTES];
    loop {
        let content = match from.read(&mut buffer) {
            Ok(0) => Content::End,
            Ok(count) => Content::Bytes(buffer.get(..count).unwrap_or_default().to_vec()),
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(_) => Content::Reset,
        };
        let last = !matches!(content, Content::Bytes(_));
        let part = Part { arrived: Instant::now(), content };
        if connection.is_gone() || sender.send(part).is_err() || last {
            return;
        }
    }
}

/// Writes until the sender has ended, or the connection has.
fn write(
    to: &TcpStream,
    shared: &Shared,
    connection: &Connection,
    direction: Direction,
    parts: &Receiver<Part>,
) {
    let mut free = Instant::now();
    // If the receiver has closed, its own reset reports that in the other direction. Until then further
    // bytes are accepted, as a network would.
    let mut deaf = false;
    for Part { arrived, content } in parts {
        let Content::Bytes(bytes) = content else {
            if shared.pass(connection, direction, arrived, free).is_none() {
                return;
            }
            if matches!(content, Content::Reset) {
                connection.abort();
                shared.change(|_| {});
            } else {
                let _ = to.shutdown(Shutdown::Write);
            }
            return;
        };
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let Some(shape) = shared.pass(connection, direction, arrived, free) else { return };
            let turn = shape.bytes_per_second.map_or(rest.len(), |rate| share(rate).min(rest.len()));
            let (now, later) = rest.split_at(turn);
            deaf = deaf || !write_all(to, connection, now);
            rest = later;
            if let Some(rate) = shape.bytes_per_second {
                free = free.max(Instant::now()) + taking(turn, rate);
            }
        }
    }
}

/// The number of bytes that a link of this rate takes at once.
fn share(rate: u64) -> usize {
    usize::try_from(rate / TURNS).unwrap_or(usize::MAX).max(1)
}

/// The time that a link of this rate takes for this many bytes.
fn taking(bytes: usize, rate: u64) -> Duration {
    Duration::from_secs_f64(bytes as f64 / rate.max(1) as f64)
}

/// Writes all bytes. Returns false if the receiver or the connection has ended.
fn write_all(mut to: &TcpStream, connection: &Connection, mut bytes: &[u8]) -> bool {
    while !bytes.is_empty() && !connection.is_gone() {
        match to.write(bytes) {
            Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
            Err(error) => match error.kind() {
                // A frozen receiver accepts no bytes, for any length of time.
                ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted => {}
                _ => return false,
            },
        }
    }
    bytes.is_empty()
}
