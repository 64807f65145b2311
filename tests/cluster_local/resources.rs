//! Tasks ask for what workers have.

use crate::support::sandbox::Sandbox;

#[test]
fn a_named_resource_is_what_the_profile_says_that_workers_have() {
    let sandbox = Sandbox::new();
    sandbox.up_with(1, &["--set", "resources={ gpu = 1 }"]);
    sandbox.ok(["submit", "--wait", "--key", "one", "--resource", "gpu=1", "--", "true"]);
    // More than any worker has: said at once, rather than waiting for ever.
    for (flag, wish) in
        [("--resource", "gpu=2"), ("--resource", "fpga=1"), ("--cores", "99"), ("--memory", "900TiB")]
    {
        let refused = sandbox.run(["submit", flag, wish, "--", "true"]).exits(2);
        assert!(refused.stderr.contains("workers of this cluster have"), "{}", refused.stderr);
    }
    let refused = sandbox.run(["submit", "--memory", "6.5GiB", "--", "true"]).exits(2);
    refused.says("a task wants 6656MiB of memory, and workers of this cluster have 2GiB");
}
