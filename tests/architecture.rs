//! The arrows of the crate, stated as absences: who may use whom, and who may touch files, randomness, the
//! terminal and the tensor library. Reads the source as text, without comments and unit tests.

use regex::Regex;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Every module and its level. A module uses its own level and those below.
const LEVELS: [(&str, u8); 28] = [
    ("types", 0),
    ("settings", 0),
    ("rng", 0),
    ("progress", 0),
    ("grade", 1),
    ("algo", 1),
    ("stats", 1),
    ("perturb", 1),
    ("image", 1),
    ("prompt", 1),
    ("cost", 1),
    ("model", 2),
    ("bench", 2),
    ("hub", 2),
    ("store", 2),
    ("rollout", 3),
    ("warm_start", 3),
    ("train", 3),
    ("eval", 3),
    ("score", 3),
    ("speed", 3),
    ("spotlight", 3),
    ("config", 4),
    ("study", 4),
    ("report", 4),
    ("cli", 5),
    ("main", 5),
    ("lib", 5),
];

/// What only some files may write: the rule, the pattern, the modules or files that may.
const RESERVED: [(&str, &str, &[&str]); 4] = [
    ("names candle", r"\bcandle_\w+|use\s+candle\b", &["model"]),
    (
        "touches files or the network",
        r"(?x) \bfs:: | \bstd::(fs|net)\b | \bstd::\{[^;]*\b(fs|net)\b | \b(File|OpenOptions)::
             | \btempfile:: | \bprocess::Command\b",
        &["bench", "hub", "store", "config", "model/checkpoint", "model/checkpoint.rs"],
    ),
    ("makes randomness", r"\brand(_\w+)?::|\bgetrandom\b|\bRandomState\b", &["rng"]),
    ("prints", r"\b(e?print(ln)?|dbg)!|\bstd(out|err)\(\)|\bindicatif\b", &["cli", "main"]),
];

/// Removes comments and the unit tests, which stand at the end of a file.
fn code_of(text: &str) -> String {
    let tests = Regex::new(r"(?m)^#\[cfg\(test\)\]\s*\n\s*mod tests \{").unwrap();
    let end = tests.find(text).map_or(text.len(), |found| found.start());
    let code_part = |line: &str| line.split("//").next().unwrap_or_default().to_string();
    text[..end].lines().map(code_part).collect::<Vec<_>>().join("\n")
}

/// The first names after `crate::` (or `harness::`), also of grouped imports `crate::{a::B, c}`.
fn used_modules(code: &str) -> BTreeSet<String> {
    let single = Regex::new(r"\b(?:crate|harness)::(\w+)").unwrap();
    let mut names: BTreeSet<String> = single.captures_iter(code).map(|found| found[1].to_string()).collect();
    let group = Regex::new(r"\b(?:crate|harness)::\{").unwrap();
    names.extend(group.find_iter(code).flat_map(|opening| top_names(&code[opening.end()..])));
    names
}

/// The first name of each item of a group, up to its closing brace.
fn top_names(group: &str) -> Vec<String> {
    let (mut depth, mut items) = (0, vec![String::new()]);
    for c in group.chars() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => items.push(String::new()),
            _ if depth == 0 => items.last_mut().unwrap().push(c),
            _ => {}
        }
    }
    let first = |item: &String| item.trim().split("::").next().unwrap_or_default().to_string();
    items.iter().map(first).filter(|name| !name.is_empty()).collect()
}

fn level(module: &str) -> Option<u8> {
    LEVELS.iter().find(|(name, _)| *name == module).map(|(_, level)| *level)
}

/// What a file breaks. `file` is its path below `src`, with `/`.
fn violations(file: &str, text: &str) -> Vec<String> {
    let code = code_of(text);
    let module = file.split('/').next().unwrap_or_default().trim_end_matches(".rs");
    let mut found = Vec::new();
    for (rule, pattern, allowed) in RESERVED {
        let free = allowed.iter().any(|a| *a == module || file == *a || file.starts_with(&format!("{a}/")));
        if let (false, Some(what)) = (free, Regex::new(pattern).unwrap().find(&code)) {
            found.push(format!("{file} {rule}: `{}`", what.as_str()));
        }
    }
    let Some(own) = level(module) else {
        found.push(format!("{file} has no level: add it to LEVELS"));
        return found;
    };
    for used in used_modules(&code) {
        match level(&used) {
            Some(other) if other > own => {
                found.push(format!("{file} (level {own}) uses {used} (level {other})"));
            }
            _ => {}
        }
    }
    if !file.contains('/') && code.contains("super::") {
        found.push(format!("{file} says `super::` for the crate: write `crate::`"));
    }
    found
}

