//! The part of the build script for the feature `cuda`: `src/model/gpu/kernels.cu` becomes PTX, once for each element
//! type (`$OUT_DIR/kernels_f32.ptx`, `$OUT_DIR/kernels_bf16.ptx`), and with the feature `flash-attn` the library that
//! `ci/flash-attention.sh` built is linked.
//!
//! The PTX is for the virtual architecture `compute_XX`, without a suffix, so the driver of a newer card compiles it
//! too. XX is CUDA_COMPUTE_CAP, else that of the card in this machine, else 90; candle's kernels follow the same rule,
//! but have no default.

use std::path::{Path, PathBuf};
use std::process::Command;

const FOLDER: &str = "src/model/gpu";
const KERNELS: &str = "src/model/gpu/kernels.cu";
const DEFAULT_COMPUTE_CAP: &str = "90";

/// Compiles the kernels. Ends the build with a message where it cannot.
pub fn run() {
    println!("cargo:rerun-if-changed=build/cuda.rs");
    watch_sources();
    for variable in ["NVCC", "CUDA_HOME", "CUDA_COMPUTE_CAP"] {
        println!("cargo:rerun-if-env-changed={variable}");
    }
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let nvcc = PathBuf::from(std::env::var_os("NVCC").unwrap_or("nvcc".into()));
    let cap = compute_cap();
    println!("cargo:rustc-env=HARNESS_COMPUTE_CAP={cap}");
    for (define, file) in [("-DT_F32", "kernels_f32.ptx"), ("-DT_BF16", "kernels_bf16.ptx")] {
        compile(&nvcc, &cap, define, &out.join(file));
    }
    if std::env::var_os("CARGO_FEATURE_FLASH_ATTN").is_some() {
        link_flash_attention(&cap);
    }
}

/// The kernels and what they may include; not the Rust files beside them.
fn watch_sources() {
    println!("cargo:rerun-if-changed={KERNELS}");
    for file in std::fs::read_dir(FOLDER).into_iter().flatten().flatten().map(|entry| entry.path()) {
        if file.extension().is_some_and(|extension| extension == "cuh" || extension == "h") {
            println!("cargo:rerun-if-changed={}", file.display());
        }
    }
}

fn compile(nvcc: &Path, cap: &str, define: &str, ptx: &Path) {
    let result = Command::new(nvcc)
        .args(["--ptx", "-O3", "--fmad=true", "-std=c++17", define, &format!("-arch=compute_{cap}")])
        .args([Path::new(KERNELS), Path::new("-o"), ptx])
        .output();
    match result {
        Ok(output) if output.status.success() => {}
        Ok(output) => stop(&format!(
            "{} could not compile {KERNELS} with {define} for compute_{cap}:\n{}",
            nvcc.display(),
            String::from_utf8_lossy(&output.stderr)
        )),
        Err(error) => stop(&format!(
            "the feature `cuda` needs nvcc of CUDA 12 or 13 on the PATH; {} does not start: {error}. Where no CUDA \
             toolkit is installed: eval \"$(ci/cuda-toolchain.sh --print-env)\"",
            nvcc.display()
        )),
    }
}

/// The compute capability as nvcc writes it: `90` for 9.0. `9.0`, `sm_90` and `90a` are understood.
fn compute_cap() -> String {
    let given = std::env::var("CUDA_COMPUTE_CAP").ok().or_else(card_compute_cap);
    let text = given.as_deref().unwrap_or(DEFAULT_COMPUTE_CAP).trim();
    let cap = text.trim_start_matches("sm_").trim_end_matches(['a', 'f']).replace('.', "");
    if cap.len() < 2 || !cap.bytes().all(|byte| byte.is_ascii_digit()) {
        stop(&format!("CUDA_COMPUTE_CAP={text} is not a compute capability; 90 is one"));
    }
    cap
}

/// The compute capability of this machine's first card, if it has one.
fn card_compute_cap() -> Option<String> {
    let query = ["--query-gpu=compute_cap", "--format=csv,noheader"];
    let output =
        Command::new("nvidia-smi").args(query).output().ok().filter(|output| output.status.success())?;
    String::from_utf8(output.stdout).ok()?.lines().next().map(str::to_owned)
}

/// Links `libharness_flash_attention.a` from HARNESS_FLASH_ATTN_DIR or the cache that `ci/flash-attention.sh` fills.
fn link_flash_attention(cap: &str) {
    println!("cargo:rerun-if-env-changed=HARNESS_FLASH_ATTN_DIR");
    println!("cargo:rerun-if-env-changed=XDG_CACHE_HOME");
    let folder = flash_attention_dir(cap);
    let library = folder.join("libharness_flash_attention.a");
    if !library.is_file() {
        stop(&format!(
            "the feature `flash-attn` needs {}, which is not there. Build it with ci/flash-attention.sh, or name the \
             folder that has it in HARNESS_FLASH_ATTN_DIR",
            library.display()
        ));
    }
    println!("cargo:rerun-if-changed={}", library.display());
    println!("cargo:rustc-link-search=native={}", folder.display());
    println!("cargo:rustc-link-lib=static=harness_flash_attention");
    println!("cargo:rustc-link-lib=dylib=cudart");
    println!("cargo:rustc-link-lib=dylib=stdc++");
}

fn flash_attention_dir(cap: &str) -> PathBuf {
    if let Some(folder) = std::env::var_os("HARNESS_FLASH_ATTN_DIR") {
        return folder.into();
    }
    let home_cache = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or_else(home_cache);
    cache.unwrap_or_default().join(format!("harness-cuda/flash-attention/sm_{cap}"))
}

fn stop(message: &str) -> ! {
    println!("cargo:warning={}", message.lines().next().unwrap_or_default());
    eprintln!("{message}");
    std::process::exit(1)
}
