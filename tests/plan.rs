//! The scales of the hub: complete settings, the plan that a dry run prints, protocols, and the stop without a GPU.

use crate::run::{harness, refused, succeeds};
use harness::algo::Algorithm;
use harness::config::{Origin, RunConfig, Scale, Setting, Study};
use harness::model::checkpoint::PictureMarks;
use harness::model::config::VlConfig;
use harness::settings::{Alpha, Device, Dtype, OldLogp, OptimizerState, PixelRange, Protocol};
use std::path::Path;
use std::process::Command;

/// Picture areas of training.
const TRAINED: PixelRange = PixelRange { min_pixels: 200_704, max_pixels: 1_003_520 };

type Config = RunConfig<Algorithm>;

fn resolve(scale: &str, variant: &str, sets: &[&str]) -> anyhow::Result<Config> {
    let overrides: Vec<Setting> = sets.iter().map(|set| set.parse().unwrap()).collect();
    RunConfig::resolve(&Scale::load(scale)?, &Study::load("main")?, variant, 1, &overrides)
}

/// A command that can reach no hub and no cache.
fn offline(arguments: &[&str], folder: &Path) -> Command {
    let mut command = harness(arguments);
    command.env("HF_HOME", folder).env_remove("HF_HUB_CACHE").env("HF_HUB_OFFLINE", "1").current_dir(folder);
    command
}

/// paper.md section 1.2: Table 9 of the paper, and the released script where the paper is silent.
#[test]
fn scale_7b_states_the_papers_hyperparameters() {
    let config = resolve("7b", "vppo", &[]).unwrap();
    let Origin::Hub { checkpoint, data } = config.origin().unwrap() else { panic!("made here") };
    assert_eq!(checkpoint.repo, "Qwen/Qwen2.5-VL-7B-Instruct");
    let numbers = (config.compute.device, config.compute.dtype, config.compute.optimizer_state);
    assert_eq!(numbers, (Device::Cuda, Dtype::Bf16, OptimizerState::Bf16Kahan));
    assert_eq!((data.max_prompt_tokens, data.alpha, data.benchmarks.len()), (4096, Alpha::Drop, 8));
    let train = &config.train;
    assert_eq!((train.steps, train.prompts_per_step, train.group_size), (202, 384, 8));
    assert_eq!((train.mini_batch_prompts, train.micro_batch_responses), (128, 16));
    assert_eq!((train.refill_prompts, train.max_refills, train.old_logp), (384, 0, OldLogp::Recompute));
    let optimizer = &config.optimizer;
    assert_eq!((optimizer.learning_rate, optimizer.beta1, optimizer.beta2), (1e-6, 0.9, 0.999));
    assert_eq!((optimizer.weight_decay, optimizer.max_grad_norm), (0.01, 1.0));
    let sampling = &config.sampling;
    assert_eq!((sampling.temperature, sampling.top_p, sampling.top_k), (1.0, 0.99, 0));
    assert_eq!((config.model.min_pixels, config.model.max_pixels), (200_704, 1_003_520));
    assert_eq!((config.eval.samples, config.eval.items, config.eval.protocol), (8, 0, Some(Protocol::Paper)));
    // The algorithm is the preset, unchanged by the scale.
    for arm in ["grpo", "dapo", "vppo", "reweight_only", "mask_only"] {
        assert_eq!(resolve("7b", arm, &[]).unwrap().algorithm, Algorithm::preset(arm), "{arm}");
        assert_eq!(resolve("32b", arm, &[]).unwrap().algorithm, Algorithm::preset(arm), "{arm}");
    }
}

