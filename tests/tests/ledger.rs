//! The ledger of a data directory: import, export, unwind, and other users of the directory.
//!
//! | scenario | fault | expectation |
//! |---|---|---|
//! | generate, import, export in three ways | – | same bytes, same head; again: all blocks known |
//! | an imported directory | `serve` resumes it | the rest of the chain is taken, no block runs twice |
//! | import | SIGKILL at 20 random reports, import again | same head and root; no loss, no repetition |
//! | import | SIGTERM | exits 3, every reported block is known, another import goes on |
//! | import | a further shard joins | it takes part; `status` shows it; clients are rejected |
//! | a chain with one wrong block | a root, gas, a signature | file, block, reason; head unchanged |
//! | the genesis of another chain | – | rejected, the directory is unchanged |
//! | a directory in use | import, export, unwind | rejected, the owner goes on |
//! | export of a range; unwind, import again | absent ranges | these blocks' bytes; the same head |

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use shard_tests::{
    Binary, Chain, ChainFile, Coordinator, Ended, HeaderField, Process, Report, Scene, Shard, Signal,
    scenario, submit_to, wait_until, within,
};

/// The number of blocks of the chain. Tests that run at the same time share it.
const BLOCKS: usize = 160;

/// Runs the shards inside the process, which starts fastest.
const IN_PROCESS: &[&str] = &["--in-process"];

/// The head of a chain.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Head {
    number: u64,
    hash: String,
    root: String,
}

impl Head {
    fn of(summary: &Value) -> Result<Self> {
        let text = |field: &str| summary[field].as_str().map(str::to_owned).context("no such text");
        let number = summary["head"].as_u64().context("no head")?;
        Ok(Self { number, hash: text("hash")?, root: text("state_root")? })
    }
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("the path is not UTF-8")
}

fn command(scene: &Scene, line: &[&str]) -> Result<Ended> {
    let name = line.first().copied().unwrap_or_default();
    let mut process = Process::start(scene, name, Binary::of(line), line)?;
    process.ended(within(120))
}

/// Starts `coordinator import --json`.
fn begin(scene: &Scene, genesis: &Path, file: &Path, data: &Path, flags: &[&str]) -> Result<Process> {
    let line =
        ["import", "--json", "--exit-with-parent", "--genesis", text(genesis)?, "--data-dir", text(data)?];
    let line = [&line, flags, &[text(file)?]].concat();
    Process::start(scene, "import", Binary::of(&line), line)
}

fn import(scene: &Scene, chain: &Chain, file: &Path, data: &Path, flags: &[&str]) -> Result<Ended> {
    let mut process = begin(scene, &chain.genesis(), file, data, flags)?;
    process.ended(within(120))
}

fn export(scene: &Scene, data: &Path, flags: &[&str]) -> Result<Vec<u8>> {
    let out = scene.path(&scene.fresh_name("export.rlp"));
    let line = [&["export", "--data-dir", text(data)?, "--out", text(&out)?], flags].concat();
    command(scene, &line)?.succeeded("export")?;
    Ok(std::fs::read(out)?)
}

/// The head after an undisturbed import of the whole chain.
fn undisturbed(scene: &Scene, chain: &Chain) -> Result<Head> {
    let data = scene.path(&scene.fresh_name("undisturbed"));
    let end = import(scene, chain, &chain.rlp(), &data, IN_PROCESS)?.succeeded("import")?;
    Head::of(&end.summary()?)
}

/// A file with the first blocks of a chain.
fn first_blocks(scene: &Scene, chain: &Chain, count: usize) -> Result<PathBuf> {
    let bytes = ChainFile::read(&chain.rlp())?.bytes(0..count);
    scene.write(&scene.fresh_name("first.rlp"), bytes)
}

#[test]
fn a_chain_is_exported_as_it_was_imported() -> Result<()> {
    scenario(|scene| {
        let chain = Chain::of(BLOCKS)?;
        let file = std::fs::read(chain.rlp())?;
        let mut heads = Vec::new();
        for flags in [IN_PROCESS, &["--shards", "2"], &["--sequential"]] {
            let data = scene.path(&scene.fresh_name("data"));
            let end = import(scene, &chain, &chain.rlp(), &data, flags)?.succeeded("import")?;
            let summary = end.summary()?;
            ensure!(summary["imported"] == BLOCKS && summary["known"] == 0, "{summary}");
            ensure!(end.report()?.rows.len() == BLOCKS, "not every block was reported");
            ensure!(end.said.is_empty(), "a pipe gets no progress bar: {}", end.said);
            heads.push(Head::of(&summary)?);
            ensure!(export(scene, &data, &[])? == file, "other bytes were exported ({flags:?})");
            let again = import(scene, &chain, &chain.rlp(), &data, flags)?.succeeded("import again")?;
            let summary = again.summary()?;
            ensure!(summary["imported"] == 0 && summary["known"] == BLOCKS, "{summary}");
            heads.push(Head::of(&summary)?);
        }
        ensure!(heads.iter().all(|head| Some(head) == heads.first()), "{heads:?}");
        Ok(())
    })
}

