//! What a coordinator and a shard tell over HTTP, while shards come and go and blocks are executed.
//!
//! | page | expectation |
//! |---|---|
//! | `/livez`, `/readyz` | a coordinator without a shard lives and is not ready; the same for a shard without a coordinator |
//! | `/metrics` | exactly the tables of docs/monitoring.md, with the numbers of the client's report |
//! | `/events` | names a killed shard at once |
//! | `/` | a page for browsers that needs nothing from elsewhere, a list for programs |
//! | `/blocks/N/trace` | the work of a shard that dies, and who did it |
//! | `/status`, `/blocks`, `/config`, `/debug/tasks` | what the command line shows |
//! | all | with tokens, only for readers; the last two only for operators |

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use shard_tests::{Chain, Coordinator, Scene, Shard, scenario, wait_until, within};

/// A process's administration.
struct Pages {
    address: String,
    token: Option<String>,
}

impl Pages {
    /// The administration whose address is in this file.
    fn of(file: &Path) -> Result<Self> {
        let mut address = None;
        wait_until(within(30), "the address of the administration is written", || {
            let text = std::fs::read_to_string(file).unwrap_or_default();
            address = text.lines().find_map(|line| line.strip_prefix("admin ").map(str::to_owned));
            Ok(address.is_some())
        })?;
        Ok(Self { address: address.context("no address")?, token: None })
    }

    fn ask(&self, path: &str, accept: &str) -> Result<TcpStream> {
        self.ask_as("localhost", path, accept)
    }

    fn ask_as(&self, host: &str, path: &str, accept: &str) -> Result<TcpStream> {
        let mut stream = TcpStream::connect(&self.address)?;
        stream.set_read_timeout(Some(within(30)))?;
        let token = self.token.as_ref().map(|token| format!("Authorization: Bearer {token}\r\n"));
        let token = token.unwrap_or_default();
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: {host}\r\nAccept: {accept}\r\n{token}Connection: close\r\n\r\n"
        )?;
        Ok(stream)
    }

    /// A page's status and body.
    fn get(&self, path: &str) -> Result<(u16, String)> {
        self.get_as(path, "*/*")
    }

    /// The same for a caller who accepts these types.
    fn get_as(&self, path: &str, accept: &str) -> Result<(u16, String)> {
        let mut text = String::new();
        self.ask(path, accept)?.read_to_string(&mut text)?;
        let (head, body) = text.split_once("\r\n\r\n").with_context(|| format!("no answer: {text}"))?;
        let status = head.split(' ').nth(1).context("no status")?.parse()?;
        Ok((status, body.to_owned()))
    }

    /// A page that must be there, as JSON.
    fn json(&self, path: &str) -> Result<Value> {
        let (status, body) = self.get(path)?;
        ensure!(status == 200, "{path}: {status} {body}");
        serde_json::from_str(&body).with_context(|| format!("{path}: {body}"))
    }

    fn wait_ready(&self, ready: bool, reason: &str) -> Result<()> {
        let wanted = if ready { 200 } else { 503 };
        wait_until(within(30), &format!("/readyz says {wanted} {reason}"), || {
            let (status, body) = self.get("/readyz")?;
            Ok(status == wanted && body.contains(reason))
        })
        .map(drop)
    }

    /// The value of a metric with these labels.
    fn metric(&self, name: &str) -> Result<f64> {
        let (_, text) = self.get("/metrics")?;
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        Ok(line.with_context(|| format!("{name} is not in:\n{text}"))?.parse()?)
    }

    /// The metrics of this project that are exported, with their kinds.
    fn exported(&self) -> Result<BTreeSet<(String, String)>> {
        let (_, text) = self.get("/metrics")?;
        let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
        let all: Vec<_> = types.map(|(name, kind)| (name.to_owned(), kind.to_owned())).collect();
        let once: BTreeSet<_> = all.iter().cloned().collect();
        ensure!(once.len() == all.len(), "a metric is exported twice:\n{text}");
        Ok(once.into_iter().filter(|(name, _)| name.starts_with("shardexec_")).collect())
    }
}

