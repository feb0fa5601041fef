//! A chain of one block to be, and what every plan, and the sequential baseline, make of that block.

use std::sync::Arc;
use std::time::Duration;

use alloy_consensus::constants::{EMPTY_OMMER_ROOT_HASH, EMPTY_WITHDRAWALS};
use alloy_consensus::proofs::calculate_transaction_root;
use alloy_consensus::transaction::SignerRecoverable;
use alloy_consensus::{Header, SignableTransaction, Signed, TxLegacy};
use alloy_eips::eip7002::WITHDRAWAL_REQUEST_PREDEPLOY_ADDRESS;
use alloy_eips::eip7251::CONSOLIDATION_REQUEST_PREDEPLOY_ADDRESS;
use alloy_primitives::{Address, B256, Bytes, Signature, TxKind, U256, keccak256};
use common::account::{Account, AccountRecord, SlotValue};
use common::block::{Block, CheckedBlock, Ommers, Transaction};
use common::chain_spec::ChainSpec;
use common::id::{Epoch, Height, Incarnation, ShardId};
use common::token::SessionToken;
use coordinator::execute::{BlockExecutor, ExecuteError, ExecuteOptions, Verified};
use coordinator::fleet::{Fleet, FleetOptions};
use coordinator::rules::{Fields, next_base_fee, next_difficulty, next_excess_blob_gas};
use coordinator::validate::{Finished, execute_trusted};
use engine::recover_sender;
use executor_shard::fault::PlannedFault;
use executor_shard::node::NodeConfig;
use lab::plan::LabPlan;
use lab::sequential::execute_and_verify;
use ledger::{Ledger, Origin};
use schedule::planner::Plan;
use tasks::supervise::Supervisor;

/// The gas price of every transaction.
pub(crate) const PRICE: u128 = 10_000_000_000;

/// Code that succeeds and does nothing.
pub(crate) const STOP: &[u8] = &[0x00];

/// Under which plans a block is executed on shards.
const PLANS: [LabPlan; 7] = [
    LabPlan::Honest(Plan::Auto),
    LabPlan::Honest(Plan::One),
    LabPlan::Honest(Plan::Each),
    LabPlan::Honest(Plan::Random(1)),
    LabPlan::Poison(1),
    LabPlan::Poison(2),
    LabPlan::Poison(3),
];

/// A state, and the rules and the parent of the block to be.
pub(crate) struct Stage {
    spec: ChainSpec,
    parent: Header,
    accounts: Vec<AccountRecord>,
    code: Vec<(B256, Bytes)>,
    /// Who gets the fees.
    pub(crate) beneficiary: Address,
}

impl Stage {
    /// Under a network's rules, with system contracts that do nothing.
    pub(crate) fn on(network: &str) -> Self {
        let mut stage = Self::bare(network);
        stage.contract(WITHDRAWAL_REQUEST_PREDEPLOY_ADDRESS, STOP, &[]);
        stage.contract(CONSOLIDATION_REQUEST_PREDEPLOY_ADDRESS, STOP, &[]);
        stage
    }

    /// Under a network's rules, without any contract.
    pub(crate) fn bare(network: &str) -> Self {
        let parent = Header {
            difficulty: U256::from(1_000_000u64),
            gas_limit: 30_000_000,
            timestamp: 1000,
            ommers_hash: EMPTY_OMMER_ROOT_HASH,
            ..Header::default()
        };
        let spec = ChainSpec::of_network(network).unwrap();
        Self { spec, parent, accounts: vec![], code: vec![], beneficiary: Address::repeat_byte(0xfe) }
    }

    /// The block to be has this timestamp.
    pub(crate) fn at_time(mut self, timestamp: u64) -> Self {
        self.parent.timestamp = timestamp - 15;
        self
    }

    /// The block to be has this number.
    pub(crate) fn at_block(mut self, number: u64) -> Self {
        self.parent.number = number - 1;
        self
    }

    /// Adds a contract with nonce 1 and no balance, or replaces the account at its address.
    pub(crate) fn contract(&mut self, address: Address, code: &[u8], slots: &[(u64, u64)]) {
        let hash = keccak256(code);
        self.code.push((hash, Bytes::copy_from_slice(code)));
        let account = Account { nonce: 1, code_hash: hash, ..Account::default() };
        let slot =
            |(slot, value): &(u64, u64)| SlotValue { slot: U256::from(*slot), value: U256::from(*value) };
        self.account(address, account, slots.iter().map(slot).collect());
    }

