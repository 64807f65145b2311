//! What a job script asks for: its `#JOBQ --key=value` lines, read up to the first line that is no comment.
//! A value is the rest of its line as it is.

use super::PREFIX;
use super::wire::Submit;

/// From SIGTERM to SIGKILL unless `--grace` says otherwise.
const GRACE_MS: u64 = 10_000;

/// The request in `script`; what only the client knows (token, environment, the queue's settings) is left empty.
///
/// # Errors
/// The directive that is unknown, missing or has no sense, in words.
pub fn parse(script: &str) -> Result<Submit, String> {
    if !script.starts_with("#!/") {
        return Err("the script does not begin with #!/".to_owned());
    }
    let mut request = Submit { script: script.to_owned(), slots: 1, grace_ms: GRACE_MS, ..Submit::default() };
    let header = script.lines().take_while(|line| line.trim().is_empty() || line.starts_with('#'));
    for line in header {
        let Some(directive) = line.strip_prefix(PREFIX) else { continue };
        set(&mut request, directive.trim()).map_err(|words| format!("{line}: {words}"))?;
    }
    for (flag, value) in
        [("--job-name", &request.name), ("--chdir", &request.work_dir), ("--output", &request.log)]
    {
        if value.is_empty() {
            return Err(format!("{PREFIX} {flag} is missing"));
        }
    }
    Ok(request)
}

fn set(request: &mut Submit, directive: &str) -> Result<(), String> {
    let (flag, value) = directive.split_once('=').ok_or("a directive of the local queue is --key=value")?;
    let seconds = || match value.parse::<f64>() {
        // Fractions are for tests; a year is more than any job.
        Ok(seconds) if (0.0..=31_536_000.0).contains(&seconds) => Ok((seconds * 1000.0).ceil() as u64),
        _ => Err("must be a number of seconds"),
    };
    match flag {
        "--job-name" => request.name = value.to_owned(),
        "--comment" => request.comment = value.to_owned(),
        "--chdir" => request.work_dir = value.to_owned(),
        "--output" => request.log = value.to_owned(),
        "--slots" => {
            let slots = value.parse().ok().filter(|&slots: &u64| slots > 0);
            request.slots = slots.ok_or("must be a number of slots, at least 1")?;
        }
        "--after" => request.after = Some(value.parse().map_err(|_| "must be the number of a job")?),
        "--time" => request.walltime_ms = seconds()?,
        "--grace" => request.grace_ms = seconds()?,
        _ => return Err("the local queue does not know this directive".to_owned()),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "#!/bin/sh\n#JOBQ --job-name=jqa1\n#JOBQ --chdir=/data/a b = c\n#JOBQ --output=/log\n";

    #[test]
    fn values_are_the_rest_of_their_line() {
        let script = format!(
            "{HEAD}# a note\n\n#JOBQ --slots=4\n#JOBQ --time=1.5\n#JOBQ --after=7\necho\n#JOBQ --slots=9\n"
        );
        let request = parse(&script).unwrap();
        assert_eq!(request.work_dir, "/data/a b = c");
        assert_eq!((request.slots, request.walltime_ms, request.grace_ms), (4, 1500, GRACE_MS));
        assert_eq!(request.after, Some(7));
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        for (line, words) in [
            ("#JOBQ --slots=0", "--slots=0: must be a number of slots"),
            ("#JOBQ --time=soon", "--time=soon: must be a number of seconds"),
            ("#JOBQ --time=-1", "--time=-1: must be"),
            ("#JOBQ --after=the-first", "--after=the-first: must be the number of a job"),
            ("#JOBQ --constraint=fast", "does not know this directive"),
            ("#JOBQ --exclusive", "is --key=value"),
        ] {
            let error = parse(&format!("{HEAD}{line}\n")).unwrap_err();
            assert!(error.contains(words), "{line}: {error}");
        }
        assert_eq!(parse("#!/bin/sh\ntrue\n").unwrap_err(), "#JOBQ --job-name is missing");
        assert!(parse("true\n").is_err());
    }
}