/// The metrics of the tables under these headings of docs/monitoring.md.
fn documented(headings: &[&str]) -> Result<BTreeSet<(String, String)>> {
    let text = include_str!("../../docs/monitoring.md");
    let mut found = BTreeSet::new();
    for heading in headings {
        let section = text.split(&format!("\n### {heading}\n")).nth(1).context("no such heading")?;
        let section = section.split("\n#").next().unwrap_or_default();
        let rows = section.lines().filter(|line| line.starts_with("| `"));
        found.extend(rows.filter_map(|row| {
            let mut cells =
                row.trim_matches('|').split('|').map(|cell| cell.trim().trim_matches('`').to_owned());
            Some((cells.next()?, cells.next()?))
        }));
    }
    Ok(found)
}

/// Starts a coordinator with an administration, and these options.
fn coordinator(scene: &Scene, chain: &Chain, more: &[&str]) -> Result<(Coordinator, Pages)> {
    let file = scene.path("admin.address");
    let path = file.to_str().context("not UTF-8")?.to_owned();
    let line = [&["--admin", "127.0.0.1:0", "--admin-address-file", &path][..], more].concat();
    let started = Coordinator::start(scene, chain, &line)?;
    Ok((started, Pages::of(&file)?))
}

fn shard(scene: &Scene, id: u32, url: &str) -> Result<(Shard, Pages)> {
    let file = scene.path(&format!("shard-{id}.admin"));
    let path = file.to_str().context("not UTF-8")?.to_owned();
    let line = ["--admin", "127.0.0.1:0", "--admin-address-file", &path];
    Ok((Shard::start(scene, id, url, &line)?, Pages::of(&file)?))
}

#[test]
fn a_fleet_tells_how_it_is() -> Result<()> {
    scenario(|scene| {
        let chain = Chain::of(4)?;
        let data = scene.path("data");
        let data = data.to_str().context("not UTF-8")?;
        let (coordinator, pages) = coordinator(scene, &chain, &["--data-dir", data])?;
        ensure!(pages.get("/livez")? == (200, "ok\n".into()));
        // A page of another host whose name leads to this machine reads nothing.
        let mut refused = String::new();
        pages.ask_as("example.org", "/config", "*/*")?.read_to_string(&mut refused)?;
        ensure!(refused.starts_with("HTTP/1.1 421 "), "{refused}");
        pages.wait_ready(false, "no shard has joined")?;
        let (mut first, own) = shard(scene, 1, &coordinator.url())?;
        own.wait_ready(true, "")?;
        pages.wait_ready(true, "")?;
        let report = coordinator.submit_all(scene, &chain)?;
        let (gas, transactions) = (report.total("gas_used")?, report.total("txs")?);
        let blocks = chain.blocks() as f64;
        ensure!(pages.metric("shardexec_blocks_total{outcome=\"committed\"}")? == blocks);
        ensure!(pages.metric("shardexec_transactions_total")? == transactions as f64);
        ensure!(pages.metric("shardexec_gas_total")? == gas as f64);
        ensure!(pages.metric("shardexec_block_seconds_count")? == blocks);
        ensure!(pages.metric("shardexec_head_height")? == blocks);
        // The shard gets what the last block has changed after the client has its answer.
        wait_until(within(20), "the shard is ready after the last block", || {
            Ok(pages.metric("shardexec_shards{state=\"ready\"}")? == 1.0)
        })?;
        ensure!(pages.metric("shardexec_ready")? == 1.0);
        let worked = own.metric("shardexec_work_transactions_total{kind=\"execute\"}")?;
        ensure!(worked >= transactions as f64, "{worked} of {transactions} transactions");
        wait_until(within(20), "the shard has every delta", || {
            Ok(own.metric("shardexec_deltas_total")? == blocks)
        })?;
        let head = pages.json(&format!("/blocks/{}", chain.blocks()))?;
        ensure!(head["gas_used"] == pages.json("/blocks")?[0]["gas_used"], "{head}");
        ensure!(pages.get("/blocks/4711")?.0 == 404 && pages.get("/nonsense")?.0 == 404);
        let shown: Value = serde_json::from_str(&coordinator.ask(&["status", "--json"], &[])?)?;
        ensure!(pages.json("/status")?["state_root"] == shown["state_root"], "{shown}");
        let shard = &pages.json("/status")?["shards"][0];
        ensure!(
            shard["rtt_ms"].as_f64() > Some(0.0) && shard["rtt_p99_ms"].as_f64() >= shard["rtt_ms"].as_f64(),
            "{shard}"
        );
        ensure!(
            shard["node"]["memory_bytes"].as_u64() > Some(1 << 20) && shard["failures_in_a_row"] == 0,
            "{shard}"
        );
        let shard = own.json("/status")?;
        ensure!(shard["coordinator"]["rtt_ms"].as_f64() > Some(0.0), "{shard}");
        ensure!(pages.json("/config")?["heartbeat_ms"] == 100);
        let tasks = pages.json("/debug/tasks")?.to_string();
        ensure!(tasks.contains("fleet-driver") && tasks.contains("admin-server"), "{tasks}");
        ensure!(pages.exported()? == documented(&["Every process", "Coordinator"])?);
        ensure!(own.exported()? == documented(&["Every process", "Shard"])?);
        // The stream of events begins with its headers; what comes later is new.
        let mut events = BufReader::new(pages.ask("/events", "text/event-stream")?).lines();
        events.by_ref().find(|line| line.as_ref().is_ok_and(String::is_empty)).context("no headers")??;
        first.process.kill()?;
        let lost = events.find(|line| line.as_ref().is_ok_and(|line| line.contains("shard_lost")));
        let lost = lost.context("the loss was not told")??;
        ensure!(lost.starts_with("data: ") && lost.contains("\"shard\":1"), "{lost}");
        pages.wait_ready(false, "no shard has joined")?;
        ensure!(pages.get("/livez")?.0 == 200, "it lives without a shard");
        ensure!(pages.metric("shardexec_ready")? == 0.0);
        let (_, text) = pages.get("/metrics")?;
        ensure!(!text.contains("shard=\"1\""), "a lost shard leaves no gauge behind:\n{text}");
        Ok(())
    })
}