    /// Adds an account, or replaces it.
    pub(crate) fn account(&mut self, address: Address, account: Account, storage: Vec<SlotValue>) {
        self.accounts.retain(|known| known.address != address);
        self.accounts.push(AccountRecord { address, account, storage });
    }

    /// Adds an account that has only a balance.
    pub(crate) fn balance(&mut self, address: Address, balance: U256) {
        self.account(address, Account { balance, ..Account::default() }, vec![]);
    }

    /// The sender of a transaction gets enough to pay for it.
    pub(crate) fn fund(&mut self, transaction: &Transaction) -> Address {
        let sender = transaction.recover_signer_unchecked().unwrap();
        self.balance(sender, U256::from(10).pow(U256::from(20)));
        sender
    }

    /// The block of these transactions, with the header that it must have.
    pub(crate) fn block(&self, transactions: Vec<Transaction>) -> Scene {
        self.block_with(transactions, |_| ())
    }

    /// The same, after a change of the header that execution sees.
    pub(crate) fn block_with(
        &self,
        transactions: Vec<Transaction>,
        change: impl FnOnce(&mut Header),
    ) -> Scene {
        let ledger = self.ledger();
        let spec = ledger.spec().clone();
        let tip = ledger.head();
        let parent = tip.header().unwrap().clone();
        let active = spec.after(tip.total_difficulty());
        let (number, timestamp) = (parent.number + 1, parent.timestamp + 15);
        let fields = Fields::of(number, timestamp, active);
        let narrow = |value: u128| u64::try_from(value).unwrap();
        let mut header = Header {
            parent_hash: parent.hash_slow(),
            ommers_hash: EMPTY_OMMER_ROOT_HASH,
            beneficiary: self.beneficiary,
            transactions_root: calculate_transaction_root(&transactions),
            difficulty: next_difficulty(&parent, timestamp, active).unwrap(),
            number,
            gas_limit: parent.gas_limit,
            timestamp,
            base_fee_per_gas: next_base_fee(&parent, active).map(narrow),
            withdrawals_root: fields.withdrawals.then_some(EMPTY_WITHDRAWALS),
            blob_gas_used: fields.blobs_and_beacon_root.then_some(0),
            excess_blob_gas: next_excess_blob_gas(&parent, timestamp, &spec).map(narrow),
            parent_beacon_block_root: fields.blobs_and_beacon_root.then_some(B256::repeat_byte(0xbe)),
            requests_hash: fields.requests.then_some(B256::ZERO),
            ..Header::default()
        };
        change(&mut header);
        let withdrawals = fields.withdrawals.then(Vec::new);
        let block = Block::new(header, transactions, Ommers::Headers(vec![]), withdrawals);
        Scene { ledger: Arc::new(ledger), block }.sealed()
    }

    fn ledger(&self) -> Ledger {
        let mut header = self.parent.clone();
        let (number, total) = (header.number, header.difficulty);
        let fields = Fields::of(number, header.timestamp, self.spec.after(total));
        header.base_fee_per_gas = fields.base_fee.then_some(1_000_000_000);
        header.withdrawals_root = fields.withdrawals.then_some(EMPTY_WITHDRAWALS);
        header.blob_gas_used = fields.blobs_and_beacon_root.then_some(0);
        header.excess_blob_gas = fields.blobs_and_beacon_root.then_some(0);
        header.parent_beacon_block_root = fields.blobs_and_beacon_root.then_some(B256::ZERO);
        header.requests_hash = fields.requests.then_some(B256::ZERO);
        let mut origin = Origin {
            spec: self.spec.clone(),
            height: Height(number),
            block_hash: B256::ZERO,
            header: None,
            accounts: self.accounts.clone(),
            code: self.code.clone(),
            ancestors: vec![],
            complete: true,
        };
        origin.accounts.sort_by_key(|record| record.address);
        let root = Ledger::begin(origin.clone()).unwrap().head().state_root().unwrap();
        header.state_root = root;
        origin.block_hash = header.hash_slow();
        origin.ancestors = vec![(number, origin.block_hash)];
        origin.header = Some(header);
        Ledger::begin(origin).unwrap()
    }
}

