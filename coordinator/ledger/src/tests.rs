//! Tests of ledgers over generated blocks, which consist of changes only: no EVM runs.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use std::sync::Arc;

use alloy_consensus::Header;
use alloy_consensus::constants::EMPTY_OMMER_ROOT_HASH;
use alloy_primitives::{Address, B256, U256};
use common::account::{Account, AccountDelta, AccountRecord, SlotValue};
use common::block::{Block, EncodedBlock, Ommers};
use common::chain_spec::ChainSpec;
use common::id::Height;
use common::receipt::Receipts;
use engine::StateView;
use parking_lot::Mutex;
use redb::StorageBackend;

use super::*;

pub(super) fn address(number: u64) -> Address {
    Address::left_padding_from(&number.to_be_bytes())
}

fn account(balance: u64) -> Account {
    Account { balance: U256::from(balance), nonce: 1, ..Default::default() }
}

fn slot(slot: u64, value: u64) -> SlotValue {
    SlotValue { slot: U256::from(slot), value: U256::from(value) }
}

/// A chain's start with forty accounts, half of them with storage.
pub(super) fn origin() -> Origin {
    let accounts: Vec<AccountRecord> = (0..40)
        .map(|number| AccountRecord {
            address: address(number),
            account: account(number + 1),
            storage: if number.is_multiple_of(2) {
                (1..6).map(|key| slot(key, number + key)).collect()
            } else {
                vec![]
            },
        })
        .collect();
    let mut origin = Origin {
        spec: ChainSpec::mainnet(),
        height: Height(0),
        block_hash: B256::ZERO,
        header: None,
        accounts,
        code: vec![],
        ancestors: vec![],
        complete: true,
    };
    let root = Ledger::begin(origin.clone()).unwrap().head().state_root().unwrap();
    let header = Header { state_root: root, difficulty: U256::from(10), ..Default::default() };
    origin.block_hash = header.hash_slow();
    origin.header = Some(header);
    origin
}

/// Changes that depend on `seed`: updated, new, wiped and deleted accounts.
fn changes(seed: u64) -> Vec<AccountDelta> {
    let of = |number: u64, account: Option<Account>, wiped, storage| AccountDelta {
        address: address(number),
        account,
        wiped,
        storage,
    };
    let mut changes = vec![
        of(seed % 40, Some(account(seed + 1000)), false, vec![slot(1, 0), slot(9, seed + 1)]),
        of(100 + seed, Some(account(seed)), false, vec![slot(seed, 5)]),
    ];
    if seed.is_multiple_of(3) {
        changes.push(of((seed + 2) % 40, None, true, vec![]));
    }
    if seed % 4 == 1 {
        changes.push(of((seed + 5) % 40, Some(account(7)), true, vec![slot(77, seed + 1)]));
    }
    changes.sort_by_key(|change| change.address);
    changes
}

/// A block with the changes of `seed` on `parent`.
pub(super) fn block_after(parent: &Tip, seed: u64) -> EncodedBlock {
    let draft = parent.draft(changes(seed), vec![]).unwrap();
    let header = Header {
        parent_hash: parent.summary().state.block_hash,
        ommers_hash: EMPTY_OMMER_ROOT_HASH,
        number: parent.summary().state.height.0 + 1,
        state_root: draft.state_root().unwrap(),
        difficulty: U256::from(10 + seed),
        extra_data: seed.to_be_bytes().to_vec().into(),
        ..Default::default()
    };
    Block::new(header, vec![], Ommers::Headers(vec![]), None).into()
}

/// The tip after that block.
pub(super) fn next(parent: &Tip, seed: u64) -> Arc<Tip> {
    let draft = parent.draft(changes(seed), vec![]).unwrap();
    parent.seal(draft, &block_after(parent, seed), &Receipts::default())
}

fn commit_chain(ledger: &Ledger, seeds: impl IntoIterator<Item = u64>) -> Vec<Arc<Tip>> {
    let step = |seed| ledger.commit(&next(&ledger.head(), seed)).unwrap();
    seeds.into_iter().map(step).collect()
}

