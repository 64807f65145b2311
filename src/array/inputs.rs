//! Paths and patterns -> input files. Shells expand patterns that aren't quoted; quoted ones (and those of
//! configuration files) are expanded here: `*`, `?` and `[..]` within a name, in any folder of the path.

use super::ArrayError;
use std::path::{Path, PathBuf};

/// Most files that one request opens.
const MAX_FILES: usize = 1_000_000;

/// The files that the arguments name, each pattern's in ascending order, absolute, each once.
///
/// # Errors
/// A pattern that matches nothing, a file that isn't there, no arguments.
pub fn expand(arguments: &[String]) -> Result<Vec<PathBuf>, ArrayError> {
    let mut found: Vec<PathBuf> = Vec::new();
    for argument in arguments {
        let path = Path::new(argument);
        let is_pattern = argument.contains(['*', '?', '[']);
        // A file whose name holds such signs is meant itself.
        if !is_pattern || path.exists() {
            if let Err(error) = std::fs::metadata(path) {
                return Err(ArrayError::Input(format!("{argument}: {error}")));
            }
            found.push(path.to_owned());
            continue;
        }
        let mut matches = matching(path);
        if matches.is_empty() {
            return Err(ArrayError::Input(format!("no file matches '{argument}'")));
        }
        matches.sort();
        found.append(&mut matches);
        if found.len() > MAX_FILES {
            return Err(ArrayError::Input(format!("more than {MAX_FILES} input files")));
        }
    }
    if found.is_empty() {
        return Err(ArrayError::Usage("no input files: name them with --in".to_owned()));
    }
    let mut seen = std::collections::HashSet::new();
    let absolute = |path: &PathBuf| {
        std::path::absolute(path).map_err(|error| ArrayError::Input(format!("{}: {error}", path.display())))
    };
    let absolute = found.iter().map(absolute).collect::<Result<Vec<_>, _>>()?;
    Ok(absolute.into_iter().filter(|path| seen.insert(path.clone())).collect())
}

/// All paths that match a pattern, folder by folder.
fn matching(pattern: &Path) -> Vec<PathBuf> {
    let mut found = vec![PathBuf::new()];
    for component in pattern.components() {
        let name = component.as_os_str();
        let Some(text) = name.to_str().filter(|t| t.contains(['*', '?', '['])) else {
            found.iter_mut().for_each(|path| path.push(name));
            found.retain(|path| path.exists());
            continue;
        };
        let pattern: Vec<char> = text.chars().collect();
        found = found.iter().flat_map(|folder| children(folder, &pattern)).collect();
    }
    found
}

fn children(folder: &Path, pattern: &[char]) -> Vec<PathBuf> {
    let place = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let Ok(entries) = std::fs::read_dir(place) else { return Vec::new() };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let fits = |name: &String| {
        // As in shells, hidden files are only matched by a pattern that says the dot.
        (!name.starts_with('.') || pattern.first() == Some(&'.')) && fits(pattern, name)
    };
    names.filter(fits).map(|name| folder.join(name)).collect()
}

/// Whether the whole name fits the pattern. Linear in the product of their lengths, whatever the pattern.
fn fits(pattern: &[char], name: &str) -> bool {
    let name: Vec<char> = name.chars().collect();
    let (mut p, mut n) = (0, 0);
    // Where to go on if what follows the last star doesn't fit.
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        let next = match pattern.get(p) {
            Some('*') => {
                star = Some((p, n));
                p += 1;
                continue;
            }
            Some('?') => Some(p + 1),
            Some('[') => class(&pattern[p..], name[n]).map(|len| p + len),
            Some(c) if *c == name[n] => Some(p + 1),
            _ => None,
        };
        match (next, &mut star) {
            (Some(next), _) => (p, n) = (next, n + 1),
            (None, Some((at, from))) => {
                *from += 1;
                (p, n) = (*at + 1, *from);
            }
            (None, None) => return false,
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

/// The pattern's length if `c` is in the class `[a-z_]` or `[!..]` that it begins with. A `[` without end is itself.
fn class(pattern: &[char], c: char) -> Option<usize> {
    let negated = matches!(pattern.get(1), Some('!' | '^'));
    let start = 1 + usize::from(negated);
    // A bracket right at the start belongs to the class.
    let end = pattern.iter().skip(start + 1).position(|c| *c == ']').map(|at| at + start + 1);
    let Some(end) = end else { return (c == '[').then_some(1) };
    let (mut within, mut k) = (false, start);
    while k < end {
        if pattern[k + 1] == '-' && k + 2 < end {
            within |= (pattern[k]..=pattern[k + 2]).contains(&c);
            k += 3;
        } else {
            within |= pattern[k] == c;
            k += 1;
        }
    }
    (within != negated).then_some(end + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_fit_as_in_shells() {
        for (pattern, yes, no) in [
            ("*.nc", "a.nc b.c.nc .nc", "a.nc4 anc"),
            ("wind_??.nc", "wind_01.nc", "wind_1.nc wind_001.nc"),
            ("w[0-3x].nc", "w0.nc w3.nc wx.nc", "w4.nc w-.nc"),
            ("w[!0-3].nc", "w4.nc", "w0.nc w.nc"),
            ("w[]a].nc", "w].nc wa.nc", "wb.nc"),
            ("w[.nc", "w[.nc", "w.nc"),
            ("*a*b*c", "xaxbxc abc", "acb"),
            ("é?", "éa", "e"),
        ] {
            let chars: Vec<char> = pattern.chars().collect();
            yes.split(' ').for_each(|name| assert!(fits(&chars, name), "{pattern} {name}"));
            no.split(' ').for_each(|name| assert!(!fits(&chars, name), "{pattern} {name}"));
        }
        let stars: Vec<char> = "*a".repeat(40).chars().collect();
        assert!(!fits(&stars, &"a".repeat(39)));
    }

    #[test]
    fn patterns_expand_in_order_and_must_match() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["d1/w2.nc", "d1/w10.nc", "d2/w1.nc", "d2/.w3.nc", "d2/w[1].nc"] {
            std::fs::create_dir_all(dir.path().join(name).parent().unwrap()).unwrap();
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        let expanded = |arguments: &[&str]| {
            let full: Vec<String> =
                arguments.iter().map(|a| format!("{}/{a}", dir.path().display())).collect();
            let found = expand(&full).map_err(|e| e.to_string())?;
            let short = |p: &PathBuf| p.strip_prefix(dir.path()).unwrap().display().to_string();
            Ok::<String, String>(found.iter().map(short).collect::<Vec<_>>().join(" "))
        };
        assert_eq!(expanded(&["d?/w*.nc"]).unwrap(), "d1/w10.nc d1/w2.nc d2/w1.nc d2/w[1].nc");
        assert_eq!(expanded(&["d2/w1.nc", "d2/*.nc"]).unwrap(), "d2/w1.nc d2/w[1].nc");
        assert_eq!(expanded(&["d2/w[1].nc"]).unwrap(), "d2/w[1].nc");
        assert!(expanded(&["d3/*.nc"]).unwrap_err().starts_with("no file matches '"));
        assert!(expanded(&["d1/none.nc"]).unwrap_err().contains("none.nc: No such file"));
        assert!(matches!(expand(&[]), Err(ArrayError::Usage(_))));
    }
}
