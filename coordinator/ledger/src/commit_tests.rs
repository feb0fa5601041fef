//! Commits of several blocks at once, checkpoints, and tips that outlive a commit.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::sync::Arc;

use alloy_primitives::Address;
use engine::StateView as _;

use super::records::{RecordWriter, Records};
use super::tests::{Disk, check, next, origin};
use super::{Ledger, LedgerOptions};

/// Law: the database after a group of blocks is that after each of them, whatever they change twice, wipe,
/// delete or create again.
#[test]
fn blocks_committed_in_groups_leave_what_single_ones_leave() {
    const BLOCKS: usize = 90;
    let content = |ledger: &Ledger| {
        let view = ledger.head().view().clone();
        let mut addresses = view.addresses().unwrap();
        addresses.sort_unstable();
        let account = |address: &Address| {
            let mut storage = view.storage(address).unwrap();
            storage.sort_unstable();
            (view.account(address).unwrap(), storage)
        };
        addresses.iter().map(|address| (*address, account(address))).collect::<Vec<_>>()
    };
    let mut expected = None;
    for group in [1, 2, 7, BLOCKS] {
        let ledger = Ledger::begin(origin()).unwrap();
        let mut tip = ledger.head();
        for number in 1..=BLOCKS {
            // The seeds repeat, so that groups change the same accounts again and again.
            tip = next(&tip, (number as u64 * 7) % 43);
            if number % group == 0 || number == BLOCKS {
                tip = ledger.commit(&tip).unwrap();
            }
        }
        check(&ledger.head());
        let report = ledger.verify(&mut |_, _, _| ());
        assert!(report.findings.is_empty(), "groups of {group}: {:?}", report.findings);
        let content = content(&ledger);
        assert_eq!(*expected.get_or_insert_with(|| content.clone()), content, "groups of {group}");
    }
}

#[test]
fn a_tip_sheds_the_steps_that_have_been_committed() {
    let ledger = Ledger::begin(origin()).unwrap();
    let mut tips = vec![ledger.head()];
    for seed in 0..5 {
        let tip = next(tips.last().unwrap(), seed);
        tips.push(tip);
    }
    assert_eq!(tips[5].steps.len(), 5);
    ledger.commit(&tips[3]).unwrap();
    let lighter = ledger.onto_head(&tips[5]);
    assert_eq!((lighter.steps.len(), lighter.view().depth()), (2, 2));
    assert_eq!(lighter.summary(), tips[5].summary());
    check(&lighter);
    // What follows it is what follows the heavier one.
    let (after, heavier) = (next(&lighter, 9), next(&tips[5], 9));
    assert_eq!((after.summary(), after.state_root()), (heavier.summary(), heavier.state_root()));
    ledger.commit(&after).unwrap();
    check(&ledger.head());
    assert!(Arc::ptr_eq(&ledger.onto_head(&after), &ledger.head()));
    // A tip on another branch stays as it is.
    let other = next(&tips[2], 77);
    assert!(Arc::ptr_eq(&ledger.onto_head(&other), &other));
}

/// Law: whatever has reached the tables, the head's state is that of the whole chain, also after a restart,
/// and the tables hold what they held at that block.
#[test]
fn blocks_between_two_checkpoints_survive_a_restart() {
    for checkpoint in [1, 3, 5, 100] {
        let disk = Disk::default();
        let options = LedgerOptions { checkpoint, ..LedgerOptions::small() };
        let open = |disk: &Disk| Ledger::on_backend(disk.clone(), origin(), options).unwrap();
        let mut ledger = open(&disk);
        for seed in 0..11 {
            let tip = ledger.commit(&next(&ledger.head(), seed)).unwrap();
            let tables = Records(&ledger.reading().unwrap()).checkpoint().unwrap().summary.state.height.0;
            assert_eq!(tables, (seed + 1) / checkpoint * checkpoint);
            drop(ledger);
            ledger = open(&disk);
            assert_eq!(ledger.head().summary(), tip.summary());
            assert_eq!(ledger.head().ancestors().len(), tip.ancestors().len());
            check(&ledger.head());
            assert!(ledger.verify(&mut |_, _, _| ()).is_sound());
        }
        // A snapshot needs the tables.
        let before = ledger.head();
        let head = ledger.checkpoint().unwrap();
        assert_eq!((head.summary(), head.view().depth()), (before.summary(), 0));
        let record = Records(&ledger.reading().unwrap()).checkpoint().unwrap();
        assert_eq!((record.summary, Some(record.state_root)), (head.summary(), head.state_root()));
        assert!(ledger.verify(&mut |_, _, _| ()).is_sound());
        // What was made on the state before the checkpoint can be committed after it.
        ledger.commit(&next(&before, 50)).unwrap();
        check(&ledger.head());
        check(&before);
        check(&head);
    }
}

#[test]
fn a_branch_that_leaves_the_chain_between_two_checkpoints_replaces_it() {
    let disk = Disk::default();
    let open = || Ledger::on_backend(disk.clone(), origin(), LedgerOptions::small()).unwrap();
    let ledger = open();
    let trunk: Vec<_> = (0..5).map(|seed| ledger.commit(&next(&ledger.head(), seed)).unwrap()).collect();
    let fork = trunk[2].summary().state;
    let base = ledger.tip_at(fork.height, fork.block_hash).unwrap().unwrap();
    let branch = (20..24).fold(base, |tip, seed| next(&tip, seed));
    ledger.commit(&branch).unwrap();
    ledger.commit(&next(&ledger.head(), 30)).unwrap();
    let summary = ledger.head().summary();
    drop((ledger, trunk, branch));
    let ledger = open();
    assert_eq!(ledger.head().summary(), summary);
    check(&ledger.head());
    assert!(ledger.verify(&mut |_, _, _| ()).is_sound());
}

#[test]
fn a_journal_that_does_not_lead_to_the_head_is_damage() {
    let disk = Disk::default();
    let open = || Ledger::on_backend(disk.clone(), origin(), LedgerOptions::small());
    let ledger = open().unwrap();
    for seed in 0..3 {
        ledger.commit(&next(&ledger.head(), seed)).unwrap();
    }
    let transaction = ledger.database.begin_write().unwrap();
    RecordWriter::open(&transaction).unwrap().unlog(2).unwrap();
    transaction.commit().unwrap();
    drop(ledger);
    let error = open().unwrap_err();
    assert!(error.to_string().contains("the journal's entry of block 2"), "{error}");
}
