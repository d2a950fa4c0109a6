//! The `harness` command: see [`harness::cli`].

#[cfg(feature = "candle")]
fn main() -> std::process::ExitCode {
    harness::cli::main()
}

#[cfg(not(feature = "candle"))]
fn main() -> std::process::ExitCode {
    eprintln!("this binary was built without the feature `candle`: it has no model and no commands");
    std::process::ExitCode::FAILURE
}
