//! Slices of a core: control groups that limit the processor time of each process.

use std::fs;
use std::path::{Path, PathBuf};

/// How much processor time a full group gets at once. A short quota keeps the pauses short.
const QUOTA_US: u64 = 1000;

/// Why there are no slices.
#[derive(Debug, thiserror::Error)]
pub enum NoSlices {
    /// No hierarchy of control groups limits processor time.
    #[error(
        "there are no control groups for processor time (neither /sys/fs/cgroup/cpu nor a cpu controller in \
         /sys/fs/cgroup/cgroup.controllers); use `lab bench`, which needs none"
    )]
    Missing,
    /// They cannot be used.
    #[error("the control group {path} cannot be used: {source}; slices need root")]
    Refused {
        /// The file or folder.
        path: String,
        /// The operating system's error for this path.
        source: std::io::Error,
    },
    /// The share is not one.
    #[error("{0} % is not a slice of a core: it must lie between 1 and 100")]
    Share(f64),
}

/// The version of the control groups: they differ in the file that holds the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

/// A folder of control groups for one run. Dropping it removes them.
#[derive(Debug)]
pub struct Slices {
    version: Version,
    root: PathBuf,
    folder: PathBuf,
    percent: f64,
}

fn refused(path: &Path) -> impl FnOnce(std::io::Error) -> NoSlices + '_ {
    move |source| NoSlices::Refused { path: path.display().to_string(), source }
}

impl Slices {
    /// Prepares groups whose processes get `percent` of a core each.
    ///
    /// # Errors
    /// [`NoSlices`] if this machine has none, or does not let this process use them.
    pub fn open(percent: f64) -> Result<Self, NoSlices> {
        if !(1.0..=100.0).contains(&percent) {
            return Err(NoSlices::Share(percent));
        }
        let (version, root) = if Path::new("/sys/fs/cgroup/cpu/cpu.cfs_quota_us").exists()
            || Path::new("/sys/fs/cgroup/cpu/cgroup.procs").exists()
        {
            (Version::One, PathBuf::from("/sys/fs/cgroup/cpu"))
        } else if fs::read_to_string("/sys/fs/cgroup/cgroup.controllers")
            .is_ok_and(|controllers| controllers.split_whitespace().any(|name| name == "cpu"))
        {
            (Version::Two, PathBuf::from("/sys/fs/cgroup"))
        } else {
            return Err(NoSlices::Missing);
        };
        let folder = root.join(format!("lab-scale-{}", std::process::id()));
        fs::create_dir(&folder).map_err(refused(&folder))?;
        let slices = Self { version, root, folder, percent };
        if version == Version::Two {
            let control = slices.folder.join("cgroup.subtree_control");
            fs::write(&control, "+cpu").map_err(refused(&control))?;
        }
        Ok(slices)
    }

    /// The share of a core that `slices` slices are.
    #[must_use]
    pub fn share(&self, slices: f64) -> f64 {
        self.percent * slices / 100.0
    }

    /// Puts a process into a group of its own with so many slices.
    ///
    /// # Errors
    /// [`NoSlices::Refused`].
    pub fn put(&self, name: &str, pid: u32, slices: f64) -> Result<(), NoSlices> {
        let group = self.folder.join(name);
        if !group.exists() {
            fs::create_dir(&group).map_err(refused(&group))?;
        }
        let period = (QUOTA_US as f64 / self.share(slices)) as u64;
        let write = |file: &str, text: String| {
            let path = group.join(file);
            fs::write(&path, text).map_err(refused(&path))
        };
        match self.version {
            Version::One => {
                write("cpu.cfs_period_us", period.to_string())?;
                write("cpu.cfs_quota_us", QUOTA_US.to_string())?;
            }
            Version::Two => write("cpu.max", format!("{QUOTA_US} {period}"))?,
        }
        write("cgroup.procs", pid.to_string())
    }

    /// Takes a process out of its group, so that it ends at full speed.
    pub fn release(&self, pid: u32) {
        // A process that has ended is in no group any more.
        let _ = fs::write(self.root.join("cgroup.procs"), pid.to_string());
    }
}

impl Drop for Slices {
    fn drop(&mut self) {
        // Groups are empty by now; one that is not stays, and the next run uses another folder.
        for group in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            let _ = fs::remove_dir(group.path());
        }
        let _ = fs::remove_dir(&self.folder);
    }
}
