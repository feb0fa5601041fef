//! A link: the task that talks to one incarnation of a shard.
//!
//! State changes go out in order, each after the answer to the one before it. When the link ends the shard
//! is lost, whatever the cause.

use std::sync::Arc;
use std::time::Duration;

use common::account::Delta;
use common::codec::MAX_PAYLOAD_BYTES;
use common::endpoint::{PeerError, ShardEndpoint};
use common::id::{AssignmentId, Epoch, Incarnation};
use common::message::{Register, StateSummary};
use common::sealed::Sealed;
use common::work::ExecuteBlock;
use net::channel;
use net::identity::Expect;
use net::wire::ShardClient;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::loss::cause_of;
use super::message::{LinkId, Message};
use super::place::place_of;
use super::{FleetOptions, Shared};
use schedule::{AssignmentFault, Event, LossCause};

/// The most commands that wait for a link.
pub(super) const LINK_QUEUE: usize = 4096;

/// The largest delta that is sent as one payload, in bytes, with room for its encoding.
const MAX_DELTA: usize = MAX_PAYLOAD_BYTES / 2;

/// How long calls that were in flight when a link ended may take to finish.
const LAST_WORDS: Duration = Duration::from_millis(50);

/// A command of the driver to a link.
#[derive(Debug)]
pub(super) enum LinkCommand {
    /// Send an assignment with its work.
    Execute(Box<ExecuteBlock>),
    /// Tell the shard that the result is no longer wanted.
    Cancel(AssignmentId),
    /// Bring the shard to this state.
    Sync(StateSummary),
    /// Move the shard by one block.
    Advance(Sealed<Delta>),
    /// Ask the shard to stop.
    Drain,
}

/// The driver's end of a link.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) id: LinkId,
    pub(super) incarnation: Incarnation,
    pub(super) address: String,
    pub(super) slots: u16,
    pub(super) draining: bool,
    pub(super) results: u64,
    /// When the last heartbeat arrived, or when the shard joined.
    pub(super) heard_at: Duration,
    /// The longest time without a heartbeat since then.
    pub(super) longest_gap: Duration,
    pub(super) commands: mpsc::Sender<LinkCommand>,
    pub(super) stop: CancellationToken,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// How often the link asks a shard to drain.
const DRAIN_TRIES: u32 = 4;

/// The time between two of these calls.
const DRAIN_PAUSE: Duration = Duration::from_millis(500);

/// The outcome of a call to the shard.
enum Done {
    Executed(Box<(AssignmentId, Result<(), PeerError>)>),
    Drained(Result<(), PeerError>),
    Quiet,
}

/// Runs a link until the shard is gone or the driver drops its end.
pub(super) async fn run_link(
    shared: Arc<Shared>,
    mut register: Register,
    id: LinkId,
    mut commands: mpsc::Receiver<LinkCommand>,
    stop: CancellationToken,
) {
    let ending = shared.supervisor.shutdown_token();
    if !register.advertise.is_empty() {
        let FleetOptions { peer, shard_networks, .. } = &shared.options;
        let found = tokio::select! {
            biased;
            () = ending.cancelled() => return,
            () = stop.cancelled() => return,
            found = place_of(&register, shard_networks, peer.connect) => found,
        };
        match found {
            Ok(place) => register.advertise = place,
            Err(error) => {
                let (cause, reason) = (LossCause::Unfit, error.to_string());
                return send(&shared, Message::LinkEnded { link: id, cause, reason });
            }
        }
    }
    let mut calls = JoinSet::new();
    let reason = tokio::select! {
        biased;
        () = ending.cancelled() => return,
        () = stop.cancelled() => return,
        reason = serve(&shared, &register, id, &mut commands, &mut calls) => reason,
    };
    last_words(&shared, &mut calls).await;
    let cause = cause_of(&register, &shared.options).await;
    tracing::debug!(shard = %register.shard, ?cause, "the link to a shard has ended");
    send(&shared, Message::LinkEnded { link: id, cause, reason: reason.to_string() });
}

