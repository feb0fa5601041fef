//! Draws transactions that are wrong on purpose. Nearly all of them make their block invalid.

use alloy_consensus::{TxEip1559, TxEip2930};
use alloy_eips::eip2930::AccessList;
use alloy_primitives::{Address, B256, Bytes, TxKind, U256};
use common::account::Account;
use common::block::Transaction;

use super::coverage::Feature;
use super::draw::Draw;
use super::fork::Fork;
use super::transaction::{Drawn, Plain, Stage};
use super::world::{Signer, numbered};
use crate::sequential::Look;

/// The greatest gas limit of a transaction from Osaka on (EIP-7825).
const GAS_CAP: u64 = 1 << 24;

/// The greatest length of creation code from Shanghai on, in bytes (EIP-3860).
const MAX_INIT_CODE: usize = 49_152;

/// The gas of a transfer without input (Yellow Paper, appendix G).
const TRANSFER_GAS: u64 = 21_000;

/// The kinds of wrong transactions.
#[derive(Debug, Clone, Copy)]
enum WrongKind {
    NonceTooHigh,
    NonceTooLow,
    /// The sender cannot pay the amount that the transaction spends.
    Balance,
    /// The sender can pay the amount that a plain transfer spends, but not the most that it may spend.
    Cover,
    Gas,
    GasCap,
    IntrinsicGas,
    Fee,
    TipAboveFee,
    ChainId,
    /// A type that the fork does not have.
    Type,
    Blobs,
    NoAuthorizations,
    InitCode,
    SenderHasCode,
}

