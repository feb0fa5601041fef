//! Draws transactions of every type that the fork has. They are valid as far as the drafter can tell.
//! `fault` draws those that are wrong on purpose.

use alloy_consensus::transaction::RlpEcdsaEncodableTx;
use alloy_consensus::{
    EthereumTypedTransaction, Header, SignableTransaction, TxEip1559, TxEip2930, TxEip4844, TxEip7702,
    TxLegacy,
};
use alloy_eips::eip2930::{AccessList, AccessListItem};
use alloy_eips::eip7702::{Authorization, SignedAuthorization};
use alloy_primitives::{Address, B256, Bytes, Signature, TxKind, U256};
use common::account::Account;
use common::block::Transaction;

use super::coverage::Feature;
use super::draw::Draw;
use super::fork::{CHAIN_ID, Fork};
use super::program::SLOTS;
use super::world::{Signer, World};
use crate::sequential::Look;

/// The settings for drawing the transactions of a block.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stage<'a> {
    pub(super) fork: Fork,
    pub(super) world: &'a World,
    pub(super) header: &'a Header,
    /// Whether transactions are really signed. If not, only authorisations are.
    pub(super) signed: bool,
}

/// A transaction with its sender, and its features.
#[derive(Debug)]
pub(super) struct Drawn {
    pub(super) transaction: Transaction,
    pub(super) sender: Address,
    pub(super) features: Vec<Feature>,
}

/// A transaction before it gets a type.
#[derive(Debug, Clone)]
pub(super) struct Plain {
    pub(super) nonce: u64,
    /// The highest price per gas, in wei, and the tip included in it.
    pub(super) price: u128,
    pub(super) tip: u128,
    pub(super) gas: u64,
    pub(super) to: TxKind,
    pub(super) value: U256,
    pub(super) input: Bytes,
    pub(super) chain_id: u64,
}

