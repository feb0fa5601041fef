//! A fleet with an honest client, and an attacker beside them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use common::codec;
use net::wire::chunks;
use proto::v1::blocks_client::BlocksClient;
use serde_json::Value;
use shard_tests::{Chain, ChainFile, Coordinator, Shard, scenario, wait_until, within};
use tonic::transport::Channel;

use crate::attack::{Acts, Attack};
use crate::memory::{Sampler, resident};
use crate::table::Row;

/// The client's blocks before the attack begins.
const WARM: usize = 20;

/// The client's pause after a block.
const PAUSE: Duration = Duration::from_millis(50);

/// The blocks for each second of an attack; the client gets through fewer.
const BLOCKS_A_SECOND: u64 = 20;

/// The time after an attack until its memory must be free.
const FREED_AFTER: Duration = Duration::from_secs(10);

/// How the attacks are measured: on which chain, and for how long.
pub(crate) struct Play {
    chain: Arc<Chain>,
    blocks: Vec<Vec<u8>>,
    lasts: Duration,
}

impl Play {
    pub(crate) fn new(lasts: Duration) -> Result<Self> {
        let count = WARM + usize::try_from(lasts.as_secs() * BLOCKS_A_SECOND)?;
        let chain = Arc::new(Chain::generate(count, &["--txs", "100", "--seed", "7"])?);
        let file = ChainFile::read(&chain.rlp())?;
        let blocks = (0..file.len()).map(|number| file.bytes(number..number + 1)).collect();
        Ok(Self { chain, blocks, lasts })
    }

    /// Lets the attack go on for the time, in a fleet of its own.
    pub(crate) fn measure(&self, attack: Attack) -> Result<Row> {
        scenario(|scene| {
            let data = scene.path("data").display().to_string();
            let (coordinator, mut shards) =
                Coordinator::with_shards(scene, &self.chain, &["--data-dir", &data], 2)?;
            let mut client = Client::new(&coordinator.url(), &self.blocks)?;
            for _ in 0..WARM {
                client.submit().context("before the attack")?;
            }
            client.times.clear();
            let pids =
                [vec![coordinator.process.pid()], shards.iter().map(|shard| shard.process.pid()).collect()]
                    .concat();
            let before: Vec<u64> = pids.iter().map(|pid| resident(*pid)).collect();
            let sampler = Sampler::start(pids.clone())?;
            let attacker = attack.start(&coordinator.url(), &addresses(&coordinator)?)?;
            let until = Instant::now() + self.lasts;
            while Instant::now() < until && client.has_more() {
                // A refusal is counted, and the same block is submitted again.
                let _ = client.submit();
                std::thread::sleep(PAUSE);
            }
            let acts = attacker.end()?;
            let peaks = sampler.peaks();
            drop(sampler);
            std::thread::sleep(FREED_AFTER);
            let after: Vec<u64> = pids.iter().map(|pid| resident(*pid)).collect();
            let whole = is_whole(&coordinator, &mut shards, client.done());
            row((attack, acts), client, &coordinator, [before, peaks, after], whole)
        })
    }
}

fn row(
    (attack, acts): (Attack, Acts),
    mut client: Client<'_>,
    coordinator: &Coordinator,
    memory: [Vec<u64>; 3],
    whole: bool,
) -> Result<Row> {
    let log = coordinator.process.stderr()?;
    let honest =
        |line: &&str| ["shard=1 ", "shard=2 "].iter().any(|shard| format!("{line} ").contains(shard));
    let count = |event: &str| log.lines().filter(|line| line.contains(event)).filter(honest).count();
    client.times.sort_by(f64::total_cmp);
    let of = |place: usize| memory.each_ref().map(|values| values.get(place).copied().unwrap_or_default());
    let shards = memory.each_ref().map(|values| values.iter().skip(1).copied().max().unwrap_or_default());
    Ok(Row {
        attack,
        acts,
        times: client.times,
        refused: client.refused,
        lost: count("event=shard_lost"),
        alarms: count("event=alarm"),
        gap: gap(coordinator)?,
        coordinator: of(0),
        shards,
        whole,
    })
}

/// The longest time without a heartbeat of an honest shard, in milliseconds.
fn gap(coordinator: &Coordinator) -> Result<u64> {
    let status: Value = serde_json::from_str(&coordinator.ask(&["status", "--json"], &[])?)?;
    let shards = status.get("shards").and_then(Value::as_array).context("the status has no shards")?;
    let number = |shard: &Value, field: &str| shard.get(field).and_then(Value::as_u64);
    let honest = shards.iter().filter(|shard| matches!(number(shard, "shard"), Some(1 | 2)));
    honest.filter_map(|shard| number(shard, "longest_gap_ms")).max().context("no honest shard is there")
}

/// Whether both shards live and are ready, and the chain has all blocks that the client was answered.
fn is_whole(coordinator: &Coordinator, shards: &mut [Shard], done: usize) -> bool {
    let lives = shards.iter_mut().all(|shard| matches!(shard.process.exited(), Ok(None)));
    let ready = || {
        let status = coordinator.status()?;
        let ready = [1, 2].iter().all(|id| status.shard(*id).is_some_and(|shard| shard.state == "ready"));
        Ok(ready && status.head == done as u64)
    };
    lives && wait_until(within(10), "the fleet is whole", ready).is_ok()
}

/// A client that submits one block after the other.
struct Client<'b> {
    runtime: tokio::runtime::Runtime,
    blocks: &'b [Vec<u8>],
    client: BlocksClient<Channel>,
    next: usize,
    times: Vec<f64>,
    refused: usize,
}

impl<'b> Client<'b> {
    fn new(url: &str, blocks: &'b [Vec<u8>]) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let client = runtime.block_on(BlocksClient::connect(url.to_owned()))?;
        Ok(Self { runtime, blocks, client, next: 0, times: Vec::new(), refused: 0 })
    }

    fn has_more(&self) -> bool {
        self.next < self.blocks.len()
    }

    /// The number of blocks that were answered.
    fn done(&self) -> usize {
        self.next
    }

    /// Submits the next block and waits until it is on the chain.
    fn submit(&mut self) -> Result<()> {
        let bytes = self.blocks.get(self.next).context("the chain is too short")?;
        let sent = chunks(bytes.clone(), codec::payload_digest(bytes), None, None);
        let began = Instant::now();
        let answer =
            self.runtime.block_on(self.client.submit_block(tokio_stream::iter(sent.collect::<Vec<_>>())));
        let answer = answer.map_err(anyhow::Error::from).and_then(|answer| {
            let answer = answer.into_inner();
            ensure!(answer.error.is_empty(), "block {}: {}", answer.number, answer.error);
            Ok(())
        });
        if answer.is_err() {
            self.refused += 1;
            return answer;
        }
        self.times.push(began.elapsed().as_secs_f64() * 1_000.0);
        self.next += 1;
        Ok(())
    }
}

/// What `status --json` says of the shards: id, incarnation and address of each.
fn addresses(coordinator: &Coordinator) -> Result<Vec<String>> {
    let status: Value = serde_json::from_str(&coordinator.ask(&["status", "--json"], &[])?)?;
    let shards = status.get("shards").and_then(Value::as_array).context("the status has no shards")?;
    let text = |shard: &Value| {
        let number = |field: &str| shard.get(field).and_then(Value::as_u64);
        let address = shard.get("address").and_then(Value::as_str)?;
        Some(format!("{}@{}@{address}", number("shard")?, number("incarnation")?))
    };
    shards.iter().map(|shard| text(shard).with_context(|| format!("not a shard: {shard}"))).collect()
}
