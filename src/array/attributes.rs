//! What attributes results have: those of the operands where they stay true, and what CF says of wind and of cell
//! methods.

use super::expression::{NodeInfo, ReduceName};
use crate::format::{AttrValue, Attribute};
use crate::kernels::program::Operation;

/// Attributes that tell how a variable is stored, or that lose their meaning with the first operation.
const OF_STORAGE: [&str; 21] = [
    "_FillValue",
    "missing_value",
    "scale_factor",
    "add_offset",
    "_Unsigned",
    "valid_min",
    "valid_max",
    "valid_range",
    "actual_range",
    "coordinates",
    "bounds",
    "ancillary_variables",
    "cell_measures",
    "DIMENSION_LIST",
    "REFERENCE_LIST",
    "CLASS",
    "NAME",
    "_Netcdf4Dimid",
    "_Netcdf4Coordinates",
    "_nc3_strict",
    "_NCProperties",
];

/// Attributes that say where a field lies, not what it is.
const OF_PLACE: [&str; 1] = ["grid_mapping"];

/// A text attribute.
pub fn text(name: &str, value: impl Into<String>) -> Attribute {
    Attribute { name: name.to_owned(), value: AttrValue::Text(value.into()) }
}

/// The attributes that a variable of the inputs brings into expressions.
pub fn of_source(attributes: &[Attribute]) -> Vec<Attribute> {
    attributes.iter().filter(|a| !OF_STORAGE.contains(&a.name.as_str())).cloned().collect()
}

/// Whether the attribute belongs to the storage of HDF5 or netCDF-4 itself.
pub fn is_internal(name: &str) -> bool {
    OF_STORAGE[13..].contains(&name)
}

/// The attributes of an elementwise result: all that the operands agree in where the operation leaves their meaning
/// (also times a plain number), else only where the field lies.
pub fn of_operation(operation: Operation, operands: &[&NodeInfo]) -> Vec<Attribute> {
    use Operation as O;
    let operands = if operation == O::Select { &operands[..2] } else { operands };
    let arrays: Vec<&[Attribute]> =
        operands.iter().filter(|o| !o.weak).map(|o| o.attributes.as_slice()).collect();
    let common = agreed(&arrays);
    let weak = |k: usize| operands.get(k).is_some_and(|o| o.weak);
    let keeps_meaning = match operation {
        O::Negate
        | O::Abs
        | O::Floor
        | O::Ceil
        | O::Round
        | O::Add
        | O::Subtract
        | O::Min2
        | O::Max2
        | O::Select
        | O::Hypot => true,
        O::Multiply => weak(0) || weak(1),
        O::Divide => weak(1),
        _ => false,
    };
    let place = |common: &[Attribute]| -> Vec<Attribute> {
        common.iter().filter(|a| OF_PLACE.contains(&a.name.as_str())).cloned().collect()
    };
    let mut made = match operation {
        O::WindSpeed => {
            vec![text("standard_name", "wind_speed"), text("long_name", "wind speed")]
        }
        O::WindDirection => vec![
            text("standard_name", "wind_from_direction"),
            text("long_name", "wind from direction"),
            text("units", "degrees"),
        ],
        _ if keeps_meaning => return common,
        _ => Vec::new(),
    };
    if operation == O::WindSpeed {
        made.extend(common.iter().find(|a| a.name == "units").cloned());
    }
    made.extend(place(&common));
    made
}

/// The attributes of a reduction over the dimensions called `dims`.
pub fn of_reduction(reducer: ReduceName, ddof: u32, dims: &[&str], input: &[Attribute]) -> Vec<Attribute> {
    let mut made = input.to_vec();
    match reducer {
        ReduceName::Count => {
            made.retain(|a| OF_PLACE.contains(&a.name.as_str()));
            let of = name_of(input).map_or(String::new(), |name| format!(" of {name}"));
            made.push(text("long_name", format!("number of valid values{of}")));
            made.push(text("units", "1"));
        }
        ReduceName::Var => {
            for attribute in made.iter_mut().filter(|a| a.name == "units") {
                if let Some(units) = attribute.value.text() {
                    attribute.value = AttrValue::Text(squared(units));
                }
            }
        }
        _ => {}
    }
    if let Some(method) = reducer.cell_method() {
        let comment = match reducer {
            ReduceName::Var | ReduceName::Std => format!(" (ddof {ddof})"),
            _ => String::new(),
        };
        let dims: String = dims.iter().map(|dim| format!("{dim}: ")).collect();
        let before = input.iter().find(|a| a.name == "cell_methods").and_then(|a| a.value.text());
        let before = before.map_or(String::new(), |methods| format!("{methods} "));
        made.retain(|a| a.name != "cell_methods");
        made.push(text("cell_methods", format!("{before}{dims}{method}{comment}")));
    }
    made
}

/// Attributes that all have, with equal values, in the first one's order. As xarray's `drop_conflicts`, but that one
/// which only some have is dropped too.
pub fn agreed(all: &[&[Attribute]]) -> Vec<Attribute> {
    let Some((first, others)) = all.split_first() else { return Vec::new() };
    let everywhere = |a: &&Attribute| others.iter().all(|other| other.contains(a));
    first.iter().filter(everywhere).cloned().collect()
}

fn name_of(attributes: &[Attribute]) -> Option<&str> {
    let get = |name: &str| attributes.iter().find(|a| a.name == name).and_then(|a| a.value.text());
    get("long_name").or_else(|| get("standard_name"))
}

/// The square of a unit in udunits' notation: `m s-1` -> `m2 s-2`; what isn't a plain product is put in brackets.
fn squared(units: &str) -> String {
    let factor = |word: &str| -> Option<String> {
        let split = word.find(|c: char| !c.is_alphabetic() && c != '_' && c != '%').unwrap_or(word.len());
        let (symbol, power) = word.split_at(split);
        let power: i32 = if power.is_empty() { 1 } else { power.trim_start_matches('^').parse().ok()? };
        (!symbol.is_empty() && power.abs() < 100).then(|| format!("{symbol}{}", 2 * power))
    };
    if units.trim() == "1" || units.trim().is_empty() {
        return units.to_owned();
    }
    let factors: Option<Vec<String>> = units.split_whitespace().map(factor).collect();
    factors.map_or_else(|| format!("({units})2"), |factors| factors.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_squared_as_udunits_reads_them() {
        for (units, square) in [
            ("m s-1", "m2 s-2"),
            ("K", "K2"),
            ("degrees", "degrees2"),
            ("kg m^-2 s-1", "kg2 m-4 s-2"),
            ("m/s", "(m/s)2"),
            ("1", "1"),
            ("0.01 m", "(0.01 m)2"),
            ("", ""),
        ] {
            assert_eq!(squared(units), square);
        }
    }
}
