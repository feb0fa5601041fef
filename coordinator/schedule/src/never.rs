//! One way to say that a branch cannot happen.

/// Reports a branch that cannot happen unless the scheduler itself is wrong: an error in the log, and a
/// failed assertion in builds that have assertions. Elsewhere the scheduler goes on, because an inconsistent
/// record of one piece of work must not end the coordinator.
///
/// Messages that are late, repeated or from an earlier incarnation are no such branch: they do happen.
macro_rules! never {
    ($($what:tt)+) => {{
        tracing::error!("this cannot happen: {}", format_args!($($what)+));
        debug_assert!(false, $($what)+);
    }};
}

pub(super) use never;