/// The shard's end, and the client of a shard in another process.
async fn connect(
    shared: &Shared,
    register: &Register,
) -> Result<(Arc<dyn ShardEndpoint>, Option<Arc<ShardClient>>), PeerError> {
    if register.advertise.is_empty() {
        let local = shared.local.lock();
        return local
            .get(&register.shard)
            .cloned()
            .map(|node| (node as Arc<dyn ShardEndpoint>, None))
            .ok_or_else(|| PeerError::Refused("no such shard in this process".into()));
    }
    let FleetOptions { peer, security, .. } = &shared.options;
    let expected = Expect::Shard(register.shard);
    let channel = channel::connect(&register.advertise, peer, security, expected).await?;
    let client = ShardClient::new(channel, shared.options.peer, register.token);
    let client = client.tracked(shared.peers.tracker(register.shard));
    let info = client.node_info().await?;
    if info.shard != register.shard.0 || info.incarnation != register.incarnation.0 {
        return Err(PeerError::Refused(format!(
            "at {} answers another process, shard {}; check --advertise",
            register.advertise, info.shard
        )));
    }
    let client = Arc::new(client);
    Ok((Arc::clone(&client) as Arc<dyn ShardEndpoint>, Some(client)))
}

/// Watches how the shard's process does; ends only with a reason to let it go.
async fn watch(shared: &Shared, client: Option<Arc<ShardClient>>, register: &Register) -> PeerError {
    // A shard within this process does as this process does.
    let Some(client) = client else { return std::future::pending().await };
    match shared.peers.watch(&client, register.shard, register.incarnation).await {
        Ok(never) => match never {},
        Err(error) => error,
    }
}

/// Talks to the shard; returns why it is gone.
async fn serve(
    shared: &Arc<Shared>,
    register: &Register,
    id: LinkId,
    commands: &mut mpsc::Receiver<LinkCommand>,
    calls: &mut JoinSet<Done>,
) -> PeerError {
    let (endpoint, client) = match connect(shared, register).await {
        Ok(connected) => connected,
        Err(error) => return error,
    };
    // The shard's end, or a reason to let it go.
    let gone = async {
        tokio::select! {
            biased;
            error = endpoint.gone() => error,
            error = watch(shared, client, register) => error,
        }
    };
    tokio::pin!(gone);
    loop {
        // The shard's end comes first: errors that follow from its death are not its answers.
        let command = tokio::select! {
            biased;
            error = &mut gone => return error,
            Some(done) = calls.join_next() => {
                match done {
                    Ok(Done::Executed(done)) => {
                        let (assignment, answer) = *done;
                        executed(shared, assignment, answer);
                    }
                    // Without the request it would stay in the fleet for ever, without work.
                    Ok(Done::Drained(Err(error))) => return error,
                    Ok(Done::Drained(Ok(())) | Done::Quiet) | Err(_) => {}
                }
                continue;
            }
            command = commands.recv() => match command {
                Some(command) => command,
                None => return PeerError::Unreachable("the fleet let go of it".into()),
            },
        };
        match command {
            LinkCommand::Execute(command) => {
                calls.spawn(execute(Arc::clone(&endpoint), *command));
            }
            LinkCommand::Cancel(assignment) => {
                calls.spawn(cancel(Arc::clone(&endpoint), assignment));
            }
            LinkCommand::Sync(target) => {
                let call = endpoint.sync(shared.epoch, target);
                let answer = tokio::select! { error = &mut gone => return error, answer = call => answer };
                reached(shared, id, answer);
            }
            LinkCommand::Drain => {
                calls.spawn(drain(Arc::clone(&endpoint), shared.epoch));
            }
            // The delta is too large for one payload: the shard fetches it in parts.
            LinkCommand::Advance(delta) if delta.weight() > MAX_DELTA => {
                let target = StateSummary { state: delta.to, digest: delta.digest };
                let call = endpoint.sync(shared.epoch, target);
                let answer = tokio::select! { error = &mut gone => return error, answer = call => answer };
                reached(shared, id, answer);
            }
            LinkCommand::Advance(delta) => {
                let call = endpoint.put_delta(shared.epoch, delta);
                let answer = tokio::select! { error = &mut gone => return error, answer = call => answer };
                reached(shared, id, answer);
            }
        }
    }
}

