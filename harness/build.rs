//! Hands the compiler's version to `store::Provenance`; with the feature `cuda` compiles the GPU kernels.

use std::process::Command;

#[cfg(feature = "cuda")]
#[path = "build/cuda.rs"]
mod build_cuda;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let rustc = std::env::var_os("RUSTC").unwrap_or("rustc".into());
    let version =
        Command::new(rustc).arg("--version").output().ok().and_then(|o| String::from_utf8(o.stdout).ok());
    println!("cargo:rustc-env=HARNESS_RUSTC={}", version.as_deref().map_or("unknown", str::trim));

    #[cfg(feature = "cuda")]
    build_cuda::run();
    #[cfg(feature = "cuda-emulation")]
    emulate();
}

/// Compiles the GPU kernels for the processor. Products are not fused into sums, as f32 rounds without a GPU.
#[cfg(feature = "cuda-emulation")]
fn emulate() {
    let folder = "src/model/gpu";
    for file in ["emulate.cpp", "emulate.h", "kernels.cu"] {
        println!("cargo:rerun-if-changed={folder}/{file}");
    }
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .opt_level(2)
        .flag("-U_FORTIFY_SOURCE")
        .flag("-Wno-unknown-pragmas")
        .flag("-Wno-unused-function")
        .file(format!("{folder}/emulate.cpp"))
        .compile("harness_emulation");
}
