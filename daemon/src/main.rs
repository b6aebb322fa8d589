//! See the library.

fn main() -> std::process::ExitCode {
    poisontrace::cli::main()
}
