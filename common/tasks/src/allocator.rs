//! The threads of the allocator, jemalloc, which give memory back to the system.
//!
//! They begin with this call and not with the process: restrictions hold only for threads that begin after them.

/// Has the allocator give back memory on threads of its own. A process with another allocator has none.
pub fn start_threads() {
    if let Err(error) = tikv_jemalloc_ctl::background_thread::write(true) {
        tracing::debug!(%error, "memory is given back by the threads that free it");
    }
}
