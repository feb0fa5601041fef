//! Channels to peers: addresses, TLS, timeouts, keepalive and message limits in one place.

use std::future::Future;
use std::io::{self, Cursor, ErrorKind};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use common::endpoint::PeerError;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, Chain, Join, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::ServerName;
use tonic::codegen::Service;
use tonic::codegen::http::Uri;
use tonic::transport::{Channel, Endpoint};

use crate::connections::explained;
use crate::identity::{ClientTls, Expect, Security};
use crate::limits::PeerLimits;

/// The interval of HTTP/2 keepalive probes on an idle connection, and the time limit for their answer.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// The server name of each handshake. Peers are recognised by their roles, not by the names of their hosts.
const SERVER_NAME: &str = "peer.shardexec.internal";

/// How many of the server's first bytes are read while the connection is made.
const GREETING_BYTES: usize = 256;

/// Creates a channel to `url` that connects at its first use. With TLS the peer must be the expected one.
///
/// # Errors
/// [`PeerError::Refused`] if the address is not a URL, or its scheme is not that of `security`.
pub fn lazy(
    url: &str,
    limits: &PeerLimits,
    security: &Security,
    expect: Expect,
) -> Result<Channel, PeerError> {
    let endpoint = endpoint(url, limits, security)?;
    Ok(match &security.tls {
        None => endpoint.connect_lazy(),
        Some(tls) => endpoint.connect_with_connector_lazy(Connector::new(tls.clone(), expect)),
    })
}

/// Connects a channel to `url`. With TLS the peer must be the expected one.
///
/// # Errors
/// [`PeerError::Refused`] if the address is not a URL, or its scheme is not that of `security`,
/// [`PeerError::Unreachable`] if no such peer answers there.
pub async fn connect(
    url: &str,
    limits: &PeerLimits,
    security: &Security,
    expect: Expect,
) -> Result<Channel, PeerError> {
    let endpoint = endpoint(url, limits, security)?;
    let connected = match &security.tls {
        None => endpoint.connect().await,
        Some(tls) => endpoint.connect_with_connector(Connector::new(tls.clone(), expect)).await,
    };
    connected.map_err(|error| PeerError::Unreachable(format!("{url}: {}", root_cause(&error))))
}

fn endpoint(url: &str, limits: &PeerLimits, security: &Security) -> Result<Endpoint, PeerError> {
    let refuse = |reason: String| PeerError::Refused(format!("{url:?} is not a usable address: {reason}"));
    let (scheme, address) = url.split_once("://").map_or((None, url), |(scheme, rest)| (Some(scheme), rest));
    match (scheme, &security.tls) {
        (None, _) | (Some("http"), None) | (Some("https"), Some(_)) => {}
        (Some("https"), None) => {
            return Err(refuse(
                "https:// needs --tls-cert, --tls-key and --tls-ca; a client with --token-file only --tls-ca"
                    .into(),
            ));
        }
        (Some("http"), Some(_)) => {
            return Err(refuse("http:// is not encrypted, and --tls-ca is given; write https://".into()));
        }
        (Some(_), None) => return Err(refuse("only http:// is spoken without TLS".into())),
        (Some(_), Some(_)) => return Err(refuse("only https:// is spoken with TLS".into())),
    }
    // The connector adds the encryption: HTTP itself is the same.
    let endpoint =
        Endpoint::from_shared(format!("http://{address}")).map_err(|error| refuse(error.to_string()))?;
    Ok(endpoint
        .connect_timeout(limits.connect)
        .tcp_nodelay(true)
        // Our own pings detect a dead peer much sooner. These probes only clean up remaining connections.
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(4 << 20)
        .initial_connection_window_size(16 << 20))
}

/// Connects with TLS, with the credentials as they are at that time.
#[derive(Debug, Clone)]
pub(crate) struct Connector {
    tls: ClientTls,
    expect: Expect,
}

impl Connector {
    pub(crate) fn new(tls: ClientTls, expect: Expect) -> Self {
        Self { tls, expect }
    }

    pub(crate) async fn connect(self, uri: Uri) -> io::Result<TokioIo<Encrypted>> {
        let config = self.tls.client(self.expect).map_err(io::Error::other)?;
        let name = ServerName::try_from(SERVER_NAME).map_err(io::Error::other)?;
        let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
        let stream = TcpStream::connect((host, uri.port_u16().unwrap_or(443))).await?;
        stream.set_nodelay(true)?;
        let greeted = async { greeted(TlsConnector::from(config).connect(name, stream).await?).await };
        greeted.await.map(TokioIo::new).map_err(|error| io::Error::new(error.kind(), explained(&error)))
    }
}

/// An encrypted connection whose server has begun to speak.
type Encrypted =
    Join<Chain<Cursor<Vec<u8>>, ReadHalf<TlsStream<TcpStream>>>, WriteHalf<TlsStream<TcpStream>>>;

/// Waits for the server's first bytes, its HTTP/2 settings. Only they say that it has taken this side's
/// certificate: with TLS 1.3 a client's handshake is done before that, and what is written to a server that has
/// refused hides its reason.
async fn greeted(mut stream: TlsStream<TcpStream>) -> io::Result<Encrypted> {
    let mut greeting = Vec::with_capacity(GREETING_BYTES);
    if stream.read_buf(&mut greeting).await? == 0 {
        return Err(io::Error::new(ErrorKind::UnexpectedEof, "the other side closed the connection"));
    }
    let (reader, writer) = tokio::io::split(stream);
    Ok(tokio::io::join(Cursor::new(greeting).chain(reader), writer))
}

impl Service<Uri> for Connector {
    type Response = TokioIo<Encrypted>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        Box::pin(self.clone().connect(uri))
    }
}

/// The message of an error's innermost cause: transport errors hide it behind "transport error".
pub(crate) fn root_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    loop {
        // An I/O error holds the reason of a handshake inside, and does not name it as its source.
        if let Some(error) = cause.downcast_ref::<io::Error>() {
            return explained(error);
        }
        match cause.source() {
            Some(next) => cause = next,
            None => return cause.to_string(),
        }
    }
}