/// A shard dies with work of a block: the trace shows its try, why it ended, and an arrow to the shard that did it.
#[test]
fn a_trace_shows_who_did_the_work_of_a_dead_shard() -> Result<()> {
    scenario(|scene| {
        let chain = Chain::of(4)?;
        let (coordinator, pages) = coordinator(scene, &chain, &[])?;
        let url = coordinator.url();
        let dies = ["--allow-faults", "--fault", "exit@3"];
        let _shards = [Shard::start(scene, 1, &url, &dies)?, Shard::start(scene, 2, &url, &[])?];
        coordinator.wait_ready(&[1, 2])?;
        coordinator.submit_all(scene, &chain)?;
        let mut drawn = (0, 0);
        for block in 1..=chain.blocks() {
            let trace = pages.json(&format!("/blocks/{block}/trace"))?;
            let events = trace["traceEvents"].as_array().context("no events")?;
            let named = |name: &str| events.iter().any(|event| event["name"] == name && event["ph"] == "X");
            for stage in ["recover", "execute", "roots", "commit"] {
                ensure!(named(stage), "block {block} has no stage {stage}: {trace:#}");
            }
            ensure!(events.iter().any(|event| event["cat"] == "used"), "no work was done: {trace:#}");
            ensure!(
                trace["otherData"]["began_unix_ms"].as_u64().is_some_and(|began| began > 1_700_000_000_000)
            );
            let lost = |event: &&Value| event["cat"] == "lost" && event["pid"] == 2;
            drawn.0 += events.iter().filter(lost).count();
            let arrows = |event: &&Value| event["ph"] == "f" && event["pid"] == 3;
            drawn.1 += events.iter().filter(arrows).count();
        }
        ensure!(drawn.0 > 0 && drawn.1 >= drawn.0, "lost tries and arrows to shard 2: {drawn:?}");
        ensure!(pages.get("/blocks/99/trace")?.0 == 404);
        Ok(())
    })
}