#[test]
fn a_service_goes_on_with_an_imported_directory() -> Result<()> {
    scenario(|scene| {
        let chain = Chain::of(BLOCKS)?;
        let data = scene.path("data");
        let half = BLOCKS / 2;
        import(scene, &chain, &first_blocks(scene, &chain, half)?, &data, IN_PROCESS)?.succeeded("import")?;
        let mut coordinator = Coordinator::start(scene, &chain, &["--data-dir", text(&data)?])?;
        ensure!(coordinator.status()?.head == half as u64, "the head is {}", coordinator.status()?.head);
        let _shards = Shard::start_all(scene, 2, &coordinator.url())?;
        coordinator.wait_ready(&[1, 2])?;
        coordinator.submit_all(scene, &chain)?;
        coordinator.process.signal(Signal::Term)?;
        coordinator.process.exit_code(within(15))?;
        let end = import(scene, &chain, &chain.rlp(), &data, IN_PROCESS)?.succeeded("import")?;
        ensure!(end.summary()?["known"] == BLOCKS, "{}", end.summary()?);
        ensure!(Head::of(&end.summary()?)? == undisturbed(scene, &chain)?, "another head");
        Ok(())
    })
}

/// A small random generator: the kills are random, and the same in each run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides + 1
    }
}

#[test]
fn an_import_that_is_killed_twenty_times_loses_nothing() -> Result<()> {
    scenario(|scene| {
        // Each try may make two groups of eight blocks durable before it is killed.
        const LONG: usize = 400;
        let chain = Chain::of(LONG)?;
        let data = scene.path("data");
        let mut dice = Dice(7);
        // The newest reported block. It and all earlier blocks must stay.
        let mut reported = 0;
        for round in 0..20 {
            let flags: &[&str] = if round % 5 == 4 { &["--shards", "2"] } else { IN_PROCESS };
            let wanted = usize::try_from(dice.roll(3))?;
            let mut process = begin(scene, &chain.genesis(), &chain.rlp(), &data, flags)?;
            wait_until(within(60), "blocks are reported", || {
                if let Some(status) = process.exited()? {
                    bail!("round {round}: import ended with {status}: {}", process.stderr()?);
                }
                Ok(Report::parse(&process.stdout()?)?.rows.len() >= wanted)
            })?;
            process.kill()?;
            let rows = Report::parse(&process.stdout()?)?.rows;
            let numbers: Vec<u64> = rows.iter().filter_map(|row| row["number"].as_u64()).collect();
            let first = *numbers.first().context("nothing was reported")?;
            ensure!(first > reported, "round {round}: block {first} was reported before, up to {reported}");
            ensure!(
                numbers.iter().copied().eq(first..first + numbers.len() as u64),
                "round {round}: reported out of order: {numbers:?}"
            );
            reported = first + numbers.len() as u64 - 1;
        }
        ensure!(reported < LONG as u64, "the chain is too short for this test");
        let end = import(scene, &chain, &chain.rlp(), &data, IN_PROCESS)?.succeeded("the last import")?;
        let summary = end.summary()?;
        let (known, imported) = (summary["known"].as_u64(), summary["imported"].as_u64());
        ensure!(known >= Some(reported), "{reported} were reported, {known:?} are known");
        ensure!(
            known.zip(imported).map(|(known, imported)| known + imported) == Some(LONG as u64),
            "{summary}"
        );
        ensure!(Head::of(&summary)? == undisturbed(scene, &chain)?, "another head: {summary}");
        ensure!(export(scene, &data, &[])? == std::fs::read(chain.rlp())?, "other bytes are exported");
        Ok(())
    })
}