/// A block and the state that it is executed on.
pub(crate) struct Scene {
    ledger: Arc<Ledger>,
    /// The block to execute on the ledger's head.
    pub(crate) block: Block,
}

impl Scene {
    /// What the block leads to by this engine, without any shard or plan.
    pub(crate) fn executed(&self) -> Result<Finished, String> {
        let (spec, tip) = (self.ledger.spec(), self.ledger.head());
        let fork = engine::spec_id(spec, &self.block.header);
        let senders: Result<Vec<Address>, String> = self
            .block
            .transactions
            .iter()
            .map(|transaction| recover_sender(transaction, fork).map_err(|bad| bad.0))
            .collect();
        execute_trusted(&self.block, spec, &senders?, tip.view(), coordinator::execute::state_roots(&tip))
            .map_err(|error| error.to_string())
    }

    /// The state after the block has this account.
    pub(crate) fn account_after(&self, address: Address) -> Option<Account> {
        let finished = self.executed().unwrap();
        let changed = finished.changes.iter().find(|delta| delta.address == address);
        changed.and_then(|delta| delta.account)
    }

    /// The value of a slot after the block.
    pub(crate) fn slot_after(&self, address: Address, slot: u64) -> U256 {
        let finished = self.executed().unwrap();
        let changed = finished.changes.into_iter().find(|delta| delta.address == address);
        let slots = changed.map(|delta| delta.storage).unwrap_or_default();
        slots.iter().find(|entry| entry.slot == U256::from(slot)).map_or(U256::ZERO, |entry| entry.value)
    }

    fn checked(&self) -> Result<CheckedBlock, ExecuteError> {
        Ok(CheckedBlock::new(self.block.clone())?)
    }

    /// With the header fields that execution determines, where it comes that far.
    fn sealed(mut self) -> Self {
        let Ok(finished) = self.executed() else { return self };
        let draft = self.ledger.head().draft(finished.changes, finished.code).unwrap();
        let Block { mut header, transactions, ommers, withdrawals, .. } = self.block;
        header.state_root = draft.state_root().unwrap();
        header.receipts_root = finished.receipts.root();
        header.logs_bloom = finished.receipts.bloom();
        header.gas_used = finished.gas_used.0;
        header.blob_gas_used = header.blob_gas_used.map(|_| finished.blob_gas_used.0);
        header.requests_hash = finished.requests.map(|requests| requests.requests_hash());
        self.block = Block::new(header, transactions, ommers, withdrawals);
        self
    }

    /// The same block with another header.
    pub(crate) fn with_header(mut self, change: impl FnOnce(&mut Header)) -> Self {
        let Block { mut header, transactions, ommers, withdrawals, .. } = self.block;
        change(&mut header);
        self.block = Block::new(header, transactions, ommers, withdrawals);
        self
    }

    /// What the baseline says.
    pub(crate) fn sequentially(&self) -> Result<Verified, ExecuteError> {
        execute_and_verify(&self.checked()?, self.ledger.spec(), &self.ledger.head())
    }

    /// Every plan on shards, and the baseline, must accept the block and give the same.
    pub(crate) fn accepted_by_all(&self) {
        self.accepted(self.verdicts(true));
    }

    /// The same, without the baseline.
    pub(crate) fn accepted_by_plans(&self) {
        self.accepted(self.verdicts(false));
    }

    fn accepted(&self, verdicts: Verdicts) {
        let expected = self.executed().unwrap();
        for (by, verdict) in verdicts {
            let verified = verdict.unwrap_or_else(|error| unreachable!("{by}: {error}"));
            let finished = Finished { reexecuted: expected.reexecuted, ..verified.finished };
            assert_eq!(finished, expected, "{by}");
            assert_eq!(verified.state_root, Some(self.block.header.state_root), "{by}");
        }
    }

    /// Every plan on shards, and the baseline, must refuse the block as invalid, for this reason.
    pub(crate) fn refused_by_all(&self, reason: &str) {
        refused(self.verdicts(true), reason);
    }

    /// The same, without the baseline.
    pub(crate) fn refused_by_plans(&self, reason: &str) {
        refused(self.verdicts(false), reason);
    }

