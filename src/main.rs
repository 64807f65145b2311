/// A JSON `jq` call shall not wait for a runtime that it doesn't need: the loader calls this before it sets one up.
#[cfg(target_os = "linux")]
#[used]
// SAFETY: the C library calls the functions of this section once, on the only thread, with the C calling convention, when
// it is itself ready; the standard library's own entry, which makes the arguments known, has the lower number 99.
#[unsafe(link_section = ".init_array.00100")]
static BEFORE_MAIN: extern "C" fn() = {
    extern "C" fn before_main() {
        jobq::before_main();
    }
    before_main
};

fn main() -> std::process::ExitCode {
    jobq::main()
}