pub(super) fn check(tip: &Tip) {
    assert_eq!(tip.state_root(), Some(state_root(tip.view()).unwrap()), "at {}", tip.summary().state);
}

#[test]
fn roots_are_those_of_the_whole_state() {
    let ledger = Ledger::begin(origin()).unwrap();
    check(&ledger.head());
    for tip in commit_chain(&ledger, 0..30) {
        check(&tip);
    }
}

#[test]
fn a_tip_stays_as_it_is_while_later_blocks_commit() {
    let ledger = Ledger::begin(origin()).unwrap();
    let old = ledger.head();
    let before = old.view().account(&address(1)).unwrap();
    commit_chain(&ledger, 0..10);
    assert_eq!(old.view().account(&address(1)).unwrap(), before);
    check(&old);
    assert_ne!(ledger.head().view().account(&address(1)).unwrap(), before);
}

#[test]
fn several_blocks_can_be_committed_at_once() {
    let (one, other) = (Ledger::begin(origin()).unwrap(), Ledger::begin(origin()).unwrap());
    commit_chain(&one, 0..6);
    let tip = (0..6).fold(other.head(), |tip, seed| next(&tip, seed));
    other.commit(&tip).unwrap();
    assert_eq!(one.head().summary(), other.head().summary());
    assert_eq!(one.head().state_root(), other.head().state_root());
    check(&other.head());
}

#[test]
fn a_tip_made_before_its_parent_was_committed_can_be_committed_after() {
    let ledger = Ledger::begin(origin()).unwrap();
    let first = next(&ledger.head(), 1);
    let second = next(&first, 2);
    ledger.commit(&first).unwrap();
    let head = ledger.commit(&second).unwrap();
    assert_eq!(head.summary(), second.summary());
    check(&head);
    let sibling = next(&first, 3);
    assert!(matches!(ledger.commit(&sibling), Err(LedgerError::Outdated { .. })));
}

#[test]
fn a_heavier_branch_replaces_the_chain_in_one_commit_and_back() {
    let ledger = Ledger::begin(origin()).unwrap();
    let trunk = commit_chain(&ledger, 0..5);
    let fork = trunk[1].summary().state;
    let base = ledger.tip_at(fork.height, fork.block_hash).unwrap().unwrap();
    check(&base);
    let branch = (20..24).fold(base, |tip, seed| next(&tip, seed));
    ledger.commit(&branch).unwrap();
    check(&ledger.head());
    assert_eq!(ledger.head().summary(), branch.summary());
    assert_eq!(ledger.hash_at(Height(3)).unwrap(), Some(branch.ancestors()[3].hash));
    // The abandoned branch is still known, and the chain can return to it.
    let left = trunk[4].summary().state;
    assert!(ledger.knows(left.height, left.block_hash).unwrap());
    assert!(!ledger.contains(left.height, left.block_hash).unwrap());
    let back = ledger.tip_at(left.height, left.block_hash).unwrap().unwrap();
    assert_eq!(back.summary(), trunk[4].summary());
    ledger.commit(&back).unwrap();
    check(&ledger.head());
    assert_eq!(ledger.head().state_root(), trunk[4].state_root());
    assert_eq!(ledger.head().total_difficulty(), trunk[4].total_difficulty());
}

#[test]
fn the_chain_can_be_unwound_as_far_as_the_journal_goes() {
    let options = LedgerOptions { unwind: 4, journal: 4, ..LedgerOptions::small() };
    let backend = redb::backends::InMemoryBackend::new();
    let ledger = Ledger::on_backend(backend, origin(), options).unwrap();
    let tips = commit_chain(&ledger, 0..10);
    let at = |index: usize| {
        let state = tips[index].summary().state;
        ledger.tip_at(state.height, state.block_hash)
    };
    assert!(matches!(at(4), Err(LedgerError::TooFarBack { .. })));
    let earlier = at(5).unwrap().unwrap();
    ledger.commit(&earlier).unwrap();
    assert_eq!(ledger.head().summary(), tips[5].summary());
    check(&ledger.head());
    assert!(ledger.block(&tips[6].summary().state.block_hash).unwrap().is_none());
}

