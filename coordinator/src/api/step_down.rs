//! Stepping down: another coordinator that wants to take over the data directory asks this one to stop.

use alloy_primitives::{B256, hex};
use tokio_util::sync::CancellationToken;

/// A request to stop this process in good order. It requires the secret.
#[derive(Debug, Clone)]
pub struct StepDown {
    secret: Option<B256>,
    asked: CancellationToken,
}

impl StepDown {
    /// Draws a secret from the operating system.
    #[must_use]
    pub fn with_secret() -> Self {
        Self { secret: Some(B256::from(rand::random::<[u8; 32]>())), asked: CancellationToken::new() }
    }

    /// For a process that never steps down.
    #[must_use]
    pub fn never() -> Self {
        Self { secret: None, asked: CancellationToken::new() }
    }

    /// The secret in hex; empty if there is none.
    #[must_use]
    pub fn secret(&self) -> String {
        self.secret.map(hex::encode).unwrap_or_default()
    }

    /// Requests the stop. Returns false if the secret is wrong.
    #[must_use]
    pub fn ask(&self, secret: &[u8]) -> bool {
        // Compares hashes, so that the time of the comparison reveals nothing about the secret.
        let right = self.secret.is_some_and(|known| blake3::hash(known.as_slice()) == blake3::hash(secret));
        if right {
            self.asked.cancel();
        }
        right
    }

    /// Resolves when the stop was requested.
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
