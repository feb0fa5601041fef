//! The targets: for each door, valid inputs and the decoder that stands behind it.

mod certificates;
mod files;
mod messages;
mod texts;
mod values;

use std::fmt;
use std::path::Path;

use anyhow::Result;

/// A decoder: whether it takes the bytes for valid.
type Decode = Box<dyn Fn(&[u8]) -> bool>;

/// Something that decodes bytes of others.
pub struct Target {
    /// Its name, and that of its folder in the corpus.
    pub name: &'static str,
    /// Inputs from which others are made. All of them but those of texts are valid.
    pub valid: Vec<Vec<u8>>,
    decode: Decode,
    /// The bytes that it may allocate for any input, and for each byte of its input.
    bound: (u64, u64),
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Target").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Target {
    /// A target with the usual bounds.
    #[must_use]
    pub fn of(name: &'static str, valid: Vec<Vec<u8>>, decode: impl Fn(&[u8]) -> bool + 'static) -> Self {
        Self { name, valid, decode: Box::new(decode), bound: (64 << 10, 128) }
    }

    /// The same target, with other bounds: for any input, and for each byte of its input.
    fn bounded(self, fixed: u64, per_byte: u64) -> Self {
        Self { bound: (fixed, per_byte), ..self }
    }

    /// Whether the decoder takes the bytes for valid.
    #[must_use]
    pub fn decode(&self, bytes: &[u8]) -> bool {
        (self.decode)(bytes)
    }

    /// The most bytes that an execution with so long an input may allocate.
    #[must_use]
    pub fn most_allocated(&self, input: usize) -> u64 {
        let (fixed, per_byte) = self.bound;
        fixed + per_byte * input as u64
    }
}

/// All targets. Those that read files use `folder`.
///
/// # Errors
/// If the valid inputs cannot be made.
pub fn all(folder: &Path) -> Result<Vec<Target>> {
    let chain = values::Chain::new()?;
    let mut targets = messages::targets();
    targets.extend(values::targets(&chain)?);
    targets.extend(files::targets(&chain, folder)?);
    targets.extend(certificates::targets(folder));
    targets.extend(texts::targets());
    Ok(targets)
}
