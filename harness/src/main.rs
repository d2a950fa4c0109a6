//! The `harness` command: parses arguments and calls the library.

fn main() {}
