//! The system's process table (Linux), to check that no process was left behind.

use std::fs;

use anyhow::{Context, Result};

/// A child of some process. Its start time distinguishes it from later processes with the same id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Descendant {
    /// The process id. The system may reuse it after the process has ended.
    pub pid: u32,
    /// The name of the program as the kernel keeps it, at most 15 bytes.
    pub name: String,
    started: u64,
}

impl Descendant {
    /// Whether it still runs. An ended process that its new parent has not reaped does not.
    #[must_use]
    pub fn is_running(&self) -> bool {
        entry(self.pid).is_some_and(|entry| entry.started == self.started && !entry.ended)
    }
}

/// The running processes that `parent` has started.
///
/// # Errors
/// An error if there is no process table.
pub fn children_of(parent: u32) -> Result<Vec<Descendant>> {
    let mut children = Vec::new();
    for found in fs::read_dir("/proc").context("the process table cannot be read")? {
        let Some(pid) = found?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let Some(Entry { name, parent: of, started, ended: false }) = entry(pid) else { continue };
        if of == parent {
            children.push(Descendant { pid, name, started });
        }
    }
    Ok(children)
}

struct Entry {
    name: String,
    parent: u32,
    started: u64,
    ended: bool,
}

/// Parses `/proc/PID/stat`: the name is in parentheses and may contain any character; fixed fields
/// follow it.
fn entry(pid: u32) -> Option<Entry> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (head, rest) = stat.rsplit_once(')')?;
    let (_, name) = head.split_once('(')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    Some(Entry {
        name: name.to_owned(),
        parent: fields.get(1)?.parse().ok()?,
        started: fields.get(19)?.parse().ok()?,
        ended: matches!(*fields.first()?, "Z" | "X"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio, id};

    #[test]
    fn a_child_is_found_until_it_has_ended() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let known = children_of(id()).unwrap().into_iter().find(|known| known.pid == child.id()).unwrap();
        assert!(known.is_running());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!known.is_running());
        assert!(!children_of(id()).unwrap().contains(&known));
    }
}
