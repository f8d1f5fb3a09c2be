//! Lengths of time as people write them: `200us`, `150ms`, `2s`, `1.5m`, `1h`.
//!
//! In:     a flag, or a key of a TOML file.
//! Out:    [`Time`], exact to the nanosecond; printed, it is read back as the same.
//! Fails:  [`TimeError`], which says what a length of time looks like.

use serde::Deserialize;
use std::{fmt, str::FromStr, time::Duration};

/// A length of time, a year at most. A setting that cannot use all lengths has bounds of its own.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(try_from = "String")]
pub(crate) struct Time(pub(crate) Duration);

/// Text that is no length of time.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("'{0}' is not a length of time such as 200us, 150ms, 2s, 1.5m or 1h; a year is the most")]
pub(crate) struct TimeError(String);

impl FromStr for Time {
    type Err = TimeError;

    fn from_str(text: &str) -> Result<Self, TimeError> {
        read(text).map(Self).ok_or_else(|| TimeError(text.to_owned()))
    }
}

impl TryFrom<String> for Time {
    type Error = TimeError;

    fn try_from(text: String) -> Result<Self, TimeError> {
        text.parse()
    }
}

impl fmt::Display for Time {
    /// In the largest unit that needs no fraction.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanoseconds = self.0.as_nanos();
        let whole = |(_, unit): &&(&str, u64)| nanoseconds.is_multiple_of(u128::from(*unit));
        match UNITS.iter().filter(|_| nanoseconds > 0).rfind(whole) {
            Some((name, unit)) => write!(out, "{}{name}", nanoseconds / u128::from(*unit)),
            None if nanoseconds == 0 => out.write_str("0s"),
            None => write!(out, "{}.{:03}us", nanoseconds / 1_000, nanoseconds % 1_000),
        }
    }
}

/// By whole numbers: a fraction of a second has no exact floating point.
fn read(text: &str) -> Option<Duration> {
    let at = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (number, name) = text.split_at(at);
    let name = if name == "µs" { "us" } else { name };
    let (_, unit) = UNITS.iter().find(|(known, _)| *known == name)?;
    let (whole, part) = number.split_once('.').unwrap_or((number, "0"));
    if part.len() > PART_DIGITS_MAX {
        return None;
    }
    let scale = 10_u64.pow(u32::try_from(part.len()).ok()?);
    let of_part = u128::from(part.parse::<u64>().ok()?) * u128::from(*unit) / u128::from(scale);
    let nanoseconds = u128::from(whole.parse::<u64>().ok()?) * u128::from(*unit) + of_part;
    let time = Duration::from_nanos(u64::try_from(nanoseconds).ok()?);
    (time <= TIME_MAX).then_some(time)
}

/// Names and nanoseconds, smallest first.
const UNITS: [(&str, u64); 5] = [
    ("us", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];
const TIME_MAX: Duration = Duration::from_secs(365 * 24 * 3_600);
const PART_DIGITS_MAX: usize = 9;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_time_is_a_number_and_its_unit() {
        for (text, nanoseconds) in [
            ("200us", 200_000),
            ("7µs", 7_000),
            ("0.5us", 500),
            ("500ms", 500_000_000),
            ("20s", 20_000_000_000),
            ("0s", 0),
            ("0.1s", 100_000_000),
            ("1.000000001s", 1_000_000_001),
            ("1.5m", 90_000_000_000),
            ("1h", 3_600_000_000_000),
            ("8760h", 8_760 * 3_600_000_000_000),
        ] {
            let time = text.parse();
            assert_eq!(time, Ok(Time(Duration::from_nanos(nanoseconds))), "{text}");
        }
        for text in [
            "",
            "20",
            "s",
            "m",
            ".5s",
            "1.s",
            "1.2.3s",
            "-1s",
            "+1s",
            "20 s",
            " 20s",
            "1e3s",
            "1d",
            "1S",
            "8761h",
            "18446744073709551616s",
            "18446744073709551615h",
            "1.0000000001s",
        ] {
            let error = text.parse::<Time>().expect_err(text).to_string();
            assert!(error.starts_with(&format!("'{text}'")) && error.contains("150ms"), "{error}");
        }
    }

    #[test]
    fn a_time_is_printed_in_the_largest_whole_unit() {
        for (nanoseconds, text) in [
            (0, "0s"),
            (1_234, "1.234us"),
            (1_000, "1us"),
            (1_500_000, "1500us"),
            (150_000_000, "150ms"),
            (20_000_000_000, "20s"),
            (90_000_000_000, "90s"),
            (120_000_000_000, "2m"),
            (7_200_000_000_000, "2h"),
        ] {
            assert_eq!(Time(Duration::from_nanos(nanoseconds)).to_string(), text);
        }
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read_back(seconds in 0_u64..365 * 24 * 3_600, part in 0_u32..1_000_000_000, cut in 0_u32..10) {
            let part = part / 10_u32.pow(cut) * 10_u32.pow(cut);
            let time = Time(Duration::new(seconds, part));
            prop_assert_eq!(time.to_string().parse(), Ok(time));
        }
    }
}
