//! What a process gives up before it begins to work: core dumps, new privileges, and files and connections that it
//! does not need.
//!
//! The restrictions hold for the calling thread and the threads that it starts, so they are taken before there are
//! others, those of the allocator included. The sandbox is Linux's Landlock; where the kernel lacks it, or parts of it, the rest still holds.

use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, CompatLevel, Compatible as _, NetPort, Ruleset, RulesetAttr as _,
    RulesetCreatedAttr as _, RulesetError, path_beneath_rules,
};
use rustix::process::{Resource, Rlimit, setrlimit};

/// The newest version of Landlock whose restrictions are asked for.
const NEWEST: ABI = ABI::V5;

/// What every process reads: name resolution, libraries, what it is told about itself.
const SYSTEM: [&str; 9] = [
    "/etc",
    "/usr/lib",
    "/usr/lib64",
    "/lib",
    "/lib64",
    "/proc/self",
    "/proc/stat",
    "/proc/loadavg",
    "/sys/fs/cgroup",
];

/// The list of name servers. It may be a link to a file elsewhere, which is replaced when they change.
const RESOLVER: &str = "/etc/resolv.conf";

/// What a process may still do.
#[derive(Debug, Clone, Default)]
pub struct Sandbox {
    /// The files and folders that it may read, beside those of the system.
    pub read: Vec<PathBuf>,
    /// The folders in which it may do everything.
    pub write: Vec<PathBuf>,
    /// The TCP ports to which it may connect.
    pub connect: Vec<u16>,
}

/// Why a process cannot give up what it should.
#[derive(Debug, thiserror::Error)]
pub enum HardenError {
    /// A limit cannot be set.
    #[error("--hardened: {what} cannot be given up: {source}")]
    System {
        /// The right that could not be given up.
        what: &'static str,
        /// The operating system's error.
        source: std::io::Error,
    },
    /// The sandbox cannot be set up.
    #[error("--hardened: the sandbox cannot be set up: {0}")]
    Sandbox(#[from] RulesetError),
}

/// Gives up core dumps and new privileges, and everything that `sandbox` does not allow, if it is given. Returns
/// whether all of that holds.
///
/// # Errors
/// [`HardenError`] if the system refuses. A kernel without Landlock is no error: a warning names it.
pub fn harden(sandbox: Option<&Sandbox>) -> Result<bool, HardenError> {
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    let system = |what| move |source: rustix::io::Errno| HardenError::System { what, source: source.into() };
    setrlimit(Resource::Core, none).map_err(system("core dumps"))?;
    rustix::thread::set_no_new_privs(true).map_err(system("new privileges"))?;
    Ok(match sandbox {
        Some(sandbox) => restrict(sandbox)?,
        None => true,
    })
}

fn restrict(sandbox: &Sandbox) -> Result<bool, RulesetError> {
    let (all, read) = (AccessFs::from_all(NEWEST), AccessFs::from_read(NEWEST));
    let resolver = std::fs::canonicalize(RESOLVER).ok();
    let resolver = resolver.and_then(|file| file.parent().map(Path::to_owned));
    let readable = SYSTEM.iter().map(PathBuf::from).chain(sandbox.read.iter().cloned()).chain(resolver);
    let ports = sandbox.connect.iter().map(|port| Ok(NetPort::new(*port, AccessNet::ConnectTcp)));
    let status = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(all)?
        .handle_access(AccessNet::ConnectTcp)?
        .create()?
        // A path that does not exist is passed over.
        .add_rules(path_beneath_rules(readable, read))?
        .add_rules(path_beneath_rules(&sandbox.write, all))?
        .add_rules(ports.collect::<Vec<Result<NetPort, RulesetError>>>())?
        .restrict_self()?;
    match status.ruleset {
        landlock::RulesetStatus::FullyEnforced => {
            tracing::info!("the sandbox holds");
            return Ok(true);
        }
        landlock::RulesetStatus::PartiallyEnforced => {
            tracing::warn!("the sandbox holds in part: the kernel lacks newer restrictions of Landlock");
        }
        landlock::RulesetStatus::NotEnforced => {
            tracing::warn!("there is no sandbox: the kernel has no Landlock, or it is turned off");
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs;
    use std::io::ErrorKind;
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_hardened_thread_reaches_only_what_it_was_left() {
        let listen = || TcpListener::bind("127.0.0.1:0").unwrap();
        let (own, other) = (listen(), listen());
        let port = own.local_addr().unwrap().port();
        let folder = std::env::temp_dir().join(format!("hardened-{}", std::process::id()));
        let (mine, theirs) = (folder.join("mine"), folder.join("theirs"));
        for folder in [&mine, &theirs] {
            fs::create_dir_all(folder).unwrap();
            fs::write(folder.join("file"), "x").unwrap();
        }
        let sandbox = Sandbox { read: vec![], write: vec![mine.clone()], connect: vec![port] };
        let (kept, lost) = (mine.join("file"), theirs.join("file"));
        let (own, other) = (own.local_addr().unwrap(), other.local_addr().unwrap());
        // Only this thread and those that it starts are restricted.
        let hardened = std::thread::spawn(move || {
            if !harden(Some(&sandbox)).unwrap() {
                eprintln!("SKIPPED: this kernel has no Landlock of version 5");
                return;
            }
            let denied =
                |error: std::io::Error| assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
            fs::write(&kept, "y").unwrap();
            assert_eq!(fs::read(&kept).unwrap(), b"y");
            denied(fs::read(&lost).unwrap_err());
            denied(fs::write(&lost, "y").unwrap_err());
            assert!(TcpStream::connect(own).is_ok());
            denied(TcpStream::connect(other).unwrap_err());
        });
        hardened.join().unwrap();
        fs::remove_dir_all(&folder).unwrap();
    }
}
