//! How many workers: `8`, `2..20` or `auto`.

use std::fmt;
use std::str::FromStr;

/// What `--workers` and `jq scale` take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WorkerTarget {
    /// That many.
    Fixed(u32),
    /// As many as the work needs, between the two.
    Range { min: u32, max: u32 },
    /// As many as the work needs, between none and the limit.
    Auto,
}

impl WorkerTarget {
    /// The least and the most workers, where `limit` is `limits.max_workers`.
    pub fn bounds(self, limit: u32) -> (u32, u32) {
        match self {
            WorkerTarget::Fixed(count) => (count, count),
            WorkerTarget::Range { min, max } => (min, max),
            WorkerTarget::Auto => (0, limit),
        }
    }
}

impl FromStr for WorkerTarget {
    type Err = String;

    fn from_str(text: &str) -> Result<WorkerTarget, String> {
        let count = |word: &str| -> Result<u32, String> {
            word.parse().map_err(|_| format!("`{text}` is neither N, MIN..MAX nor auto"))
        };
        if text == "auto" {
            return Ok(WorkerTarget::Auto);
        }
        let Some((min, max)) = text.split_once("..") else { return count(text).map(WorkerTarget::Fixed) };
        let (min, max) = (count(min)?, count(max)?);
        if min > max || max == 0 {
            return Err(format!("`{text}`: the least must not be more than the most, and the most not 0"));
        }
        Ok(WorkerTarget::Range { min, max })
    }
}

impl fmt::Display for WorkerTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WorkerTarget::Fixed(count) => write!(f, "{count}"),
            WorkerTarget::Range { min, max } => write!(f, "{min}..{max}"),
            WorkerTarget::Auto => f.write_str("auto"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_read_and_read_back() {
        for (text, target, bounds) in [
            ("8", WorkerTarget::Fixed(8), (8, 8)),
            ("0", WorkerTarget::Fixed(0), (0, 0)),
            ("2..20", WorkerTarget::Range { min: 2, max: 20 }, (2, 20)),
            ("auto", WorkerTarget::Auto, (0, 1000)),
        ] {
            assert_eq!(text.parse(), Ok(target), "{text}");
            assert_eq!(target.to_string(), text);
            assert_eq!(target.bounds(1000), bounds);
        }
    }

    #[test]
    fn what_is_no_target_is_refused() {
        for text in ["", "x", "-1", "3..2", "0..0", "1..", "..5", "1...5", "1.5", "99999999999"] {
            assert!(text.parse::<WorkerTarget>().is_err(), "{text}");
        }
    }
}
