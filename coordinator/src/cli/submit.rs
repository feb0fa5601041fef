//! `coordinator submit`: submits blocks from files to a running service.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use alloy_primitives::hex;
use anyhow::bail;
use clap::Args;
use common::block::EncodedBlock;
use common::codec::payload_digest;
use net::wire::chunks;
use proto::v1;
use serde_json::json;
use tasks::supervise::{Exit, Signals, StopReason};
use tonic::Code;

use super::client::{CallError, Client, Target};
use super::report::{Report, Row, Status};
use super::run::complaint;
use crate::input::{ChainReader, InputError};
use tasks::console::millis;
use tasks::console::{print_json, tell_as_program};
use tasks::options::seconds;

/// Options of `coordinator submit`.
#[derive(Debug, Clone, Args)]
pub struct SubmitArgs {
    /// The coordinator to call.
    #[command(flatten)]
    pub target: Target,

    /// RLP chain files (geth export), plain or gzip
    #[arg(value_name = "INPUT", required = true)]
    pub inputs: Vec<PathBuf>,

    /// Do not wait for results: a block counts once it is journaled, and is executed later
    #[arg(long)]
    pub no_wait: bool,

    /// How long to wait for a coordinator that is busy, restarting or replaced; blocks without an answer
    /// are submitted again
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = seconds(0..=86_400))]
    pub retry_for: u64,

    /// Print one JSON object per block, and a last one with "summary": true
    #[arg(long)]
    pub json: bool,
}

/// A block that was read, with its file.
struct Input<'a> {
    file: &'a Path,
    block: EncodedBlock,
    /// The time for reading and decoding it.
    load: Duration,
}

/// A block that could not be read, with the reason.
struct Unreadable<'a> {
    file: &'a Path,
    error: InputError,
}

/// The blocks of the files, in order.
fn blocks(files: &[PathBuf]) -> impl Iterator<Item = Result<Input<'_>, Unreadable<'_>>> {
    files.iter().flat_map(|file| {
        let (opened, failed) = match ChainReader::open(file) {
            Ok(reader) => (Some(reader), None),
            Err(error) => (None, Some(Err(Unreadable { file, error }))),
        };
        let mut reader = opened.into_iter().flatten();
        let read = std::iter::from_fn(move || {
            let began = Instant::now();
            let next = reader.next()?;
            let load = began.elapsed();
            Some(next.map(|block| Input { file, block, load }).map_err(|error| Unreadable { file, error }))
        });
        failed.into_iter().chain(read)
    })
}

/// Submits every block of the files, in order, and stops at the first that is not committed.
pub(super) async fn submit(args: SubmitArgs) -> anyhow::Result<Exit> {
    let mut signals = Signals::new()?;
    let mut client = Client::connect(&args.target, Duration::from_secs(args.retry_for)).await?;
    if args.no_wait {
        return accept(&mut client, &args).await;
    }
    let mut report = Report::streaming(args.json);
    let end = submit_all(&mut client, &args, &mut report, &mut signals).await;
    // The results so far are printed, whatever ended the submission.
    let verified = report.finish()?;
    match end? {
        Some(reason) => {
            tell_as_program!("{reason}: stopped before every block was submitted");
            Ok(Exit::DrainedLate)
        }
        None => Ok(if verified { Exit::Clean } else { Exit::Failed }),
    }
}

/// Submits the blocks. Returns the reason to stop, if the process was asked to.
async fn submit_all(
    client: &mut Client,
    args: &SubmitArgs,
    report: &mut Report,
    signals: &mut Signals,
) -> anyhow::Result<Option<StopReason>> {
    for input in blocks(&args.inputs) {
        let input = match input {
            Ok(input) => input,
            Err(Unreadable { file, error }) => {
                let (file, error) = (file.display().to_string(), error.to_string());
                tell_as_program!("{}", complaint(&file, None, &error));
                report.add(&Row { file, error: Some(error), ..Row::default() })?;
                break;
            }
        };
        let chunks = encoded(&input.block);
        let called =
            client.call(async |blocks| blocks.submit_block(tokio_stream::iter(chunks.clone())).await);
        let called = tokio::select! {
            called = called => called,
            reason = signals.next() => {
                let (file, number) = (input.file.display().to_string(), Some(input.block.header.number));
                let what = "unknown: submitted, and not waited for";
                tell_as_program!("{}", complaint(&file, number, what));
                return Ok(Some(reason));
            }
        };
        let row = match called {
            Ok(reply) => answered(&input, &reply),
            Err(error) => unanswered(&input, &error),
        };
        if let Some(error) = &row.error {
            tell_as_program!("{}", complaint(&row.file, row.number, error));
        }
        report.add(&row)?;
        if row.error.is_some() {
            break;
        }
    }
    Ok(None)
}

