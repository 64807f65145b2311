fn main() -> std::process::ExitCode {
    jobq::main()
}