    /// The verdicts under every plan, and of the baseline.
    fn verdicts(&self, baseline: bool) -> Verdicts {
        let mut verdicts: Verdicts =
            PLANS.into_iter().map(|plan| (plan.to_string(), self.on_shard(plan))).collect();
        if baseline {
            verdicts.push(("sequential".into(), self.sequentially()));
        }
        verdicts
    }

    /// The verdict on two slots of a shard in this process.
    fn on_shard(&self, plan: LabPlan) -> Result<Verified, ExecuteError> {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let _guard = runtime.enter();
        let supervisor = Supervisor::new("test");
        let fleet = Fleet::start(Epoch::first(), FleetOptions::default(), &supervisor.handle()).unwrap();
        let node = NodeConfig {
            shard: ShardId(1),
            incarnation: Incarnation::fresh(),
            slots: 2,
            advertise: String::new(),
            lost_after: FleetOptions::default().peer.lost_after,
            chain_id: None,
            token: SessionToken::fresh(),
        };
        fleet.start_local_with(node, plan.poison().map(PlannedFault::always_poison).into_iter().collect());
        fleet.set_world(Arc::clone(&self.ledger)).unwrap();
        fleet.wait_ready(1, Duration::from_secs(60)).unwrap();
        let (spec, head) = (self.ledger.spec(), self.ledger.head());
        let options = ExecuteOptions { plan: plan.cut(), ..ExecuteOptions::default() };
        let mut executor = BlockExecutor::new(fleet.clone(), options);
        let verdict = self.checked().and_then(|block| executor.execute(&block, spec, &head));
        let drained = runtime.block_on(supervisor.drain(Duration::from_secs(30), std::future::pending()));
        assert!(drained.is_clean(), "{drained:?}");
        verdict
    }
}

/// The verdicts on one block, each with its plan, or `sequential` for the baseline.
type Verdicts = Vec<(String, Result<Verified, ExecuteError>)>;

fn refused(verdicts: Verdicts, reason: &str) {
    for (by, verdict) in verdicts {
        match verdict {
            Ok(_) => unreachable!("{by}: accepted"),
            Err(error) => {
                assert!(error.is_invalid_block(), "{by}: {error}");
                assert!(error.to_string().contains(reason), "{by}: {error}");
            }
        }
    }
}

/// A call with an arbitrary signature. Recovery yields a different sender for each such transaction, so
/// every one is its sender's first.
pub(crate) fn call(to: Address, gas: u64, input: &[u8]) -> Transaction {
    signed(legacy(TxKind::Call(to), gas, input))
}

/// The same, for a creation.
pub(crate) fn create(gas: u64, init: &[u8]) -> Transaction {
    signed(legacy(TxKind::Create, gas, init))
}

/// A legacy transaction to be changed before it is signed.
pub(crate) fn legacy(to: TxKind, gas_limit: u64, input: &[u8]) -> TxLegacy {
    TxLegacy { gas_price: PRICE, gas_limit, to, input: Bytes::copy_from_slice(input), ..Default::default() }
}

/// Adds an arbitrary signature from which a sender can be recovered. Its private key is unknown.
pub(crate) fn signed<T>(transaction: T) -> Transaction
where
    T: SignableTransaction<Signature> + Clone,
    Transaction: From<Signed<T>>,
{
    // Not every number is the abscissa of a point: with an `s` of its own one is found.
    let signature = |s: u64| Signature::new(U256::from(1), U256::from(s), false);
    let mut candidates = (1..).map(|s| Transaction::from(transaction.clone().into_signed(signature(s))));
    candidates.find(|candidate| candidate.recover_signer_unchecked().is_ok()).unwrap()
}

/// Init code that deploys these bytes.
pub(crate) fn deploying(code: &[u8]) -> Vec<u8> {
    let len = u8::try_from(code.len()).unwrap();
    // PUSH1 len, DUP1, PUSH1 11, PUSH1 0, CODECOPY, PUSH1 0, RETURN: 11 bytes.
    let mut init = vec![0x60, len, 0x80, 0x60, 11, 0x60, 0, 0x39, 0x60, 0, 0xf3];
    init.extend_from_slice(code);
    init
}