/// What follows `before` in the text up to the next character that is none of a name.
fn names<'a>(text: &'a str, before: &'a str) -> impl Iterator<Item = &'a str> {
    let is_name = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    text.match_indices(before).map(move |(at, _)| {
        let name = text.get(at..).unwrap_or_default();
        name.split(|letter| !is_name(letter)).next().unwrap_or_default()
    })
}

#[test]
fn alerts_and_dashboard_name_metrics_that_exist() -> Result<()> {
    let tables = documented(&["Every process", "With TLS", "Coordinator", "Shard"])?;
    let known: BTreeSet<&str> = tables.iter().map(|(name, _)| &**name).collect();
    for text in [
        include_str!("../../docs/prometheus/alerts.yml"),
        include_str!("../../docs/prometheus/tests.yml"),
        include_str!("../../docs/prometheus/dashboard.json"),
    ] {
        let used: BTreeSet<&str> = names(text, "shardexec_").collect();
        ensure!(used.len() > 5, "{used:?}");
        for name in used {
            let parts = ["_bucket", "_sum", "_count"];
            let whole = parts.iter().find_map(|part| name.strip_suffix(part)).unwrap_or(name);
            ensure!(known.contains(whole), "{name} is not a metric of docs/monitoring.md");
        }
    }
    Ok(())
}

#[test]
fn the_page_for_people_needs_nothing_from_elsewhere() -> Result<()> {
    scenario(|scene| {
        let chain = Chain::of(1)?;
        let (_coordinator, pages) = coordinator(scene, &chain, &[])?;
        let (_, list) = pages.get("/")?;
        ensure!(list.contains("/readyz"), "{list}");
        let (status, page) = pages.get_as("/", "text/html,application/xhtml+xml")?;
        ensure!(status == 200 && page.starts_with("<!doctype html>"), "{status} {page}");
        let outside = page.replace("http://www.w3.org/2000/svg", "");
        ensure!(!outside.contains("http://") && !outside.contains("https://") && !outside.contains("//cdn"));
        // All that peers may have written is set as text.
        ensure!(!page.contains("innerHTML") && !page.contains("insertAdjacentHTML"));
        for path in ["/readyz", "/status", "/blocks", "/events"] {
            ensure!(page.contains(&format!("'{path}'")), "the page does not read {path}");
        }
        Ok(())
    })
}

#[test]
fn a_shard_without_a_coordinator_lives_and_is_not_ready() -> Result<()> {
    scenario(|scene| {
        let chain = Chain::of(2)?;
        let coordinator = Coordinator::start(scene, &chain, &[])?;
        let (_shard, pages) = shard(scene, 1, &coordinator.url())?;
        pages.wait_ready(true, "")?;
        drop(coordinator);
        pages.wait_ready(false, "not registered with a coordinator")?;
        ensure!(pages.get("/livez")?.0 == 200);
        wait_until(within(30), "tries to register are counted", || {
            let (_, text) = pages.get("/metrics")?;
            Ok(text.contains("shardexec_registrations_total{outcome=\"failed\"}"))
        })
        .map(drop)
    })
}

#[test]
fn pages_are_for_readers_and_options_for_operators() -> Result<()> {
    scenario(|scene| {
        let chain = Chain::of(2)?;
        let (reader, operator) = ("r".repeat(40), "o".repeat(40));
        let file = scene.write("tokens", format!("reader/prometheus {reader}\noperator/ann {operator}\n"))?;
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(&file, mode)?;
        let tokens = file.to_str().context("not UTF-8")?;
        let (_coordinator, mut pages) = coordinator(scene, &chain, &["--tokens", tokens])?;
        ensure!(pages.get("/livez")?.0 == 200, "whether it lives is no secret");
        for path in ["/", "/readyz", "/metrics", "/status", "/events", "/blocks", "/config", "/debug/tasks"] {
            ensure!(pages.get(path)?.0 == 401, "{path} needs a token");
        }
        pages.token = Some(reader);
        ensure!(pages.get("/metrics")?.0 == 200 && pages.get("/status")?.0 == 200);
        for path in ["/config", "/debug/tasks"] {
            let (status, text) = pages.get(path)?;
            ensure!(status == 403 && text.contains("needs the role operator"), "{path}: {status} {text}");
        }
        pages.token = Some(operator);
        ensure!(pages.get("/config")?.0 == 200 && pages.get("/debug/tasks")?.0 == 200);
        Ok(())
    })
}

