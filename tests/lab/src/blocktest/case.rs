//! Runs one test case and judges it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use alloy_consensus::Header;
use alloy_consensus::proofs::{
    calculate_ommers_root, calculate_transaction_root, calculate_withdrawals_root,
};
use alloy_primitives::{Address, B256, KECCAK256_EMPTY, U256, keccak256};
use alloy_rlp::Decodable;
use common::account::AccountRecord;
use common::block::{Block, EncodedBlock};
use common::chain_spec::ChainSpec;
use common::chain_spec::networks::{NetworkConfig, chain_spec};
use common::id::Height;

use super::expected::{CompareReasons, Comparison, compare_reason};
use super::importer::{CaseChain, ImportError};
use super::model::{Case, CaseBlock, CaseConfig, PlainAccount};
use super::refusal::RefusalKind;
use coordinator::import;
use coordinator::input::StateBuilder;
use ledger::Origin;

/// The verdict on a case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Every result is as the file states.
    Pass,
    /// A result differs. The text describes the first difference.
    Fail(String),
    /// The case cannot be run. The text is the reason.
    Skip(String),
}

/// The verdict on a case, with its measurements.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaseOutcome {
    /// Whether the case passed, failed or could not be run, with the reason.
    pub verdict: Verdict,
    /// The number of blocks imported or rejected.
    pub blocks: u64,
    /// The duration of the case.
    pub elapsed: Duration,
    /// The comparison of its rejections with the expected ones.
    pub reasons: Reasons,
}

/// The comparison of a case's rejections with those that the suite expects.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reasons {
    /// The number of rejections for the expected reason.
    pub compared: u64,
    /// For each rejection whose reason cannot be compared, the cause.
    pub not_compared: Vec<String>,
}

/// A case in progress.
struct CaseRun<'a> {
    case: &'a Case,
    compare: CompareReasons,
    blocks: u64,
    reasons: Reasons,
}

/// Why a case ends before all its blocks were imported.
enum CaseEnd {
    Fail(String),
    Skip(String),
}

impl From<ImportError> for CaseEnd {
    fn from(error: ImportError) -> Self {
        Self::Fail(error.to_string())
    }
}

fn fail(reason: impl Into<String>) -> CaseEnd {
    CaseEnd::Fail(reason.into())
}

/// Runs a case and judges it.
pub fn run_case(case: &Case, importer: &mut import::Importer, compare: CompareReasons) -> CaseOutcome {
    let began = Instant::now();
    let mut run = CaseRun { case, compare, blocks: 0, reasons: Reasons::default() };
    let verdict = match run.judge(importer) {
        Ok(()) => Verdict::Pass,
        Err(CaseEnd::Fail(reason)) => Verdict::Fail(reason),
        Err(CaseEnd::Skip(reason)) => Verdict::Skip(reason),
    };
    let CaseRun { blocks, reasons, .. } = run;
    CaseOutcome { verdict, blocks, elapsed: began.elapsed(), reasons }
}