impl Stage<'_> {
    pub(super) fn base_fee(&self) -> u128 {
        u128::from(self.header.base_fee_per_gas.unwrap_or_default())
    }

    /// Draws a transaction that is valid as far as the drafter can tell.
    pub(super) fn draw(&self, draw: &mut Draw, look: Look<'_>) -> Option<Drawn> {
        let (signer, account) = self.sender(draw, look);
        let (plain, mut features) = self.plain(draw, &account);
        let transaction = self.envelope(draw, &signer, plain, look, &mut features)?;
        Some(Drawn { transaction, sender: signer.address, features })
    }

    /// Draws a sender, which usually has funds.
    pub(super) fn sender(&self, draw: &mut Draw, look: Look<'_>) -> (Signer, Account) {
        let mut found = (Signer::default(), Account::default());
        for _ in 0..4 {
            let signer = if draw.one_in(3) {
                draw.pick(&self.world.signers)
            } else {
                // Few senders, so that several transactions of a block share one.
                let few = self.world.signers.len() / 2;
                self.world.signers.get(draw.below(few as u64) as usize).copied().unwrap_or_default()
            };
            found = (signer, look(signer.address).unwrap_or_default());
            if !found.1.balance.is_zero() {
                break;
            }
        }
        found
    }

    pub(super) fn plain(&self, draw: &mut Draw, account: &Account) -> (Plain, Vec<Feature>) {
        let mut features = Vec::new();
        let base_fee = self.base_fee();
        let tip = draw.pick(&[0u128, 0, 1, 3, 1_000]);
        if tip == 0 {
            features.push(Feature::ZeroFee);
        }
        let names = &self.world.names;
        let (to, value, input, gas) = match draw.below(20) {
            // Plain transfers. Gas beyond the intrinsic cost shows whether code ran.
            0..8 => {
                features.push(Feature::Transfers);
                let to = self.recipient(draw);
                let value = self.amount(draw, account, base_fee + tip);
                (TxKind::Call(to), value, Bytes::new(), draw.pick(&[21_000u64, 21_000, 60_000]))
            }
            8 | 9 => {
                let init = self.creation(draw);
                features.push(Feature::CreationTransactions);
                (TxKind::Create, U256::from(draw.below(3)), init, draw.pick(&[60_000u64, 150_000, 400_000]))
            }
            _ => {
                // The first contract is the factory, if the fork allows one.
                let factory = names.callees.first().copied().filter(|_| draw.one_in(4));
                let to = factory.unwrap_or_else(|| draw.pick(&names.callees));
                let gas = draw.pick(&[30_000u64, 80_000, 150_000, 150_000, 400_000, 400_000]);
                let value = if draw.one_in(3) { draw.below(4) } else { 0 };
                (TxKind::Call(to), U256::from(value), self.input(draw), gas)
            }
        };
        let gas = gas + if self.fork >= Fork::Prague || draw.one_in(2) { draw.below(4_000) } else { 0 };
        let price = base_fee + tip;
        let plain = Plain { nonce: account.nonce, price, tip, gas, to, value, input, chain_id: CHAIN_ID };
        (plain, features)
    }

    /// Draws the recipient of a transfer: a signer, so that credits are spent again; the beneficiary; any
    /// address; or an account whose balance is nearly at its maximum.
    fn recipient(&self, draw: &mut Draw) -> Address {
        if draw.one_in(16) {
            return self.world.brimful;
        }
        match draw.below(6) {
            0 | 1 => draw.pick(&self.world.signers).address,
            2 => self.header.beneficiary,
            3 => draw.pick(&self.world.names.callees),
            _ => draw.pick(&self.world.names.addresses),
        }
    }

    fn amount(&self, draw: &mut Draw, account: &Account, price: u128) -> U256 {
        let fee = U256::from(price) * U256::from(70_000);
        match draw.below(6) {
            0 => U256::ZERO,
            1 => U256::from(draw.below(3)),
            // Enough for the recipient to send ether on.
            2 | 3 => (fee * U256::from(draw.between(1, 3))).min(account.balance / U256::from(2)),
            // Nearly the whole balance.
            4 if draw.one_in(4) => account.balance.saturating_sub(fee),
            _ => U256::from(1_000u64),
        }
    }

    fn creation(&self, draw: &mut Draw) -> Bytes {
        if draw.one_in(6) {
            let length = draw.below(30);
            return (0..length).map(|_| draw.below(256) as u8).collect();
        }
        draw.pick(&self.world.names.templates).into()
    }

    /// The input of a call. The first byte decides what created contracts do, the last byte what others do.
    /// An address lies in between.
    fn input(&self, draw: &mut Draw) -> Bytes {
        let mut word = [0u8; 40];
        if let Some(place) = word.get_mut(12..32)
            && draw.one_in(3)
        {
            place.copy_from_slice(draw.pick(&self.world.names.addresses).as_slice());
        }
        let (first, last) = (draw.below(4) as u8, draw.below(256) as u8);
        for (place, byte) in [(0, first), (31, last), (39, 1)] {
            if let Some(place) = word.get_mut(place) {
                *place = byte;
            }
        }
        Bytes::copy_from_slice(word.get(..draw.pick(&[32, 32, 32, 40, 1])).unwrap_or_default())
    }

    /// Gives the transaction a type that the fork has.
    fn envelope(
        &self,
        draw: &mut Draw,
        signer: &Signer,
        mut plain: Plain,
        look: Look<'_>,
        features: &mut Vec<Feature>,
    ) -> Option<Transaction> {
        let list = if draw.one_in(3) { self.access_list(draw) } else { AccessList::default() };
        let call = plain.to.to().copied();
        match draw.below(12) {
            0 | 1 if self.fork >= Fork::Berlin => {
                features.push(Feature::AccessLists);
                plain.gas += 10_000;
                let Plain { nonce, price, gas, to, value, input, chain_id, .. } = plain;
                let gas_price = price;
                let gas_limit = gas;
                self.seal(
                    signer,
                    TxEip2930 { chain_id, nonce, gas_price, gas_limit, to, value, access_list: list, input },
                )
            }
            2..6 if self.fork >= Fork::London => {
                plain.price += draw.pick(&[0u128, 0, 5]);
                self.fee_market(signer, plain, list)
            }
            6 if self.fork >= Fork::Cancun && call.is_some() => {
                features.push(Feature::Blobs);
                self.blob(draw, signer, plain, call?)
            }
            7 | 8 if self.fork >= Fork::Prague && call.is_some() => {
                features.push(Feature::SetCode);
                self.set_code(draw, signer, plain, call?, look)
            }
            _ => self.legacy(signer, plain),
        }
    }

    fn access_list(&self, draw: &mut Draw) -> AccessList {
        let items = (0..draw.between(1, 2)).map(|_| AccessListItem {
            address: draw.pick(&self.world.names.addresses),
            storage_keys: (0..draw.below(2)).map(|_| B256::from(U256::from(draw.below(SLOTS)))).collect(),
        });
        AccessList(items.collect())
    }

    pub(super) fn legacy(&self, signer: &Signer, plain: Plain) -> Option<Transaction> {
        let Plain { nonce, price, gas, to, value, input, chain_id, .. } = plain;
        let chain_id = (self.fork >= Fork::SpuriousDragon).then_some(chain_id);
        self.seal(signer, TxLegacy { chain_id, nonce, gas_price: price, gas_limit: gas, to, value, input })
    }

    pub(super) fn fee_market(
        &self,
        signer: &Signer,
        plain: Plain,
        access_list: AccessList,
    ) -> Option<Transaction> {
        let Plain { nonce, price, tip, gas, to, value, input, chain_id } = plain;
        self.seal(
            signer,
            TxEip1559 {
                chain_id,
                nonce,
                gas_limit: gas + 5_000,
                max_fee_per_gas: price,
                max_priority_fee_per_gas: tip,
                to,
                value,
                access_list,
                input,
            },
        )
    }

    fn blob(&self, draw: &mut Draw, signer: &Signer, plain: Plain, to: Address) -> Option<Transaction> {
        // The first byte contains version 1 (EIP-4844).
        let versioned = |n: u64| B256::from((U256::from(1) << 248) | U256::from(n));
        let hashes = (0..draw.between(1, 3)).map(versioned).collect();
        let most = draw.pick(&[1_000_000u128, 1_000_000, 1_000_000, 1]);
        self.with_blobs(signer, plain, to, hashes, most)
    }

    pub(super) fn with_blobs(
        &self,
        signer: &Signer,
        plain: Plain,
        to: Address,
        blob_versioned_hashes: Vec<B256>,
        max_fee_per_blob_gas: u128,
    ) -> Option<Transaction> {
        let Plain { nonce, price, tip, gas, value, input, chain_id, .. } = plain;
        self.seal(
            signer,
            TxEip4844 {
                chain_id,
                nonce,
                gas_limit: gas,
                max_fee_per_gas: price,
                max_priority_fee_per_gas: tip,
                to,
                value,
                access_list: AccessList::default(),
                blob_versioned_hashes,
                max_fee_per_blob_gas,
                input,
            },
        )
    }

    fn set_code(
        &self,
        draw: &mut Draw,
        signer: &Signer,
        plain: Plain,
        to: Address,
        look: Look<'_>,
    ) -> Option<Transaction> {
        if draw.one_in(3) {
            // Signed by the recipient alone: whether the authorisation is valid depends on an account that a
            // plain transfer would only credit.
            let authority = draw.pick(&self.world.signers);
            let list = self.authorization(draw, &authority, signer.address, look).into_iter().collect();
            let plain = Plain { input: Bytes::new(), ..plain };
            return self.with_authorizations(signer, plain, authority.address, list);
        }
        let mut list = Vec::new();
        for _ in 0..draw.between(1, 3) {
            let authority = draw.pick(&self.world.signers);
            list.extend(self.authorization(draw, &authority, signer.address, look));
        }
        let to = if draw.one_in(2) { draw.pick(&self.world.signers).address } else { to };
        self.with_authorizations(signer, plain, to, list)
    }

    pub(super) fn with_authorizations(
        &self,
        signer: &Signer,
        plain: Plain,
        to: Address,
        authorization_list: Vec<SignedAuthorization>,
    ) -> Option<Transaction> {
        let Plain { nonce, price, tip, gas, value, input, chain_id, .. } = plain;
        self.seal(
            signer,
            TxEip7702 {
                chain_id,
                nonce,
                gas_limit: gas + 25_000 * authorization_list.len() as u64,
                max_fee_per_gas: price,
                max_priority_fee_per_gas: tip,
                to,
                value,
                access_list: AccessList::default(),
                authorization_list,
                input,
            },
        )
    }

    /// An authorisation, usually valid. The sender itself may sign it; its nonce is then one higher.
    fn authorization(
        &self,
        draw: &mut Draw,
        authority: &Signer,
        sender: Address,
        look: Look<'_>,
    ) -> Option<SignedAuthorization> {
        let nonce =
            look(authority.address).unwrap_or_default().nonce + u64::from(authority.address == sender);
        let address = match draw.below(8) {
            // Clears the delegation.
            0 => Address::ZERO,
            1 => draw.pick(&self.world.signers).address,
            2 => draw.pick(&self.world.names.addresses),
            _ => draw.pick(&self.world.names.callees),
        };
        let authorization = Authorization {
            chain_id: U256::from(draw.pick(&[0, CHAIN_ID, CHAIN_ID, CHAIN_ID, 5])),
            address,
            nonce: if draw.one_in(8) { nonce + 1 } else { nonce },
        };
        let signature = match draw.below(12) {
            0 => Signature::new(U256::ZERO, U256::from(1), false),
            _ => authority.sign(authorization.signature_hash())?,
        };
        Some(authorization.into_signed(signature))
    }

    /// Signs the transaction, or adds a fake signature that is never checked.
    pub(super) fn seal<T>(&self, signer: &Signer, transaction: T) -> Option<Transaction>
    where
        T: SignableTransaction<Signature> + RlpEcdsaEncodableTx,
        EthereumTypedTransaction<TxEip4844>: From<T>,
    {
        let signature = if self.signed {
            signer.sign(transaction.signature_hash())?
        } else {
            Signature::new(U256::from(1), U256::from(1), false)
        };
        Some(transaction.into_signed(signature).into())
    }
}
