//! Spreads independent pieces of one computation over a bounded number of threads, and waits for them.
//! It serves short bursts of pure computation inside a call, not work that outlives the call.

use std::thread;

use parking_lot::Mutex;
/// Returns the results of `work` on every item, in the order of the items. At most `threads` threads
/// run, including the caller's. If the system refuses a thread, the others do its work.
pub(super) fn each<T, R>(threads: usize, items: Vec<T>, work: impl Fn(T) -> R + Sync) -> Vec<R>
where
    T: Send,
    R: Send,
{
    let helpers = threads.min(items.len()).saturating_sub(1);
    if helpers == 0 {
        return items.into_iter().map(work).collect();
    }
    let queue = Mutex::new(items.into_iter().enumerate());
    let drain = || {
        let mut done = Vec::new();
        loop {
            let next = queue.lock().next();
            let Some((position, item)) = next else { return done };
            done.push((position, work(item)));
        }
    };
    let mut done = thread::scope(|scope| {
        let spawn = |_| thread::Builder::new().name("trie".to_owned()).spawn_scoped(scope, drain).ok();
        let helpers: Vec<_> = (0..helpers).filter_map(spawn).collect();
        let mut done = drain();
        for helper in helpers {
            match helper.join() {
                Ok(more) => done.extend(more),
                Err(panicked) => std::panic::resume_unwind(panicked),
            }
        }
        done
    });
    done.sort_unstable_by_key(|(position, _)| *position);
    done.into_iter().map(|(_, result)| result).collect()
}
