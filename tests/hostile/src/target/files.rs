//! Files: chains, genesis files, blocks with their pre-state, BlockchainTests, notes, tokens. They are written to a
//! folder, because their readers open them themselves.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::Result;
use coordinator::input::{ChainReader, parse_prestate, read_genesis};
use lab::blocktest::read_file;
use ledger::Holder;
use net::identity::Door;

use super::Target;
use super::values::{Chain, put};

/// A block with its pre-state, as short as it can be.
const PRESTATE: &str = r#"{"block":{"number":"0x1","hash":"0x00","parentHash":"0x00","transactions":[{"type":"0x2",
"nonce":"0x0","gas":"0x5208","input":"0x","accessList":[{"address":"0x00","storageKeys":["0x01"]}]}],"uncles":[],
"withdrawals":[{"index":"0x1","amount":"0x5"}]},"prestate":{"0x0000000000000000000000000000000000000001":
{"balance":"0x5","nonce":1,"code":"0x60","storage":{"0x01":"0x2"}}},"blockHashes":{"0":"0x00"}}"#;

/// A BlockchainTest, as short as it can be.
const BLOCKTEST: &str = r#"{"a":{"network":"Cancun","genesisRLP":"0xc0","lastblockhash":"0x00","pre":{"0x01":
{"balance":"0x1","nonce":"0x1","code":"0x","storage":{"0x1":"0x2"}}},"postState":{},"blocks":[{"rlp":"0xc0",
"expectException":"X.Y","blockHeader":{"number":"0x1"}}],"genesisBlockHeader":{"number":"0x00"}}}"#;

const HOLDER: &str = r#"{"pid":7,"address":"127.0.0.1:7700","secret":"00ff","epoch":3}"#;

const TOKENS: &str = "# for tests\nclient/ci 0123456789abcdef0123456789abcdef\noperator/ann fedcba9876543210fedcba9876543210\n";

pub(super) fn targets(chain: &Chain, folder: &Path) -> Result<Vec<Target>> {
    let at = |name: &str| folder.join(name);
    let (genesis, blocks, packed, test, tokens) =
        (at("genesis.json"), at("chain.rlp"), at("chain.rlp.gz"), at("test.json"), at("tokens"));
    File::create(&tokens)?.set_permissions(fs::Permissions::from_mode(0o600))?;
    let notes = folder.to_path_buf();
    let every_block =
        |path: &Path| ChainReader::open(path).is_ok_and(|mut blocks| blocks.all(|block| block.is_ok()));
    let valid = |text: &str| vec![text.as_bytes().to_vec()];
    Ok(vec![
        Target::of("file-chain", vec![chain.rlp()], move |bytes| put(&blocks, bytes) && every_block(&blocks))
            .bounded(1 << 20, 1_024),
        // A packed byte may become a thousand, of which one block is read at a time.
        Target::of("file-chain-packed", vec![gzip(&chain.rlp())?], move |bytes| {
            put(&packed, bytes) && every_block(&packed)
        })
        .bounded(64 << 20, 8 << 10),
        Target::of("file-genesis", vec![chain.genesis.clone()], move |bytes| {
            put(&genesis, bytes) && read_genesis(&genesis).is_ok()
        })
        .bounded(2 << 20, 1_024),
        Target::of("file-prestate", valid(PRESTATE), |bytes| {
            parse_prestate(Path::new("case"), bytes).is_ok()
        })
        .bounded(1 << 20, 1_024),
        Target::of("file-blocktest", valid(BLOCKTEST), move |bytes| {
            put(&test, bytes) && read_file(&test).is_ok()
        })
        .bounded(1 << 20, 1_024),
        Target::of("file-holder", valid(HOLDER), move |bytes| {
            put(&notes.join("holder.json"), bytes) && Holder::read(&notes).is_ok()
        }),
        Target::of("file-tokens", valid(TOKENS), move |bytes| {
            put(&tokens, bytes) && Door::new(None, Some(&tokens)).is_ok()
        })
        .bounded(256 << 10, 256),
    ])
}

fn gzip(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    packed.write_all(bytes)?;
    Ok(packed.finish()?)
}
