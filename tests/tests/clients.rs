//! Clients of a coordinator that serves: their errors, and the limits of the consequences.
//!
//! | scenario | fault | expectation |
//! |---|---|---|
//! | two clients submit one chain at once | – | both get every block verified |
//! | a client that submits | SIGKILL of the client | the coordinator goes on, and the next client resumes |
//! | a block that does not follow the head | – | rejected with number and parent, the head stays |
//! | a block with another one's header | a damaged body | rejected; the right block is still accepted |
//! | blocks in flight, worst plan | SIGKILL of a shard | every block verified |
//! | no coordinator | – | `submit` and `status` report it, with the address |
//! | a client that submits | SIGKILL of the coordinator, restart | it waits; every block verified |
//! | a client that submits | another coordinator takes the directory over | the same |
//! | a client that does not wait | SIGKILL of the coordinator | rows of answered blocks, and a summary |
//! | committed blocks | a restart | known, and not counted in the figures |

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use shard_tests::{
    Binary, Chain, Coordinator, Process, Report, Scene, Shard, scenario, submit_to, submit_with, wait_until,
    within,
};

/// The start of each block of a chain file, and the end of the last one.
fn bounds(bytes: &[u8]) -> Result<Vec<usize>> {
    let mut bounds = vec![0];
    let mut rest = bytes;
    while let Some((first, tail)) = rest.split_first() {
        // Blocks with transactions are lists of more than 55 bytes, so their length is encoded with a length.
        let width = usize::from(first.checked_sub(0xf7).context("not a long list")?);
        let (length, tail) = tail.split_at_checked(width).context("cut short")?;
        let length = length.iter().fold(0, |sum, byte| (sum << 8) | usize::from(*byte));
        rest = tail.get(length..).context("cut short")?;
        bounds.push(bytes.len() - rest.len());
    }
    Ok(bounds)
}

#[test]
fn two_clients_can_submit_one_chain_at_once() -> Result<()> {
    scenario(|scene| {
        let chain = Chain::of(40)?;
        let (coordinator, _shards) = Coordinator::with_shards(scene, &chain, &[], 2)?;
        let mut first = coordinator.begin_submit(scene, &chain)?;
        let mut second = coordinator.begin_submit(scene, &chain)?;
        coordinator.check_submitted(&chain, &mut first)?;
        coordinator.check_submitted(&chain, &mut second)?;
        Ok(())
    })
}

#[test]
fn a_client_that_dies_leaves_the_chain_to_the_next() -> Result<()> {
    scenario(|scene| {
        let chain = Chain::of(40)?;
        let (coordinator, _shards) = Coordinator::with_shards(scene, &chain, &[], 2)?;
        let mut client = coordinator.begin_and_wait(scene, &chain, 3)?;
        client.kill()?;
        let answered = Report::parse(&client.stdout()?)?.committed() as u64;
        ensure!(coordinator.status()?.head >= answered, "what was answered is not there");
        coordinator.submit_all(scene, &chain)?;
        Ok(())
    })
}

#[test]
fn a_block_whose_parent_is_missing_stays_accepted_until_the_parent_has_come() -> Result<()> {
    scenario(|scene| {
        let chain = Chain::of(8)?;
        let (coordinator, _shards) = Coordinator::with_shards(scene, &chain, &[], 2)?;
        let bytes = std::fs::read(chain.rlp())?;
        let bounds = bounds(&bytes)?;
        ensure!(bounds.len() == 9, "the chain has {} blocks", bounds.len() - 1);
        let later = scene.write("later.rlp", &bytes[bounds[4]..])?;
        let mut client = submit_to(scene, &coordinator.url(), &later)?;
        let code = client.exit_code(within(30))?;
        let said = client.stderr()?;
        ensure!(
            code == 1 && said.contains("of block 5") && said.contains("waits for its parent"),
            "{code}: {said}"
        );
        let report = Report::parse(&client.stdout()?)?;
        ensure!(report.total("unknown")? == 1 && report.total("verified")? == 0, "{:?}", report.summary);
        let status = coordinator.status()?;
        ensure!(status.head == 0 && status.accepted == 1, "{status:?}");
        coordinator.submit_all(scene, &chain)?;
        ensure!(coordinator.status()?.accepted == 0, "{:?}", coordinator.status()?);
        Ok(())
    })
}

