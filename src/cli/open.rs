//! `jq open FILE..`: what is in a dataset, from its metadata.

#[derive(clap::Args, Clone, Debug, PartialEq)]
pub struct Args {
    /// Files, or dataset:NAME; several are joined
    #[arg(required = true, value_name = "FILE|dataset:NAME")]
    pub inputs: Vec<String>,
}
