//! Durations as people write them: `250ms`, `10s`, `5min`. A number alone is in the option's own unit.

use std::ops::RangeInclusive;

/// The units, and the milliseconds of each.
const UNITS: [(&str, u64); 5] =
    [("ms", 1), ("s", 1_000), ("min", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

/// Reads a duration in milliseconds, of which `within` are allowed.
pub fn millis(
    within: RangeInclusive<u64>,
) -> impl Fn(&str) -> Result<u64, String> + Clone + Send + Sync + 'static {
    move |text| read(text, 1, "milliseconds", &within)
}

/// Reads a duration in seconds, of which `within` are allowed.
pub fn seconds(
    within: RangeInclusive<u64>,
) -> impl Fn(&str) -> Result<u64, String> + Clone + Send + Sync + 'static {
    move |text| read(text, 1_000, "seconds", &within)
}

fn read(text: &str, own: u64, name: &str, within: &RangeInclusive<u64>) -> Result<u64, String> {
    let end = text.find(|char: char| !char.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let known = || UNITS.map(|(unit, _)| unit).join(", ");
    let unit = match unit.trim() {
        "" => own,
        unit => {
            let found = UNITS.iter().find(|(name, _)| *name == unit).map(|(_, millis)| *millis);
            found
                .ok_or_else(|| format!("it is not a number of {name}, or a number and one of {}", known()))?
        }
    };
    let number: u64 = number.parse().map_err(|_| format!("it does not begin with a number of {name}"))?;
    let millis = number.checked_mul(unit).ok_or("it is too long")?;
    if millis % own != 0 {
        return Err(format!("it is not a whole number of {name}"));
    }
    let value = millis / own;
    match within.contains(&value) {
        true => Ok(value),
        false => Err(format!("{value} {name} are not within {} and {}", within.start(), within.end())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units_or_that_of_their_option() {
        let (ms, s) = (millis(1..=3_600_000), seconds(0..=86_400));
        for (text, expected) in
            [("250", 250), ("250ms", 250), ("2 s", 2_000), ("1min", 60_000), ("1h", 3_600_000)]
        {
            assert_eq!(ms(text), Ok(expected), "{text}");
        }
        for (text, expected) in [("10", 10), ("10s", 10), ("2min", 120), ("3000ms", 3), ("1d", 86_400)] {
            assert_eq!(s(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_duration_is_refused_with_the_reason() {
        let s = seconds(1..=60);
        for (text, reason) in [
            ("", "does not begin with a number"),
            ("-1", "one of ms, s, min, h, d"),
            ("1.5s", "one of ms"),
            ("2 weeks", "one of ms"),
            ("s", "does not begin"),
            ("1500ms", "not a whole number of seconds"),
            ("0", "not within 1 and 60"),
            ("2min", "120 seconds are not within 1 and 60"),
            ("99999999999999999999", "does not begin"),
            ("18446744073709551615d", "too long"),
        ] {
            let said = s(text).err().unwrap_or_default();
            assert!(said.contains(reason), "{text:?}: {said}");
        }
    }
}