#[test]
fn a_damaged_body_does_not_condemn_the_block_whose_header_it_has() -> Result<()> {
    scenario(|scene| {
        let chain = Chain::of(8)?;
        let (coordinator, _shards) = Coordinator::with_shards(scene, &chain, &[], 2)?;
        let bytes = std::fs::read(chain.rlp())?;
        let bounds = bounds(&bytes)?;
        let mut damaged = bytes;
        // The last bytes of a block are its lists of ommers and withdrawals; before them is the end of
        // the last transaction's signature.
        damaged[bounds[3] - 12] ^= 1;
        let damaged = scene.write("damaged.rlp", &damaged)?;
        let mut client = submit_to(scene, &coordinator.url(), &damaged)?;
        let code = client.exit_code(within(30))?;
        let said = client.stderr()?;
        ensure!(code == 1 && said.contains("damaged.rlp: block 3: "), "{code}: {said}");
        ensure!(said.contains("header field transactionsRoot is "), "{said}");
        let report = Report::parse(&client.stdout()?)?;
        ensure!((report.total("verified")?, report.total("failed")?) == (2, 1), "{:?}", report.summary);
        ensure!(coordinator.status()?.head == 2, "the head is elsewhere");
        coordinator.submit_all(scene, &chain)?;
        Ok(())
    })
}

#[test]
fn under_the_worst_plans_a_lost_shard_costs_nothing_either() -> Result<()> {
    scenario(|scene| {
        let chain = Chain::of(40)?;
        for plan in ["each", "random:1", "one"] {
            let (coordinator, mut shards) = Coordinator::with_shards(scene, &chain, &["--plan", plan], 2)?;
            let mut client = coordinator.begin_and_wait(scene, &chain, 3)?;
            shards[0].process.kill()?;
            coordinator.check_submitted(&chain, &mut client).with_context(|| format!("plan {plan}"))?;
        }
        Ok(())
    })
}

#[test]
fn an_absent_coordinator_is_named_to_its_clients() -> Result<()> {
    scenario(|scene| {
        let chain = Chain::of(8)?;
        let mut former = Coordinator::start(scene, &chain, &[])?;
        let (address, url) = (former.address.clone(), former.url());
        former.process.kill()?;
        let mut submit = submit_to(scene, &url, &chain.rlp())?;
        let mut status =
            Process::start(scene, "status", Binary::Coordinator, ["status", "--coordinator", &url])?;
        for client in [&mut submit, &mut status] {
            let code = client.exit_code(within(15))?;
            let said = client.stderr()?;
            ensure!(code == 1 && said.contains(&address), "{} ended with {code}: {said}", client.name());
            ensure!(client.stdout()?.is_empty(), "{} has printed something", client.name());
        }
        Ok(())
    })
}

/// Starts a coordinator with a data directory, its shards, and a client that submits.
fn durable(scene: &Scene, chain: &Chain) -> Result<(Coordinator, Vec<Shard>, Process, String)> {
    let data = scene.path("data").display().to_string();
    let (coordinator, shards) = Coordinator::with_shards(scene, chain, &["--data-dir", &data], 2)?;
    let client = submit_with(scene, &coordinator.url(), &chain.rlp(), &["--json"])?;
    wait_until(within(30), "the first blocks are answered", || {
        Ok(Report::parse(&client.stdout()?)?.rows.len() >= 3)
    })?;
    Ok((coordinator, shards, client, data))
}

#[test]
fn a_client_survives_the_death_and_restart_of_its_coordinator() -> Result<()> {
    scenario(|scene| {
        let chain = Chain::of(40)?;
        let (mut coordinator, _shards, mut client, data) = durable(scene, &chain)?;
        coordinator.process.kill()?;
        wait_until(within(20), "the client says that it waits", || {
            Ok(client.stderr()?.contains("waiting for the coordinator"))
        })?;
        let again = Coordinator::start_at(scene, &chain, &coordinator.address, &["--data-dir", &data])?;
        again.check_submitted(&chain, &mut client)?;
        ensure!(client.stderr()?.contains("answers again"), "{}", client.stderr()?);
        Ok(())
    })
}

#[test]
fn a_client_survives_a_take_over() -> Result<()> {
    scenario(|scene| {
        let chain = Chain::of(40)?;
        let (mut coordinator, _shards, mut client, data) = durable(scene, &chain)?;
        let more = ["--data-dir", data.as_str(), "--take-over"];
        let next = Coordinator::start_at(scene, &chain, &coordinator.address, &more)?;
        let code = coordinator.process.exit_code(within(15))?;
        ensure!(code == 0, "the holder ended with {code}");
        next.check_submitted(&chain, &mut client)?;
        Ok(())
    })
}

