//! Which inputs reach code, or go through it more often, than all inputs before them did.
//!
//! Only a build by `scripts/hostile.sh --guided` has the counters for it. In any other, no input is new.

/// The inputs' ways through the instrumented code so far.
#[derive(Debug, Default)]
pub struct Guide {
    /// For each counter, a bit for each range of values that it had after some input.
    seen: Vec<u8>,
    reached: usize,
}

impl Guide {
    /// A guide that has seen nothing. Counts that are left from earlier work are forgotten.
    #[must_use]
    pub fn new() -> Self {
        coverage::take(|_, _| {});
        Self { seen: vec![0; coverage::counters()], reached: 0 }
    }

    /// Forgets what has run since the last input: making the next one counts for nothing.
    pub fn begin(&self) {
        if self.is_on() {
            coverage::take(|_, _| {});
        }
    }

    /// Whether there are counters.
    #[must_use]
    pub fn is_on(&self) -> bool {
        !self.seen.is_empty()
    }

    /// Looks at what the last input has reached; returns whether something of it is new.
    pub fn look(&mut self) -> bool {
        if !self.is_on() {
            return false;
        }
        let (seen, reached, mut is_new) = (&mut self.seen, &mut self.reached, false);
        coverage::take(|counter, count| {
            let Some(known) = seen.get_mut(counter) else { return };
            let bit = range_bit(count);
            if *known & bit == 0 {
                *reached += usize::from(*known == 0);
                *known |= bit;
                is_new = true;
            }
        });
        is_new
    }

    /// How many branches were taken; `None` without counters.
    #[must_use]
    pub fn reached(&self) -> Option<usize> {
        self.is_on().then_some(self.reached)
    }
}

/// The bit of the range that a count is in: 1, 2, 3, 4 to 7, 8 to 15, 16 to 31, 32 to 127, 128 and more. A loop that
/// runs once more at a high count is nothing new.
fn range_bit(count: u8) -> u8 {
    match count {
        0 | 1 => 1,
        2 => 2,
        3 => 4,
        4..8 => 8,
        8..16 => 16,
        16..32 => 32,
        32..128 => 64,
        128.. => 128,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_count_has_one_range_and_they_ascend() {
        let bits: Vec<u8> = (0..=u8::MAX).map(range_bit).collect();
        assert!(bits.iter().all(|bit| bit.is_power_of_two()) && bits.is_sorted());
        assert_eq!(bits.iter().fold(0, |all, bit| all | bit), u8::MAX);
    }

    #[test]
    fn without_counters_no_input_is_new() {
        let mut guide = Guide::new();
        assert!(!guide.is_on() && !guide.look());
        assert_eq!(guide.reached(), None);
    }
}
