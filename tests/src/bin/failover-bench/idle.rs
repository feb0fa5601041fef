//! Measures the cost of an idle fleet.

use std::fs;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use shard_tests::{Chain, Coordinator, Scene, Shard};

/// The processor time of an idle coordinator with three shards, as a share of one core.
pub(crate) fn idle(scene: &Scene, chain: &Chain, length: Duration) -> Result<f64> {
    let coordinator = Coordinator::start(scene, chain, &[])?;
    let shards = Shard::start_all(scene, 3, &coordinator.url())?;
    coordinator.wait_ready(&[1, 2, 3])?;
    let mut pids = vec![coordinator.process.pid()];
    pids.extend(shards.iter().map(|shard| shard.process.pid()));
    let (before, began) = (ticks(&pids)?, Instant::now());
    // Elapsed time is what this measures, so it sleeps.
    thread::sleep(length);
    let used = (ticks(&pids)? - before) as f64 / ticks_per_second()?;
    Ok(used / began.elapsed().as_secs_f64())
}

/// The ticks of processor time that these processes have used, in user and system mode.
fn ticks(pids: &[u32]) -> Result<u64> {
    let mut sum = 0;
    for pid in pids {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).context("a process has ended")?;
        // The process's name before the last parenthesis may contain any character.
        let (_, fields) = stat.rsplit_once(')').context("no process table")?;
        let field = |place: usize| fields.split_whitespace().nth(place).and_then(|text| text.parse().ok());
        let (user, system): (Option<u64>, Option<u64>) = (field(11), field(12));
        sum += user.context("no user time")? + system.context("no system time")?;
    }
    Ok(sum)
}

fn ticks_per_second() -> Result<f64> {
    let output = Command::new("getconf").arg("CLK_TCK").output()?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().parse()?)
}
