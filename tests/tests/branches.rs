//! Accepted blocks of several branches, and coordinators that are killed between them.
//!
//! | scenario | fault | expectation |
//! |---|---|---|
//! | a side block, then its child | SIGKILL between the two | the heavier branch becomes the chain |
//! | a block with an unknown parent, then the parent | SIGKILL between | both are executed and committed |
//! | a heavier branch, `--reorg none` and `--reorg 1` | – | it stays beside the chain |
//! | a side block that is submitted again after a SIGKILL | – | it is known |
//! | an invalid block and a block that follows it | – | both are rejected, no block waits |

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use shard_tests::{
    Chain, ChainFile, Coordinator, HeaderField, Report, Scene, Shard, scenario, submit_to, within,
};

/// Two branches with the same genesis and the same first block.
struct Branches {
    /// Blocks 1 to 3.
    short: Chain,
    /// Blocks 1 to 4, with fewer transactions.
    long: Chain,
}

impl Branches {
    fn generate() -> Result<Self> {
        let with = |blocks, txs| Chain::generate(blocks, &["--txs", txs, "--seed", "3", "--accounts", "100"]);
        let branches = Self { short: with(3, "12")?, long: with(4, "9")? };
        ensure!(
            std::fs::read(branches.short.genesis())? == std::fs::read(branches.long.genesis())?,
            "the branches have not one genesis"
        );
        Ok(branches)
    }
}

/// A file with one block of a chain, selected by its number.
fn block(scene: &Scene, chain: &Chain, number: usize) -> Result<PathBuf> {
    let bytes = ChainFile::read(&chain.rlp())?.bytes(number - 1..number);
    scene.write(&scene.fresh_name("block.rlp"), bytes)
}

fn start(scene: &Scene, chain: &Chain) -> Result<Coordinator> {
    let folder = scene.path("chain").display().to_string();
    Coordinator::start(scene, chain, &["--data-dir", folder.as_str()])
}

/// Starts a coordinator and a shard.
fn start_with_shard(scene: &Scene, chain: &Chain) -> Result<(Coordinator, Shard)> {
    let coordinator = start(scene, chain)?;
    let shard = Shard::start(scene, 1, &coordinator.url(), &[])?;
    coordinator.wait_ready(&[1])?;
    Ok((coordinator, shard))
}

/// Submits a file, waits for the client's end, and returns the row of the last block.
fn submit(scene: &Scene, coordinator: &Coordinator, file: &std::path::Path) -> Result<serde_json::Value> {
    let mut client = submit_to(scene, &coordinator.url(), file)?;
    let code = client.exit_code(within(60))?;
    let report = Report::parse(&client.stdout()?)?;
    report.rows.last().cloned().with_context(|| format!("no row; it ended with {code}"))
}

fn accept(coordinator: &Coordinator, file: &std::path::Path) -> Result<()> {
    coordinator.ask(&["submit", "--no-wait"], &[file.to_str().context("not UTF-8")?]).map(drop)
}

fn wait_head(coordinator: &Coordinator, head: u64) -> Result<()> {
    coordinator.wait_status(within(30), "the longer branch is the chain", |status| {
        status.head == head && status.accepted == 0 && status.parked == 0
    })?;
    Ok(())
}

#[test]
fn a_branch_becomes_the_chain_although_its_coordinator_was_killed_between_two_of_its_blocks() -> Result<()> {
    scenario(|scene| {
        let Branches { short, long } = Branches::generate()?;
        let (mut first, shard) = start_with_shard(scene, &short)?;
        submit(scene, &first, &short.rlp())?;
        ensure!(first.status()?.head == 3, "{:?}", first.status()?);
        for number in [2, 3] {
            let row = submit(scene, &first, &block(scene, &long, number)?)?;
            ensure!(row["verified"] == true, "{row}");
        }
        ensure!(first.status()?.accepted == 0, "{:?}", first.status()?);
        first.process.kill()?;
        drop(shard);
        let (second, _shard) = start_with_shard(scene, &short)?;
        ensure!(second.status()?.head == 3, "{:?}", second.status()?);
        accept(&second, &block(scene, &long, 3)?)?;
        let row = submit(scene, &second, &block(scene, &long, 4)?)?;
        ensure!(row["verified"] == true, "{row}");
        wait_head(&second, 4)
    })
}

