//! The starts that many tests share: a fleet that is ready, and a client that is in the middle of a chain.

use anyhow::{Result, ensure};

use super::chain::Chain;
use super::fleet::{Coordinator, Shard};
use super::process::Process;
use super::report::Report;
use super::scene::Scene;
use super::wait::{wait_until, within};

impl Coordinator {
    /// Starts a coordinator with these options and shards 1 to `count`, and waits until all are ready.
    ///
    /// # Errors
    /// An error if a process cannot be started, or if the shards do not join in time.
    pub fn with_shards(
        scene: &Scene,
        chain: &Chain,
        options: &[&str],
        count: u32,
    ) -> Result<(Self, Vec<Shard>)> {
        let coordinator = Self::start(scene, chain, options)?;
        let shards = Shard::start_all(scene, count, &coordinator.url())?;
        coordinator.wait_ready(&(1..=count).collect::<Vec<_>>())?;
        Ok((coordinator, shards))
    }

    /// Starts to submit a chain. Returns when the client has this many answers and is not done yet.
    ///
    /// # Errors
    /// An error if the client cannot be started, has no answers in time, or is done already.
    pub fn begin_and_wait(&self, scene: &Scene, chain: &Chain, answers: usize) -> Result<Process> {
        let client = self.begin_submit(scene, chain)?;
        wait_until(within(30), "the first blocks are answered", || {
            Ok(Report::parse(&client.stdout()?)?.rows.len() >= answers)
        })?;
        ensure!(Report::parse(&client.stdout()?)?.summary.is_none(), "the chain is too short for this test");
        Ok(client)
    }
}
