//! Finds out how a shard was lost, once the connection to it has broken: only the end of its process is
//! evidence against the work that it held.

use std::io::ErrorKind;
use std::time::Duration;

use common::endpoint::PeerError;
use common::message::Register;
use net::channel;
use net::limits::PeerLimits;
use net::wire::ShardClient;
use schedule::LossCause;
use tokio::net::TcpStream;
use tokio::time::{interval, timeout};

/// How long to find out whether the process still answers.
const ANSWERS_WITHIN: Duration = Duration::from_millis(200);

/// The time from one try to the next.
const TRY_AGAIN: Duration = Duration::from_millis(5);

/// What was found at the address of a lost shard.
enum Found {
    /// The process itself.
    Itself,
    /// No process, or another one: the former has ended.
    Gone,
    /// The connection was closed before an answer came.
    Unclear,
}

/// Finds out how the shard was lost. Its process has ended if its address refuses connections or another
/// process answers there. A process that takes connections and does not answer may be alive.
///
/// A process that ends closes its sockets one after another, in no certain order: its port may still take
/// connections when those to the coordinator are closed. Such a connection is closed before an answer comes,
/// and the next try is refused.
pub(super) async fn cause_of(register: &Register, limits: &PeerLimits) -> LossCause {
    if register.advertise.is_empty() {
        return LossCause::Unfit;
    }
    let cause = async {
        let mut tries = interval(TRY_AGAIN);
        loop {
            tries.tick().await;
            match look(register, limits).await {
                Found::Itself => return LossCause::Silent,
                Found::Gone => return LossCause::Died,
                Found::Unclear => {}
            }
        }
    };
    timeout(ANSWERS_WITHIN, cause).await.unwrap_or(LossCause::Silent)
}

async fn look(register: &Register, limits: &PeerLimits) -> Found {
    let address = register.advertise.rsplit("://").next().unwrap_or_default().trim_end_matches('/');
    match TcpStream::connect(address).await {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => return Found::Gone,
        Err(_) => return Found::Unclear,
        Ok(_) => {}
    }
    let answer = async {
        let channel = channel::connect(&register.advertise, limits).await?;
        ShardClient::new(channel, *limits, register.token).node_info().await
    };
    match answer.await {
        Ok(info) if info.incarnation == register.incarnation.0 => Found::Itself,
        // Another process has another token.
        Ok(_) | Err(PeerError::Refused(_)) => Found::Gone,
        Err(_) => Found::Unclear,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use common::id::{Incarnation, ShardId};
    use common::token::SessionToken;
    use tokio::net::TcpListener;

    /// A shard that advertises the address of the listener.
    fn at(listener: &TcpListener) -> Register {
        Register {
            protocol: 0,
            build: String::new(),
            engine: String::new(),
            shard: ShardId(4),
            incarnation: Incarnation(1),
            slots: 1,
            advertise: listener.local_addr().unwrap().to_string(),
            state: None,
            chain_id: None,
            token: SessionToken::fresh(),
        }
    }

    async fn listen() -> TcpListener {
        TcpListener::bind("127.0.0.1:0").await.unwrap()
    }

    #[tokio::test]
    async fn a_port_that_refuses_belongs_to_a_process_that_has_died() {
        let listener = listen().await;
        let register = at(&listener);
        drop(listener);
        assert_eq!(cause_of(&register, &PeerLimits::default()).await, LossCause::Died);
    }

    #[tokio::test]
    async fn a_port_that_is_closed_after_the_connections_belongs_to_a_process_that_has_died() {
        let listener = listen().await;
        let register = at(&listener);
        let limits = PeerLimits::default();
        // The port takes the first connection, and closes with it.
        let ends = async move { drop(listener.accept().await.unwrap()) };
        let (cause, ()) = tokio::join!(cause_of(&register, &limits), ends);
        assert_eq!(cause, LossCause::Died);
    }

    #[tokio::test]
    async fn a_process_that_does_not_answer_may_be_alive() {
        let listener = listen().await;
        let cause = cause_of(&at(&listener), &PeerLimits::default()).await;
        assert_eq!(cause, LossCause::Silent);
        drop(listener);
    }
}