#[test]
fn deltas_lead_from_a_recent_state_to_the_head() {
    let ledger = Ledger::begin(origin()).unwrap();
    let tips = commit_chain(&ledger, 0..5);
    let deltas = ledger.deltas_from(tips[1].summary().state).unwrap().unwrap();
    assert_eq!(deltas.len(), 3);
    assert_eq!(deltas[0].from, tips[1].summary().state);
    assert_eq!(deltas[2].to, tips[4].summary().state);
    let elsewhere = next(&tips[1], 30).summary().state;
    assert!(ledger.deltas_from(elsewhere).unwrap().is_none());
}

#[test]
fn a_ledger_in_a_folder_is_there_again() {
    let folder = tempfile::tempdir().unwrap();
    let options = LedgerOptions::small();
    let ledger = Ledger::open(folder.path(), origin(), options).unwrap();
    let epoch = ledger.raise_epoch().unwrap();
    let tips = commit_chain(&ledger, 0..4);
    assert!(matches!(Ledger::open(folder.path(), origin(), options), Err(LedgerError::Locked(_))));
    drop((ledger, tips.clone()));
    drop(tips.clone());
    let summaries: Vec<_> = tips.iter().map(|tip| (tip.summary(), tip.state_root())).collect();
    drop(tips);
    let again = Ledger::open(folder.path(), origin(), options).unwrap();
    assert_eq!((again.head().summary(), again.head().state_root()), summaries[3]);
    assert_eq!(again.head().blocks(), 4);
    assert_eq!(again.head().ancestors().len(), 5);
    assert!(again.raise_epoch().unwrap() > epoch);
    check(&again.head());
    commit_chain(&again, 4..6);
    check(&again.head());
}

#[test]
fn another_chain_and_another_file_are_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ledger.redb");
    drop(Ledger::open(folder.path(), origin(), LedgerOptions::small()).unwrap());
    let before = std::fs::read(&file).unwrap();
    let mut other = origin();
    other.accounts.pop();
    other.header = None;
    let refused = Ledger::open(folder.path(), other, LedgerOptions::small());
    assert!(matches!(refused, Err(LedgerError::Foreign { .. })), "{refused:?}");
    assert!(std::fs::read(&file).unwrap() == before);
    std::fs::write(&file, b"something else entirely").unwrap();
    let refused = Ledger::open(folder.path(), origin(), LedgerOptions::small());
    assert!(matches!(refused, Err(LedgerError::Format { .. })), "{refused:?}");
    assert_eq!(std::fs::read(&file).unwrap(), b"something else entirely");
}

#[test]
fn accounts_that_are_not_the_genesis_headers_are_refused() {
    let mut origin = origin();
    origin.accounts.pop();
    assert!(matches!(Ledger::begin(origin), Err(LedgerError::OriginRoot { .. })));
}

/// A disk with a cache that a power cut empties: data that was not synced is lost.
#[derive(Debug, Clone, Default)]
pub(super) struct Disk(Arc<Mutex<Platters>>);

#[derive(Debug, Default)]
struct Platters {
    written: Vec<u8>,
    synced: Vec<u8>,
    syncs: u64,
    /// The number of the sync at which the power fails: this sync and all later ones fail.
    cut_at: Option<u64>,
    /// The number of syncs before the part that the test examines.
    marked: u64,
}

impl Disk {
    /// The disk after the power is back.
    pub(super) fn rebooted(&self) -> Self {
        let synced = self.0.lock().synced.clone();
        Self(Arc::new(Mutex::new(Platters { written: synced.clone(), synced, ..Default::default() })))
    }

    pub(super) fn syncs(&self) -> u64 {
        self.0.lock().syncs
    }

    /// A disk whose power fails at the given sync.
    pub(super) fn cut_at(sync: u64) -> Self {
        Self(Arc::new(Mutex::new(Platters { cut_at: Some(sync), ..Default::default() })))
    }

    /// Marks the start of the part that the test examines.
    pub(super) fn mark(&self) {
        let mut disk = self.0.lock();
        disk.marked = disk.syncs;
    }

