//! Finds out how a shard was lost, once the connection to it has broken: only the end of its process is
//! evidence against the work that it held.

use std::io::ErrorKind;
use std::time::Duration;

use common::endpoint::PeerError;
use common::message::Register;
use net::channel;
use net::identity::Expect;
use net::wire::ShardClient;
use schedule::LossCause;
use tokio::net::TcpStream;
use tokio::time::{interval, timeout};

use super::FleetOptions;

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
pub(super) async fn cause_of(register: &Register, options: &FleetOptions) -> LossCause {
    if register.advertise.is_empty() {
        return LossCause::Unfit;
    }
    let cause = async {
        let mut tries = interval(TRY_AGAIN);
        loop {
            tries.tick().await;
            match look(register, options).await {
                Found::Itself => return LossCause::Silent,
                Found::Gone => return LossCause::Died,
                Found::Unclear => {}
            }
        }
    };
    timeout(ANSWERS_WITHIN, cause).await.unwrap_or(LossCause::Silent)
}

async fn look(register: &Register, options: &FleetOptions) -> Found {
    let address = register.advertise.rsplit("://").next().unwrap_or_default().trim_end_matches('/');
    match TcpStream::connect(address).await {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => return Found::Gone,
        Err(_) => return Found::Unclear,
        Ok(_) => {}
    }
    // An address that cannot be used says nothing about the process.
    let FleetOptions { peer, security, .. } = options;
    let channel = channel::connect(&register.advertise, peer, security, Expect::Shard(register.shard));
    let Ok(channel) = channel.await else { return Found::Unclear };
    match ShardClient::new(channel, *peer, register.token).node_info().await {
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
    use async_trait::async_trait;
    use common::account::Delta;
    use common::endpoint::ShardEndpoint;
    use common::id::{AssignmentId, Epoch, Incarnation, ShardId};
    use common::message::StateSummary;
    use common::sealed::Sealed;
    use common::token::SessionToken;
    use common::work::ExecuteBlock;
    use net::serve::{Bound, Health};
    use net::wire::{NodeIdentity, shard_service};
    use std::sync::Arc;
    use tokio::net::TcpListener;
    use tokio_util::sync::CancellationToken;
    use tonic::service::Routes;

    /// A shard that does nothing but say who it is.
    #[derive(Debug)]
    struct Idle;

    fn busy<T>() -> Result<T, PeerError> {
        Err(PeerError::Overloaded("it does nothing".into()))
    }

    #[async_trait]
    impl ShardEndpoint for Idle {
        async fn execute(&self, _: ExecuteBlock) -> Result<(), PeerError> {
            busy()
        }

        async fn put_delta(&self, _: Epoch, _: Sealed<Delta>) -> Result<StateSummary, PeerError> {
            busy()
        }

        async fn sync(&self, _: Epoch, _: StateSummary) -> Result<StateSummary, PeerError> {
            busy()
        }

        async fn cancel(&self, _: AssignmentId) -> Result<(), PeerError> {
            busy()
        }

        async fn drain(&self, _: Epoch) -> Result<(), PeerError> {
            busy()
        }

        async fn gone(&self) -> PeerError {
            std::future::pending().await
        }
    }

    /// The cause that is found when a process with this incarnation and token answers at the shard's address.
    async fn cause_with(incarnation: Incarnation, token: Option<SessionToken>) -> LossCause {
        let bound = Bound::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let register = lost_at(bound.address().to_string());
        let identity = NodeIdentity {
            shard: register.shard,
            incarnation,
            slots: 1,
            build: String::new(),
            engine: String::new(),
            folder: None,
        };
        let stop = CancellationToken::new();
        let token = token.unwrap_or(register.token);
        let service = shard_service(Arc::new(Idle), identity, token, stop.clone());
        let health = Health::new();
        let serving = tokio::spawn(bound.serve(Routes::new(service), health, stop.clone()));
        let cause = cause_of(&register, &FleetOptions::default()).await;
        stop.cancel();
        serving.await.unwrap().unwrap();
        cause
    }

    /// A shard that advertises the address of the listener.
    fn at(listener: &TcpListener) -> Register {
        lost_at(listener.local_addr().unwrap().to_string())
    }

    fn lost_at(advertise: String) -> Register {
        Register {
            protocol: 0,
            build: String::new(),
            engine: String::new(),
            shard: ShardId(4),
            incarnation: Incarnation(1),
            slots: 1,
            advertise,
            from: None,
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
        assert_eq!(cause_of(&register, &FleetOptions::default()).await, LossCause::Died);
    }

    #[tokio::test]
    async fn a_port_that_is_closed_after_the_connections_belongs_to_a_process_that_has_died() {
        let listener = listen().await;
        let register = at(&listener);
        let options = FleetOptions::default();
        // The port takes the first connection, and closes with it.
        let ends = async move { drop(listener.accept().await.unwrap()) };
        let (cause, ()) = tokio::join!(cause_of(&register, &options), ends);
        assert_eq!(cause, LossCause::Died);
    }

    #[tokio::test]
    async fn a_process_that_answers_is_alive() {
        assert_eq!(cause_with(Incarnation(1), None).await, LossCause::Silent);
    }

    #[tokio::test]
    async fn a_process_has_died_if_another_answers_in_its_place() {
        assert_eq!(cause_with(Incarnation(2), None).await, LossCause::Died);
        assert_eq!(cause_with(Incarnation(2), Some(SessionToken::fresh())).await, LossCause::Died);
    }

    #[tokio::test]
    async fn a_process_that_does_not_answer_may_be_alive() {
        let listener = listen().await;
        let cause = cause_of(&at(&listener), &FleetOptions::default()).await;
        assert_eq!(cause, LossCause::Silent);
        drop(listener);
    }

    #[tokio::test]
    async fn an_address_that_cannot_be_used_is_no_evidence() {
        let listener = listen().await;
        let register = lost_at(format!("https://{}", listener.local_addr().unwrap()));
        assert_eq!(cause_of(&register, &FleetOptions::default()).await, LossCause::Silent);
    }
}
