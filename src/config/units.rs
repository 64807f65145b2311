//! Durations and sizes as people and batch systems write them. What is displayed reads back as the same value.

use serde::{Deserialize, Deserializer, Serializer};
use std::time::Duration;

/// Longest duration that is accepted: a thousand years, so that adding a few to a clock can't overflow.
pub const MAX_DURATION: Duration = Duration::from_secs(1000 * 366 * 86_400);

/// Why a text is no duration, size or port range.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum UnitError {
    #[error("`{0}` is not a duration: write it like 90s, 30m, 2h, 1d, 1h30m, 01:30:00 or 1-12:00:00")]
    Duration(String),
    #[error("`{0}` has no unit: write `{0}s`, `{0}m` or `{0}h`")]
    DurationUnit(String),
    #[error("`{0}` could be hours or minutes: write {1}")]
    DurationAmbiguous(String, String),
    #[error("`{0}` is longer than anything this program can wait for")]
    DurationTooLong(String),
    #[error("`{0}` is not a size: write it like 512MB, 4GiB or 8G")]
    Size(String),
    #[error("`{0}` has no unit: write `{0}MiB`, `{0}GiB` or `{0}B`")]
    SizeUnit(String),
    #[error("`{0}` is more bytes than this program can count")]
    SizeTooBig(String),
    #[error("`{0}` is not a port range: write it like 40000-40100, or `any`")]
    PortRange(String),
}

/// A range of TCP ports, both ends included; [`PortRange::ANY`] leaves the choice to the system.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PortRange {
    pub first: u16,
    pub last: u16,
}

impl PortRange {
    /// The system chooses.
    pub const ANY: PortRange = PortRange { first: 0, last: 0 };

    pub fn is_any(self) -> bool {
        self.first == 0
    }

    /// Whether every port of this range is one of `outer`'s.
    pub fn within(self, outer: PortRange) -> bool {
        outer.is_any() || (!self.is_any() && outer.first <= self.first && self.last <= outer.last)
    }
}

impl std::fmt::Display for PortRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.is_any() { f.write_str("any") } else { write!(f, "{}-{}", self.first, self.last) }
    }
}

impl std::str::FromStr for PortRange {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<PortRange, UnitError> {
        if text == "any" {
            return Ok(PortRange::ANY);
        }
        let bad = || UnitError::PortRange(text.to_owned());
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let range = PortRange {
            first: first.trim().parse().map_err(|_| bad())?,
            last: last.trim().parse().map_err(|_| bad())?,
        };
        if range.first == 0 || range.last < range.first { Err(bad()) } else { Ok(range) }
    }
}

/// Reads `90s`, `30m`, `2h`, `1d`, `500ms`, `1h30m`, `1.5h`, `01:30:00`, `1-12:00:00`, `1-12`; `0` needs no unit.
/// `30:00` is refused: batch systems disagree whether that is minutes or hours.
pub fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    let trimmed = text.trim();
    if trimmed.is_empty() || !trimmed.is_ascii() {
        return Err(UnitError::Duration(text.to_owned()));
    }
    let clock = trimmed.contains(':') || trimmed.split_once('-').is_some_and(|(days, _)| !days.is_empty());
    let millis = if clock { clock_millis(trimmed)? } else { units_millis(trimmed)? };
    let duration = u64::try_from(millis).map(Duration::from_millis).unwrap_or(Duration::MAX);
    if duration > MAX_DURATION { Err(UnitError::DurationTooLong(text.to_owned())) } else { Ok(duration) }
}

/// `H:MM:SS`, `D-HH`, `D-HH:MM`, `D-HH:MM:SS`.
fn clock_millis(text: &str) -> Result<u128, UnitError> {
    let bad = || UnitError::Duration(text.to_owned());
    let (days, rest) = match text.split_once('-') {
        Some((days, rest)) => (Some(number(days).ok_or_else(bad)?), rest),
        None => (None, text),
    };
    let fields: Vec<u128> = rest.split(':').map(number).collect::<Option<_>>().ok_or_else(bad)?;
    let (hours, minutes, seconds) = match (days, fields.as_slice()) {
        (_, [h, m, s]) => (*h, *m, *s),
        (Some(_), [h, m]) => (*h, *m, 0),
        (Some(_), [h]) => (*h, 0, 0),
        (None, [a, b]) => {
            return Err(UnitError::DurationAmbiguous(
                text.to_owned(),
                format!("{a:02}:{b:02}:00 or 00:{a:02}:{b:02}"),
            ));
        }
        _ => return Err(bad()),
    };
    if minutes > 59 || seconds > 59 || (days.is_some() && hours > 23) {
        return Err(bad());
    }
    Ok((((days.unwrap_or(0) * 24 + hours) * 60 + minutes) * 60 + seconds) * 1000)
}

/// At most ten digits, so that no product of it overflows.
fn number(digits: &str) -> Option<u128> {
    let plain = (1..=10).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
    if plain { digits.parse().ok() } else { None }
}

