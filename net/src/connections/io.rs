//! One connection: plain or encrypted bytes, closed when it stays silent, has to make room, or its peer's
//! certificate is no longer valid.

use std::io::{self, ErrorKind, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::transport::server::Connected;

use super::book::Entry;
use crate::identity::{Account, Credentials, Peer};

/// A certificate is judged again when this time has passed: it may have expired.
const JUDGE_EVERY: Duration = Duration::from_secs(60);

/// A connection to a server.
pub(crate) struct Connection {
    bytes: Bytes,
    peer: Peer,
    entry: Entry,
    close: Pin<Box<WaitForCancellationFutureOwned>>,
    /// `None` once the connection is no longer silent.
    silence: Option<Pin<Box<Sleep>>>,
    judged: Option<Judged>,
}

enum Bytes {
    Plain(TcpStream),
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
    /// Whose account the bytes of its calls are counted on.
    pub(crate) fn account(&self) -> Account {
        self.0.account()
    }
}

impl Connection {
    pub(super) fn plain(stream: TcpStream, peer: Peer, entry: Entry) -> Self {
        Self::new(Bytes::Plain(stream), peer, entry, None)
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
        let silence = Some(Box::pin(tokio::time::sleep(entry.first_call())));
        let close = Box::pin(entry.close_token().cancelled_owned());
        Self { bytes, peer, entry, close, silence, judged }
    }

    /// Whether the connection may go on.
    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let closed = |reason: &'static str| Err(io::Error::new(ErrorKind::ConnectionAborted, reason));
        if let Some(silence) = &mut self.silence {
            if self.close.as_mut().poll(cx).is_ready() {
                return closed("the connection was silent while others waited");
            } else if self.peer.is_recognised() && self.entry.heard() {
                self.silence = None;
            } else if silence.as_mut().poll(cx).is_ready() {
                return closed("the connection made no call in time");
            }
        }
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
            Bytes::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Bytes::Encrypted(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.check(cx)?;
        match &mut this.bytes {
            Bytes::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
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
            Bytes::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Bytes::Encrypted(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.bytes {
            Bytes::Plain(stream) => stream.is_write_vectored(),
            Bytes::Encrypted(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.check(cx)?;
        match &mut this.bytes {
            Bytes::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Bytes::Encrypted(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().bytes {
            Bytes::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Bytes::Encrypted(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