/// Has every block of the files journaled, in order, and stops at the first that is not.
async fn accept(client: &mut Client, args: &SubmitArgs) -> anyhow::Result<Exit> {
    let (mut accepted, mut known) = (0_u64, 0_u64);
    let mut end = Ok(());
    for input in blocks(&args.inputs) {
        let Input { file, block, .. } = match input {
            Ok(input) => input,
            Err(error) => {
                end = Err(error.error.into());
                break;
            }
        };
        let chunks = encoded(&block);
        let (number, hash) = (block.header.number, block.hash);
        let reply =
            client.call(async |blocks| blocks.accept_block(tokio_stream::iter(chunks.clone())).await).await;
        let (settled, error) = match reply {
            Ok(reply) => {
                let settled = reply.settled.unwrap_or_default();
                let error = (!settled.error.is_empty()).then(|| settled.error.clone());
                (settled, error)
            }
            Err(error) => (v1::BlockReply::default(), Some(Ending::of(&error).1)),
        };
        if args.json {
            print_json(&json!({ "number": number, "hash": hash, "known": settled.known, "error": error }))?;
        }
        if let Some(error) = error {
            let told = complaint(&file.display().to_string(), Some(number), &error);
            end = Err(anyhow::anyhow!(told));
            break;
        }
        accepted += 1;
        known += u64::from(settled.known);
    }
    if args.json {
        let error = end.as_ref().err().map(|error| format!("{error:#}"));
        print_json(&json!({ "summary": true, "accepted": accepted, "known": known, "error": error }))?;
    }
    tell_as_program!("{accepted} blocks are accepted, {known} of them were committed before");
    if let Err(error) = end {
        bail!(error);
    }
    Ok(Exit::Clean)
}

fn encoded(block: &EncodedBlock) -> Vec<v1::PayloadChunk> {
    let bytes = block.rlp().to_vec();
    let digest = payload_digest(&bytes);
    chunks(bytes, digest, None, None).collect()
}

/// The status of a block without a reply, and the reason in words.
struct Ending(Status, String);

impl Ending {
    fn of(error: &CallError) -> Self {
        match error {
            CallError::Lost { .. } => Self(
                Status::Unknown,
                format!(
                    "unknown: {error}; if it was accepted, a coordinator that is started again goes on with \
                     it: submit it again to learn more"
                ),
            ),
            // The block is not at fault; the message says whether it stays accepted.
            CallError::Answered(status) if status.code() == Code::Unavailable => {
                Self(Status::Unknown, format!("unknown: {error}"))
            }
            CallError::Answered(_) => Self(Status::Failed, format!("not accepted: {error}")),
        }
    }
}

fn unanswered(input: &Input<'_>, error: &CallError) -> Row {
    let Ending(status, error) = Ending::of(error);
    Row {
        file: input.file.display().to_string(),
        number: Some(input.block.header.number),
        hash: Some(input.block.hash.to_string()),
        txs: input.block.transactions.len(),
        load_ms: millis(input.load),
        status,
        error: Some(error),
        ..Row::default()
    }
}

fn answered(input: &Input<'_>, reply: &v1::BlockReply) -> Row {
    let error = (!reply.error.is_empty()).then(|| reply.error.clone());
    let hash = |bytes: &[u8]| (!bytes.is_empty()).then(|| hex::encode_prefixed(bytes));
    let rounded = |ms: f64| (ms * 1e3).round() / 1e3;
    let row = Row {
        file: input.file.display().to_string(),
        number: Some(reply.number),
        hash: Some(hex::encode_prefixed(&reply.hash)),
        fork: Some(reply.fork.clone().into()),
        txs: reply.transactions as usize,
        gas_used: reply.gas_used,
        verified: error.is_none(),
        status: match (&error, reply.known, reply.parked) {
            (None, true, _) => Status::Known,
            (None, false, _) => Status::Verified,
            (Some(_), _, true) => Status::Parked,
            (Some(_), _, false) => Status::Failed,
        },
        known: reply.known,
        load_ms: millis(input.load),
        receipts_root: hash(&reply.receipts_root),
        state_root: hash(&reply.state_root),
        receipts_digest: hash(&reply.receipts_digest),
        delta_digest: hash(&reply.delta_digest),
        error,
        ..Row::default()
    };
    if reply.known {
        // The block was executed for an earlier call, possibly by another process: its times do not belong to
        // this call.
        return row;
    }
    Row {
        ms: rounded(reply.ms),
        mgas_per_s: (reply.gas_used as f64 / reply.ms.max(0.001)).round() / 1e3,
        recovery_ms: rounded(reply.recovery_ms),
        execution_ms: rounded(reply.execution_ms),
        sub_blocks: reply.sub_blocks,
        verified_sub_blocks: reply.verified_sub_blocks,
        reexecuted: reply.reexecuted,
        reassigned: reply.reassigned,
        ..row
    }
}
