//! Input that is wrong in one place: a clear error, exit code 1, no partial result.
//!
//! | scenario | fault | expectation |
//! |---|---|---|
//! | block file | cut short, damaged, empty, missing, another format | named, no block is executed |
//! | block file | a field is missing or has no value | file, block, transaction and field are named |
//! | transaction | nonce, balance, signature, chain id, gas, fee cap | rejected: block, index, reason |
//! | header | gas used, receipts root, bloom, content hashes, block hash | rejected with block and field |
//! | chain file | cut short, wrong genesis or chain id | earlier blocks verify; file and place are named |
//! | genesis | an unknown fork | rejected by `run` and by `serve`, the field is named |
//! | shards | `executor-shard` is missing | the error names it and the remedy |
//!
//! Every rejection is checked with shards and with `--sequential`: both must give the reason.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use shard_tests::{
    Binary, Chain, Fields, Forged, Process, Report, Scene, edit_json, mainnet_dir, number_plus, scenario,
    within,
};

/// A Frontier block of 18 plain transfers, and a Paris block of 80 transactions of all kinds.
const BLOCKS: [(u64, usize); 2] = [(930_196, 9), (15_537_394, 40)];

/// The result of a run.
struct RunEnd {
    code: i32,
    report: Report,
    said: String,
}

fn run(scene: &Scene, inputs: &[&Path], flags: &[&str]) -> Result<RunEnd> {
    run_with(scene, inputs, flags, &[])
}

fn run_with(scene: &Scene, inputs: &[&Path], flags: &[&str], environment: &[(&str, &str)]) -> Result<RunEnd> {
    let mut line = vec!["run".into(), "--json".into()];
    line.extend(inputs.iter().map(|input| input.as_os_str().to_owned()));
    line.extend(flags.iter().map(std::ffi::OsString::from));
    let mut process = Process::start_with(scene, "run", Binary::of(&line), line, environment)?;
    let code = process.exit_code(within(30))?;
    Ok(RunEnd { code, report: Report::parse(&process.stdout()?)?, said: process.stderr()? })
}

impl RunEnd {
    /// Checks that this many blocks were verified and the next was not, or that none was executed; and that
    /// the message contains all of `words`.
    fn check(&self, verified: usize, words: &[&str]) -> Result<()> {
        let Self { code, report, said } = self;
        ensure!(*code == 1, "the exit code is {code}: {said}");
        for word in words {
            ensure!(said.contains(word), "{word:?} is not in the message: {said}");
        }
        ensure!(!said.contains("panicked"), "{said}");
        let claimed = report.rows.iter().filter(|row| row["verified"] == true).count();
        ensure!(claimed == verified, "{claimed} blocks are claimed to be verified: {:?}", report.rows);
        if report.rows.is_empty() {
            ensure!(report.summary.is_none(), "a summary of nothing: {:?}", report.summary);
            return Ok(());
        }
        ensure!(report.total("failed")? >= 1, "the summary knows of no failure: {:?}", report.summary);
        ensure!(report.total("verified")? == verified as u64, "the summary disagrees: {:?}", report.summary);
        let last = report.rows.last().context("there are rows")?;
        ensure!(last["error"].is_string(), "the last row has no error: {last}");
        Ok(())
    }
}

fn recorded(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number}.json.gz"))
}

/// Checks a rejection on shards and sequentially.
fn check_refused(scene: &Scene, forged: &Forged, words: &[&str]) -> Result<()> {
    let file = forged.file.to_str().context("the path is not UTF-8")?;
    let block = format!("block {}", forged.number);
    let words = [&[file, block.as_str()], words].concat();
    for flags in [&["--in-process", "--shards", "2"][..], &["--sequential"]] {
        run(scene, &[&forged.file], flags)?.check(0, &words).with_context(|| format!("run {flags:?}"))?;
    }
    Ok(())
}