#[test]
fn an_import_that_is_asked_to_stop_goes_on_later() -> Result<()> {
    scenario(|scene| {
        let chain = Chain::of(BLOCKS)?;
        let data = scene.path("data");
        let mut process = begin(scene, &chain.genesis(), &chain.rlp(), &data, &["--shards", "1"])?;
        wait_until(within(60), "blocks are reported", || {
            Ok(Report::parse(&process.stdout()?)?.rows.len() >= 3)
        })?;
        process.signal(Signal::Term)?;
        let code = process.exit_code(within(40))?;
        ensure!(code == 3, "it ended with {code}: {}", process.stderr()?);
        ensure!(process.stderr()?.contains("stopped before"), "{}", process.stderr()?);
        let report = Report::parse(&process.stdout()?)?;
        let summary = report.summary.clone().context("no summary")?;
        ensure!(summary["head"] == report.rows.len(), "executed and not made durable: {summary}");
        let end = import(scene, &chain, &chain.rlp(), &data, IN_PROCESS)?.succeeded("import")?;
        ensure!(end.summary()?["known"] == report.rows.len(), "{}", end.summary()?);
        Ok(())
    })
}

#[test]
fn a_shard_that_joins_an_import_takes_part() -> Result<()> {
    scenario(|scene| {
        let chain = Chain::of(BLOCKS)?;
        let (data, address) = (scene.path("data"), scene.path("import.address"));
        let flags =
            ["--shards", "1", "--plan", "each", "--listen", "127.0.0.1:0", "--address-file", text(&address)?];
        let process = begin(scene, &chain.genesis(), &chain.rlp(), &data, &flags)?;
        wait_until(within(30), "blocks are reported", || {
            Ok(!Report::parse(&process.stdout()?)?.rows.is_empty())
        })?;
        let bound = std::fs::read_to_string(&address)?.trim().to_owned();
        let coordinator = Coordinator { process, address: bound };
        let _shard = Shard::start(scene, 9, &coordinator.url(), &[])?;
        coordinator.wait_status(within(60), "results of the new shard are used", |status| {
            status.shard(9).is_some_and(|shard| shard.results > 0)
        })?;
        let mut client = submit_to(scene, &coordinator.url(), &chain.rlp())?;
        let code = client.exit_code(within(30))?;
        ensure!(code == 1 && client.stderr()?.contains("imports blocks from files"), "{}", client.stderr()?);
        Ok(())
    })
}

/// A chain file whose block at `place` has a bad transaction and a matching root. The program under
/// test provides the root.
fn with_bad_transaction(scene: &Scene, chain: &Chain, data: &Path, place: usize) -> Result<PathBuf> {
    let mut file = ChainFile::read(&chain.rlp())?;
    file.flip_last_signature(place)?;
    let path = scene.write("signature.rlp", file.bytes(0..file.len()))?;
    let said = import(scene, chain, &path, data, IN_PROCESS)?.said;
    let (_, root) = said.split_once("the content gives ").with_context(|| format!("no root: {said}"))?;
    file.set(place, HeaderField::TransactionsRoot, root.get(..66).context("no hash")?)?;
    scene.write("signature.rlp", file.bytes(0..file.len()))
}

#[test]
fn a_refused_block_changes_nothing() -> Result<()> {
    scenario(|scene| {
        let chain = Chain::of(BLOCKS)?;
        let data = scene.path("data");
        let place = 20;
        let before = import(scene, &chain, &first_blocks(scene, &chain, place)?, &data, IN_PROCESS)?;
        let before = Head::of(&before.succeeded("import")?.summary()?)?;
        let exported = export(scene, &data, &[])?;
        let mut cases = vec![(with_bad_transaction(scene, &chain, &data, place)?, "transaction ")];
        for (field, name) in [
            (HeaderField::ReceiptsRoot, "receiptsRoot"),
            (HeaderField::StateRoot, "stateRoot"),
            (HeaderField::GasUsed, "gasUsed"),
            (HeaderField::TransactionsRoot, "transactionsRoot"),
        ] {
            let mut file = ChainFile::read(&chain.rlp())?;
            file.flip(place, field)?;
            cases.push((scene.write(&format!("{name}.rlp"), file.bytes(0..file.len()))?, name));
        }
        for (file, reason) in &cases {
            for flags in [IN_PROCESS, &["--sequential"]] {
                let end = import(scene, &chain, file, &data, flags)?;
                let words = [text(file)?, &format!("block {}", place + 1), reason];
                end.refused(&words).with_context(|| format!("{} {flags:?}", file.display()))?;
                let summary = end.summary()?;
                ensure!(Head::of(&summary)? == before, "the head has moved: {summary}");
                ensure!(summary["imported"] == 0 && summary["known"] == place, "{summary}");
                ensure!(summary["error"].is_string(), "{summary}");
            }
        }
        ensure!(export(scene, &data, &[])? == exported, "the chain has changed");
        let end = import(scene, &chain, &chain.rlp(), &data, IN_PROCESS)?.succeeded("the right file")?;
        ensure!(Head::of(&end.summary()?)? == undisturbed(scene, &chain)?, "{}", end.summary()?);
        Ok(())
    })
}

