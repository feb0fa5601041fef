//! The memory of processes, sampled while they run (Linux).

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// The pause between two samples.
const PAUSE: Duration = Duration::from_millis(20);

/// The resident memory of a process in bytes; 0 if it has ended.
pub(crate) fn resident(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib =
        line.and_then(|line| line.trim().strip_suffix("kB")).and_then(|kib| kib.trim().parse::<u64>().ok());
    kib.unwrap_or_default() * 1024
}

/// Watches the memory of some processes for its peak, on a thread that ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Sampler {
    stop: Arc<AtomicBool>,
    peaks: Arc<[AtomicU64]>,
    thread: Option<JoinHandle<()>>,
}

impl Sampler {
    pub(crate) fn start(pids: Vec<u32>) -> std::io::Result<Self> {
        let peaks: Arc<[AtomicU64]> = pids.iter().map(|_| AtomicU64::new(0)).collect();
        let stop = Arc::new(AtomicBool::new(false));
        let (shared, told) = (Arc::clone(&peaks), Arc::clone(&stop));
        let thread = std::thread::Builder::new().name("memory".into()).spawn(move || {
            while !told.load(Ordering::Acquire) {
                for (pid, peak) in pids.iter().zip(shared.iter()) {
                    peak.fetch_max(resident(*pid), Ordering::Relaxed);
                }
                std::thread::sleep(PAUSE);
            }
        })?;
        Ok(Self { stop, peaks, thread: Some(thread) })
    }

    /// The most memory that each process had so far, in bytes.
    pub(crate) fn peaks(&self) -> Vec<u64> {
        self.peaks.iter().map(|peak| peak.load(Ordering::Relaxed)).collect()
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has printed why.
            let _ = thread.join();
        }
    }
}