/// The transaction with this index.
fn transaction(fields: &mut Fields, index: usize) -> Result<&mut Fields> {
    let place = format!("/block/transactions/{index}");
    fields.pointer_mut(&place).context("there is no such transaction")
}

/// The pre-state of this transaction's sender.
fn sender(fields: &mut Fields, index: usize) -> Result<&mut Fields> {
    let from = transaction(fields, index)?["from"].as_str().context("no sender")?.to_owned();
    fields["prestate"].get_mut(&from).context("the sender has no pre-state")
}

#[test]
fn files_that_cannot_be_read_are_named_before_anything_begins() -> Result<()> {
    let Some(dir) = mainnet_dir()? else { return Ok(()) };
    scenario(|scene| {
        let good = recorded(&dir, 930_196);
        let packed = std::fs::read(&good)?;
        let mut damaged = packed.clone();
        damaged[1_000] ^= 0xff;
        let cases = [
            (scene.write("cut-short.json.gz", &packed[..3_000])?, "gzip"),
            (scene.write("damaged.json.gz", &damaged)?, "gzip"),
            (scene.write("empty.json", "")?, "the file is empty"),
            (scene.write("space.json", " \n ")?, "only white space"),
            (scene.write("garbage", [0x7a; 5_000])?, "0x7a"),
            (scene.path("missing.json.gz"), "No such file"),
            (dir.clone(), "directory"),
        ];
        for (file, message) in &cases {
            let name = file.to_str().context("the path is not UTF-8")?;
            // With a good file before it: an unusable input is found before the good file is executed.
            let end = run(scene, &[&good, file], &["--in-process"])?;
            end.check(0, &[name, message]).with_context(|| name.to_owned())?;
        }
        Ok(())
    })
}

#[test]
fn json_that_is_cut_short_or_lacks_a_field_is_named_with_block_transaction_and_field() -> Result<()> {
    let Some(dir) = mainnet_dir()? else { return Ok(()) };
    scenario(|scene| {
        let good = recorded(&dir, 15_537_394);
        let plain = Forged::from_recorded(scene, &good, |_| Ok(()))?;
        let text = std::fs::read(&plain.file)?;
        let cut = scene.write("cut-short.json", &text[..text.len() / 2])?;
        let name = cut.to_str().context("the path is not UTF-8")?;
        run(scene, &[&cut], &["--in-process"])?.check(0, &[name, "not valid JSON"])?;
        let no_block = scene.write("no-block.json", "{\"prestate\": {}}")?;
        run(scene, &[&no_block], &["--in-process"])?.check(0, &["no-block.json", "field block"])?;

        let without = |field: &'static str| {
            Forged::from_recorded(scene, &good, move |fields| {
                fields["block"].as_object_mut().context("the block is no object")?.remove(field);
                Ok(())
            })
        };
        check_refused(scene, &without("gasLimit")?, &["gasLimit"])?;
        check_refused(scene, &without("transactions")?, &["field block.transactions"])?;
        let value = Forged::from_recorded(scene, &good, |fields| {
            transaction(fields, 3)?["value"] = json!("0xzz");
            Ok(())
        })?;
        check_refused(scene, &value, &["transaction 3", "field value"])?;
        let kind = Forged::from_recorded(scene, &good, |fields| {
            transaction(fields, 5)?["type"] = json!("0x7e");
            Ok(())
        })?;
        check_refused(scene, &kind, &["transaction 5", "type"])
    })
}

#[test]
fn a_sender_who_cannot_send_is_named_by_the_transactions_index() -> Result<()> {
    let Some(dir) = mainnet_dir()? else { return Ok(()) };
    scenario(|scene| {
        for (number, index) in BLOCKS {
            let good = recorded(&dir, number);
            let place = format!("transaction {index}: ");
            let nonce = |value: u64| {
                Forged::from_recorded(scene, &good, move |fields| {
                    sender(fields, index)?["nonce"] = json!(value);
                    Ok(())
                })
            };
            check_refused(scene, &nonce(1_000_000)?, &[&place, "nonce", "too low"])?;
            // In the later block that sender's nonce is zero, so no lower nonce exists.
            if number == 930_196 {
                check_refused(scene, &nonce(0)?, &[&place, "nonce", "too high"])?;
            }
            let poor = Forged::from_recorded(scene, &good, |fields| {
                sender(fields, index)?["balance"] = json!("0x1");
                Ok(())
            })?;
            check_refused(scene, &poor, &[&place, "funds"])?;
        }
        Ok(())
    })
}

