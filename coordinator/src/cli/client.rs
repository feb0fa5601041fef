//! A client's calls to a coordinator that may be busy, restarting, or replaced by another one.
//!
//! Every call here may be repeated: submitting a block is idempotent by its hash.

use std::error::Error as _;
use std::time::{Duration, Instant};

use clap::Args;
use net::backoff::{BackoffPolicy, Delays};
use net::channel;
use net::identity::{ClientArgs, Expect, Security};
use net::limits::{MAX_MESSAGE_BYTES, PeerLimits};
use net::wire::{ClientChannel, client_channel, reason};
use proto::v1::blocks_client::BlocksClient;
use tonic::{Code, Response, Status};

use crate::api::{RETRY, RETRY_STOPPING};
use tasks::console::tell_as_program;

/// The first and the longest pause before a call is repeated; the pause doubles in between.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// The time limit of the first contact, unless the caller's limit is shorter. A wrong address is more
/// likely than a restart.
const FIRST_CONTACT: Duration = Duration::from_secs(5);

/// How long a coordinator may be busy before the client prints a message.
const BUSY_QUIETLY: Duration = Duration::from_secs(2);

/// A client of the service for clients.
pub(super) type Blocks = BlocksClient<ClientChannel>;

/// The coordinator that a command calls, and the caller's identity.
#[derive(Debug, Clone, Args)]
pub struct Target {
    /// The coordinator's address
    #[arg(long, value_name = "URL")]
    pub coordinator: String,

    /// The caller's identity.
    #[command(flatten)]
    pub identity: ClientArgs,
}

/// Connects once, for commands that make a single call.
pub(super) async fn connect(target: &Target) -> anyhow::Result<Blocks> {
    connect_as(&target.coordinator, &target.identity.security()?).await
}

/// Connects once, with this identity.
pub(super) async fn connect_as(url: &str, security: &Security) -> anyhow::Result<Blocks> {
    let channel = channel::connect(url, &PeerLimits::default(), security, Expect::Coordinator)
        .await
        .map_err(|error| anyhow::anyhow!("the coordinator does not answer: {error}"))?;
    Ok(BlocksClient::new(client_channel(channel, security))
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES))
}

/// Why a call has no result.
#[derive(Debug, thiserror::Error)]
pub(super) enum CallError {
    /// The coordinator answered with an error.
    #[error("{}", reason(.0))]
    Answered(Box<Status>),
    /// The coordinator did not answer within the limit.
    #[error("no answer for {:.1} s ({reason})", waited.as_secs_f64())]
    Lost {
        /// How long the client waited.
        waited: Duration,
        /// The error of the last try.
        reason: String,
    },
}

/// A client that waits for its coordinator, up to a limit.
#[derive(Debug)]
pub(super) struct Client {
    blocks: Blocks,
    patience: Duration,
    pauses: BackoffPolicy,
}

impl Client {
    /// Connects. `patience` limits how long later calls wait for a coordinator that is away.
    pub(super) async fn connect(target: &Target, patience: Duration) -> anyhow::Result<Self> {
        let policy = BackoffPolicy::new(PAUSE.0, PAUSE.1, 0.0)?;
        let (mut pauses, mut told) = (Delays::new(policy), false);
        let security = target.identity.security()?;
        let (began, limit) = (Instant::now(), patience.min(FIRST_CONTACT));
        loop {
            match connect_as(&target.coordinator, &security).await {
                Ok(blocks) => return Ok(Self { blocks, patience, pauses: policy }),
                Err(error) if began.elapsed() >= limit => return Err(error),
                Err(error) if !told => {
                    told = true;
                    tell_as_program!("{error}; trying again for {} s", limit.as_secs());
                }
                Err(_) => {}
            }
            tokio::time::sleep(pauses.next(0)).await;
        }
    }

    /// Makes a call and repeats it while the coordinator is busy or away. Prints a message about the wait.
    pub(super) async fn call<T>(
        &mut self,
        call: impl AsyncFn(&mut Blocks) -> Result<Response<T>, Status>,
    ) -> Result<T, CallError> {
        let mut trouble: Option<Instant> = None;
        let (mut pauses, mut told) = (Delays::new(self.pauses), false);
        loop {
            let status = match call(&mut self.blocks).await {
                Ok(reply) => {
                    if let Some(since) = trouble.filter(|_| told) {
                        let seconds = since.elapsed().as_secs_f64();
                        tell_as_program!("the coordinator answers again, after {seconds:.1} s");
                    }
                    return Ok(reply.into_inner());
                }
                Err(status) => status,
            };
            let Some(passing) = Passing::of(&status) else {
                return Err(CallError::Answered(Box::new(status)));
            };
            let waited = trouble.get_or_insert_with(Instant::now).elapsed();
            if waited >= self.patience {
                return Err(CallError::Lost { waited, reason: passing.reason });
            }
            if !told && (!passing.busy || waited >= BUSY_QUIETLY) {
                told = true;
                let (reason, limit) = (&passing.reason, self.patience.as_secs());
                tell_as_program!("waiting for the coordinator, {limit} s at most: {reason}");
            }
            let pause = pauses.next(0).min(self.patience.saturating_sub(waited));
            tokio::time::sleep(pause).await;
        }
    }
}

/// Why a failed call may succeed when it is repeated.
#[derive(Debug)]
struct Passing {
    /// Whether the coordinator answered that it has no room for the block at the moment.
    busy: bool,
    reason: String,
}

impl Passing {
    /// Classifies a status; `None` if the status is the final answer.
    fn of(status: &Status) -> Option<Self> {
        let stopping = status.metadata().get(RETRY).is_some_and(|value| value == RETRY_STOPPING);
        let busy = status.code() == Code::ResourceExhausted;
        // A status that the peer sent has no local cause. A broken connection has one.
        if !stopping && !busy && status.source().is_none() {
            return None;
        }
        Some(Self { busy, reason: reason(status) })
    }
}

#[cfg(test)]
mod tests {
    use tonic::metadata::MetadataValue;

    use super::*;

    #[test]
    fn only_a_busy_or_stopping_coordinator_and_a_broken_connection_are_tried_again() {
        let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        let broken = Passing::of(&Status::from_error(Box::new(refused)));
        assert!(broken.is_some_and(|passing| !passing.busy && passing.reason.contains("refused")));
        assert!(Passing::of(&Status::resource_exhausted("full")).is_some_and(|passing| passing.busy));
        let mut stopping = Status::unavailable("stopping");
        stopping.metadata_mut().insert(RETRY, MetadataValue::from_static(RETRY_STOPPING));
        assert!(Passing::of(&stopping).is_some_and(|passing| !passing.busy));
        for answer in [Status::unavailable("there is no shard"), Status::invalid_argument("not RLP")] {
            assert!(Passing::of(&answer).is_none(), "{answer}");
        }
    }
}
