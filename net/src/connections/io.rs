//! One connection: plain or encrypted bytes, closed when it stays silent, has to make room, or its peer's
//! certificate is no longer valid.

use std::io::{self, ErrorKind, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::transport::server::Connected;

use super::book::Entry;
use crate::calls::Activity;
use crate::identity::{Account, Credentials, Peer};

/// A certificate is judged again when this time has passed: it may have expired.
const JUDGE_EVERY: Duration = Duration::from_secs(60);

/// The first byte of a TLS handshake. No HTTP begins with it.
const TLS_HANDSHAKE: u8 = 22;

/// Why a connection without TLS is closed at its first byte.
const SPEAKS_TLS: &str =
    "the other side speaks TLS, and this side does not (--tls-cert, --tls-key, --tls-ca)";

/// A connection to a server.
pub(crate) struct Connection {
    bytes: Bytes,
    peer: Peer,
    entry: Entry,
    close: Pin<Box<WaitForCancellationFutureOwned>>,
    is_silent: bool,
    /// When the connection has been silent, or may have been idle, for too long.
    due: Pin<Box<Sleep>>,
    /// When the connection is too old, whatever is still open.
    end: Option<Pin<Box<Sleep>>>,
    judged: Option<Judged>,
}

enum Bytes {
    Plain {
        stream: TcpStream,
        /// Nothing has been read yet.
        is_new: bool,
    },
    Encrypted(Box<TlsStream<TcpStream>>),
}

/// The last time that the peer's certificate was judged.
struct Judged {
    credentials: Arc<Credentials>,
    chain: Vec<CertificateDer<'static>>,
    version: u64,
    at: Instant,
}

/// What each request of a connection carries.
#[derive(Clone)]
pub(crate) struct ConnectionInfo(pub(super) Peer);

impl ConnectionInfo {
    /// The connection of this peer.
    #[cfg(test)]
    pub(crate) fn of(peer: Peer) -> Self {
        Self(peer)
    }

    /// Whose account the bytes of its calls are counted on.
    pub(crate) fn account(&self) -> Account {
        self.0.account()
    }

    /// What the calls of the connection show of it.
    pub(crate) fn activity(&self) -> &Arc<Activity> {
        self.0.activity()
    }
}

impl Connection {
    pub(super) fn plain(stream: TcpStream, peer: Peer, entry: Entry) -> Self {
        Self::new(Bytes::Plain { stream, is_new: true }, peer, entry, None)
    }

    /// An encrypted connection whose chain was judged with this version of the credentials.
    pub(super) fn encrypted(
        stream: TlsStream<TcpStream>,
        peer: Peer,
        entry: Entry,
        credentials: Arc<Credentials>,
        chain: Vec<CertificateDer<'static>>,
        version: u64,
    ) -> Self {
        let judged = (!chain.is_empty()).then(|| Judged { credentials, chain, version, at: Instant::now() });
        Self::new(Bytes::Encrypted(Box::new(stream)), peer, entry, judged)
    }

    fn new(bytes: Bytes, peer: Peer, entry: Entry, judged: Option<Judged>) -> Self {
        let due = Box::pin(tokio::time::sleep(entry.limits().first_call));
        let end = entry.limits().end().map(|age| Box::pin(tokio::time::sleep(age)));
        let close = Box::pin(entry.close_token().cancelled_owned());
        Self { bytes, peer, entry, close, is_silent: true, due, end, judged }
    }

    /// Whether the connection has not been silent or idle for too long, and need not make room for others.
    fn is_wanted(&mut self, cx: &mut Context<'_>) -> Result<(), &'static str> {
        if self.close.as_mut().poll(cx).is_ready() {
            return Err("the connection was silent or idle while others waited");
        }
        if self.end.as_mut().is_some_and(|end| end.as_mut().poll(cx).is_ready()) {
            return Err("the connection was too old");
        }
        if self.is_silent && self.peer.is_recognised() && self.entry.heard() {
            self.is_silent = false;
            self.due.as_mut().reset(Instant::now() + self.entry.limits().idle);
        }
        while self.due.as_mut().poll(cx).is_ready() {
            if self.is_silent {
                return Err("the connection made no call in time");
            }
            let idle = self.peer.activity().idle().unwrap_or_default();
            let Some(left) = self.entry.limits().idle.checked_sub(idle).filter(|left| !left.is_zero()) else {
                return Err("the connection made no call for too long");
            };
            self.due.as_mut().reset(Instant::now() + left);
        }
        Ok(())
    }

    /// Whether the connection may go on.
    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let closed = |reason: &'static str| Err(io::Error::new(ErrorKind::ConnectionAborted, reason));
        self.is_wanted(cx).or_else(closed)?;
        let Some(judged) = &mut self.judged else { return Ok(()) };
        let version = judged.credentials.version();
        if version == judged.version && judged.at.elapsed() < JUDGE_EVERY {
            return Ok(());
        }
        (judged.version, judged.at) = (version, Instant::now());
        match judged.credentials.identify_client(&judged.chain) {
            Ok(_) => Ok(()),
            Err(error) => {
                let address = self.peer.address;
                tracing::warn!(%address, %error, "a connection is closed: its peer is no longer trusted");
                closed("the peer is no longer trusted")
            }
        }
    }
}

impl Connected for Connection {
    type ConnectInfo = ConnectionInfo;

    fn connect_info(&self) -> ConnectionInfo {
        ConnectionInfo(self.peer.clone())
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.check(cx)?;
        match &mut this.bytes {
            Bytes::Plain { stream, is_new } => {
                let before = buffer.filled().len();
                let read = Pin::new(stream).poll_read(cx, buffer);
                let first = buffer.filled().get(before);
                if *is_new && first.is_some() {
                    *is_new = false;
                    if first == Some(&TLS_HANDSHAKE) {
                        this.peer.note_refusal(SPEAKS_TLS);
                        return Poll::Ready(Err(ErrorKind::InvalidData.into()));
                    }
                }
                read
            }
            Bytes::Encrypted(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.check(cx)?;
        match &mut this.bytes {
            Bytes::Plain { stream, .. } => Pin::new(stream).poll_write(cx, bytes),
            Bytes::Encrypted(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.check(cx)?;
        match &mut this.bytes {
            Bytes::Plain { stream, .. } => Pin::new(stream).poll_write_vectored(cx, slices),
            Bytes::Encrypted(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.bytes {
            Bytes::Plain { stream, .. } => stream.is_write_vectored(),
            Bytes::Encrypted(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.check(cx)?;
        match &mut this.bytes {
            Bytes::Plain { stream, .. } => Pin::new(stream).poll_flush(cx),
            Bytes::Encrypted(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().bytes {
            Bytes::Plain { stream, .. } => Pin::new(stream).poll_shutdown(cx),
            Bytes::Encrypted(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
