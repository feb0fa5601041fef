//! Channels to peers: addresses, timeouts, keepalive and message limits in one place.

use std::time::Duration;

use common::endpoint::PeerError;
use tonic::transport::{Channel, Endpoint};

use crate::limits::PeerLimits;

/// The interval of HTTP/2 keepalive probes on an idle connection, and the time limit for their answer.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// Creates a channel to `url` that connects at its first use.
///
/// # Errors
/// [`PeerError::Refused`] if the address is not a URL.
pub fn lazy(url: &str, limits: &PeerLimits) -> Result<Channel, PeerError> {
    Ok(endpoint(url, limits)?.connect_lazy())
}

/// Connects a channel to `url`.
///
/// # Errors
/// [`PeerError::Refused`] if the address is not a URL, [`PeerError::Unreachable`] if no peer answers
/// there.
pub async fn connect(url: &str, limits: &PeerLimits) -> Result<Channel, PeerError> {
    endpoint(url, limits)?
        .connect()
        .await
        .map_err(|error| PeerError::Unreachable(format!("{url}: {}", root_cause(&error))))
}

fn endpoint(url: &str, limits: &PeerLimits) -> Result<Endpoint, PeerError> {
    let refuse = |reason: String| PeerError::Refused(format!("{url:?} is not a usable address: {reason}"));
    let full = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
    if !full.starts_with("http://") {
        return Err(refuse("only http:// is spoken".into()));
    }
    let endpoint = Endpoint::from_shared(full).map_err(|error| refuse(error.to_string()))?;
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

/// The message of an error's innermost cause: transport errors hide it behind "transport error".
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}
