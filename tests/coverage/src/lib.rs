//! How often each branch of instrumented code was taken: the counters of LLVM's [SanitizerCoverage], which
//! `scripts/hostile.sh --guided` has the compiler put into the crates that decode.
//!
//! A program whose crates are built as usual has no counters, and then every function here does nothing. This crate
//! decides nothing: `tests/hostile` uses the counters to tell inputs that reach new code from those that do not.
//!
//! [SanitizerCoverage]: https://clang.llvm.org/docs/SanitizerCoverage.html#inline-8bit-counters

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use parking_lot::Mutex;

/// The counters of the program, once for each part of it that has some.
static COUNTERS: Mutex<Vec<&'static [AtomicU8]>> = Mutex::new(Vec::new());

/// Takes the counters of a part of the program. Instrumented code calls it before `main`, with the same range for
/// each of its modules.
///
/// # Safety
/// `start` and `stop` must be the bounds of memory that lives as long as the program, as the compiler's are.
#[allow(unsafe_code)]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __sanitizer_cov_8bit_counters_init(start: *const u8, stop: *const u8) {
    let length = (stop as usize).saturating_sub(start as usize);
    if start.is_null() || length == 0 {
        return;
    }
    // SAFETY: the caller promises that the memory lives for ever. Instrumented code changes it without
    // synchronisation, one byte at a time; as atomics, the reads here see the old or the new value.
    let counters = unsafe { std::slice::from_raw_parts(start.cast::<AtomicU8>(), length) };
    let mut known = COUNTERS.lock();
    if !known.iter().any(|range| range.as_ptr() == counters.as_ptr()) {
        known.push(counters);
    }
}

/// The number of counters: 0 if the program is not instrumented.
#[must_use]
pub fn counters() -> usize {
    COUNTERS.lock().iter().map(|range| range.len()).sum()
}

/// Shows `visit` every counter that is not zero, by its number and value, and makes it zero.
pub fn take(mut visit: impl FnMut(usize, u8)) {
    let mut first = 0;
    for range in COUNTERS.lock().iter() {
        take_range(range, first, &mut visit);
        first += range.len();
    }
}

/// Most counters are zero, so eight are looked at together.
#[allow(unsafe_code)]
fn take_range(range: &[AtomicU8], first: usize, visit: &mut impl FnMut(usize, u8)) {
    // SAFETY: eight atomic bytes have the size of one atomic word, every value is valid, and `align_to` gives only
    // aligned words.
    let (head, words, tail) = unsafe { range.align_to::<AtomicU64>() };
    let mut bytes = |counters: &[AtomicU8], first: usize| {
        for (number, counter) in (first..).zip(counters) {
            let value = counter.load(Ordering::Relaxed);
            if value != 0 {
                counter.store(0, Ordering::Relaxed);
                visit(number, value);
            }
        }
    };
    bytes(head, first);
    for (place, word) in words.iter().enumerate() {
        if word.load(Ordering::Relaxed) != 0 {
            let from = head.len() + 8 * place;
            bytes(range.get(from..from + 8).unwrap_or_default(), first + from);
        }
    }
    bytes(tail, first + range.len() - tail.len());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_taken_once_wherever_they_are() {
        for length in [1, 7, 8, 9, 64, 1_001] {
            let counters: Vec<AtomicU8> =
                (0..length).map(|number| AtomicU8::new(if number % 3 == 0 { 7 } else { 0 })).collect();
            for begin in 0..length.min(9) {
                let range = counters.get(begin..).unwrap_or_default();
                let mut taken = Vec::new();
                take_range(range, 100, &mut |number, value| taken.push((number, value)));
                let expected: Vec<(usize, u8)> = (begin..length)
                    .filter(|number| number % 3 == 0)
                    .map(|number| (100 + number - begin, 7))
                    .collect();
                assert_eq!(taken, expected, "{length} {begin}");
                take_range(range, 0, &mut |number, _| taken.push((number, 0)));
                assert_eq!(taken.len(), expected.len(), "they are zero now");
                for (number, counter) in counters.iter().enumerate() {
                    counter.store(if number % 3 == 0 { 7 } else { 0 }, Ordering::Relaxed);
                }
            }
        }
    }

    #[test]
    fn a_program_that_is_not_instrumented_has_no_counters() {
        assert_eq!(counters(), 0);
        take(|number, _| unreachable!("counter {number}"));
    }
}