impl CaseRun<'_> {
    fn judge(&mut self, importer: &mut import::Importer) -> Result<(), CaseEnd> {
        let case = self.case;
        let network = case.network.as_deref().unwrap_or_default();
        let spec = chain_spec_of(network, case.config.as_ref()).map_err(CaseEnd::Skip)?;
        let header = genesis_header(case)?;
        let state_root = header.state_root;
        let mut importer = CaseChain::begin(origin(case, spec, header)?, importer)?;
        let (_, root) = importer.head();
        if root != state_root {
            return Err(fail(format!("genesis: stateRoot is {state_root}, the accounts give {root}")));
        }
        for (block, position) in case.blocks.iter().flatten().zip(1u64..) {
            self.blocks += 1;
            let at = |end| match end {
                CaseEnd::Fail(reason) => CaseEnd::Fail(format!("block {position} of the case: {reason}")),
                CaseEnd::Skip(reason) => CaseEnd::Skip(format!("block {position} of the case: {reason}")),
            };
            self.import(block, &mut importer).map_err(at)?;
        }
        check_end(case, &mut importer)
    }

    /// Imports a block. If the suite expects a rejection, the block must be rejected for the expected
    /// reason, and the chain must stay unchanged.
    fn import(&mut self, block: &CaseBlock, importer: &mut CaseChain<'_>) -> Result<(), CaseEnd> {
        let Some(rlp) = &block.rlp else {
            return Err(CaseEnd::Skip("it is not given in its encoding".into()));
        };
        let before = importer.head();
        match (importer.import(rlp), block.must_be_refused()) {
            (Ok(()), None) => {
                let stated = block.block_header.as_ref().and_then(|header| header.hash);
                match Block::decode_exact(rlp).ok().map(|block| block.hash) {
                    Some(hash) if stated.is_some_and(|stated| stated != hash) => {
                        Err(fail(format!("blockHeader.hash is not the hash of rlp, which is {hash}")))
                    }
                    _ => Ok(()),
                }
            }
            (Ok(()), Some(reason)) => {
                let seals = self.case.seal_engine.as_deref().is_some_and(|engine| engine != "NoProof");
                if seals && block.expect_exception.is_none() {
                    return Err(CaseEnd::Skip(format!(
                        "it may have to be refused for its seal, which is not checked ({reason})"
                    )));
                }
                Err(fail(format!("accepted, but it must be refused: {reason}")))
            }
            (Err(ImportError::Refused { kind, reason }), Some(expected)) => {
                if importer.head() != before {
                    return Err(fail(format!("refused as it should be ({reason}), but the head has moved")));
                }
                if kind.is_of_content()
                    && self.compare != CompareReasons::Off
                    && compare_reason(expected, kind) == Comparison::Another
                {
                    return self.import_mended(rlp, expected, importer);
                }
                self.compare(expected, kind, &reason)
            }
            (Err(ImportError::Refused { reason, .. }), None) => Err(fail(format!("refused: {reason}"))),
            (Err(ImportError::Fault(reason)), _) => {
                Err(fail(format!("neither accepted nor refused: {reason}")))
            }
        }
    }

    /// Imports a block again after correcting the roots in its header. The fillers of some suites leave the
    /// faulty part out of the roots, so the block is rejected for a root before anything else is checked.
    /// With the right roots it must be rejected for the intended fault.
    fn import_mended(
        &mut self,
        rlp: &[u8],
        expected: &str,
        importer: &mut CaseChain<'_>,
    ) -> Result<(), CaseEnd> {
        let mut block =
            Block::decode_exact(rlp).map_err(|error| fail(format!("it cannot be decoded: {error}")))?;
        let header = &mut block.header;
        header.transactions_root = calculate_transaction_root(&block.transactions);
        header.ommers_hash = calculate_ommers_root(block.ommers.headers());
        header.withdrawals_root = block.withdrawals.as_deref().map(calculate_withdrawals_root);
        let mended = EncodedBlock::new(block);
        let before = importer.head();
        match importer.import(mended.rlp()) {
            Err(ImportError::Refused { kind, reason }) if importer.head() == before => {
                self.compare(expected, kind, &format!("with the right roots, {reason}"))
            }
            Ok(()) | Err(ImportError::Refused { .. }) => {
                Err(fail(format!("with the right roots it is accepted, but it must be refused: {expected}")))
            }
            Err(ImportError::Fault(reason)) => {
                Err(fail(format!("with the right roots, neither accepted nor refused: {reason}")))
            }
        }
    }

    /// Compares the reason of a rejection with the expected one.
    fn compare(&mut self, expected: &str, kind: RefusalKind, reason: &str) -> Result<(), CaseEnd> {
        if self.compare == CompareReasons::Off {
            return Ok(());
        }
        match compare_reason(expected, kind) {
            Comparison::Same => self.reasons.compared += 1,
            Comparison::NotCompared(why) => {
                self.reasons.not_compared.push(format!("{why} (expected {expected}, refused: {reason})"));
            }
            Comparison::Another if self.compare == CompareReasons::Report => {
                let text = format!("expected {expected}, refused as {kind:?}: {reason}");
                self.reasons.not_compared.push(text);
            }
            Comparison::Another => {
                return Err(fail(format!("refused for another reason than {expected}: {reason} ({kind:?})")));
            }
        }
        Ok(())
    }
}