#[test]
fn a_signature_that_does_not_fit_is_named_by_the_transactions_index() -> Result<()> {
    let Some(dir) = mainnet_dir()? else { return Ok(()) };
    scenario(|scene| {
        for (number, index) in BLOCKS {
            let good = recorded(&dir, number);
            let place = format!("transaction {index}");
            let changed = |r: Option<&'static str>| {
                Forged::from_recorded(scene, &good, move |fields| {
                    let tx = transaction(fields, index)?;
                    let flipped = tx["r"].as_str().context("no r")?.replacen("0x", "0x1", 1);
                    let flipped = flipped.get(..66).unwrap_or(&flipped).to_owned();
                    tx["r"] = r.map_or_else(|| json!(flipped), |r| json!(r));
                    Ok(())
                })
            };
            // Without a corrected hash, the hash exposes the change.
            check_refused(scene, &changed(None)?, &[&place, "field hash", "other fields hash to"])?;
            // With matching hashes, no key fits the signature.
            check_refused(scene, &changed(Some("0x0"))?.with_hashes()?, &[&place, "recover the signer"])?;
        }
        Ok(())
    })
}

#[test]
fn a_high_s_is_refused_from_homestead_on() -> Result<()> {
    let Some(dir) = mainnet_dir()? else { return Ok(()) };
    scenario(|scene| {
        let (number, index) = BLOCKS[1];
        let high = Forged::from_recorded(scene, &recorded(&dir, number), |fields| {
            // Half of the curve's order plus one: the smallest s that EIP-2 forbids.
            let s = "0x7fffffffffffffffffffffffffffffff5d576e7357a4501ddfe92f46681b20a1";
            transaction(fields, index)?["s"] = json!(s);
            Ok(())
        })?;
        check_refused(scene, &high.with_hashes()?, &[&format!("transaction {index}"), "recover the signer"])
    })
}

#[test]
fn a_transaction_that_breaks_a_rule_of_its_block_is_named_by_its_index() -> Result<()> {
    let Some(dir) = mainnet_dir()? else { return Ok(()) };
    scenario(|scene| {
        for (number, index) in BLOCKS {
            let good = recorded(&dir, number);
            let place = format!("transaction {index}: ");
            let greedy = Forged::from_recorded(scene, &good, |fields| {
                transaction(fields, index)?["gas"] = json!("0x2625a00");
                Ok(())
            })?;
            check_refused(scene, &greedy.with_hashes()?, &[&place, "gas limit 40000000", "block"])?;
        }
        let paris = recorded(&dir, 15_537_394);
        let elsewhere = Forged::from_recorded(scene, &paris, |fields| {
            transaction(fields, 0)?["chainId"] = json!("0x5");
            Ok(())
        })?;
        check_refused(scene, &elsewhere.with_hashes()?, &["transaction 0: ", "chain ID"])?;
        let small = Forged::from_recorded(scene, &paris, |fields| {
            fields["block"]["gasLimit"] = json!("0x20000");
            Ok(())
        })?;
        check_refused(scene, &small.with_hashes()?, &["transaction 1: ", "gas limit"])?;
        let dear = Forged::from_recorded(scene, &paris, |fields| {
            fields["block"]["baseFeePerGas"] = json!("0x2540be40000");
            Ok(())
        })?;
        check_refused(scene, &dear.with_hashes()?, &["transaction ", "basefee"])
    })
}

