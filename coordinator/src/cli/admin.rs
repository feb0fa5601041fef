//! What a serving coordinator tells over HTTP.

use std::path::PathBuf;
use std::sync::Arc;

use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use net::admin::Subject;
use serde_json::{Value, json};
use tokio::sync::broadcast::error::RecvError;

use crate::api::{ChainHandle, set_gauges, status, status_json};
use crate::fleet::{Fleet, FleetEvent, ShardView};

/// A serving coordinator.
#[derive(Debug)]
pub(super) struct Served {
    chain: ChainHandle,
    fleet: Fleet,
    /// The ledger's file, if it has one.
    ledger_file: Option<PathBuf>,
    config: Value,
}

impl Served {
    pub(super) fn new(
        chain: ChainHandle,
        fleet: Fleet,
        data_dir: Option<&PathBuf>,
        config: Value,
    ) -> Arc<Self> {
        let ledger_file = data_dir.map(|folder| folder.join(ledger::FILE));
        Arc::new(Self { chain, fleet, ledger_file, config })
    }
}

/// Why a coordinator cannot execute blocks now; empty if it can.
pub(super) fn unready(chain: &ChainHandle, fleet: &Fleet) -> Vec<String> {
    let head = chain.ledger().head().summary().state.height.0;
    // After each block a shard is behind for a moment, until its delta has arrived.
    let follows = |shard: &ShardView| {
        let near = shard.state.is_some_and(|state| state.height.0.saturating_add(1) >= head);
        near && !shard.draining && !shard.quarantined
    };
    if chain.is_stopping() {
        return vec!["the coordinator is stopping".into()];
    }
    match fleet.shards() {
        Err(error) => vec![error.to_string()],
        Ok(_) if fleet.executes_alone() => Vec::new(),
        Ok(shards) if shards.iter().any(|shard| shard.ready || follows(shard)) => Vec::new(),
        Ok(shards) if shards.is_empty() => vec!["no shard has joined".into()],
        Ok(shards) => {
            vec![format!("none of {} shards holds the current state and takes work", shards.len())]
        }
    }
}

impl Subject for Served {
    fn unready(&self) -> Vec<String> {
        unready(&self.chain, &self.fleet)
    }

    fn status(&self) -> Result<Value, String> {
        let status = status(&self.chain, &self.fleet).map_err(|error| error.to_string())?;
        Ok(status_json(&status))
    }

    fn config(&self) -> Value {
        self.config.clone()
    }

    fn measure(&self) {
        // Without an answer of the driver the process is not ready, which is measured.
        if let Ok(status) = status(&self.chain, &self.fleet) {
            set_gauges(&status);
        }
        let size = self.ledger_file.as_ref().and_then(|file| std::fs::metadata(file).ok());
        if let Some(size) = size {
            metrics::gauge!("shardexec_ledger_bytes").set(size.len() as f64);
        }
    }

    fn blocks(&self) -> Option<Value> {
        Some(self.chain.recent().json())
    }

    fn block(&self, number: u64) -> Option<Value> {
        self.chain.recent().block(number)
    }

    fn trace(&self, number: u64) -> Option<Value> {
        self.fleet.trace(number)
    }

    fn home(&self) -> Option<&'static str> {
        Some(include_str!("cockpit.html"))
    }

    fn events(&self) -> Option<BoxStream<'static, Value>> {
        let events = stream::unfold(self.fleet.events(), |mut events| async move {
            match events.recv().await {
                Ok(event) => Some((row(&event), events)),
                Err(RecvError::Lagged(missed)) => {
                    Some((json!({ "kind": "missed", "events": missed }), events))
                }
                Err(RecvError::Closed) => None,
            }
        });
        Some(events.boxed())
    }
}

/// An event as JSON.
fn row(event: &FleetEvent) -> Value {
    json!({
        "at_ms": u64::try_from(event.at.as_millis()).unwrap_or(u64::MAX), "kind": event.kind.name(),
        "shard": event.shard.map(|shard| shard.0), "block": event.block, "text": event.text,
    })
}
