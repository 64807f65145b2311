//! Figures: what one repeat gave, and what all of them together say.

use serde::Serialize;
use std::collections::BTreeMap;

/// A figure that a kind may have: its name in JSON, what people read, and how it is written for them.
pub struct Figure {
    pub name: &'static str,
    pub label: &'static str,
    pub unit: Unit,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unit {
    PerSecond,
    Seconds,
    Micros,
    Bytes,
    BytesPerSecond,
    Share,
}

/// All figures, in the order in which they are shown.
pub const FIGURES: &[Figure] = &[
    Figure { name: "tasks_per_s", label: "tasks a second", unit: Unit::PerSecond },
    Figure { name: "us_per_step", label: "time a step", unit: Unit::Micros },
    Figure { name: "us_per_step_p99", label: "  99 of 100 take less than", unit: Unit::Micros },
    Figure { name: "bytes_per_s", label: "bytes a second, worker to worker", unit: Unit::BytesPerSecond },
    Figure {
        name: "raw_bytes_per_s",
        label: "  a bare link between two threads",
        unit: Unit::BytesPerSecond,
    },
    Figure { name: "share_of_raw", label: "  share of that", unit: Unit::Share },
    Figure { name: "scheduler_cpu_us_per_task", label: "scheduler CPU a task", unit: Unit::Micros },
    Figure { name: "worker_cpu_us_per_task", label: "workers' CPU a task", unit: Unit::Micros },
    Figure { name: "ingest_cpu_us_per_task", label: "scheduler CPU to take a task in", unit: Unit::Micros },
    Figure {
        name: "scheduler_rss_bytes_per_task",
        label: "scheduler memory a pending task",
        unit: Unit::Bytes,
    },
    Figure { name: "fdatasync_us", label: "fdatasync here", unit: Unit::Micros },
    Figure { name: "seconds", label: "measured time", unit: Unit::Seconds },
];

/// What one repeat gave: names of `FIGURES` with their values.
pub type Sample = BTreeMap<&'static str, f64>;

/// The repeats' smallest, middle and largest value.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct Spread {
    pub min: f64,
    pub median: f64,
    pub max: f64,
}

impl Spread {
    /// Of at least one value.
    pub fn of(mut values: Vec<f64>) -> Option<Spread> {
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let half = values.len() / 2;
        let median =
            if values.len() % 2 == 1 { values[half] } else { f64::midpoint(values[half - 1], values[half]) };
        Some(Spread { min, median, max })
    }
}

/// Every figure of the repeats; none where this kind has no such figure.
pub fn spreads(samples: &[Sample]) -> Vec<(&'static Figure, Option<Spread>)> {
    let values = |name| samples.iter().filter_map(|sample| sample.get(name).copied()).collect();
    FIGURES.iter().map(|figure| (figure, Spread::of(values(figure.name)))).collect()
}

impl Unit {
    /// A value with its unit, in three or four digits.
    pub fn text(self, value: f64) -> String {
        match self {
            Unit::PerSecond => format!("{}/s", digits(value)),
            Unit::Seconds => format!("{} s", digits(value)),
            Unit::Micros if value >= 1e6 => format!("{} s", digits(value / 1e6)),
            Unit::Micros if value >= 1e3 => format!("{} ms", digits(value / 1e3)),
            Unit::Micros => format!("{} µs", digits(value)),
            Unit::Bytes => format!("{} B", digits(value)),
            Unit::BytesPerSecond => format!("{} MB/s", digits(value / 1e6)),
            Unit::Share => format!("{value:.2}"),
        }
    }
}

/// The number with as many decimals as leave three digits; thousands apart.
fn digits(value: f64) -> String {
    let decimals = if value >= 100.0 {
        0
    } else if value >= 10.0 {
        1
    } else {
        2
    };
    let text = format!("{value:.decimals$}");
    let (whole, rest) = text.split_at(text.find('.').unwrap_or(text.len()));
    let mut apart = String::new();
    for (i, digit) in whole.chars().enumerate() {
        if i > 0 && (whole.len() - i).is_multiple_of(3) {
            apart.push(' ');
        }
        apart.push(digit);
    }
    apart + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeats_become_a_spread() {
        assert_eq!(Spread::of(vec![]), None);
        assert_eq!(Spread::of(vec![3.0, 1.0, 2.0]), Some(Spread { min: 1.0, median: 2.0, max: 3.0 }));
        assert_eq!(Spread::of(vec![4.0, 1.0]), Some(Spread { min: 1.0, median: 2.5, max: 4.0 }));
        let samples = [Sample::from([("seconds", 2.0)]), Sample::from([("seconds", 1.0)])];
        let found: Vec<_> = spreads(&samples).into_iter().filter(|(_, spread)| spread.is_some()).collect();
        assert_eq!((found.len(), found[0].0.name), (1, "seconds"));
    }

    #[test]
    fn values_are_written_for_people() {
        assert_eq!(Unit::PerSecond.text(1_234_567.8), "1 234 568/s");
        assert_eq!([Unit::Micros.text(0.712), Unit::Micros.text(45.678)], ["0.71 µs", "45.7 µs"]);
        assert_eq!([Unit::Micros.text(4567.0), Unit::Micros.text(3e6)], ["4.57 ms", "3.00 s"]);
        assert_eq!(Unit::BytesPerSecond.text(1.5e9), "1 500 MB/s");
        assert_eq!(Unit::Share.text(0.8765), "0.88");
    }
}