/// Handles what the shard had answered before its end: which work it had accepted. A death with that work
/// begun is evidence. Errors that follow from the shard's end are not its answers.
async fn last_words(shared: &Arc<Shared>, calls: &mut JoinSet<Done>) {
    let until = tokio::time::Instant::now() + LAST_WORDS;
    while let Ok(Some(done)) = tokio::time::timeout_at(until, calls.join_next()).await {
        if let Ok(Done::Executed(done)) = done
            && let (assignment, Ok(())) = *done
        {
            executed(shared, assignment, Ok(()));
        }
    }
}

async fn cancel(endpoint: Arc<dyn ShardEndpoint>, assignment: AssignmentId) -> Done {
    // If the cancellation is lost the shard finishes in vain, and nothing else.
    let _ = endpoint.cancel(assignment).await;
    Done::Quiet
}

async fn drain(endpoint: Arc<dyn ShardEndpoint>, epoch: Epoch) -> Done {
    let mut tries = 1;
    loop {
        match endpoint.drain(epoch).await {
            Err(_) if tries < DRAIN_TRIES => {
                tries += 1;
                tokio::time::sleep(DRAIN_PAUSE).await;
            }
            Err(error) => {
                let text = format!("does not take the request to leave: {}", error.reason());
                return Done::Drained(Err(PeerError::Unreachable(text)));
            }
            Ok(()) => return Done::Drained(Ok(())),
        }
    }
}

/// Sends one assignment, and waits until the shard has taken or refused it.
async fn execute(endpoint: Arc<dyn ShardEndpoint>, command: ExecuteBlock) -> Done {
    let assignment = command.assignment;
    Done::Executed(Box::new((assignment, endpoint.execute(command).await)))
}

fn executed(shared: &Arc<Shared>, assignment: AssignmentId, answer: Result<(), PeerError>) {
    let event = match answer {
        Ok(()) => {
            tracing::debug!(%assignment, "accepted");
            Event::Accepted(assignment)
        }
        Err(error) => {
            Event::Failed { assignment, fault: AssignmentFault::from(&error), reason: error.to_string() }
        }
    };
    tell(shared, event);
}

fn reached(shared: &Arc<Shared>, link: LinkId, answer: Result<StateSummary, PeerError>) {
    let answer = answer.map_err(|error| error.to_string());
    send(shared, Message::Reached { link, answer });
}

fn tell(shared: &Arc<Shared>, event: Event) {
    send(shared, Message::Event(shared.now(), event));
}

fn send(shared: &Arc<Shared>, message: Message) {
    if let Err(error) = shared.send(message) {
        tracing::error!(%error, "a link cannot report");
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    use async_trait::async_trait;

    /// A shard that fails so many calls to drain before it takes one.
    #[derive(Debug)]
    struct Reluctant(AtomicU32);

    fn busy<T>() -> Result<T, PeerError> {
        Err(PeerError::Overloaded("another call".into()))
    }

    #[async_trait]
    impl ShardEndpoint for Reluctant {
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
            let left = self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
            left.map_or(Ok(()), |_| Err(PeerError::Unreachable("no answer".into())))
        }

        async fn gone(&self) -> PeerError {
            std::future::pending().await
        }
    }

    async fn asked(failures: u32) -> Result<(), PeerError> {
        let shard = Arc::new(Reluctant(AtomicU32::new(failures)));
        match drain(shard, Epoch::first()).await {
            Done::Drained(answer) => answer,
            Done::Executed(_) | Done::Quiet => panic!("another call has ended"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_call_to_drain_is_repeated_and_the_shard_is_not_kept_without_work() {
        asked(0).await.unwrap();
        asked(DRAIN_TRIES - 1).await.unwrap();
        let error = asked(DRAIN_TRIES).await.unwrap_err();
        assert!(error.to_string().contains("does not take the request to leave: "), "{error}");
    }
}