/// The directory without weights that `ci/gpu.sh` measures.
#[test]
fn the_shape_that_is_measured_on_a_card_is_that_of_scale_7b() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/qwen2_5_vl_7b");
    let shape = VlConfig::parse(&std::fs::read_to_string(folder.join("config.json")).unwrap()).unwrap();
    let config = resolve("7b", "vppo", &[]).unwrap();
    let Origin::Hub { checkpoint, .. } = config.origin().unwrap() else { panic!("made here") };
    let scale = VlConfig::from_settings(&config.model, checkpoint.vocab_size, shape.image_token_id).unwrap();
    assert_eq!(scale.differences(&shape), Vec::<String>::new());
    let marks = PictureMarks::open(&folder).unwrap();
    assert_eq!((marks.start, marks.eos), (Some(151_652), vec![151_645]));
}

#[test]
fn scale_32b_differs_in_model_and_length() {
    let (seven, thirty_two) = (resolve("7b", "vppo", &[]).unwrap(), resolve("32b", "vppo", &[]).unwrap());
    let changed: Vec<String> = thirty_two.changes(&seven).unwrap().into_iter().map(|d| d.key).collect();
    assert_eq!(
        changed,
        [
            "checkpoint.repo",
            "compute.kv_tokens",
            "eval.sampling.max_new_tokens",
            "model.heads",
            "model.hidden_size",
            "model.intermediate_size",
            "model.kv_heads",
            "model.layers",
            "model.vision_intermediate_size",
            "sampling.max_new_tokens",
        ]
    );
    assert_eq!((seven.sampling.max_new_tokens, thirty_two.sampling.max_new_tokens), (2048, 4096));
}

#[test]
fn questions_and_model_are_made_or_fetched_but_not_mixed() {
    let error = |scale, set: &str| format!("{:#}", resolve(scale, "vppo", &[set]).unwrap_err());
    assert!(
        error("tiny", "checkpoint={repo=\"a/b\", revision=\"main\", vocab_size=1}").contains("not mixed")
    );
    assert!(error("7b", "world.seed=1").contains("world."), "{}", error("7b", "world.seed=1"));
    assert!(error("7b", "checkpoint.repo=Qwen").contains("owner/name"));
    let cpu = error("7b", "compute.device=cpu");
    assert!(cpu.contains("compute.dtype") && cpu.contains("compute.optimizer_state"), "{cpu}");
    assert!(error("7b", "data.benchmarks=[]").contains("one benchmark or more"));
    assert!(error("7b", "data.alpha=black").contains("data.alpha"));
}

#[test]
fn a_protocol_is_a_promise_about_the_settings() {
    let with = |protocol: Protocol, more: &[&str]| {
        resolve("7b", "base", &[protocol.settings(), more].concat()).map(|config| config.eval)
    };
    for protocol in Protocol::ALL {
        let eval = with(protocol, &[]).unwrap();
        assert!(eval.protocol == Some(protocol) && protocol.is_followed_by(&eval), "{}", protocol.name());
        assert!(eval.in_words(TRAINED).starts_with(protocol.name()), "{}", eval.in_words(TRAINED));
    }
    let papo = with(Protocol::PapoEval, &[]).unwrap();
    assert!(
        papo.in_words(TRAINED).contains("top-k 50") && papo.in_words(TRAINED).contains("1024 to 589824"),
        "{}",
        papo.in_words(TRAINED)
    );
    for broken in ["eval.sampling.top_k=3", "eval.sampling.top_p=0.9", "eval.sampling.max_new_tokens=32"] {
        for protocol in [Protocol::Paper, Protocol::PapoEval] {
            let error = format!("{:#}", with(protocol, &[broken]).unwrap_err());
            assert!(error.contains("eval.protocol") && error.contains("own"), "{error}");
        }
        assert!(with(Protocol::Own, &[broken]).is_ok());
    }
    let longer = with(Protocol::Paper, &["eval.sampling.max_new_tokens=4096"]).unwrap_err();
    assert!(format!("{longer:#}").contains("eval.protocol"), "2,048 is the paper's limit at 7B: {longer:#}");
    assert!(
        format!("{:#}", with(Protocol::Own, &["eval.pictures={min_pixels=9, max_pixels=8}"]).unwrap_err())
            .contains("max_pixels")
    );
}

