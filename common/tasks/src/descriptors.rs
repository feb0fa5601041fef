//! How many files and connections this process may have open at once.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the limit of open files as far as the process itself may. Returns the limit.
#[must_use]
pub fn raise_open_files() -> u64 {
    let found = getrlimit(Resource::Nofile);
    // No limit is a large one.
    let most = found.maximum.unwrap_or(u64::MAX);
    let current = found.current.unwrap_or(u64::MAX);
    if current >= most {
        return current;
    }
    match setrlimit(Resource::Nofile, Rlimit { current: found.maximum, maximum: found.maximum }) {
        Ok(()) => most,
        Err(error) => {
            tracing::debug!(%error, "the limit of open files stays as it is");
            current
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_as_high_as_it_may_be() {
        let raised = raise_open_files();
        let found = getrlimit(Resource::Nofile);
        assert_eq!(Some(raised), found.current.or(Some(u64::MAX)));
        assert_eq!(found.current, found.maximum);
    }
}
