//! The path of the 7B scale, with nothing but the sizes changed: a checkpoint of the hub's layout, training set and
//! benchmarks in the hub's Parquet files, all arms that the scale trains, on the processor.

use crate::hub::server::Server;
use crate::run::{Finished, harness, refused, succeeds};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

const CHECKPOINT: &str = "example/tiny-qwen2.5-vl";
/// Stem of a fixture below tests/golden/benchmarks, and the repository it stands for.
const DATASETS: [(&str, &str); 4] = [
    ("mathvision", "MathLLMs/MathVision"),
    ("geo3k", "hiyouga/geometry3k"),
    ("wemath", "We-Math/We-Math"),
    ("virl39k/repack", "Kun-Xiang/ViRL39K"),
];

fn golden(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden").join(path)
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() { copy(&path, &target) } else { assert!(fs::copy(&path, &target).is_ok()) }
    }
}

/// Copies of repositories, as `--from` wants them.
fn repositories() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    copy(&golden("parity/qwen2_5_vl_nested"), &folder.path().join(CHECKPOINT));
    for (stem, repo) in DATASETS {
        copy(&golden(&format!("benchmarks/{stem}")), &folder.path().join(repo));
    }
    folder
}

/// Scale 7b with the fixture's sizes and few, short steps.
fn scale(folder: &Path) -> PathBuf {
    let seven =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../ablations/scale/7b.toml")).unwrap();
    let mut table: toml::Table = seven.parse().unwrap();
    let changes = r#"
        [checkpoint]
        repo = "example/tiny-qwen2.5-vl"
        vocab_size = 332
        [compute]
        device = "cpu"
        dtype = "f32"
        gradient_dtype = "f32"
        optimizer_state = "f32"
        recompute = false
        attention = "own"
        kv_tokens = 0
        max_sequences = 0
        [model]
        hidden_size = 32
        intermediate_size = 48
        layers = 2
        heads = 4
        kv_heads = 2
        mrope_section = [2, 1, 1]
        rope_theta = 10000.0
        vision_hidden_size = 32
        vision_intermediate_size = 44
        vision_depth = 2
        vision_heads = 2
        vision_full_attention_blocks = [1]
        min_pixels = 784
        max_pixels = 12544
        [data]
        train_source = "repack"
        benchmarks = ["MathVision", "Geo3k", "We-Math"]
        max_prompt_tokens = 600
        [train]
        steps = 1
        prompts_per_step = 2
        mini_batch_prompts = 2
        refill_prompts = 2
        group_size = 2
        micro_batch_responses = 4
        [sampling]
        max_new_tokens = 6
        [eval]
        samples = 2
        batch = 8
        protocol = "own"
        [eval.sampling]
        max_new_tokens = 6
    "#;
    merge(&mut table, changes.parse().unwrap());
    let path = folder.join("mini.toml");
    fs::write(&path, toml::to_string(&table).unwrap()).unwrap();
    path
}

fn merge(below: &mut toml::Table, above: toml::Table) {
    for (key, value) in above {
        match (below.get_mut(&key), value) {
            (Some(toml::Value::Table(old)), toml::Value::Table(new)) => merge(old, new),
            (_, value) => drop(below.insert(key, value)),
        }
    }
}

/// A command on the copies, which fewer rows than the datasets have must not stop.
fn on_copies(command: &[&str], repositories: &Path, out: &Path) -> Command {
    let mut built = harness(command);
    built.arg("--from").arg(repositories).arg("--out").arg(out).arg("--allow-row-count");
    built.env("HF_ENDPOINT", "http://127.0.0.1:9");
    built
}

fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn the_arms_of_a_hub_scale_run_from_checkpoint_and_datasets_to_the_table() {
    let (from, out) = (repositories(), tempfile::tempdir().unwrap());
    let scale = scale(out.path());
    let scale = scale.to_str().unwrap();
    let arms = [
        "reproduce",
        "--scale",
        scale,
        "--variants",
        "base,grpo,vppo",
        "--set",
        "algorithm.group_filter=none",
    ];
    let done: Finished = succeeds(on_copies(&arms, from.path(), out.path()));
    for column in ["MathVision", "Geo3k", "We-Math", "VPPO"] {
        assert!(done.stdout.contains(column), "{column}: {}", done.stdout);
    }
    for note in [
        "MathVision: expected 3040 rows",
        "training questions: ",
        "left out for prompts of more than 600 tokens",
    ] {
        assert!(done.stderr.contains(note), "{note}: {}", done.stderr);
    }
    let runs = out.path().join("runs/mini/main");
    let base = lines(&runs.join("base/seed-1/samples.jsonl"));
    let trained = lines(&runs.join("vppo/seed-1/samples.jsonl"));
    assert_eq!(base.len(), trained.len());
    for benchmark in ["MathVision", "Geo3k", "We-Math"] {
        let of = |line: &&Value| line["benchmark"] == benchmark;
        assert!(base.iter().filter(of).count() >= 4, "{benchmark}");
    }
    assert_eq!(lines(&runs.join("vppo/seed-1/metrics.jsonl")).len(), 1);
    let csv = fs::read_to_string(out.path().join("results/mini/main.csv")).unwrap();
    assert!(
        csv.lines().next().unwrap().ends_with(",protocol") && csv.lines().nth(1).unwrap().ends_with(",own")
    );
    assert!(
        fs::read_to_string(out.path().join("results/mini/main.md"))
            .unwrap()
            .contains("Evaluation protocol own: temperature 1,")
    );

    // A trained model is a checkpoint like any other, for evaluation and for more training.
    let model = runs.join("vppo/seed-1/model");
    let model = model.to_str().unwrap();
    let eval =
        ["eval", "--model", model, "--benchmark", "MathVision,Geo3k", "--limit", "2", "--samples", "3"];
    let short = ["--protocol", "own", "--set", "eval.sampling.max_new_tokens=4"];
    let small = ["--set", "model.min_pixels=784", "--set", "model.max_pixels=12544"];
    let evaluated = succeeds(on_copies(&[&eval[..], &short, &small].concat(), from.path(), out.path()));
    assert!(evaluated.stdout.contains("12 completions: correct "), "{}", evaluated.stdout);
    let train = [
        "train",
        "--model",
        model,
        "--dataset",
        "virl39k",
        "--source",
        "repack",
        "--scale",
        scale,
        "--variant",
        "grpo",
    ];
    let more = succeeds(on_copies(&train, from.path(), out.path()));
    assert!(more.stdout.contains("model:"), "{}", more.stdout);

    // The cell of an evaluation is found again by what was evaluated, not by the model's path.
    let again = |model: &Path| {
        let mut command =
            on_copies(&["eval", "--benchmark", "Geo3k", "--samples", "1"], from.path(), out.path());
        succeeds({
            command.args(short).args(small).arg("--model").arg(model);
            command
        })
    };
    let moved = out.path().join("moved");
    copy(Path::new(model), &moved);
    let told = "was evaluated before";
    assert!(!again(&moved).stderr.contains(told) && again(Path::new(model)).stderr.contains(told));
    copy(&runs.join("grpo/seed-1/model"), &moved);
    assert!(!again(&moved).stderr.contains(told), "other weights are another model");

    // An arm that starts from another checkpoint cannot stand beside the others.
    fs::remove_dir_all(from.path().join(CHECKPOINT)).unwrap();
    copy(&runs.join("grpo/seed-1/model"), &from.path().join(CHECKPOINT));
    let dapo = ["reproduce", "--scale", scale, "--variants", "dapo", "--set", "algorithm.group_filter=none"];
    refused(on_copies(&dapo, from.path(), out.path()), &["dapo", "another checkpoint", "one table"]);
}

#[test]
fn what_is_not_as_stated_is_refused_with_the_way_out() {
    let (from, out) = (repositories(), tempfile::tempdir().unwrap());
    let path = scale(out.path());
    let run = |more: &[&str]| {
        let _ = fs::remove_dir_all(out.path().join("runs"));
        let mut command = harness(["reproduce", "--variants", "base", "--scale"]);
        command.arg(&path).arg("--from").arg(from.path()).arg("--out").arg(out.path()).args(more);
        command
    };
    refused(run(&[]), &["MathVision", "2907", "--allow-row-count"]);
    refused(run(&["--set", "model.layers=3"]), &[CHECKPOINT, "num_hidden_layers is 2, not 3", "[model]"]);
    refused(run(&["--set", "data.benchmarks=['MathVison']"]), &["MathVison", "MathVision"]);
    refused(run(&["--set", "data.eval_source=mirror"]), &["mirror", "original", "vppo_eval"]);
    fs::remove_dir_all(from.path().join("hiyouga")).unwrap();
    refused(run(&["--allow-row-count"]), &["hiyouga/geometry3k", "cannot be read"]);
    let strict = ["eval", "--benchmark", "Geo3k", "--protocol", "strict"];
    let refusal = harness(strict).output().unwrap();
    let text = String::from_utf8(refusal.stderr).unwrap();
    assert!(refusal.status.code() == Some(2) && text.contains("papo-eval"), "{text}");
}