#[test]
fn a_dry_run_prints_the_plan_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    for scale in ["7b", "32b", "tiny"] {
        let plan =
            succeeds(offline(&["reproduce", "--scale", scale, "--dry-run", "--seeds", "1,2"], folder.path()));
        let plan = plan.stdout.replace(&folder.path().display().to_string(), "HF_HOME");
        insta::with_settings!({ snapshot_path => "snapshots", prepend_module_to_snapshot => false }, {
            insta::assert_snapshot!(format!("plan__{scale}"), plan);
        });
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "a dry run writes nothing");
}

/// The plans of the two scales of the paper, to the byte; they depend on no machine.
#[test]
fn plan_states_memory_what_fits_and_time() {
    let folder = tempfile::tempdir().unwrap();
    for (name, arguments) in [("7b", &["--scale", "7b"][..]), ("32b", &["--scale", "32b", "--gpus", "8"])] {
        let plan = succeeds(offline(&[&["plan"], arguments].concat(), folder.path())).stdout;
        insta::with_settings!({ snapshot_path => "snapshots", prepend_module_to_snapshot => false }, {
            insta::assert_snapshot!(format!("fit__{name}"), plan);
        });
    }
    let tiny = succeeds(offline(&["plan", "--scale", "tiny", "--gpu-memory", "0.25"], folder.path())).stdout;
    for named in ["available: 256.0 MiB", "these settings", "on 2 processor cores"] {
        assert!(tiny.contains(named), "{named}: {tiny}");
    }
    assert!(!tiny.contains("assumed"), "{tiny}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

/// What `plan` recommends fits, and one more group does not.
#[test]
fn the_recommended_micro_batch_is_the_largest_that_fits() {
    let folder = tempfile::tempdir().unwrap();
    let plan = |sets: &[&str]| {
        let mut command =
            offline(&["plan", "--scale", "7b", "--set", "compute.kv_tokens=131072"], folder.path());
        for set in sets {
            command.args(["--set", set]);
        }
        succeeds(command).stdout
    };
    let text = plan(&[]);
    assert!(!text.contains("is slower") && plan(&["compute.attention=own"]).contains("is slower"));
    let (_, after) = text.split_once("--set train.micro_batch_responses=").unwrap();
    let micro: u32 = after.split_whitespace().next().unwrap().parse().unwrap();
    assert!(plan(&[&format!("train.micro_batch_responses={micro}")]).contains("these settings fit"));
    let more = plan(&[&format!("train.micro_batch_responses={}", micro + 8)]);
    assert!(more.contains("these settings do not fit") && more.contains("ways out"), "{more}");
}

#[test]
fn plan_refuses_what_makes_no_sense() {
    let folder = tempfile::tempdir().unwrap();
    let no =
        |more: &[&str], named: &[&str]| refused(offline(&[&["plan"], more].concat(), folder.path()), named);
    no(&["--gpus", "0"], &["--gpus"]);
    no(&["--variant", "base"], &["base", "--variant"]);
    no(&["--gpu-memory", "0"], &["--gpu-memory"]);
    no(&["--scale", "9b"], &["9b"]);
}

/// Before a download or a file, with the part that is too large and the ways out.
#[test]
fn what_cannot_fit_into_the_machine_is_refused_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let mut command =
        offline(&["reproduce", "--scale", "7b", "--set", "model.layers=1000000"], folder.path());
    for set in ["device=cpu", "dtype=f32", "gradient_dtype=f32", "optimizer_state=f32", "attention=own"] {
        command.args(["--set", &format!("compute.{set}")]);
    }
    refused(command, &["GiB", "the largest part: keys and values", "ways out", "harness plan"]);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn without_a_gpu_a_run_stops_before_anything_is_made() {
    let folder = tempfile::tempdir().unwrap();
    let run = |scale| offline(&["reproduce", "--scale", scale], folder.path());
    refused(run("7b"), &["scale 7b", "NVIDIA", "GiB", "--dry-run", "--scale tiny", "--device cpu"]);
    refused(run("32b"), &["scale 32b", "NVIDIA"]);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}