#[test]
fn a_header_that_execution_does_not_confirm_is_named_by_field() -> Result<()> {
    let Some(dir) = mainnet_dir()? else { return Ok(()) };
    scenario(|scene| {
        for (number, _) in BLOCKS {
            let good = recorded(&dir, number);
            let more = |fields: &mut Fields| {
                let used = number_plus(&fields["block"]["gasUsed"], 1)?;
                fields["block"]["gasUsed"] = used;
                Ok(())
            };
            // Without a corrected hash, the hash exposes the change.
            let plain = Forged::from_recorded(scene, &good, more)?;
            check_refused(scene, &plain, &["field block.hash", "other fields hash to"])?;
            check_refused(scene, &plain.with_hashes()?, &["header field gasUsed is "])?;
            let bloom = Forged::from_recorded(scene, &good, |fields| {
                let zeros = format!("0x{}", "0".repeat(511));
                fields["block"]["logsBloom"] = json!(zeros + "1");
                Ok(())
            })?;
            check_refused(scene, &bloom.with_hashes()?, &["header field logsBloom is "])?;
        }
        // Receipts roots are checked from Byzantium on; before it they need the whole state.
        for field in ["receiptsRoot", "sha3Uncles"] {
            let root = Forged::from_recorded(scene, &recorded(&dir, 15_537_394), |fields| {
                fields["block"][field] = json!(format!("0x{}", "ab".repeat(32)));
                Ok(())
            })?;
            check_refused(scene, &root.with_hashes()?, &[&format!("header field {field} is ")])?;
        }
        Ok(())
    })
}

#[test]
fn a_body_that_is_not_the_headers_is_named_by_field() -> Result<()> {
    let Some(dir) = mainnet_dir()? else { return Ok(()) };
    scenario(|scene| {
        let good = recorded(&dir, 15_537_394);
        let fewer = Forged::from_recorded(scene, &good, |fields| {
            fields["block"]["transactions"].as_array_mut().context("no list")?.pop();
            Ok(())
        })?;
        check_refused(scene, &fewer, &["header field transactionsRoot is "])?;
        let swapped = Forged::from_recorded(scene, &good, |fields| {
            fields["block"]["transactions"].as_array_mut().context("no list")?.swap(1, 2);
            Ok(())
        })?;
        check_refused(scene, &swapped, &["header field transactionsRoot is "])?;
        let shanghai = recorded(&dir, 19_426_587);
        let richer = Forged::from_recorded(scene, &shanghai, |fields| {
            let withdrawal = fields["block"]["withdrawals"].get_mut(0).context("no withdrawals")?;
            withdrawal["amount"] = number_plus(&withdrawal["amount"], 1)?;
            Ok(())
        })?;
        check_refused(scene, &richer, &["header field withdrawalsRoot is "])
    })
}

#[test]
fn a_block_that_is_refused_does_not_stop_the_others() -> Result<()> {
    let Some(dir) = mainnet_dir()? else { return Ok(()) };
    scenario(|scene| {
        let (good, other) = (recorded(&dir, 930_196), recorded(&dir, 46_147));
        let poor = Forged::from_recorded(scene, &good, |fields| {
            sender(fields, 9)?["balance"] = json!("0x1");
            Ok(())
        })?;
        let end = run(scene, &[&good, &poor.file, &other], &["--shards", "2"])?;
        ensure!(end.code == 1, "the exit code is {}", end.code);
        let verified: Vec<_> = end.report.rows.iter().map(|row| row["verified"] == true).collect();
        ensure!(verified == [true, false, true], "{verified:?}");
        ensure!((end.report.total("verified")?, end.report.total("failed")?) == (2, 1));
        Ok(())
    })
}

