//! `jq compute 'NAME = EXPR'.. --in FILE.. --out OUT`: lazy expressions over labelled arrays.

#[derive(clap::Args, Clone, Debug, PartialEq)]
pub struct Args {
    /// What to compute: NAME = EXPR, each may use the ones before it
    #[arg(required = true, value_name = "NAME = EXPR")]
    pub statements: Vec<String>,
    /// Files, or dataset:NAME; several are joined
    #[arg(long = "in", required = true, num_args = 1.., value_name = "FILE|dataset:NAME")]
    pub inputs: Vec<String>,
    /// The file to write
    #[arg(long = "out", value_name = "OUT.nc|OUT.zarr")]
    pub output: String,
    /// Statements to keep in OUT although later ones use them
    #[arg(long, value_name = "NAME,..", value_delimiter = ',')]
    pub keep: Vec<String>,
    /// Tile sizes by dimension, such as time=24,lat=100
    #[arg(long, value_name = "DIM=N,..", value_delimiter = ',', value_parser = chunk)]
    pub chunks: Vec<(String, u64)>,
    /// Replace OUT if it is there
    #[arg(long)]
    pub overwrite: bool,
    /// Say what would be done; compute nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Write the time and the command into the output's history
    #[arg(long)]
    pub stamp: bool,
    /// Compute on this host's threads, without a cluster
    #[arg(long)]
    pub local: bool,
}

fn chunk(text: &str) -> Result<(String, u64), String> {
    let bad = || format!("`{text}` is not DIMENSION=LENGTH");
    let (name, length) = text.split_once('=').ok_or_else(bad)?;
    let length: u64 = length.trim().parse().map_err(|_| bad())?;
    if name.trim().is_empty() || length == 0 { Err(bad()) } else { Ok((name.trim().to_owned(), length)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        compute: Args,
    }

    #[test]
    fn statements_and_files_are_told_apart() {
        let words = [
            "compute",
            "speed = wind_speed(u, v)",
            "m = mean(speed, time)",
            "--in",
            "a.nc",
            "b.nc",
            "--out",
            "o.nc",
            "--keep",
            "speed,m",
            "--chunks",
            "time=24,lat=100",
        ];
        let args = Cli::try_parse_from(words).unwrap().compute;
        assert_eq!((args.statements.len(), args.inputs.len(), args.keep.len()), (2, 2, 2));
        assert_eq!(args.chunks, [("time".to_owned(), 24), ("lat".to_owned(), 100)]);
        assert!(
            Cli::try_parse_from(["compute", "x = y", "--in", "a", "--out", "b", "--chunks", "t=0"]).is_err()
        );
        assert!(Cli::try_parse_from(["compute", "x = y", "--out", "b"]).is_err());
    }
}
