//! A data directory with flipped bits: damage is reported as damage, not as an invalid block.
//!
//! | scenario | fault | expectation |
//! |---|---|---|
//! | `verify` of an unchanged directory | – | sound, exit code 0 |
//! | `verify`, `import` (3 ways), `serve` | a bit of some balances | exits 1, names the damage; same head |
//! | `verify`, `export` | a bit of a block's bytes | exit code 1, the block is named, no file is written |
//! | a block is submitted, no shard joins | – | standard error states that a shard is missing |

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use shard_tests::{
    Binary, Chain, ChainFile, Coordinator, Ended, Process, Scene, Shard, scenario, wait_until, within,
};

/// The number of blocks of the chain, and the number that are imported before the damage.
const BLOCKS: usize = 12;
const BEFORE: usize = 6;

/// The offset of the balance in a stored account, in bytes: after the address and the nonce.
const BALANCE: usize = 20 + 8;

/// The offset of the code's hash, in bytes.
const CODE_HASH: usize = BALANCE + 32;

/// The hash of empty code.
const NO_CODE: &str = "c5d2460186f7233c927e7db2dcc703c0e500b653ca82273b7bfad8045d85a470";

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("the path is not UTF-8")
}

fn command(scene: &Scene, line: &[&str]) -> Result<Ended> {
    let name = line.first().copied().unwrap_or_default();
    let mut process = Process::start(scene, name, Binary::of(line), line)?;
    process.ended(within(60))
}

fn import(scene: &Scene, chain: &Chain, file: &Path, data: &Path, flags: &[&str]) -> Result<Ended> {
    let (genesis, file) = (chain.genesis(), text(file)?.to_owned());
    let line = ["import", "--json", "--genesis", text(&genesis)?, "--data-dir", text(data)?, &file];
    command(scene, &[&line, flags].concat())
}

fn verify(scene: &Scene, data: &Path) -> Result<(Ended, Value)> {
    let end = command(scene, &["verify", "--json", "--data-dir", text(data)?])?;
    let report = serde_json::from_str(&end.out).with_context(|| format!("{}: {}", end.code, end.said))?;
    Ok((end, report))
}

/// A directory with the first blocks of a chain.
fn imported(scene: &Scene) -> Result<(Arc<Chain>, PathBuf)> {
    let chain = Chain::of(BLOCKS)?;
    let data = scene.path("data");
    let first = scene.write("first.rlp", ChainFile::read(&chain.rlp())?.bytes(0..BEFORE))?;
    let end = import(scene, &chain, &first, &data, &["--in-process"])?;
    ensure!(end.code == 0, "import ended with {}: {}", end.code, end.said);
    Ok((chain, data))
}

/// Flips a bit `offset` bytes after each place where the file has `bytes`. If `tail` is not empty, only
/// where it follows as the code's hash of an account at that place. Returns the number of flips.
fn flip(data: &Path, bytes: &[u8], offset: usize, tail: &[u8]) -> Result<usize> {
    let path = data.join("ledger.redb");
    let mut file = std::fs::read(&path)?;
    let followed = |place: usize| file.get(place + CODE_HASH..).is_some_and(|rest| rest.starts_with(tail));
    let places: Vec<usize> = file
        .windows(bytes.len())
        .enumerate()
        .filter(|(place, window)| *window == bytes && (tail.is_empty() || followed(*place)))
        .map(|(place, _)| place + offset)
        .collect();
    for place in &places {
        *file.get_mut(*place).context("behind the end")? ^= 1;
    }
    std::fs::write(path, file)?;
    Ok(places.len())
}

/// A copy of the directory, because a command that ends at damage may not close the database in order.
fn copied(scene: &Scene, data: &Path) -> Result<PathBuf> {
    let copy = scene.path(&scene.fresh_name("copy"));
    std::fs::create_dir(&copy)?;
    std::fs::copy(data.join("ledger.redb"), copy.join("ledger.redb"))?;
    Ok(copy)
}

fn from_hex(text: &str) -> Result<Vec<u8>> {
    let digits = text.trim_start_matches("0x");
    let byte = |at: usize| digits.get(at * 2..at * 2 + 2).context("an odd number of digits");
    (0..digits.len() / 2).map(|at| Ok(u8::from_str_radix(byte(at)?, 16)?)).collect()
}

