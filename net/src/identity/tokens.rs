//! Bearer tokens: the simple way to name a client or an operator, where it has no certificate.
//!
//! The file has a line for each token, `reader/NAME TOKEN`, `client/NAME TOKEN` or `operator/NAME TOKEN`. Empty
//! lines and lines that begin with `#` are skipped.

use std::fmt;
use std::path::Path;

use alloy_primitives::B256;
use common::codec::payload_digest;

use super::CredentialError;
use super::files::read_private;
use super::role::Role;

/// The shortest token, in characters: 128 bits in hex.
const MIN_TOKEN: usize = 32;

/// The longest token, in characters.
const MAX_TOKEN: usize = 256;

/// The most tokens in a file.
const MAX_TOKENS: usize = 1024;

/// The tokens that a server believes, as digests.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Tokens(Vec<(B256, Role)>);

impl Tokens {
    /// Reads a file that only its owner may read.
    pub(super) fn read(path: &Path) -> Result<Self, CredentialError> {
        let lines = Self::lines(path)?;
        Ok(Self(lines.into_iter().map(|(token, role)| (token.digest(), role)).collect()))
    }

    fn lines(path: &Path) -> Result<Vec<(Token, Role)>, CredentialError> {
        let bytes = read_private(path)?;
        let wrong = |line, reason: String| CredentialError::Tokens { path: path.to_owned(), line, reason };
        let text = std::str::from_utf8(&bytes).map_err(|error| wrong(0, error.to_string()))?;
        let mut tokens = Vec::new();
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (role, token) = line
                .split_once(char::is_whitespace)
                .ok_or_else(|| wrong(number, "there is no token behind the role".into()))?;
            let role: Role =
                role.parse().map_err(|error: super::NameError| wrong(number, error.to_string()))?;
            if !matches!(role, Role::Reader(_) | Role::Client(_) | Role::Operator(_)) {
                return Err(wrong(
                    number,
                    format!("{role} needs a certificate; tokens are for readers, clients and operators"),
                ));
            }
            let token = Token::new(token.trim()).map_err(|reason| wrong(number, reason))?;
            tokens.push((token, role));
        }
        if tokens.len() > MAX_TOKENS {
            return Err(wrong(0, format!("it has more than {MAX_TOKENS} tokens")));
        }
        Ok(tokens)
    }

    /// Who has this token. Digests are compared: the time that it takes says nothing about the tokens.
    pub(super) fn find(&self, token: &str) -> Option<&Role> {
        let digest = payload_digest(token.as_bytes());
        self.0.iter().find(|(known, _)| *known == digest).map(|(_, role)| role)
    }
}

/// A client's own token. Its `Debug` form does not show it.
#[derive(Clone)]
pub struct Token(String);

impl Token {
    fn new(text: &str) -> Result<Self, String> {
        if text.len() < MIN_TOKEN || text.len() > MAX_TOKEN {
            return Err(format!(
                "a token has {MIN_TOKEN} to {MAX_TOKEN} characters, this one has {}",
                text.len()
            ));
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("a token has no spaces and only ASCII characters".into());
        }
        Ok(Self(text.to_owned()))
    }

    /// Reads a file that only its owner may read, and that holds a token and nothing else.
    ///
    /// # Errors
    /// [`CredentialError`] if the file cannot be read, others may read it, or it holds no token.
    pub fn read(path: &Path) -> Result<Self, CredentialError> {
        let bytes = read_private(path)?;
        let text = String::from_utf8_lossy(&bytes);
        Self::new(text.trim()).map_err(|reason| CredentialError::Tokens {
            path: path.to_owned(),
            line: 1,
            reason,
        })
    }

    /// The first operator's token in a server's file of tokens, by which one coordinator calls another; `None` if
    /// it has none.
    ///
    /// # Errors
    /// [`CredentialError`] if the file cannot be read, others may read it, or a line is wrong.
    pub fn of_operator(path: &Path) -> Result<Option<Self>, CredentialError> {
        let mut lines = Tokens::lines(path)?.into_iter();
        Ok(lines.find(|(_, role)| matches!(role, Role::Operator(_))).map(|(token, _)| token))
    }

    /// The token's text, for a call's metadata only.
    pub(crate) fn text(&self) -> &str {
        &self.0
    }

    fn digest(&self) -> B256 {
        payload_digest(self.0.as_bytes())
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn parsed(text: &str) -> Result<Tokens, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        Tokens::read(file.path()).map_err(|error| error.to_string())
    }

    #[test]
    fn tokens_name_clients_and_operators() {
        let (ann, bob) = ("a".repeat(32), "b".repeat(64));
        let tokens = parsed(&format!("# comment\n\nclient/ann {ann}\noperator/bob\t{bob}\n")).unwrap();
        assert_eq!(tokens.find(&ann), Some(&Role::Client("ann".into())));
        assert_eq!(tokens.find(&bob), Some(&Role::Operator("bob".into())));
        assert_eq!(tokens.find(""), None);
        assert_eq!(tokens.find(&"a".repeat(31)), None);
        assert_eq!(tokens.find(&"a".repeat(33)), None);
    }

    #[test]
    fn an_operators_token_is_found() {
        let (ann, bob) = ("a".repeat(32), "b".repeat(32));
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), format!("client/ann {ann}\n")).unwrap();
        assert!(Token::of_operator(file.path()).unwrap().is_none());
        std::fs::write(file.path(), format!("client/ann {ann}\noperator/bob {bob}\n")).unwrap();
        assert_eq!(Token::of_operator(file.path()).unwrap().unwrap().text(), bob);
    }

    #[test]
    fn wrong_lines_are_named() {
        let long = "c".repeat(40);
        for (text, reason) in [
            (format!("\nshard/1 {long}"), "line 2: shard/1 needs a certificate"),
            ("client/ann short".into(), "line 1: a token has 32 to 256 characters"),
            ("client/ann".into(), "line 1: there is no token"),
            (format!("ann {long}"), "line 1: \"ann\" is not a role"),
        ] {
            let error = parsed(&text).unwrap_err();
            assert!(error.contains(reason), "{error}");
            assert!(!error.contains(&long), "an error shows no token: {error}");
        }
    }

    #[test]
    fn a_file_that_others_may_read_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "d".repeat(32)).unwrap();
        assert!(Token::read(file.path()).is_ok());
        std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(0o644)).unwrap();
        let error = Token::read(file.path()).unwrap_err().to_string();
        assert!(error.contains("0644") && error.contains("chmod 600"), "{error}");
    }
}
