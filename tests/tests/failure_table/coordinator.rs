//! The rows about the coordinator itself, its clients, its disk, and a fleet without shards.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use shard_tests::{
    Chain, ChainFile, Coordinator, HeaderField, Measured, Moment, Process, Report, Scene, Shard, Signal,
    Size, scenario, submit_to, within,
};

use super::{Play, large};

/// The most blocks of one client that are accepted and have not ended.
const PLACES: usize = 48;

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("the path is not UTF-8")
}

#[test]
fn a_coordinator_that_died_goes_on_where_it_was() -> Result<()> {
    scenario(|scene| {
        let data = scene.path("data");
        let mut play = Play::with_shards(scene, &["--data-dir", text(&data)?], 3)?;
        let mut client = play.in_a_block(scene, 2)?;
        let since = play.coordinator.process.strike()?;
        let mut noticed = since;
        for shard in &play.shards {
            noticed =
                noticed.max(shard.process.wait_told(within(10), since, &["waiting for the coordinator"])?);
        }
        client.exit_code(within(15))?;
        let answered = Report::parse(&client.stdout()?)?.committed() as u64;
        play.coordinator.process.wait(within(10))?;
        let address = play.coordinator.address.clone();
        play.coordinator =
            Coordinator::start_telling(scene, &play.chain, &address, &["--data-dir", text(&data)?])?;
        let head = play.coordinator.status()?.head;
        ensure!(head == answered || head == answered + 1, "{answered} were acknowledged, the head is {head}");
        let mut client = play.coordinator.begin_submit(scene, &play.chain)?;
        let done = play.next_block(since)?;
        play.coordinator.check_submitted(&play.chain, &mut client)?;
        play.coordinator.wait_ready(&[1, 2, 3])?;
        Measured::since(since, 120, "coordinator dies", "SIGKILL in the middle of a block; started again at its address with its `--data-dir`, the client submits again")
            .noticed("the shards' heartbeats fail: all wait and register again", noticed)
            .finished(done)
            .record()
    })
}

#[test]
fn the_second_of_two_coordinators_is_refused() -> Result<()> {
    scenario(|scene| {
        let data = scene.path("data");
        let more = ["--data-dir", text(&data)?];
        let play = Play::with_shards(scene, &more, 1)?;
        let since = Moment::now()?;
        let file = scene.path("second.address");
        let mut second = Coordinator::spawn(scene, &play.chain, "127.0.0.1:0", &file, &more)?;
        let code = second.exit_code(within(15))?;
        let noticed = Moment::now()?;
        ensure!(code == 1, "the second coordinator ended with {code}");
        ensure!(second.stderr()?.contains("in use"), "unclear: {}", second.stderr()?);
        play.coordinator.submit_all(scene, &play.chain)?;
        Measured::since(since, 130, "two coordinators", "a second one is started on the same `--data-dir`")
            .noticed("the lock on the database: it ends with 1", noticed)
            .record()
    })
}

/// Kills both shards in the middle of a block. Returns the client, the time of the kills, and the time
/// when the last shard was lost.
fn strand(scene: &Scene, more: &[&str]) -> Result<(Play, Process, Moment, Moment)> {
    let mut play = Play::with_shards(scene, more, 2)?;
    let client = play.in_a_block(scene, 2)?;
    let since = Moment::now()?;
    for shard in &mut play.shards {
        shard.process.strike()?;
    }
    let mut lost = since;
    for shard in [1, 2] {
        lost = lost.max(play.wait_told(since, &[&format!("event=shard_lost shard={shard}")])?);
    }
    Ok((play, client, since, lost))
}

/// Checks that the client learns that there is no shard, and that a new shard continues the chain.
fn refused(scene: &Scene, play: &Play, client: &mut Process) -> Result<Moment> {
    let code = client.exit_code(within(30))?;
    let done = Moment::now()?;
    let said = client.stderr()?;
    ensure!(code == 1 && said.contains("no shard"), "{code}: {said}");
    let _shard = Shard::start(scene, 3, &play.coordinator.url(), &[])?;
    play.coordinator.wait_ready(&[3])?;
    play.coordinator.submit_all(scene, &play.chain)?;
    Ok(done)
}

#[test]
fn without_shards_a_block_waits_up_to_the_limit() -> Result<()> {
    scenario(|scene| {
        let (play, mut client, since, lost) = strand(scene, &["--no-shard-wait", "1"])?;
        let done = refused(scene, &play, &mut client)?;
        Measured::since(
            since,
            140,
            "no shard left, `wait`",
            "SIGKILL of all shards in the middle of a block, `--no-shard-wait 1`",
        )
        .noticed("the last `shard_lost`", lost)
        .finished(done)
        .record()
    })
}