/// Flips a bit in the balance of every funded account. Returns one of their addresses.
fn damage_balances(chain: &Chain, data: &Path) -> Result<String> {
    let genesis: Value = serde_json::from_slice(&std::fs::read(chain.genesis())?)?;
    let accounts = genesis.get("alloc").and_then(Value::as_object).context("no accounts")?;
    let funded = accounts.iter().filter(|(_, account)| account.get("code").is_none_or(Value::is_null));
    let (mut flipped, mut last) = (0, String::new());
    for (address, _) in funded.take(60) {
        // Nonce and balance lie between the address and the hash of empty code. Other occurrences of the
        // address are not followed by that hash.
        flipped += flip(data, &from_hex(address)?, BALANCE + 24, &from_hex(NO_CODE)?)?;
        last = address.trim_start_matches("0x").to_owned();
    }
    ensure!(flipped > 0, "no stored account was found");
    Ok(last)
}

#[test]
fn a_directory_as_it_was_written_is_sound() -> Result<()> {
    scenario(|scene| {
        let (_, data) = imported(scene)?;
        let (end, report) = verify(scene, &data)?;
        ensure!(end.code == 0 && report["sound"] == true, "{}: {report}", end.code);
        ensure!(report["checked"]["blocks"] == BEFORE && report["checked"]["journal"] == BEFORE, "{report}");
        let end = command(scene, &["verify", "--data-dir", text(&data)?])?;
        ensure!(
            end.code == 0 && end.out.ends_with("sound\n") && end.said.is_empty(),
            "{}{}",
            end.out,
            end.said
        );
        Ok(())
    })
}

#[test]
fn flipped_bits_of_balances_are_damage_and_the_next_block_is_not_blamed() -> Result<()> {
    scenario(|scene| {
        let (chain, data) = imported(scene)?;
        let address = damage_balances(&chain, &data)?;
        let (end, report) = verify(scene, &data)?;
        ensure!(end.code == 1 && report["sound"] == false, "{}: {report}", end.code);
        let findings = report["findings"].to_string().to_lowercase();
        ensure!(findings.contains("balance") && findings.contains(&address), "{address}: {findings}");
        for flags in [&["--sequential"][..], &["--in-process"], &["--shards", "2"]] {
            let copy = copied(scene, &data)?;
            let end = import(scene, &chain, &chain.rlp(), &copy, flags)?;
            ensure!(end.code == 1, "{flags:?}: it ended with {}: {}", end.code, end.said);
            ensure!(end.said.contains("the ledger is damaged"), "{flags:?}: {}", end.said);
            let summary = end.out.lines().last().unwrap_or_default();
            let summary: Value = serde_json::from_str(summary).context(end.said)?;
            ensure!(summary["head"] == BEFORE, "{flags:?}: the head has moved: {summary}");
        }
        let copy = copied(scene, &data)?;
        let mut coordinator = Coordinator::start(scene, &chain, &["--data-dir", text(&copy)?])?;
        let _shard = Shard::start(scene, 1, &coordinator.url(), &[])?;
        let code = coordinator.process.exit_code(within(30))?;
        let said = coordinator.process.stderr()?;
        ensure!(code == 1 && said.contains("the ledger is damaged"), "{code}: {said}");
        Ok(())
    })
}

#[test]
fn a_block_with_a_flipped_bit_is_not_exported() -> Result<()> {
    scenario(|scene| {
        let (chain, data) = imported(scene)?;
        let block = ChainFile::read(&chain.rlp())?.bytes(2..3);
        let middle = block.get(block.len() / 2..block.len() / 2 + 32).context("too short")?;
        ensure!(flip(&data, middle, 3, &[])? > 0, "the block was not found");
        let out = scene.path("out.rlp");
        let end = command(scene, &["export", "--data-dir", text(&data)?, "--out", text(&out)?])?;
        ensure!(end.code == 1 && end.said.contains("block 3"), "{}: {}", end.code, end.said);
        ensure!(!out.exists() && !out.with_extension("rlp.part").exists(), "a file was left behind");
        let (end, report) = verify(scene, &data)?;
        ensure!(end.code == 1, "{}: {report}", end.code);
        let places = report["findings"].as_array().context("no findings")?;
        ensure!(places.iter().any(|finding| finding["place"].to_string().contains("block 3")), "{report}");
        Ok(())
    })
}

#[test]
fn a_coordinator_that_waits_for_shards_says_so() -> Result<()> {
    scenario(|scene| {
        let chain = Chain::of(BLOCKS)?;
        let coordinator = Coordinator::start(scene, &chain, &[])?;
        coordinator.accept_all(&chain)?;
        wait_until(within(20), "it says what it waits for", || {
            Ok(coordinator.process.stderr()?.contains("0 of 1 are ready: no shard has joined"))
        })?;
        Ok(())
    })
}