/// The header of block 0, after checking that both of its forms agree.
fn genesis_header(case: &Case) -> Result<Header, CaseEnd> {
    let encoded = match &case.genesis_rlp {
        Some(rlp) => {
            let header = match Block::decode_exact(rlp) {
                Ok(block) => block.header,
                // Some files contain only the header.
                Err(error) => Header::decode(&mut rlp.as_ref())
                    .map_err(|_| fail(format!("genesisRLP cannot be decoded: {error}")))?,
            };
            Some(header)
        }
        None => None,
    };
    let Some(stated) = &case.genesis_block_header else {
        return encoded.ok_or_else(|| CaseEnd::Skip("it has no genesis".into()));
    };
    let header =
        stated.header().map_err(|field| fail(format!("genesisBlockHeader.{field} has more than 64 bits")))?;
    let hash = header.hash_slow();
    let hashes = [stated.stated_hash(), encoded.map(|header| header.hash_slow())];
    match hashes.into_iter().flatten().find(|other| *other != hash) {
        Some(other) => Err(fail(format!("genesis: hash is {other}, the header's fields give {hash}"))),
        None => Ok(header),
    }
}

fn origin(case: &Case, spec: ChainSpec, header: Header) -> Result<Origin, CaseEnd> {
    let mut state = StateBuilder::default();
    for (address, account) in case.pre.iter().flatten() {
        let PlainAccount { balance, nonce, code, storage } = account;
        let nonce = nonce
            .word("nonce")
            .map_err(|field| fail(format!("pre.{address}.{field} has more than 64 bits")))?;
        let slots = storage.iter().map(|(slot, value)| (slot.0, value.0));
        state.add(*address, balance.0, nonce, Some(code.clone()), slots);
    }
    let (accounts, code) = state.finish();
    let block_hash = header.hash_slow();
    Ok(Origin {
        spec,
        height: Height(header.number),
        block_hash,
        ancestors: vec![(header.number, block_hash)],
        header: Some(header),
        accounts,
        code,
        complete: true,
    })
}

fn check_end(case: &Case, importer: &mut CaseChain<'_>) -> Result<(), CaseEnd> {
    let (hash, root) = importer.head();
    if let Some(wanted) = case.lastblockhash.filter(|wanted| *wanted != hash) {
        return Err(fail(format!("lastblockhash: the head is {hash}, it should be {wanted}")));
    }
    if let Some(wanted) = case.post_state_hash.filter(|wanted| *wanted != root) {
        return Err(fail(format!("postStateHash: the state root is {root}, it should be {wanted}")));
    }
    let Some(wanted) = &case.post_state else { return Ok(()) };
    let found = importer.accounts()?;
    match first_difference(wanted, &found) {
        Some(difference) => Err(fail(format!("postState: {difference}"))),
        None => Ok(()),
    }
}

/// The first difference between two states, in order of address.
fn first_difference(
    wanted: &BTreeMap<Address, PlainAccount>,
    found: &BTreeMap<Address, AccountRecord>,
) -> Option<String> {
    let addresses: BTreeSet<&Address> = wanted.keys().chain(found.keys()).collect();
    addresses.into_iter().find_map(|address| match (wanted.get(address), found.get(address)) {
        (Some(wanted), Some(found)) => account_difference(wanted, found)
            .map(|(field, found, wanted)| format!("{address}.{field} is {found}, it should be {wanted}")),
        (Some(_), None) => Some(format!("{address} is missing")),
        (None, Some(_)) => Some(format!("{address} should not exist")),
        (None, None) => None,
    })
}