fn source_files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.extension() {
            _ if path.is_dir() => source_files(&path, found),
            Some(extension) if extension == "rs" => found.push(path),
            _ => {}
        }
    }
}

#[test]
fn the_arrows_point_down() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    source_files(&src, &mut files);
    files.sort();
    assert!(files.len() > 15, "the source was not found: {files:?}");
    let mut broken = Vec::new();
    for path in files {
        let file = path.strip_prefix(&src).unwrap().to_string_lossy().replace('\\', "/");
        broken.extend(violations(&file, &fs::read_to_string(&path).unwrap()));
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn every_module_of_the_crate_has_a_level() {
    let lib = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs")).unwrap();
    let modules = Regex::new(r"(?m)^(?:pub )?mod (\w+);").unwrap();
    let names: Vec<String> = modules.captures_iter(&lib).map(|found| found[1].to_string()).collect();
    assert!(names.len() >= 18, "{names:?}");
    assert!(names.iter().all(|name| level(name).is_some()), "{names:?}");
}

/// The test must be able to fail: every rule is broken once, in every spelling it knows.
#[test]
fn violations_are_caught() {
    for (file, text, named) in [
        ("train.rs", "use candle_core::Tensor;", "names candle"),
        ("algo/mod.rs", "fn f() { std::fs::read(\"x\"); }", "touches files"),
        ("grade.rs", "use std::{\n    fmt,\n    fs,\n};", "touches files"),
        ("model/mod.rs", "use std::fs::File;", "touches files"),
        ("cli.rs", "fn f() { File::open(\"x\"); }", "touches files"),
        ("study.rs", "use std::net::TcpStream;", "touches files"),
        ("rollout.rs", "use rand_chacha::ChaCha8Rng;", "makes randomness"),
        ("stats.rs", "rand::random();", "makes randomness"),
        ("eval.rs", "fn f() { println!(\"x\"); }", "prints"),
        ("train.rs", "use indicatif::ProgressBar;", "prints"),
        ("store/mod.rs", "fn f() { eprint!(\"x\"); }", "prints"),
        ("types.rs", "use crate::algo::Algorithm;", "types.rs (level 0) uses algo (level 1)"),
        ("store/cell.rs", "use crate::{rng, config::RunConfig};", "uses config (level 4)"),
        ("model/mod.rs", "use crate::{\n    types::{Rgb, Outcome},\n    train,\n};", "uses train (level 3)"),
        ("report/mod.rs", "fn f() { crate::cli::run() }", "uses cli (level 5)"),
        ("stats.rs", "use super::train::run;", "write `crate::`"),
        ("helpers.rs", "", "helpers.rs has no level"),
    ] {
        let found = violations(file, text);
        assert_eq!(found.len(), 1, "{file}: {text}: {found:?}");
        assert!(found[0].contains(named), "{named:?} is not in {found:?}");
    }
}

#[test]
fn what_is_allowed_is_not_caught() {
    for (file, text) in [
        ("model/layers.rs", "use candle_core::Tensor;"),
        ("model/checkpoint.rs", "use std::fs;"),
        ("model/checkpoint/read.rs", "use std::fs;"),
        ("bench/files.rs", "use std::fs::File;"),
        ("train.rs", "use crate::{algo::{Credit, self}, model};\nuse crate::rollout;"),
        ("stats.rs", "//! println!, std::fs and rand:: are not for us\nfn f() {} // crate::cli"),
        (
            "stats.rs",
            "fn f() {}\n\n#[cfg(test)]\nmod tests {\n    use super::*;\n    fn f() { println!() }\n}",
        ),
        ("cli.rs", "use std::process::ExitCode;\nfn f() { println!(\"x\"); }"),
        ("algo/mod.rs", "fn operand(brand: f64) -> f64 { brand }"),
    ] {
        assert_eq!(violations(file, text), Vec::<String>::new(), "{file}: {text}");
    }
}
