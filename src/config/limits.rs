//! `[limits]`: what the site's file says binds every later layer.

use super::error::{BeyondLimit, ConfigError};
use super::file::Values;
use super::origin::{Layer, Origin};
use super::value::Value;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    /// Values may be as large as the limit.
    Ceiling,
    /// Values may be as small as the limit.
    Floor,
    /// Ports must be within.
    Within,
}

/// Limits, and the key whose value each of them bounds. That of workers bounds what
/// `up` and `scale` are asked for, those of the state what a cluster's folder may come to take.
const BOUNDS: &[(&str, &str, Side)] = &[
    ("limits.max_workers", "", Side::Ceiling),
    ("limits.max_pending", "scheduler.max_pending", Side::Ceiling),
    ("limits.max_submits_per_minute", "scheduler.submits_per_minute", Side::Ceiling),
    ("limits.min_poll_interval", "scheduler.poll_interval", Side::Floor),
    ("limits.port_range", "scheduler.port_range", Side::Within),
    ("limits.scheduler_cores", "scheduler.cores", Side::Ceiling),
    ("limits.scheduler_memory", "scheduler.memory", Side::Ceiling),
    ("limits.state_bytes", "", Side::Ceiling),
    ("limits.state_inodes", "", Side::Ceiling),
];

/// Puts a later layer's values over `values`; one of `[limits]` that loosens the site's is an error.
pub(super) fn lay(values: &mut Values, later: Values) -> Result<(), ConfigError> {
    for (key, (value, origin)) in later {
        if let Some((bound, bound_place)) = values.get(key)
            && bound_place.layer == Layer::Site
            && origin.layer > Layer::Site
            && let Some((_, _, side)) = BOUNDS.iter().find(|(limit, _, _)| *limit == key)
            && beyond(&value, bound, *side)
        {
            return Err(refusal(key, &value, origin, key, (bound, bound_place)));
        }
        values.insert(key, (value, origin));
    }
    Ok(())
}

/// Compares values with their limits. What somebody wrote is an error; a default follows the limit.
pub(super) fn apply(values: &mut Values) -> Result<(), ConfigError> {
    for (limit, key, side) in BOUNDS {
        let (Some((bound, bound_place)), Some((value, origin))) = (values.get(limit), values.get(key)) else {
            continue;
        };
        if !beyond(value, bound, *side) {
            continue;
        }
        if origin.layer != Layer::Default {
            return Err(refusal(key, value, origin.clone(), limit, (bound, bound_place)));
        }
        let followed = (bound.clone(), bound_place.clone());
        values.insert(key, followed);
    }
    Ok(())
}

fn beyond(value: &Value, bound: &Value, side: Side) -> bool {
    use std::cmp::Ordering::{Greater, Less};
    let order = match (value, bound) {
        (Value::Integer(a), Value::Integer(b)) | (Value::Size(a), Value::Size(b)) => a.cmp(b),
        (Value::Duration(a), Value::Duration(b)) => a.cmp(b),
        (Value::Ports(a), Value::Ports(b)) => return side == Side::Within && !a.within(*b),
        _ => return false,
    };
    (side == Side::Ceiling && order == Greater) || (side == Side::Floor && order == Less)
}

fn refusal(key: &str, value: &Value, place: Origin, limit: &str, bound: (&Value, &Origin)) -> ConfigError {
    ConfigError::Limit(Box::new(BeyondLimit {
        place,
        key: key.to_owned(),
        value: value.to_string(),
        limit: limit.to_owned(),
        bound: bound.0.to_string(),
        bound_place: bound.1.clone(),
    }))
}