#[test]
fn a_heavier_branch_takes_back_no_more_blocks_than_it_may() -> Result<()> {
    scenario(|scene| {
        let Branches { short, long } = Branches::generate()?;
        // The heavier branch takes back blocks 2 and 3.
        for (limit, head) in [("none", 3), ("1", 3), ("2", 4)] {
            let coordinator = Coordinator::start(scene, &short, &["--reorg", limit])?;
            let _shard = Shard::start(scene, 1, &coordinator.url(), &[])?;
            coordinator.wait_ready(&[1])?;
            submit(scene, &coordinator, &short.rlp())?;
            for number in 2..=4 {
                let row = submit(scene, &coordinator, &block(scene, &long, number)?)?;
                ensure!(row["verified"] == true, "{limit}: {row}");
            }
            ensure!(coordinator.status()?.head == head, "{limit}: {:?}", coordinator.status()?);
        }
        Ok(())
    })
}

#[test]
fn an_accepted_block_whose_parent_is_not_known_waits_for_it_over_a_kill() -> Result<()> {
    scenario(|scene| {
        let Branches { short, long } = Branches::generate()?;
        let (mut first, shard) = start_with_shard(scene, &short)?;
        submit(scene, &first, &short.rlp())?;
        accept(&first, &block(scene, &long, 4)?)?;
        accept(&first, &block(scene, &long, 3)?)?;
        first.wait_status(within(20), "two blocks wait", |status| status.accepted == 2)?;
        let listed = first.ask(&["parked", "list", "--json"], &[])?;
        ensure!(listed.contains("waits for its parent"), "{listed}");
        first.process.kill()?;
        drop(shard);
        let (second, _shard) = start_with_shard(scene, &short)?;
        let status = second.status()?;
        ensure!(status.head == 3 && status.accepted == 2 && status.parked == 0, "{status:?}");
        accept(&second, &block(scene, &long, 2)?)?;
        wait_head(&second, 4)
    })
}

#[test]
fn what_follows_an_invalid_block_is_refused_with_it() -> Result<()> {
    scenario(|scene| {
        let Branches { short, long } = Branches::generate()?;
        let (coordinator, shard) = start_with_shard(scene, &short)?;
        submit(scene, &coordinator, &block(scene, &long, 1)?)?;
        drop(shard);
        coordinator.wait_status(within(20), "no shard is left", |status| status.shards.is_empty())?;
        let mut file = ChainFile::read(&long.rlp())?;
        file.flip(1, HeaderField::ReceiptsRoot)?;
        let bad = scene.write("bad.rlp", file.bytes(1..2))?;
        let hash = accept_for_hash(&coordinator, &bad)?;
        let mut file = ChainFile::read(&long.rlp())?;
        file.set(2, HeaderField::ParentHash, &hash)?;
        let child = scene.write("child.rlp", file.bytes(2..3))?;
        accept(&coordinator, &child)?;
        ensure!(coordinator.status()?.accepted == 2, "{:?}", coordinator.status()?);
        let _shard = Shard::start(scene, 2, &coordinator.url(), &[])?;
        coordinator
            .wait_status(within(30), "nothing waits", |status| status.accepted == 0 && status.parked == 0)?;
        ensure!(coordinator.status()?.head == 1, "{:?}", coordinator.status()?);
        let row = submit(scene, &coordinator, &child)?;
        ensure!(row["error"].as_str().is_some_and(|error| error.contains("which was refused")), "{row}");
        Ok(())
    })
}

/// Has a block journaled. Returns its hash.
fn accept_for_hash(coordinator: &Coordinator, file: &std::path::Path) -> Result<String> {
    let said = coordinator.ask(&["submit", "--no-wait", "--json"], &[file.to_str().context("not UTF-8")?])?;
    // The row of the block comes first, the summary last.
    let row: serde_json::Value = serde_json::from_str(said.lines().next().context("no row")?)?;
    row.get("hash").and_then(|hash| hash.as_str()).map(str::to_owned).context("no hash")
}