#[test]
fn another_chain_is_kept_out_of_a_directory() -> Result<()> {
    scenario(|scene| {
        let chain = Chain::of(BLOCKS)?;
        let (data, other) = (scene.path("data"), scene.path("other"));
        import(scene, &chain, &first_blocks(scene, &chain, 5)?, &data, IN_PROCESS)?.succeeded("import")?;
        let before = std::fs::read(data.join("ledger.redb"))?;
        command(scene, &["generate", "--blocks", "2", "--txs", "5", "--seed", "99", "--out", text(&other)?])?
            .succeeded("generate")?;
        let (genesis, file) = (other.join("genesis.json"), other.join("chain.rlp"));
        let mut process = begin(scene, &genesis, &file, &data, IN_PROCESS)?;
        let end = process.ended(within(30))?;
        end.refused(&["holds another chain", text(&data)?])?;
        ensure!(std::fs::read(data.join("ledger.redb"))? == before, "the directory has changed");
        // The blocks of another chain, with the right genesis.
        let end = import(scene, &chain, &file, &data, IN_PROCESS)?;
        end.refused(&[text(&file)?, "block 1", "parent"])
    })
}

#[test]
fn a_directory_that_is_in_use_is_refused() -> Result<()> {
    scenario(|scene| {
        let chain = Chain::of(BLOCKS)?;
        let data = scene.path("data");
        import(scene, &chain, &first_blocks(scene, &chain, 5)?, &data, IN_PROCESS)?.succeeded("import")?;
        let coordinator = Coordinator::start(scene, &chain, &["--data-dir", text(&data)?])?;
        let folder = text(&data)?;
        let words = [folder, "is in use by another coordinator"];
        import(scene, &chain, &chain.rlp(), &data, IN_PROCESS)?.refused(&words)?;
        command(scene, &["export", "--data-dir", folder])?.refused(&words)?;
        command(scene, &["unwind", "--data-dir", folder, "--to", "2"])?.refused(&words)?;
        ensure!(coordinator.status()?.head == 5, "the owner's head is {}", coordinator.status()?.head);
        Ok(())
    })
}

#[test]
fn blocks_that_are_unwound_can_be_imported_again() -> Result<()> {
    scenario(|scene| {
        let chain = Chain::of(BLOCKS)?;
        let data = scene.path("data");
        let folder = text(&data)?;
        let file = first_blocks(scene, &chain, 30)?;
        let whole = import(scene, &chain, &file, &data, IN_PROCESS)?.succeeded("import")?;
        let blocks = ChainFile::read(&chain.rlp())?;
        ensure!(export(scene, &data, &["--from", "7", "--to", "9"])? == blocks.bytes(6..9), "other blocks");
        // They can also be imported with the genesis block before them, as geth writes them.
        let with_genesis = scene.write("with-genesis.rlp", export(scene, &data, &["--from", "0"])?)?;
        let none = scene.path("none.rlp");
        for (range, message) in [
            (["--from", "9", "--to", "8"], "no block from 9 to 8"),
            (["--from", "1", "--to", "31"], "--to 31"),
        ] {
            let line = [&["export", "--data-dir", folder, "--out", text(&none)?][..], &range];
            command(scene, &line.concat())?.refused(&[message])?;
        }
        ensure!(!none.exists(), "a file was left behind");
        let end = command(scene, &["unwind", "--data-dir", folder, "--to", "11"])?.succeeded("unwind")?;
        ensure!(end.out.starts_with("head 11 0x"), "{}", end.out);
        ensure!(export(scene, &data, &[])? == blocks.bytes(0..11), "the chain does not end with block 11");
        let end = import(scene, &chain, &with_genesis, &data, IN_PROCESS)?.succeeded("import")?;
        let summary = end.summary()?;
        ensure!(summary["known"] == 11 && summary["imported"] == 19, "{summary}");
        ensure!(Head::of(&summary)? == Head::of(&whole.summary()?)?, "another head");
        command(scene, &["unwind", "--data-dir", folder, "--to", "0"])?.succeeded("unwind")?;
        ensure!(export(scene, &data, &[])?.is_empty(), "blocks are left");
        command(scene, &["unwind", "--data-dir", folder, "--to", "5"])?.refused(&["--to 5"])?;
        Ok(())
    })
}
