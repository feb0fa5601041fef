//! Values of work and state (BCS), blocks (RLP), and the payloads that carry them.

use std::path::Path;
use std::sync::Arc;

use alloy_primitives::{Address, B256, Bytes, U256};
use anyhow::Result;
use common::account::{Account, AccountDelta, AccountRecord, Delta, SlotValue};
use common::block::{CheckedBlock, EncodedBlock};
use common::codec::{self, MAX_PAYLOAD_BYTES};
use common::id::{Height, StateRef, TxIndex, WorldId};
use common::message::{Refusal, SnapshotChunk, SnapshotPart};
use common::strikes::StrikeRecord;
use common::work::{WorkFailure, WorkKind, WorkOutput, WorkSpec};
use lab::generate::{ChainBuilder, TrafficOptions};
use ledger::AcceptedRecord;
use net::budget::Budget;
use net::identity::Account as Payer;
use net::wire::{chunks, receive};
use prost::Message as _;
use proto::v1::PayloadChunk;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::runtime::{Builder, Runtime};

use super::Target;

/// The largest payload that the targets take, in bytes.
const PAYLOAD: usize = 1 << 20;

/// A short generated chain: where valid inputs come from.
pub(super) struct Chain {
    pub(super) genesis: Vec<u8>,
    pub(super) blocks: Vec<EncodedBlock>,
}

impl Chain {
    pub(super) fn new() -> Result<Self> {
        let mix = "transfers=50,erc20=50".parse()?;
        let options = TrafficOptions { seed: 7, mix, accounts: 8, chain_id: 1337, gas_limit: 30_000_000 };
        let mut chain = ChainBuilder::new(options)?;
        let genesis = serde_json::to_vec(chain.genesis())?;
        let blocks = (0..3).map(|_| chain.next_block(3)).collect::<Result<_, _>>()?;
        Ok(Self { genesis, blocks })
    }

    /// The blocks, one after another, as in a chain file.
    pub(super) fn rlp(&self) -> Vec<u8> {
        self.blocks.iter().flat_map(|block| block.rlp().to_vec()).collect()
    }
}

fn state() -> StateRef {
    StateRef { world: WorldId(B256::repeat_byte(1)), height: Height(3), block_hash: B256::repeat_byte(2) }
}

fn delta() -> Delta {
    let account = Account { balance: U256::from(7), nonce: 1, code_hash: B256::repeat_byte(3) };
    let storage = vec![SlotValue { slot: U256::from(1), value: U256::from(u64::MAX) }];
    let accounts = vec![
        AccountDelta { address: Address::repeat_byte(1), account: Some(account), wiped: false, storage },
        AccountDelta { address: Address::repeat_byte(2), account: None, wiped: true, storage: vec![] },
    ];
    let code = vec![(B256::repeat_byte(3), Bytes::from_static(&[0x60, 0x01]))];
    Delta { from: state(), to: state(), accounts, code, digest: U256::from(9) }
}

fn snapshot() -> SnapshotPart {
    let account = Account { balance: U256::from(7), nonce: 1, code_hash: B256::repeat_byte(3) };
    let storage = vec![SlotValue { slot: U256::from(1), value: U256::from(1) }];
    let accounts = vec![AccountRecord { address: Address::repeat_byte(1), account, storage }];
    SnapshotPart::Chunk(SnapshotChunk { accounts, code: vec![(B256::ZERO, Bytes::from_static(&[0]))] })
}

/// A target that decodes a value of this type, and looks at it.
fn value<T: Serialize + DeserializeOwned>(
    name: &'static str,
    examples: &[T],
    look: impl Fn(T) -> bool + 'static,
) -> Result<Target> {
    let encoded = examples.iter().map(|example| codec::encode(name, example, MAX_PAYLOAD_BYTES));
    let valid = encoded.collect::<Result<_, _>>()?;
    let decode = move |bytes: &[u8]| codec::decode(name, bytes, MAX_PAYLOAD_BYTES).is_ok_and(&look);
    // A list reserves room for what its length announces, up to a mebibyte (serde, `size_hint::cautious`).
    Ok(Target::of(name, valid, decode).bounded(4 << 20, 512))
}

