//! The kind of a message: reasons and alarms are counted by kind, not by their numbers.

/// A message without its numbers, so that messages of one kind are equal.
pub(super) fn kind_of(message: &str) -> String {
    let mut kind = String::new();
    for piece in message.split_inclusive(|character: char| !character.is_ascii_alphanumeric()) {
        let word = piece.trim_end_matches(|character: char| !character.is_ascii_alphanumeric());
        if word.bytes().any(|byte| byte.is_ascii_digit()) {
            kind.push('N');
            kind.push_str(piece.get(word.len()..).unwrap_or_default());
        } else {
            kind.push_str(piece);
        }
    }
    kind
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_that_differ_in_numbers_are_of_one_kind() {
        let kind = kind_of("shard 3 at 127.0.0.1:4711: work 3d87386f, in 2.5 s");
        assert_eq!(kind, "shard N at N.N.N.N:N: work N, in N.N s");
        assert_eq!(kind, kind_of("shard 1 at 127.0.0.1:80: work 0abc, in 17.0 s"));
    }
}
