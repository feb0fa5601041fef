//! Incoming connections: how many there may be, the TLS handshake, and which peer is behind each.
//!
//! A connection is *silent* until its first call that is not a stranger's. Strangers can open connections for
//! nothing, so silent ones make room: when a limit is reached, the oldest silent connection of the address that has
//! the most of them is closed. If none is silent, the one that has been idle for the longest time is closed. If none
//! has been idle for long, the new one is refused.

mod book;
mod io;
pub(crate) mod rare;
#[cfg(test)]
mod tests;

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{Stream, unfold};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::{self, AlertDescription, CertificateError, ServerConfig};
use tonic::{Request, Status};

use crate::identity::{CredentialError, Credentials, Door, Peer};
use book::{Entry, SharedBook};
use rare::Rare;

pub use book::ConnectionLimits;
pub(crate) use io::{Connection, ConnectionInfo};

/// The longest time of a TLS handshake.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(5);

/// The longest time that sent bytes may wait for their acknowledgement.
#[cfg(target_os = "linux")]
const TAKEN_WITHIN: Duration = Duration::from_secs(20);

/// The pause after the system has refused another connection.
const PAUSE: Duration = Duration::from_millis(50);

/// Takes connections from a listener.
struct Acceptor {
    listener: TcpListener,
    door: Door,
    book: SharedBook,
    handshakes: JoinSet<Result<Connection, Refused>>,
    /// The configuration of TLS, and the version of the credentials that it was made from.
    config: Option<(u64, Arc<ServerConfig>)>,
    refusals: Rare,
    shortages: Rare,
}

/// A connection that was not taken.
struct Refused {
    address: SocketAddr,
    reason: String,
}

/// The connections of a listener, as long as it is polled. Handshakes in progress end with the stream.
pub(crate) fn connections(
    listener: TcpListener,
    door: Door,
    limits: ConnectionLimits,
) -> impl Stream<Item = Result<Connection, std::io::Error>> {
    let acceptor = Acceptor {
        listener,
        door,
        book: SharedBook::new(limits),
        handshakes: JoinSet::new(),
        config: None,
        refusals: Rare::default(),
        shortages: Rare::default(),
    };
    unfold(acceptor, |mut acceptor| async move {
        let connection = acceptor.next().await;
        Some((Ok(connection), acceptor))
    })
}

