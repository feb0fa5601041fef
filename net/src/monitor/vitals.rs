//! How this process does: what a peer or an operator asks of it.

use std::path::Path;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

/// When this process began to watch itself.
static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// How a process does. What the system does not tell is `None`.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Vitals {
    /// The time since the process began.
    pub uptime: Duration,
    /// The memory that it has in use, in bytes.
    pub memory: Option<u64>,
    /// The number of its threads.
    pub threads: Option<u32>,
    /// The machine's load: processes that ran or waited for a processor, averaged over a minute.
    pub load: Option<f32>,
    /// The free space where it keeps its data, in bytes; `None` too if it keeps none.
    pub disk_free: Option<u64>,
}

/// What a shard tells of itself.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NodeReport {
    /// The version of its build.
    pub build: String,
    /// The version of its engine.
    pub engine: String,
    /// How its process does.
    pub vitals: Vitals,
}

impl Vitals {
    /// Begins to count the time of this process.
    pub fn begin() {
        LazyLock::force(&BEGAN);
    }

    /// How this process does now. `folder` is where it keeps its data.
    #[must_use]
    pub fn now(folder: Option<&Path>) -> Self {
        let disk_free = folder.and_then(|folder| rustix::fs::statvfs(folder).ok());
        let disk_free = disk_free.map(|disk| disk.f_bavail.saturating_mul(disk.f_frsize));
        Self { uptime: BEGAN.elapsed(), disk_free, ..of_the_system() }
    }
}

#[cfg(target_os = "linux")]
fn of_the_system() -> Vitals {
    use procfs::process::Process;
    use procfs::{Current as _, LoadAverage, WithCurrentSystemInfo as _};

    let own = Process::myself().and_then(|process| process.stat()).ok();
    Vitals {
        memory: own.as_ref().map(|own| own.rss_bytes().get()),
        threads: own.as_ref().and_then(|own| u32::try_from(own.num_threads).ok()),
        load: LoadAverage::current().ok().map(|load| load.one),
        ..Vitals::default()
    }
}

#[cfg(not(target_os = "linux"))]
fn of_the_system() -> Vitals {
    Vitals::default()
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_system_tells_how_this_process_does() {
        Vitals::begin();
        let vitals = Vitals::now(Some(Path::new("/")));
        assert!(vitals.memory.unwrap() > 1 << 20 && vitals.threads.unwrap() >= 1, "{vitals:?}");
        assert!(vitals.load.unwrap() >= 0.0 && vitals.disk_free.is_some(), "{vitals:?}");
        assert_eq!(Vitals::now(None).disk_free, None);
        assert!(Vitals::now(None).uptime >= vitals.uptime);
    }
}
