//! Inputs that are wrong in one place.
//!
//! A changed field changes the hashes above it. A test wants a block with exactly one fault, and this
//! crate has no hash function. So it asks the program under test, whose message about a wrong hash
//! states the right one. Once all hashes match, only the intended fault remains.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::artefacts::Binary;
use crate::scene::Scene;

/// The maximum number of hashes to correct: transaction, root of transactions, block; and once more.
const MENDINGS: usize = 8;

/// The content of a block file, as JSON.
pub type Fields = Value;

/// A block file that is wrong in one place.
#[derive(Debug)]
pub struct Forged {
    /// The path of the file.
    pub file: PathBuf,
    /// The number of the recorded block, read before the change.
    pub number: u64,
    fields: Fields,
}

impl Forged {
    /// Reads a recorded block (packed with gzip), changes it, and writes it as plain JSON.
    ///
    /// # Errors
    /// An error if it cannot be read or written, or if the change does not apply.
    pub fn from_recorded(
        scene: &Scene,
        recorded: &Path,
        change: impl FnOnce(&mut Fields) -> Result<()>,
    ) -> Result<Self> {
        let mut fields: Fields = serde_json::from_slice(&unpacked(recorded)?)?;
        let number =
            fields.pointer("/block/number").and_then(Value::as_str).context("the block has no number")?;
        let number = u64::from_str_radix(number.trim_start_matches("0x"), 16)?;
        change(&mut fields)?;
        let file = scene.write(&scene.fresh_name("forged.json"), serde_json::to_vec(&fields)?)?;
        Ok(Self { file, number, fields })
    }

    /// Corrects all hashes for the changed fields.
    ///
    /// # Errors
    /// An error if the program does not state the right hash.
    pub fn with_hashes(mut self) -> Result<Self> {
        for _ in 0..MENDINGS {
            let said = self.said()?;
            if !self.mend(&said)? {
                return Ok(self);
            }
            std::fs::write(&self.file, serde_json::to_vec(&self.fields)?)?;
        }
        bail!("the hashes of {} do not come to rest", self.file.display())
    }

    /// The program's message about the file.
    fn said(&self) -> Result<String> {
        let output = Command::new(Binary::Coordinator.path()?)
            .args(["run", "--in-process", "--shards", "1", "--json"])
            .arg(&self.file)
            .output()?;
        Ok(String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// Sets the hash that the message asks for. Returns whether it asks for one.
    fn mend(&mut self, said: &str) -> Result<bool> {
        let block = self.fields.get_mut("block").context("there is no block")?;
        if let Some(hash) = hash_after(said, "the header's other fields hash to ") {
            block["hash"] = hash.into();
        } else if let Some(hash) = hash_after(said, "the transaction's other fields hash to ") {
            let index = said.split("transaction ").filter_map(number_at).next();
            let index = index.context("no transaction is named")?;
            *block["transactions"]
                .get_mut(index)
                .and_then(|tx| tx.get_mut("hash"))
                .context("there is no such transaction")? = hash.into();
        } else if said.contains("header field transactionsRoot is ") {
            let hash = hash_after(said, "the content gives ").context("no root is named")?;
            block["transactionsRoot"] = hash.into();
        } else {
            return Ok(false);
        }
        Ok(true)
    }
}

/// The number at the start of a text.
fn number_at(text: &str) -> Option<usize> {
    let end = text.find(|letter: char| !letter.is_ascii_digit())?;
    text.get(..end)?.parse().ok()
}

/// The hash after `lead` in a text.
fn hash_after(text: &str, lead: &str) -> Option<String> {
    let (_, rest) = text.split_once(lead)?;
    rest.get(..66).filter(|hash| hash.starts_with("0x")).map(str::to_owned)
}

/// The content of a file packed with gzip.
fn unpacked(path: &Path) -> Result<Vec<u8>> {
    let output = Command::new("gzip").arg("-dc").arg(path).stdin(Stdio::null()).output()?;
    ensure!(output.status.success(), "{} cannot be unpacked", path.display());
    Ok(output.stdout)
}

/// Copies a JSON file into the scene with a change.
///
/// # Errors
/// An error if it cannot be read or written, or if the change does not apply.
pub fn edit_json(
    scene: &Scene,
    path: &Path,
    change: impl FnOnce(&mut Value) -> Result<()>,
) -> Result<PathBuf> {
    let mut value: Value = serde_json::from_slice(&std::fs::read(path)?)?;
    change(&mut value)?;
    let edited = scene.path(&scene.fresh_name("edited.json"));
    let mut file = std::fs::File::create(&edited)?;
    serde_json::to_writer(&mut file, &value)?;
    file.flush()?;
    Ok(edited)
}

/// A number in the form of JSON-RPC or plain JSON, changed by `by`, in the form of JSON-RPC.
///
/// # Errors
/// An error if the value is not a number.
pub fn number_plus(value: &Value, by: i64) -> Result<Value> {
    let number = match value {
        Value::String(text) => u64::from_str_radix(text.trim_start_matches("0x"), 16)?,
        Value::Null => 0,
        other => other.as_u64().with_context(|| format!("not a number: {other}"))?,
    };
    let changed = number.checked_add_signed(by).context("out of range")?;
    Ok(format!("{changed:#x}").into())
}