#[test]
fn an_address_of_other_machines_needs_tls() -> Result<()> {
    scenario(|scene| {
        let chain = Chain::of(2)?;
        let file = scene.path("never");
        let mut process = Coordinator::spawn(scene, &chain, "127.0.0.1:0", &file, &["--admin", "0.0.0.0:0"])?;
        process.ended(within(30))?.refused(&["0.0.0.0", "TLS", "--insecure"])
    })
}

/// An idle stream of events does not hold up the end of the process.
#[test]
fn a_watcher_does_not_hold_up_the_end() -> Result<()> {
    scenario(|scene| {
        let chain = Chain::of(2)?;
        let (mut coordinator, pages) = coordinator(scene, &chain, &["--log", "debug"])?;
        let mut events = BufReader::new(pages.ask("/events", "text/event-stream")?).lines();
        events.by_ref().find(|line| line.as_ref().is_ok_and(String::is_empty)).context("no headers")??;
        coordinator.process.signal(shard_tests::Signal::Term)?;
        let code = coordinator.process.exit_code(Duration::from_secs(30).max(within(10)))?;
        ensure!(code == 0, "exit code {code}");
        let log = coordinator.process.stderr()?;
        // The server ends open connections after a while; the watcher's must have ended by itself.
        ensure!(log.contains("DEBUG"), "the log does not show what would be missing:\n{log}");
        ensure!(!log.contains("peers did not close their connections in time"), "{log}");
        Ok(())
    })
}

/// Blocks are counted each time they are parked, also by an operator, and the coordinator says when it is stopping.
#[test]
fn parked_blocks_are_counted() -> Result<()> {
    scenario(|scene| {
        let chain = Chain::of(3)?;
        let (coordinator, pages) = coordinator(scene, &chain, &[])?;
        let counted =
            |outcome: &str| pages.metric(&format!("shardexec_blocks_total{{outcome=\"{outcome}\"}}"));
        for outcome in ["committed", "aside", "refused", "parked"] {
            ensure!(counted(outcome)? == 0.0, "{outcome} does not begin at zero");
        }
        let file = chain.rlp().display().to_string();
        let accepted = coordinator.ask(&["submit", "--no-wait", "--json"], &[&file])?;
        let row: Value =
            serde_json::from_str(accepted.lines().nth(1).context("too few blocks were accepted")?)?;
        let hash = row["hash"].as_str().context("no hash")?;
        coordinator.ask(&["parked", "add"], &[hash])?;
        ensure!(counted("parked")? == 1.0, "the block that an operator has parked is not counted");
        let _shard = Shard::start(scene, 1, &coordinator.url(), &[])?;
        let committed = |blocks: f64| move || Ok(counted("committed")? == blocks);
        wait_until(within(30), "the first block is committed", committed(1.0))?;
        coordinator.ask(&["parked", "retry"], &[hash])?;
        wait_until(within(30), "all blocks are committed", committed(3.0))?;
        ensure!(counted("parked")? == 1.0 && counted("refused")? == 0.0);
        Ok(())
    })
}

#[test]
fn a_coordinator_that_executes_alone_is_ready_without_shards() -> Result<()> {
    scenario(|scene| {
        let (chain, line) = (Chain::of(2)?, ["--when-no-shards", "local", "--no-shard-wait", "1"]);
        let (coordinator, pages) = coordinator(scene, &chain, &line)?;
        pages.wait_ready(true, "")?;
        coordinator.submit_all(scene, &chain).map(drop)
    })
}