/// The first different field, with the value found and the value wanted.
fn account_difference(wanted: &PlainAccount, found: &AccountRecord) -> Option<(String, String, String)> {
    let code_hash = if wanted.code.is_empty() { KECCAK256_EMPTY } else { keccak256(&wanted.code) };
    let account = &found.account;
    let differs = |field: &str, found: String, wanted: String| {
        (found != wanted).then(|| (field.to_owned(), found, wanted))
    };
    let fields = differs("balance", account.balance.to_string(), wanted.balance.0.to_string())
        .or_else(|| differs("nonce", account.nonce.to_string(), wanted.nonce.0.to_string()))
        .or_else(|| differs("code (hash)", account.code_hash.to_string(), code_hash.to_string()));
    if fields.is_some() {
        return fields;
    }
    let is: BTreeMap<U256, U256> = found.storage.iter().map(|slot| (slot.slot, slot.value)).collect();
    let should: BTreeMap<U256, U256> = wanted
        .storage
        .iter()
        .filter(|(_, value)| !value.0.is_zero())
        .map(|(slot, value)| (slot.0, value.0))
        .collect();
    let slots: BTreeSet<&U256> = is.keys().chain(should.keys()).collect();
    let value =
        |slots: &BTreeMap<U256, U256>, slot: &U256| B256::from(slots.get(slot).copied().unwrap_or_default());
    slots.into_iter().find_map(|slot| {
        let (found, wanted) = (value(&is, slot).to_string(), value(&should, slot).to_string());
        differs(&format!("storage[{slot:#x}]"), found, wanted)
    })
}

/// The chain specification of a case's network, with the settings that the case states.
fn chain_spec_of(network: &str, config: Option<&CaseConfig>) -> Result<ChainSpec, String> {
    let mut stated = NetworkConfig::default();
    if let Some(config) = config {
        let chain_id = config.chain_id.map(|id| id.word("config.chainid")).transpose();
        stated.chain_id = chain_id.map_err(|field| format!("{field} has more than 64 bits"))?;
        for (name, entry) in &config.blob_schedule {
            let blobs = entry
                .stated()
                .map_err(|field| format!("config.blobSchedule.{name}.{field} is out of range"))?;
            stated.blobs.insert(name.clone(), blobs);
        }
    }
    chain_spec(network, &stated)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use common::account::{Account, SlotValue};

    const ADDRESS: Address = Address::repeat_byte(1);

    fn wanted(json: &str) -> BTreeMap<Address, PlainAccount> {
        BTreeMap::from([(ADDRESS, serde_json::from_str(json).unwrap())])
    }

    fn found() -> BTreeMap<Address, AccountRecord> {
        let account = Account { balance: U256::from(5), nonce: 1, ..Default::default() };
        let storage = vec![SlotValue { slot: U256::from(7), value: U256::from(9) }];
        BTreeMap::from([(ADDRESS, AccountRecord { address: ADDRESS, account, storage })])
    }

    #[test]
    fn equal_states_have_no_difference() {
        let wanted = wanted(
            r#"{"balance": "0x05", "nonce": "0x01", "code": "0x", "storage": {"0x07": "0x09", "0x08": "0x"}}"#,
        );
        assert_eq!(first_difference(&wanted, &found()), None);
    }

    #[test]
    fn the_first_field_that_differs_is_named() {
        let difference = |json| first_difference(&wanted(json), &found()).unwrap();
        assert!(
            difference(r#"{"balance": "0x04", "nonce": "0x02"}"#).contains("balance is 5, it should be 4")
        );
        assert!(difference(r#"{"balance": "0x05", "nonce": "0x02"}"#).contains("nonce"));
        assert!(difference(r#"{"balance": "0x05", "nonce": "0x01", "code": "0x00"}"#).contains("code"));
        assert!(difference(r#"{"balance": "0x05", "nonce": "0x01"}"#).contains("storage[0x7]"));
    }

    #[test]
    fn accounts_that_are_only_on_one_side_are_named() {
        assert!(first_difference(&BTreeMap::new(), &found()).unwrap().contains("should not exist"));
        assert!(first_difference(&wanted("{}"), &BTreeMap::new()).unwrap().contains("is missing"));
    }
}
