//! How the programs are linked.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "linux") {
        // `jq` is in front of every JSON jq call, and moving a program of this size to a random address costs a third
        // of a millisecond. Only `jq`: what listens on the network runs as `jobq`.
        println!("cargo::rustc-link-arg-bin=jq=-no-pie");
    }
}