impl Acceptor {
    async fn next(&mut self) -> Connection {
        loop {
            tokio::select! {
                Some(done) = self.handshakes.join_next() => match done {
                    Ok(Ok(connection)) => return connection,
                    Ok(Err(Refused { address, reason })) => self.log_refusal(address, &reason),
                    Err(error) => tracing::error!(%error, "a handshake has failed"),
                },
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, address)) => {
                        if let Some(connection) = self.take(stream, address) {
                            return connection;
                        }
                    }
                    Err(error) => self.cannot_accept(&error).await,
                },
            }
        }
    }

    /// Takes a connection that needs no handshake, or begins its handshake.
    fn take(&mut self, stream: TcpStream, address: SocketAddr) -> Option<Connection> {
        let Some(entry) = self.book.admit(address.ip()) else {
            self.log_refusal(
                address,
                "there are as many connections as there may be, and all of them are in use",
            );
            return None;
        };
        // Small answers must not wait 40 ms each for the peer's delayed acknowledgement.
        let prepared = stream.set_nodelay(true).and_then(|()| set_write_limit(&stream));
        if let Err(error) = prepared {
            tracing::debug!(%address, %error, "the connection is closed already");
            return None;
        }
        let door = self.door.clone();
        let Some(credentials) = self.door.credentials().cloned() else {
            let peer = Peer::new(address, None, door, Arc::clone(entry.activity()));
            let peer = peer.on_this_machine(is_local(&stream, address));
            return Some(Connection::plain(stream, peer, entry));
        };
        match self.config(&credentials) {
            Ok(config) => {
                self.handshakes.spawn(handshake(stream, address, config, credentials, door, entry));
            }
            Err(error) => tracing::error!(%error, "no connection can be taken"),
        }
        None
    }

    /// The configuration of TLS from the newest credentials.
    fn config(&mut self, credentials: &Credentials) -> Result<Arc<ServerConfig>, CredentialError> {
        let version = credentials.version();
        if let Some((made_from, config)) = &self.config
            && *made_from == version
        {
            return Ok(Arc::clone(config));
        }
        let config = credentials.server(self.door.takes_tokens(), self.door.has_pages())?;
        self.config = Some((version, Arc::clone(&config)));
        Ok(config)
    }

    fn log_refusal(&mut self, address: SocketAddr, reason: &str) {
        if let Some(hidden) = self.refusals.now() {
            tracing::warn!(%address, reason, hidden, "a connection was refused");
        }
    }

    /// The system gives no connection. Where descriptors are short, a silent connection gives up its own.
    async fn cannot_accept(&mut self, error: &std::io::Error) {
        // The peer has gone before its connection was taken.
        if matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset) {
            return;
        }
        let closed = self.book.close_a_silent_one();
        if let Some(hidden) = self.shortages.now() {
            tracing::error!(
                %error, closed, hidden,
                "no connection can be taken; raise the limit of open files if that is the cause"
            );
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Whether the peer has the address that it has called.
fn is_local(stream: &TcpStream, peer: SocketAddr) -> bool {
    stream.local_addr().is_ok_and(|own| own.ip().to_canonical() == peer.ip().to_canonical())
}

/// Ends a connection whose peer takes nothing of what is sent to it.
#[cfg(target_os = "linux")]
fn set_write_limit(stream: &TcpStream) -> std::io::Result<()> {
    socket2::SockRef::from(stream).set_tcp_user_timeout(Some(TAKEN_WITHIN))
}

#[cfg(not(target_os = "linux"))]
fn set_write_limit(_: &TcpStream) -> std::io::Result<()> {
    Ok(())
}

async fn handshake(
    stream: TcpStream,
    address: SocketAddr,
    config: Arc<ServerConfig>,
    credentials: Arc<Credentials>,
    door: Door,
    entry: Entry,
) -> Result<Connection, Refused> {
    let refused = |reason: String| Refused { address, reason };
    let version = credentials.version();
    let accepted = tokio::select! {
        accepted = tokio::time::timeout(HANDSHAKE_WITHIN, TlsAcceptor::from(config).accept(stream)) => accepted,
        () = entry.closed() => return Err(refused("it was silent while others waited".into())),
    };
    let stream = accepted
        .map_err(|_| refused(format!("its TLS handshake was not done within {HANDSHAKE_WITHIN:?}")))?
        .map_err(|error| refused(explained(&error)))?;
    let chain = stream.get_ref().1.peer_certificates().map(<[_]>::to_vec).unwrap_or_default();
    let identity = match chain.is_empty() {
        true => None,
        false => {
            let identity = credentials.identify_client(&chain).map_err(|error| refused(error.to_string()))?;
            let identity = Arc::new(identity);
            if !entry.identify(&identity) {
                let reason = "has as many connections as it may have, and all of them are in use";
                return Err(refused(format!("{identity} {reason}")));
            }
            Some(identity)
        }
    };
    let peer = Peer::new(address, identity, door, Arc::clone(entry.activity()));
    let peer = peer.on_this_machine(is_local(stream.get_ref().0, address));
    Ok(Connection::encrypted(stream, peer, entry, credentials, chain, version))
}

/// What a handshake's error says, in words where the library's own mislead.
pub(crate) fn explained(error: &std::io::Error) -> String {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match inner {
        Some(rustls::Error::InvalidMessage(_)) => "the other side does not speak TLS".into(),
        Some(rustls::Error::NoCertificatesPresented) => "it has shown no certificate".into(),
        Some(rustls::Error::PeerIncompatible(_)) => "it does not speak TLS 1.3".into(),
        Some(rustls::Error::AlertReceived(alert)) => alert_reason(*alert),
        Some(rustls::Error::InvalidCertificate(reason)) => match reason {
            CertificateError::Other(other) => other.to_string(),
            CertificateError::Expired => "its certificate has expired".into(),
            CertificateError::NotValidYet => "its certificate is not valid yet".into(),
            CertificateError::Revoked => "its certificate was revoked".into(),
            CertificateError::UnknownIssuer => "its certificate is not of an authority in --tls-ca".into(),
            reason => format!("its certificate is not valid here: {reason}"),
        },
        _ => error.to_string(),
    }
}

/// What an alert of the other side means.
fn alert_reason(alert: AlertDescription) -> String {
    let reason = match alert {
        AlertDescription::CertificateExpired => "this side's certificate has expired, or is not valid yet",
        AlertDescription::CertificateRevoked => "this side's certificate was revoked",
        AlertDescription::CertificateRequired => "it needs a certificate (--tls-cert, --tls-key, --tls-ca)",
        AlertDescription::UnknownCA => "it does not trust the authority of this side's certificate",
        alert => return format!("the other side refused the handshake: {alert:?}"),
    };
    format!("the other side refused the handshake: {reason}")
}

/// Notes that a connection has made a call, and tells the call who its peer is.
pub(crate) fn introduce(mut request: Request<()>) -> Result<Request<()>, Status> {
    if let Some(ConnectionInfo(peer)) = request.extensions().get() {
        let peer = peer.clone();
        peer.calls();
        request.extensions_mut().insert(peer);
    }
    Ok(request)
}