#[test]
fn a_chain_file_that_is_cut_short_gives_its_whole_blocks_and_an_error() -> Result<()> {
    scenario(|scene| {
        let chain = Chain::of(8)?;
        let bytes = std::fs::read(chain.rlp())?;
        let cut = scene.write("cut-short.rlp", &bytes[..bytes.len() - 100])?;
        let genesis = chain.genesis();
        let genesis = genesis.to_str().context("the path is not UTF-8")?;
        for flags in [&["--in-process"][..], &["--sequential"]] {
            let end = run(scene, &[&cut], &[flags, &["--genesis", genesis]].concat())?;
            end.check(7, &["cut-short.rlp", "inside entry 8"])?;
        }
        let mut damaged = bytes;
        // The length of the parent's hash, which is the first field of the first header.
        let parent = damaged.iter().position(|byte| *byte == 0xa0).context("no hash")?;
        damaged[parent] = 0xa1;
        let damaged = scene.write("damaged.rlp", &damaged)?;
        run(scene, &[&damaged], &["--in-process", "--genesis", genesis])?.check(0, &["damaged.rlp", "header"])
    })
}

#[test]
fn a_chain_needs_its_own_genesis() -> Result<()> {
    scenario(|scene| {
        let chain = Chain::of(8)?;
        let file = chain.rlp();
        run(scene, &[&file], &["--in-process"])?.check(0, &["chain.rlp", "--genesis"])?;
        let missing = ["--in-process", "--genesis", "/nonexistent/genesis.json"];
        run(scene, &[&file], &missing)?.check(0, &["/nonexistent/genesis.json", "No such file"])?;

        let foreign = edit_json(scene, &chain.genesis(), |genesis| {
            genesis["config"]["chainId"] = json!(1338);
            Ok(())
        })?;
        let poorer = edit_json(scene, &chain.genesis(), |genesis| {
            let accounts = genesis["alloc"].as_object_mut().context("no alloc")?;
            accounts.values_mut().next().context("no accounts")?["balance"] = json!("0x1");
            Ok(())
        })?;
        let cases: [(&Path, &[&str]); 2] = [
            (&foreign, &["chain.rlp", "block 1: ", "transaction 0: ", "chain ID"]),
            (&poorer, &["chain.rlp", "block 1", "parent"]),
        ];
        for (genesis, words) in cases {
            let genesis = genesis.to_str().context("the path is not UTF-8")?;
            for mode in [&["--in-process"][..], &["--sequential"]] {
                run(scene, &[&file], &[mode, &["--genesis", genesis]].concat())?.check(0, words)?;
            }
        }
        Ok(())
    })
}

#[test]
fn a_fork_that_is_not_known_is_refused_by_name() -> Result<()> {
    scenario(|scene| {
        let chain = Chain::of(8)?;
        let genesis = edit_json(scene, &chain.genesis(), |genesis| {
            genesis["config"]["verkleTime"] = json!(0);
            Ok(())
        })?;
        let genesis = genesis.to_str().context("the path is not UTF-8")?;
        let words = [genesis, "config.verkleTime", "does not know"];
        run(scene, &[&chain.rlp()], &["--in-process", "--genesis", genesis])?.check(0, &words)?;
        let line = ["serve", "--exit-with-parent", "--listen", "127.0.0.1:0", "--genesis", genesis];
        let mut serve = Process::start(scene, "serve", Binary::Coordinator, line)?;
        let code = serve.exit_code(within(15))?;
        let said = serve.stderr()?;
        ensure!(code == 1 && words.iter().all(|word| said.contains(word)), "{code}: {said}");
        Ok(())
    })
}

#[test]
fn a_missing_executor_shard_is_named_with_what_to_do() -> Result<()> {
    scenario(|scene| {
        let chain = Chain::of(8)?;
        let genesis = chain.genesis();
        let genesis = genesis.to_str().context("the path is not UTF-8")?;
        let environment = [("EXECUTOR_SHARD_BIN", "/nonexistent/executor-shard")];
        let end = run_with(scene, &[&chain.rlp()], &["--genesis", genesis], &environment)?;
        end.check(0, &["/nonexistent/executor-shard", "cargo build --release", "--in-process"])
    })
}