    pub(super) fn marked(&self) -> u64 {
        self.0.lock().marked
    }
}

impl Platters {
    fn powered(&self) -> std::io::Result<()> {
        match self.cut_at {
            Some(at) if self.syncs >= at => Err(std::io::Error::other("the power is gone")),
            _ => Ok(()),
        }
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> std::io::Result<u64> {
        Ok(self.0.lock().written.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> std::io::Result<()> {
        let disk = self.0.lock();
        let start = usize::try_from(offset).unwrap();
        let bytes = disk.written.get(start..start + out.len());
        out.copy_from_slice(bytes.ok_or_else(|| std::io::Error::other("beyond the end"))?);
        Ok(())
    }

    fn set_len(&self, length: u64) -> std::io::Result<()> {
        let mut disk = self.0.lock();
        disk.powered()?;
        disk.written.resize(usize::try_from(length).unwrap(), 0);
        Ok(())
    }

    fn sync_data(&self) -> std::io::Result<()> {
        let mut disk = self.0.lock();
        disk.powered()?;
        disk.syncs += 1;
        // The power fails during this sync, before any byte has reached the platters.
        disk.powered()?;
        disk.synced = disk.written.clone();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> std::io::Result<()> {
        let mut disk = self.0.lock();
        disk.powered()?;
        let start = usize::try_from(offset).unwrap();
        disk.written[start..start + data.len()].copy_from_slice(data);
        Ok(())
    }
}

/// A ledger with a checkpoint at every `checkpoint`th block.
fn on_disk(disk: Disk, checkpoint: u64) -> Result<Ledger, LedgerError> {
    Ledger::on_backend(disk, origin(), LedgerOptions { checkpoint, ..LedgerOptions::small() })
}

/// Commits blocks until the power fails. Returns the acknowledged heads.
fn run_until_cut(disk: &Disk, blocks: u64, checkpoint: u64) -> Vec<common::message::StateSummary> {
    let Ok(ledger) = on_disk(disk.clone(), checkpoint) else { return Vec::new() };
    let mut heads = vec![ledger.head().summary()];
    for seed in 0..blocks {
        let tip = next(&ledger.head(), seed);
        match ledger.commit(&tip) {
            Ok(head) => heads.push(head.summary()),
            Err(error) => {
                assert!(error.is_storage(), "{error}");
                break;
            }
        }
    }
    heads
}

#[test]
fn a_power_cut_at_any_sync_loses_no_acknowledged_block_and_tears_none() {
    const BLOCKS: u64 = 5;
    let mut expected = None;
    for checkpoint in [1, 2, 32] {
        let undisturbed = Disk::default();
        let heads = run_until_cut(&undisturbed, BLOCKS, checkpoint);
        assert_eq!(heads.len() as u64, BLOCKS + 1);
        assert_eq!(*expected.get_or_insert_with(|| heads.clone()), heads, "checkpoints change no state");
        let syncs = undisturbed.syncs();
        // In a folder, a database gets its name only when it is complete. What a cut leaves before that is
        // not opened.
        let made = {
            let disk = Disk::default();
            let _ledger = on_disk(disk.clone(), checkpoint).unwrap();
            disk.syncs()
        };
        assert!(syncs >= made + BLOCKS, "{syncs} syncs, {made} of them to make the database");
        for cut in made + 1..=syncs {
            let disk = Disk::default();
            disk.0.lock().cut_at = Some(cut);
            let acknowledged = run_until_cut(&disk, BLOCKS, checkpoint);
            let ledger = on_disk(disk.rebooted(), checkpoint).unwrap();
            let head = ledger.head();
            // The head belongs to the undisturbed chain and is not older than the last acknowledged one.
            let position = heads.iter().position(|summary| *summary == head.summary()).unwrap();
            assert!(position + 1 >= acknowledged.len(), "cut at {cut}: {position} after {acknowledged:?}");
            check(&head);
            // And the chain goes on from there as if nothing had happened.
            commit_chain(&ledger, position as u64..BLOCKS);
            assert_eq!(ledger.head().summary(), heads[BLOCKS as usize], "cut at {cut}");
            assert!(ledger.verify(&mut |_, _, _| ()).is_sound());
        }
    }
}

#[test]
fn a_failed_commit_changes_nothing() {
    // The failing commit is an ordinary one, and one with a checkpoint.
    for checkpoint in [32, 3] {
        let disk = Disk::default();
        let ledger = on_disk(disk.clone(), checkpoint).unwrap();
        commit_chain(&ledger, 0..2);
        let before = ledger.head();
        disk.0.lock().cut_at = Some(0);
        let tip = next(&before, 2);
        assert!(ledger.commit(&tip).unwrap_err().is_storage());
        assert!(ledger.checkpoint().unwrap_err().is_storage());
        assert_eq!(ledger.head().summary(), before.summary());
        check(&ledger.head());
        let again = on_disk(disk.rebooted(), checkpoint).unwrap();
        assert_eq!(again.head().summary(), before.summary());
    }
}

#[test]
fn a_damaged_file_is_an_error_with_a_name_or_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ledger.redb");
    let expected = {
        let ledger = Ledger::open(folder.path(), origin(), LedgerOptions::small()).unwrap();
        commit_chain(&ledger, 0..4);
        ledger.head().summary()
    };
    let whole = std::fs::read(&file).unwrap();
    let mut refused = 0;
    // The start of every page, where its structure lies, and some bytes within the page.
    for offset in (0..whole.len()).step_by(4096).flat_map(|page| [page, page + 1, page + 8, page + 100]) {
        let mut bytes = whole.clone();
        bytes[offset] ^= 0x55;
        std::fs::write(&file, &bytes).unwrap();
        let opened = std::panic::catch_unwind(|| {
            let ledger = Ledger::open(folder.path(), origin(), LedgerOptions::small())?;
            let summary = ledger.head().summary();
            // Closing may fail at a page that was never read; the test no longer needs the ledger then.
            let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(ledger)));
            Ok::<_, LedgerError>(summary)
        });
        match opened {
            // Damage further down is found when it is read.
            Ok(Ok(summary)) => assert_eq!(summary, expected, "flipped at {offset}"),
            Ok(Err(_)) => refused += 1,
            Err(_) => panic!("opening a file with a flipped byte at {offset} panicked"),
        }
    }
    assert!(refused > 0, "no damage was noticed");
}

#[test]
fn a_coordinator_whose_term_has_passed_commits_nothing_more() {
    // A storage that lets both in: each ledger believes that it has the database to itself.
    let fence: Arc<dyn Fence> = Arc::new(MemoryFence::default());
    let open = || Ledger::begin(origin()).unwrap().fenced(Arc::clone(&fence));
    let (older, newer) = (open(), open());
    let first = older.raise_epoch().unwrap();
    commit_chain(&older, 0..2);
    let second = newer.raise_epoch().unwrap();
    assert!(second > first);
    let before = older.head().summary();
    let refused = older.commit(&next(&older.head(), 2)).unwrap_err();
    assert!(matches!(refused, LedgerError::Superseded { .. }) && refused.is_storage(), "{refused}");
    assert_eq!(older.head().summary(), before);
    commit_chain(&newer, 0..3);
    check(&newer.head());
}

#[test]
fn the_term_of_a_folder_is_seen_from_outside_of_the_database() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(folder.path(), origin(), LedgerOptions::small()).unwrap();
    let epoch = ledger.raise_epoch().unwrap();
    commit_chain(&ledger, 0..1);
    let file = folder.path().join("epoch");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), format!("{}\n", epoch.number));
    std::fs::write(&file, format!("{}\n", epoch.number + 1)).unwrap();
    let refused = ledger.commit(&next(&ledger.head(), 1));
    assert!(matches!(refused, Err(LedgerError::Superseded { .. })), "{refused:?}");
    drop(ledger);
    let again = Ledger::open(folder.path(), origin(), LedgerOptions::small()).unwrap();
    assert!(again.raise_epoch().unwrap().number > epoch.number + 1);
}
