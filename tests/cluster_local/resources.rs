//! Tasks ask for what workers have.

use crate::support::sandbox::Sandbox;

#[test]
fn a_named_resource_is_what_the_profile_says_that_workers_have() {
    let sandbox = Sandbox::new();
    sandbox.up_with(1, &["--set", "resources={ gpu = 1 }"]);
    sandbox.ok(["submit", "--wait", "--key", "one", "--resource", "gpu=1", "--", "true"]);
    // More than any worker has: it waits, and others go past it.
    sandbox.ok(["submit", "--key", "two", "--resource", "gpu=2", "--", "true"]);
    sandbox.ok(["submit", "--wait", "--resource", "gpu=1", "--", "true"]);
    sandbox.run(["result", "two"]).exits(124);
}