#[test]
fn without_shards_the_coordinator_executes_a_block_itself_when_it_may() -> Result<()> {
    scenario(|scene| {
        let more = ["--when-no-shards", "local", "--no-shard-wait", "1"];
        let (play, mut client, since, lost) = strand(scene, &more)?;
        let done = play.next_block(since)?;
        play.coordinator.check_submitted(&play.chain, &mut client)?;
        let alarm = play.coordinator.process.told(since, &["executed by the coordinator", "event=alarm"])?;
        ensure!(alarm.is_some(), "nothing is said of it");
        Measured::since(since, 141, "no shard left, `local`", "the same")
            .noticed("the last `shard_lost`", lost)
            .finished(done)
            .record()
    })
}

#[test]
fn without_shards_a_block_fails_at_once_when_it_is_to() -> Result<()> {
    scenario(|scene| {
        let (play, mut client, since, lost) = strand(scene, &["--when-no-shards", "fail"])?;
        let done = refused(scene, &play, &mut client)?;
        Measured::since(since, 142, "no shard left, `fail`", "SIGKILL of all shards in the middle of a block")
            .noticed("the last `shard_lost`", lost)
            .finished(done)
            .record()
    })
}

#[test]
fn blocks_beyond_the_queue_are_turned_away() -> Result<()> {
    scenario(|scene| {
        let chain = Chain::sized(Size { blocks: PLACES + 4, txs: 1, gas: 60 })?;
        let coordinator = Coordinator::start(scene, &chain, &[])?;
        let since = Moment::now()?;
        let file = chain.rlp();
        let said = match coordinator.ask(&["submit", "--no-wait", "--retry-for", "1"], &[text(&file)?]) {
            Err(error) => format!("{error:#}"),
            Ok(_) => bail!("more blocks were accepted than there are places for"),
        };
        let noticed = Moment::now()?;
        ensure!(said.contains("block 49") && said.contains("are of this client"), "{said}");
        ensure!(coordinator.status()?.accepted == PLACES as u64, "{:?}", coordinator.status()?);
        let _shard = Shard::start(scene, 1, &coordinator.url(), &[])?;
        coordinator.wait_status(within(60), "what was accepted is committed", |status| {
            status.head == PLACES as u64 && status.accepted == 0
        })?;
        let done = Moment::now()?;
        coordinator.submit_all(scene, &chain)?;
        Measured::since(
            since,
            150,
            "overload",
            "52 blocks are submitted at once (`--no-wait`) while there is no shard; then one joins",
        )
        .noticed(
            "the client has its share of the queue: `RESOURCE_EXHAUSTED`; the client gives up after `--retry-for`, here 1 s",
            noticed,
        )
        .finished(done)
        .record()
    })
}

#[test]
fn accepted_blocks_outlive_the_coordinator() -> Result<()> {
    scenario(|scene| {
        let data = scene.path("data");
        let more = ["--data-dir", text(&data)?];
        let chain = Chain::sized(large())?;
        let mut first = Coordinator::start(scene, &chain, &more)?;
        let _shards = Shard::start_all(scene, 3, &first.url())?;
        first.wait_ready(&[1, 2, 3])?;
        first.accept_all(&chain)?;
        let since = first.process.strike()?;
        first.process.wait(within(10))?;
        let next = Coordinator::start_telling(scene, &chain, &first.address, &more)?;
        let noticed = next.process.wait_told(within(10), since, &["blocks that were accepted before"])?;
        next.wait_status(within(60), "every accepted block is committed", |status| {
            status.head == large().blocks as u64 && status.accepted == 0
        })?;
        let done = Moment::now()?;
        next.submit_all(scene, &chain)?;
        Measured::since(
            since,
            125,
            "coordinator dies with accepted blocks",
            "SIGKILL after 8 blocks were accepted (`--no-wait`); started again, no client submits",
        )
        .noticed("its journal: it goes on with them", noticed)
        .finished(done)
        .record()
    })
}