impl Stage<'_> {
    /// Draws a transaction that the block must reject, or nearly must.
    pub(super) fn spoil(&self, draw: &mut Draw, look: Look<'_>) -> Option<Drawn> {
        use WrongKind as F;
        let from = |fork: Fork| u64::from(self.fork >= fork);
        let fault = draw.weighted(
            &[
                (3, F::NonceTooHigh),
                (3, F::NonceTooLow),
                (4, F::Balance),
                (12, F::Cover),
                (6, F::Gas),
                (from(Fork::Osaka), F::GasCap),
                (2, F::IntrinsicGas),
                (from(Fork::London), F::Fee),
                (from(Fork::London), F::TipAboveFee),
                (1, F::ChainId),
                (u64::from(self.fork < Fork::Prague), F::Type),
                (from(Fork::Cancun), F::Blobs),
                (from(Fork::Prague), F::NoAuthorizations),
                (from(Fork::Shanghai), F::InitCode),
                (u64::from(!self.signed), F::SenderHasCode),
            ],
            F::NonceTooHigh,
        );
        let (mut signer, account) = self.sender(draw, look);
        let (mut plain, _) = self.plain(draw, &account);
        match fault {
            F::NonceTooHigh => plain.nonce += draw.between(1, 2),
            F::NonceTooLow => plain.nonce = plain.nonce.saturating_sub(1),
            F::Balance => plain.value = account.balance.saturating_add(U256::from(draw.below(2))),
            // At the block's limit or one above it: some of these only fail together with the previous
            // transactions.
            F::Gas => plain.gas = self.header.gas_limit.saturating_add(draw.below(2)),
            F::GasCap => plain.gas = GAS_CAP + draw.between(0, 1),
            F::IntrinsicGas => plain.gas = TRANSFER_GAS - 1,
            F::Fee => (plain.price, plain.tip) = (self.base_fee().saturating_sub(1), 0),
            F::TipAboveFee => plain.tip = plain.price + 1,
            F::ChainId => plain.chain_id += 1,
            F::InitCode => {
                plain.to = TxKind::Create;
                plain.gas = 1_000_000;
                plain.input = Bytes::from(vec![0; MAX_INIT_CODE + draw.below(2) as usize]);
            }
            F::SenderHasCode => {
                signer.address = draw.pick(&self.world.contracts);
                plain.nonce = look(signer.address).unwrap_or_default().nonce;
            }
            F::Cover | F::Type | F::Blobs | F::NoAuthorizations => {}
        }
        let callee = plain.to.to().copied().unwrap_or_default();
        let fee_market = self.fork >= Fork::London;
        let transaction = match fault {
            F::Cover => self.uncovered(draw, &signer, plain, &account),
            F::Type => self.too_new(draw, &signer, plain, callee),
            F::Blobs => self.wrong_blobs(draw, &signer, plain, callee),
            F::NoAuthorizations => self.with_authorizations(&signer, plain, callee, Vec::new()),
            F::Fee | F::TipAboveFee | F::ChainId if fee_market => {
                self.fee_market(&signer, plain, AccessList::default())
            }
            _ => self.legacy(&signer, plain),
        };
        let features = if matches!(fault, F::Cover) { vec![Feature::Uncovered] } else { Vec::new() };
        Some(Drawn { transaction: transaction?, sender: signer.address, features })
    }

    /// A plain transfer whose sender has less than the most that it may spend (gas limit times the highest
    /// price, plus the value), but not less than it spends. On another state, where the sender has only a
    /// little more, the same transaction succeeds.
    fn uncovered(
        &self,
        draw: &mut Draw,
        signer: &Signer,
        mut plain: Plain,
        account: &Account,
    ) -> Option<Transaction> {
        plain.price = plain.price.max(1);
        plain.gas = draw.pick(&[30_000u64, 60_000, 100_000]);
        plain.input = Bytes::new();
        plain.to = TxKind::Call(match draw.below(4) {
            0 => draw.pick(&self.world.signers).address,
            1 => draw.pick(&self.world.names.addresses),
            _ => numbered(0xab, 2),
        });
        let fee_market = self.fork >= Fork::London && draw.one_in(2);
        // `fee_market` adds some gas.
        let limit = plain.gas + if fee_market { 5_000 } else { 0 };
        let unused = U256::from(plain.price) * U256::from(limit - TRANSFER_GAS);
        let missing = match draw.below(8) {
            0..4 => U256::from(1),
            4 | 5 => U256::from(draw.between(1, 1_000)).min(unused),
            6 => unused,
            // One wei more: now the sender cannot pay even the amount that the transfer spends.
            _ => unused + U256::from(1),
        };
        let most = account.balance.saturating_add(missing);
        plain.value = most.saturating_sub(U256::from(plain.price) * U256::from(limit));
        if fee_market {
            self.fee_market(signer, plain, AccessList::default())
        } else {
            self.legacy(signer, plain)
        }
    }

    /// A transaction of a type that only a later fork has.
    fn too_new(
        &self,
        draw: &mut Draw,
        signer: &Signer,
        plain: Plain,
        callee: Address,
    ) -> Option<Transaction> {
        let later = [Fork::Berlin, Fork::London, Fork::Cancun, Fork::Prague];
        let later: Vec<usize> = (0..4).filter(|place| later.get(*place) > Some(&self.fork)).collect();
        let Plain { nonce, price, gas, to, value, input, chain_id, .. } = plain.clone();
        let access_list = AccessList::default();
        match draw.pick(&later) {
            0 => {
                let (gas_price, gas_limit) = (price, gas);
                self.seal(
                    signer,
                    TxEip2930 { chain_id, nonce, gas_price, gas_limit, to, value, access_list, input },
                )
            }
            1 => self.seal(
                signer,
                TxEip1559 {
                    chain_id,
                    nonce,
                    gas_limit: gas,
                    max_fee_per_gas: price,
                    max_priority_fee_per_gas: 0,
                    to,
                    value,
                    access_list,
                    input,
                },
            ),
            2 => self.with_blobs(signer, plain, callee, vec![versioned(1)], 1_000_000),
            _ => self.with_authorizations(signer, plain, callee, Vec::new()),
        }
    }

    /// A blob transaction without blobs, with an unknown blob version, or with too many blobs.
    fn wrong_blobs(
        &self,
        draw: &mut Draw,
        signer: &Signer,
        plain: Plain,
        callee: Address,
    ) -> Option<Transaction> {
        let hashes = match draw.below(3) {
            0 => Vec::new(),
            1 => vec![versioned(1), versioned(2)],
            _ => vec![versioned(1); draw.between(6, 10) as usize],
        };
        self.with_blobs(signer, plain, callee, hashes, 1_000_000)
    }
}

/// A blob's hash with this version in its first byte (EIP-4844 defines only version 1).
fn versioned(version: u8) -> B256 {
    B256::from(U256::from(version) << 248)
}