/// One or more numbers with units, the larger units first: `1h30m`.
fn units_millis(text: &str) -> Result<u128, UnitError> {
    const UNITS: [(&str, u128); 9] = [
        ("days", 86_400_000),
        ("day", 86_400_000),
        ("d", 86_400_000),
        ("h", 3_600_000),
        ("min", 60_000),
        ("m", 60_000),
        ("sec", 1000),
        ("s", 1000),
        ("ms", 1),
    ];
    let bad = || UnitError::Duration(text.to_owned());
    let (mut rest, mut total, mut previous) = (text, 0u128, u128::MAX);
    while !rest.is_empty() {
        let (value, after) = decimal(rest).ok_or_else(bad)?;
        let unit_len = after.bytes().take_while(u8::is_ascii_alphabetic).count();
        let (unit, next) = after.split_at(unit_len);
        if unit.is_empty() {
            let whole = previous == u128::MAX && next.is_empty();
            return match (whole, value.is_zero()) {
                (true, true) => Ok(0),
                (true, false) => Err(UnitError::DurationUnit(text.to_owned())),
                _ => Err(bad()),
            };
        }
        let scale = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(bad)?.1;
        if scale >= previous {
            return Err(bad());
        }
        total += value.times(scale).ok_or_else(bad)?;
        previous = scale;
        rest = next.trim_start();
    }
    Ok(total)
}

/// A decimal number without sign or exponent.
struct Decimal {
    digits: u128,
    /// Ten to the number of digits after the point.
    divisor: u128,
}

impl Decimal {
    fn is_zero(&self) -> bool {
        self.digits == 0
    }

    /// The product, if it is whole.
    fn times(&self, scale: u128) -> Option<u128> {
        let product = self.digits.checked_mul(scale)?;
        (product % self.divisor == 0).then(|| product / self.divisor)
    }
}

/// Splits a number (at most 19 digits) off the front, and white space after it.
fn decimal(text: &str) -> Option<(Decimal, &str)> {
    let len = text.bytes().take_while(|b| b.is_ascii_digit() || *b == b'.').count();
    let (number, rest) = text.split_at(len);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let broken = fraction.contains('.') || (number.contains('.') && fraction.is_empty());
    if whole.is_empty() || broken || whole.len() + fraction.len() > 19 {
        return None;
    }
    let digits = format!("{whole}{fraction}").parse().ok()?;
    let divisor = 10u128.pow(u32::try_from(fraction.len()).ok()?);
    Some((Decimal { digits, divisor }, rest.trim_start()))
}

/// `1d12h`, `1h30m`, `90s` stays `1m30s`; whole milliseconds.
pub fn display_duration(duration: Duration) -> String {
    let millis = duration.as_millis();
    if millis == 0 {
        return "0s".to_owned();
    }
    let mut text = String::new();
    let mut rest = millis;
    for (unit, scale) in [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)] {
        if rest / scale > 0 {
            text.push_str(&format!("{}{unit}", rest / scale));
            rest %= scale;
        }
    }
    text
}

/// Reads `512MB` (powers of 1000), `4GiB` and, as batch systems mean it, `8G` (both powers of 1024), `100B`; `0`
/// needs no unit.
pub fn parse_size(text: &str) -> Result<u64, UnitError> {
    let bad = || UnitError::Size(text.to_owned());
    let trimmed = text.trim();
    let (value, unit) = decimal(trimmed).ok_or_else(bad)?;
    if unit.is_empty() {
        return if value.is_zero() { Ok(0) } else { Err(UnitError::SizeUnit(trimmed.to_owned())) };
    }
    let lower = unit.to_ascii_lowercase();
    let (letter, suffix) = lower.split_at_checked(1).ok_or_else(bad)?;
    let power = "bkmgtp".find(letter).and_then(|p| u32::try_from(p).ok()).ok_or_else(bad)?;
    let base: u128 = match (power, suffix) {
        (0, "") => 1,
        (1.., "" | "ib") => 1024,
        (1.., "b") => 1000,
        _ => return Err(bad()),
    };
    let bytes = value.times(base.pow(power)).ok_or_else(bad)?;
    // Signed, because configuration files and batch systems count in signed 64 bits.
    i64::try_from(bytes).map(i64::unsigned_abs).map_err(|_| UnitError::SizeTooBig(text.to_owned()))
}

/// The largest unit that gives a whole number: `4GiB`, `1536MiB`, `512MB`, `7B`.
pub fn display_size(bytes: u64) -> String {
    const UNITS: [(&str, u64); 10] = [
        ("PiB", 1 << 50),
        ("PB", 1_000_000_000_000_000),
        ("TiB", 1 << 40),
        ("TB", 1_000_000_000_000),
        ("GiB", 1 << 30),
        ("GB", 1_000_000_000),
        ("MiB", 1 << 20),
        ("MB", 1_000_000),
        ("KiB", 1 << 10),
        ("KB", 1000),
    ];
    match UNITS.iter().find(|(_, scale)| bytes > 0 && bytes.is_multiple_of(*scale)) {
        Some((unit, scale)) => format!("{}{unit}", bytes / scale),
        None => format!("{bytes}B"),
    }
}