#[test]
fn a_coordinator_that_hangs_is_replaced() -> Result<()> {
    scenario(|scene| {
        let data = scene.path("data");
        let more = ["--data-dir", text(&data)?];
        let mut play = Play::with_shards(scene, &more, 2)?;
        let mut client = play.in_a_block(scene, 2)?;
        let since = Moment::now()?;
        play.coordinator.process.signal(Signal::Stop)?;
        let more = [&more[..], &["--take-over", "--take-over-grace", "1"]].concat();
        let next = Coordinator::start_telling(scene, &play.chain, "127.0.0.1:0", &more)?;
        let noticed = next.process.told(since, &["it was ended"])?.context("it does not say so")?;
        let status = play.coordinator.process.wait(within(10))?;
        ensure!(status.code().is_none(), "the holder ended by itself: {status}");
        client.exit_code(within(15))?;
        // The shards knew only the former coordinator's address.
        let shards = Shard::start_all(scene, 2, &next.url())?;
        next.wait_ready(&[1, 2])?;
        let mut client = next.begin_submit(scene, &play.chain)?;
        let done = next.process.wait_told(within(60), since, &["event=block_committed"])?;
        next.check_submitted(&play.chain, &mut client)?;
        drop(shards);
        Measured::since(
            since,
            135,
            "coordinator hangs",
            "SIGSTOP in the middle of a block; another one is started with `--take-over --take-over-grace 1` and shards of its own",
        )
        .noticed("it does not step down: it is ended", noticed)
        .finished(done)
        .record()
    })
}

#[test]
fn a_disk_that_is_full_stops_the_coordinator_and_damages_nothing() -> Result<()> {
    scenario(|scene| {
        let chain = Chain::sized(large())?;
        let data = scene.path("data");
        let more = ["--data-dir", text(&data)?];
        // Measures the size of a new ledger, so that the limit can be a little above it.
        drop(Coordinator::start(scene, &chain, &more)?);
        let size = largest_file(&data)?;
        let mut coordinator = Coordinator::start_limited(scene, &chain, &more, size / 512 + 64)?;
        let _shard = Shard::start(scene, 1, &coordinator.url(), &[])?;
        coordinator.wait_ready(&[1])?;
        let since = Moment::now()?;
        let mut client = coordinator.begin_submit(scene, &chain)?;
        let code = coordinator.process.exit_code(within(60))?;
        let noticed = Moment::now()?;
        let said = coordinator.process.stderr()?;
        ensure!(code == 1 && said.contains("the ledger fails"), "{code}: {said}");
        ensure!(client.exit_code(within(15))? == 1, "the client was not told");
        let answered = Report::parse(&client.stdout()?)?.committed() as u64;
        let again = Coordinator::start_at(scene, &chain, &coordinator.address, &more)?;
        let head = again.status()?.head;
        let done = Moment::now()?;
        ensure!(head == answered, "{answered} were acknowledged, the head is {head}");
        again.wait_ready(&[1])?;
        again.submit_all(scene, &chain)?;
        Measured::since(
            since,
            180,
            "disk full, I/O error",
            "`ulimit -f` just above the ledger's size; from the submission on",
        )
        .noticed("a commit fails: nothing is acknowledged, the process ends with 1", noticed)
        .finished(done)
        .record()
    })
}

fn largest_file(folder: &Path) -> Result<u64> {
    let mut largest = 0;
    for entry in fs::read_dir(folder)? {
        largest = largest.max(entry?.metadata()?.len());
    }
    Ok(largest)
}

#[test]
fn malformed_input_changes_nothing() -> Result<()> {
    scenario(|scene| {
        let chain = Chain::sized(large())?;
        let coordinator = Coordinator::start(scene, &chain, &[])?;
        let _shard = Shard::start(scene, 1, &coordinator.url(), &[])?;
        coordinator.wait_ready(&[1])?;
        let mut file = ChainFile::read(&chain.rlp())?;
        file.flip(0, HeaderField::TransactionsRoot)?;
        let broken = scene.write("broken.rlp", file.bytes(0..1))?;
        let since = Moment::now()?;
        let mut client = submit_to(scene, &coordinator.url(), &broken)?;
        let code = client.exit_code(within(15))?;
        let noticed = Moment::now()?;
        let said = client.stderr()?;
        ensure!(code == 1 && said.contains("block 1") && said.contains("transactionsRoot"), "{code}: {said}");
        ensure!(coordinator.status()?.head == 0, "the head has moved");
        coordinator.submit_all(scene, &chain)?;
        Measured::since(since, 190, "malformed input", "a block whose body is another one's is submitted")
            .noticed("decoding, roots: the client is told which field", noticed)
            .record()
    })
}
