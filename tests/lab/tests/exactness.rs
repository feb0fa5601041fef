//! Real mainnet blocks: this engine against alloy-evm's own executor, receipt by receipt and
//! change by change.
#![allow(clippy::unwrap_used)]

use common::chain_spec::ChainSpec;
use common::id::Height;
use coordinator::input::{PrestateCase, read_prestate};
use coordinator::validate::{execute_trusted, verify_header};
use engine::recover_sender;
use lab::sequential::execute_sequentially;
use ledger::{Ledger, Origin};
use shard_tests::{block_files, mainnet_dir};

#[test]
fn every_mainnet_block_gives_the_receipts_and_changes_of_the_independent_executor() {
    let Some(dir) = mainnet_dir().unwrap() else { return };
    for file in block_files(&dir).unwrap() {
        let PrestateCase { block, accounts, code, ancestors } = read_prestate(&file).unwrap();
        let origin = Origin {
            spec: ChainSpec::mainnet(),
            height: Height(block.header.number - 1),
            block_hash: block.header.parent_hash,
            header: None,
            accounts,
            code,
            ancestors,
            complete: false,
        };
        let ledger = Ledger::begin(origin).unwrap();
        let tip = ledger.head();
        let view = tip.view();
        let spec = ledger.spec();
        let fork = engine::spec_id(spec, &block.header);
        let senders: Vec<_> =
            block.transactions.iter().map(|transaction| recover_sender(transaction, fork).unwrap()).collect();
        let ours = execute_trusted(&block, spec, &senders, view, None).unwrap();
        let theirs = execute_sequentially(&block, spec, view).unwrap();
        verify_header(&block, spec, &ours, None).unwrap();
        let number = block.header.number;
        assert_eq!(ours.receipts, theirs.receipts, "receipts of block {number}");
        for (our, their) in ours.changes.iter().zip(&theirs.changes) {
            assert_eq!(our, their, "changes of block {number}");
        }
        assert_eq!(ours.changes.len(), theirs.changes.len(), "changed accounts of block {number}");
        assert_eq!(ours.code, theirs.code, "new code of block {number}");
        assert_eq!(ours.requests, theirs.requests, "requests of block {number}");
    }
}