pub(super) fn targets(chain: &Chain) -> Result<Vec<Target>> {
    let indices: Vec<TxIndex> = (0..3).map(TxIndex).collect();
    let recovery = |block| WorkSpec::of(state(), block, WorkKind::Recover, &indices);
    let work: Vec<WorkSpec> = chain.blocks.iter().map(recovery).collect();
    let addresses = vec![Ok(Address::repeat_byte(1)), Ok(Address::ZERO)];
    let panicked = WorkFailure::WorkerPanicked { message: "an index".into(), at: Some(TxIndex(1)) };
    let results: [Result<WorkOutput, WorkFailure>; 3] =
        [Ok(WorkOutput::Recovered(addresses)), Err(panicked), Err(WorkFailure::Memory(TxIndex(3)))];
    let refusals = [Refusal::Draining, Refusal::QueueFull { limit: 3 }];
    let strikes = [StrikeRecord { strikes: 2, quarantines: 1, quarantined: true }];
    let accepted = [AcceptedRecord { sequence: 3, starts: 1, parked: None }];
    let runtime = Builder::new_current_thread().enable_time().build()?;
    let rlp: Vec<Vec<u8>> = chain.blocks.iter().map(|block| block.rlp().to_vec()).collect();
    Ok(vec![
        value("value-work", &work, |work: WorkSpec| work.open().is_ok())?,
        value("value-result", &results, |_: Result<WorkOutput, WorkFailure>| true)?,
        value("value-delta", &[delta()], |delta: Delta| delta.weight() > 0)?,
        value("value-snapshot", &[snapshot(), SnapshotPart::Delta(Arc::new(delta()))], |_: SnapshotPart| {
            true
        })?,
        value("value-refusal", &refusals, |refusal: Refusal| !refusal.to_string().is_empty())?,
        value("value-strikes", &strikes, |_: StrikeRecord| true)?,
        value("value-accepted", &accepted, |_: AcceptedRecord| true)?,
        Target::of(
            "record-of-ledger",
            vec![codec::encode("journal", &(delta(), delta()), MAX_PAYLOAD_BYTES)?],
            ledger::could_be_a_record,
        )
        .bounded(16 << 20, 2_048),
        Target::of("block", rlp.clone(), |bytes| {
            EncodedBlock::decode_exact(bytes).is_ok_and(|block| CheckedBlock::new(block).is_ok())
        })
        .bounded(256 << 10, 256),
        Target::of("payload", payloads(&rlp), move |bytes| takes_payload(&runtime, bytes))
            .bounded(256 << 10, 64),
    ])
}

/// Payloads as sequences of chunks, each behind its length.
fn payloads(contents: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let framed = |content: &Vec<u8>| {
        let digest = codec::payload_digest(content);
        let chunks = chunks(content.clone(), digest, None, None);
        chunks.flat_map(|chunk| chunk.encode_length_delimited_to_vec()).collect()
    };
    contents.iter().map(framed).collect()
}

/// Receives a payload whose chunks are in `bytes`.
fn takes_payload(runtime: &Runtime, mut bytes: &[u8]) -> bool {
    let mut received = Vec::new();
    while !bytes.is_empty() {
        match PayloadChunk::decode_length_delimited(&mut bytes) {
            Ok(chunk) => received.push(Ok(chunk)),
            Err(_) => break,
        }
    }
    let budget = Budget::new("payloads", 2 * PAYLOAD);
    let room = budget.open(Payer::Address([127, 0, 0, 1].into()));
    let mut stream = futures_util::stream::iter(received);
    runtime.block_on(receive(&mut stream, PAYLOAD, room)).is_ok()
}

/// A file with these bytes, in place of the one before.
pub(super) fn put(path: &Path, bytes: &[u8]) -> bool {
    std::fs::write(path, bytes).is_ok()
}