#[test]
fn what_a_client_does_not_know_is_unknown_and_what_it_was_answered_is_printed() -> Result<()> {
    scenario(|scene| {
        let chain = Chain::of(40)?;
        for json in [true, false] {
            let (mut coordinator, _shards) = Coordinator::with_shards(scene, &chain, &[], 2)?;
            let options = if json { &["--json", "--retry-for", "0"][..] } else { &["--retry-for", "0"] };
            let mut client = submit_with(scene, &coordinator.url(), &chain.rlp(), options)?;
            let begun = |client: &Process| Ok(client.stdout()?.lines().count() > 3);
            wait_until(within(30), "the first blocks are answered", || begun(&client))?;
            coordinator.process.kill()?;
            let (code, said) = (client.exit_code(within(15))?, client.stderr()?);
            ensure!(code == 1 && said.contains(": unknown: "), "{code}: {said}");
            ensure!(!said.contains("not committed"), "{said}");
            let printed = client.stdout()?;
            let last = printed.lines().last().context("it printed nothing")?;
            if !json {
                ensure!(last.contains(" 1 unknown"), "{last}");
                continue;
            }
            let report = Report::parse(&printed)?;
            let row = report.rows.last().context("there are no rows")?;
            ensure!(
                row["status"] == "unknown" && row["verified"] == false && row["hash"].is_string(),
                "{row}"
            );
            ensure!(report.total("unknown")? == 1 && report.total("failed")? == 0, "{last}");
            ensure!(report.total("verified")? == report.committed() as u64, "{last}");
        }
        Ok(())
    })
}

#[test]
fn blocks_that_are_known_are_shown_so_and_count_in_no_figure() -> Result<()> {
    scenario(|scene| {
        let chain = Chain::of(8)?;
        let data = scene.path("data").display().to_string();
        let (mut coordinator, _shards) = Coordinator::with_shards(scene, &chain, &["--data-dir", &data], 2)?;
        let first = coordinator.submit_all(scene, &chain)?;
        let again = coordinator.submit_all(scene, &chain)?;
        coordinator.process.kill()?;
        let next = Coordinator::start_at(scene, &chain, &coordinator.address, &["--data-dir", &data])?;
        let later = next.submit_all(scene, &chain)?;
        for row in &first.rows {
            let executed = row["execution_ms"].as_f64().zip(row["recovery_ms"].as_f64());
            ensure!(row["status"] == "verified" && row["known"] == false, "{row}");
            ensure!(executed.is_some_and(|(execution, recovery)| execution > 0.0 && recovery > 0.0), "{row}");
            ensure!(row["receipts_digest"].is_string() && row["delta_digest"].is_string(), "{row}");
        }
        for report in [&again, &later] {
            for row in &report.rows {
                ensure!(row["status"] == "known" && row["known"] == true, "{row}");
                ensure!(row["ms"] == 0.0 && row["mgas_per_s"] == 0.0, "{row}");
            }
            let summary = report.summary.as_ref().context("no summary")?;
            ensure!(summary["known"] == 8 && summary["mgas_per_s"] == 0.0, "{summary}");
        }
        // The roots do not depend on the coordinator, and equal those of an execution without a service.
        let line = ["run", "--json", "--sequential", "--genesis"].map(std::ffi::OsString::from);
        let line: Vec<std::ffi::OsString> =
            line.into_iter().chain([chain.genesis().into(), chain.rlp().into()]).collect();
        let mut run = Process::start(scene, "run", Binary::of(&line), line)?;
        run.exit_code(within(30))?;
        let sequential = Report::parse(&run.stdout()?)?;
        let roots = |report: &Report| -> Vec<[Value; 2]> {
            let root = |row: &Value| ["receipts_root", "state_root"].map(|field| row[field].clone());
            report.rows.iter().map(root).collect()
        };
        for report in [&first, &again, &later] {
            ensure!(roots(report) == roots(&sequential), "other roots: {:?}", report.rows.first());
        }
        ensure!(first.column("delta_digest")? == sequential.column("delta_digest")?, "other changes");
        Ok(())
    })
}