/// Rounded for people to three figures: `1.5 GiB`. Does not read back.
pub fn about_size(bytes: u64) -> String {
    let (mut value, mut unit) = (bytes as f64, "B");
    for next in ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"] {
        if value < 1000.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    if unit == "B" || value >= 100.0 {
        format!("{value:.0} {unit}")
    } else if value >= 10.0 {
        format!("{value:.1} {unit}")
    } else {
        format!("{value:.2} {unit}")
    }
}

/// Serde for durations as text: `#[serde(with = "duration")]`.
pub(super) mod duration {
    use super::{Deserialize, Deserializer, Duration, Serializer};

    pub fn serialize<S: Serializer>(value: &Duration, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&super::display_duration(*value))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Duration, D::Error> {
        super::parse_duration(&String::deserialize(d)?).map_err(serde::de::Error::custom)
    }
}

/// Serde for sizes as text: `#[serde(with = "size")]`.
pub(super) mod size {
    use super::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(value: &u64, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&super::display_size(*value))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<u64, D::Error> {
        super::parse_size(&String::deserialize(d)?).map_err(serde::de::Error::custom)
    }
}

/// Serde for port ranges as text: `#[serde(with = "ports")]`.
pub(super) mod ports {
    use super::{Deserialize, Deserializer, PortRange, Serializer};

    pub fn serialize<S: Serializer>(value: &PortRange, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(value)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<PortRange, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_as_people_and_batch_systems_write_them() {
        for (text, seconds) in [
            ("90s", 90),
            ("30m", 1800),
            ("2h", 7200),
            ("1d", 86_400),
            ("1h30m", 5400),
            ("1h 30m", 5400),
            ("1.5h", 5400),
            ("01:30:00", 5400),
            ("100:00:00", 360_000),
            ("1-12:00:00", 129_600),
            ("1-12:30", 131_400),
            ("2-0", 172_800),
            ("0", 0),
            (" 10 min ", 600),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
    }

    #[test]
    fn what_is_no_duration_is_refused_with_a_way_out() {
        for text in [
            "",
            "soon",
            "h",
            "1x",
            "-5m",
            "-5",
            "1h2h",
            "1m2h",
            "1:2:3:4",
            "00:99:00",
            "1-30:00:00",
            "1.h",
            "½h",
        ] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
        assert_eq!(parse_duration("30"), Err(UnitError::DurationUnit("30".into())));
        let ambiguous = parse_duration("30:00").unwrap_err().to_string();
        assert!(ambiguous.contains("30:00:00 or 00:30:00"), "{ambiguous}");
        assert!(matches!(parse_duration("9999999999-00:00:00"), Err(UnitError::DurationTooLong(_))));
        assert!(matches!(parse_duration("999999999999999999d"), Err(UnitError::DurationTooLong(_))));
    }

    #[test]
    fn sizes_decimal_binary_and_as_batch_systems_mean_them() {
        for (text, bytes) in [
            ("512MB", 512_000_000),
            ("4GiB", 4 << 30),
            ("8G", 8 << 30),
            ("1.5GiB", 3 << 29),
            ("100B", 100),
            ("2 TB", 2_000_000_000_000),
            ("10k", 10_240),
            ("0", 0),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "G", "4X", "4GB/s", "-1G", "1.0001B", "4iB", "1..5G"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
        assert_eq!(parse_size("4096"), Err(UnitError::SizeUnit("4096".into())));
        assert!(matches!(parse_size("9000000000P"), Err(UnitError::SizeTooBig(_))));
    }

    #[test]
    fn port_ranges() {
        let range: PortRange = "40000-40100".parse().unwrap();
        assert_eq!((range.first, range.last), (40_000, 40_100));
        assert!("41".parse::<PortRange>().unwrap().within(PortRange::ANY));
        assert!(range.within("1024-65535".parse().unwrap()));
        assert!(!PortRange::ANY.within(range), "any port is wider than a range");
        for text in ["", "0", "0-5", "5-4", "70000", "a-b"] {
            assert!(text.parse::<PortRange>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_displayed_reads_back(millis in 0u64..31_000_000_000_000, bytes in 0u64..=i64::MAX.unsigned_abs()) {
            let duration = Duration::from_millis(millis);
            prop_assert_eq!(parse_duration(&display_duration(duration)), Ok(duration));
            prop_assert_eq!(parse_size(&display_size(bytes)), Ok(bytes));
        }

        #[test]
        fn no_text_makes_it_panic(text in "[-0-9.:a-zA-Z ½]{0,24}") {
            let _ = (parse_duration(&text), parse_size(&text), text.parse::<PortRange>());
        }
    }
}