/// Offline and with an empty cache: which file is missing, and the command that gets it.
#[test]
fn without_files_the_way_to_them_is_named() {
    let out = tempfile::tempdir().unwrap();
    let mut command = harness(["eval", "--benchmark", "MathVision", "--offline", "--model"]);
    command.arg(golden("parity/qwen2_5_vl_nested")).arg("--out");
    command.arg(out.path()).env("HF_HOME", out.path()).env_remove("HF_HUB_CACHE").current_dir(out.path());
    refused(command, &["MathLLMs/MathVision", "harness fetch"]);
}

/// Serves copies of repositories as the hub would.
fn serve(repositories: &Path) -> Server {
    let server = Server::start();
    let names = DATASETS.iter().map(|(_, repo)| (*repo, format!("datasets/{repo}")));
    for (repo, address) in names.chain([(CHECKPOINT, CHECKPOINT.to_owned())]) {
        let files: Vec<(String, Vec<u8>)> = harness::bench::files_below(&repositories.join(repo))
            .unwrap()
            .into_iter()
            .map(|(path, file)| (path, fs::read(file).unwrap()))
            .collect();
        let files: Vec<(&str, &[u8])> =
            files.iter().map(|(path, bytes)| (path.as_str(), bytes.as_slice())).collect();
        server.commit(&address, "main", &files);
    }
    server
}

/// The user's way: what would be downloaded, the download, then a run that needs no network.
#[test]
fn a_scale_is_fetched_and_then_runs_offline() {
    let (from, out) = (repositories(), tempfile::tempdir().unwrap());
    let server = serve(from.path());
    let scale = scale(out.path());
    let scale = scale.to_str().unwrap();
    let command = |arguments: &[&str], offline: &str| {
        let mut command = harness(arguments);
        command
            .current_dir(out.path())
            .env("HF_HOME", out.path().join("home"))
            .env("HF_HUB_OFFLINE", offline);
        command.env("HF_ENDPOINT", &server.endpoint).env_remove("HF_HUB_CACHE").env_remove("HF_TOKEN");
        command
    };
    let plan = succeeds(command(&["fetch", "--scale", scale, "--dry-run"], "0")).stdout;
    for part in ["Kun-Xiang/ViRL39K", "We-Math/We-Math", "CC BY-NC 4.0", "to download: ", "free: "] {
        assert!(plan.contains(part), "{part}: {plan}");
    }
    let whole = succeeds(command(&["reproduce", "--scale", scale, "--dry-run"], "0")).stdout;
    assert!(plan.lines().all(|line| whole.contains(line)), "{whole}");
    assert!(
        !out.path().join("home").exists() && !out.path().join("datasets").exists(),
        "a dry run writes nothing"
    );

    refused(
        command(&["reproduce", "--scale", scale, "--variants", "base"], "1"),
        &[CHECKPOINT, "harness fetch"],
    );
    let _ = fs::remove_dir_all(out.path().join("runs"));
    let fetched = succeeds(command(&["fetch", "--scale", scale], "0")).stdout;
    assert_eq!(fetched.lines().count(), 5, "{fetched}");
    let lock = fs::read_to_string(out.path().join("datasets/hub.lock")).unwrap();
    assert!(lock.contains(CHECKPOINT) && lock.contains("sha256"), "{lock}");
    let verified = succeeds(command(&["fetch", "--scale", scale, "--verify"], "1")).stdout;
    assert!(verified.contains("files are what the lock pins"), "{verified}");

    let arms = ["reproduce", "--scale", scale, "--variants", "base", "--allow-row-count"];
    let done = succeeds(command(&arms, "1"));
    let text = done.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(text.contains("MathVision: expected 3040 rows, of which 2907 count"), "{}", done.stdout);
    let inputs = fs::read_to_string(out.path().join("runs/mini/main/base/seed-1/inputs.json")).unwrap();
    assert!(inputs.contains("\"rows_read\": 5") && inputs.contains("\"commit\": \""), "{inputs}");
    succeeds(command(&arms, "1"));

    // A branch that moved, and a lock that follows it: the finished cell is not taken for the new data.
    let file = "data/test-00000-of-00001-3532b8d3f1b4047a.parquet";
    let rows = fs::read(from.path().join("MathLLMs/MathVision").join(file)).unwrap();
    server.commit("datasets/MathLLMs/MathVision", "main", &[(file, &rows), ("note", b"new")]);
    succeeds(command(&["fetch", "MathVision", "--update"], "0"));
    refused(command(&arms, "1"), &["MathLLMs/MathVision", "another commit", "--out"]);
}
