//! Stepping down: another coordinator that is to take the data directory over asks this one to end.

use alloy_primitives::{B256, hex};
use tokio_util::sync::CancellationToken;

/// The way to ask this process to end in good order. Only who knows the secret may.
#[derive(Debug, Clone)]
pub struct StepDown {
    secret: Option<B256>,
    asked: CancellationToken,
}

impl StepDown {
    /// With a secret that the operating system has drawn.
    #[must_use]
    pub fn with_secret() -> Self {
        Self { secret: Some(B256::from(rand::random::<[u8; 32]>())), asked: CancellationToken::new() }
    }

    /// For a process that does not step down for anybody.
    #[must_use]
    pub fn never() -> Self {
        Self { secret: None, asked: CancellationToken::new() }
    }

    /// The secret, in hex.
    #[must_use]
    pub fn secret(&self) -> String {
        self.secret.map(hex::encode).unwrap_or_default()
    }

    /// Asks. False if the secret is another.
    #[must_use]
    pub fn ask(&self, secret: &[u8]) -> bool {
        // Compared by hash, so that the time it takes tells nothing.
        let right = self.secret.is_some_and(|known| blake3::hash(known.as_slice()) == blake3::hash(secret));
        if right {
            self.asked.cancel();
        }
        right
    }

    /// Resolves when it was asked.
    pub async fn asked(&self) {
        self.asked.cancelled().await;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_the_secret_makes_it_step_down() {
        let step_down = StepDown::with_secret();
        assert!(!step_down.ask(b"") && !step_down.ask(&[0; 32]));
        assert!(!step_down.asked.is_cancelled());
        assert!(step_down.ask(&hex::decode(step_down.secret()).unwrap()));
        assert!(step_down.asked.is_cancelled());
        assert!(!StepDown::never().ask(&[]) && !StepDown::never().ask(&[0; 32]));
    }
}
