//! tmp
use harness::algo::Algorithm; use harness::bench::tiny::*; use harness::image::*; use harness::model::Model; use harness::progress::Silent;
use harness::prompt::*; use harness::rollout::*; use harness::settings::*; use harness::train::*; use harness::warm_start::*; use harness::types::Example;
use std::sync::Arc; use std::time::Instant;
struct World(WorldSettings);
impl TrainingData for World { fn len(&self) -> usize { self.0.train_items * 8 } fn example(&self, i: usize) -> anyhow::Result<Example> { Ok(generate(self.0.seed, Split::Train, i % 8, i / 8).example) } }
fn env(k: &str, d: f64) -> f64 { std::env::var(k).ok().map(|v| v.parse().unwrap()).unwrap_or(d) }
fn main() -> anyhow::Result<()> {
    let d = env("D", 64.) as usize;
    let ms = ModelSettings { hidden_size: d, intermediate_size: 3 * d, layers: env("L", 3.) as usize, heads: d / 16, kv_heads: (d / 32).max(1), mrope_section: [2, 3, 3], rope_theta: 10000., vision_hidden_size: 64, vision_intermediate_size: 128, vision_depth: 2, vision_heads: 4, vision_full_attention_blocks: vec![1], vision_window_pixels: 56, min_pixels: 12544, max_pixels: 12544 };
    let world = WorldSettings { seed: 1, train_items: 4000, eval_items: 200, misread: env("MISREAD", 0.15), slip: env("SLIP", 0.05) };
    let ws = WarmStart { seed: 1, steps: env("STEPS", 600.) as u64, drill_steps: env("DRILL", 300.) as u64, batch: env("BATCH", 64.) as usize, learning_rate: env("LR", 3e-3), warmup_steps: 50 };
    let item = generate(1, Split::Train, 0, 0); println!("{:?}", item.example.problem);
    let policy = untrained(&ms, INSTRUCTION, 1)?; let renderer = policy.renderer.clone(); let model = policy.model.clone();
    println!("params {}", model.params().elements());
    let p = renderer.prompt(&item.example)?; println!("prompt {} tokens", p.ids.len());
    let mut a = Apprentice::new(model, &ws)?;
    let lessons = Lessons { world: &world, settings: &ws, renderer: &renderer };
    let path = std::env::var("BASE").unwrap_or("/tmp/base.safetensors".into());
    let renderer2 = renderer.clone();
    let evals: Vec<Vec<Example>> = (0..8).map(|f| (0..env("ITEMS", 40.) as usize).map(|i| generate(1, Split::Eval, f, i).example).collect()).collect();
    let es = EvalSettings { samples: 8, items: 0, sampling: Sampling { temperature: env("T", 1.0), top_p: 1.0, top_k: 0, max_new_tokens: 64 }, batch: 512 };
    let evaluate = |model: &Model, label: &str| -> anyhow::Result<()> {
        let policy = Policy { model: model.clone(), renderer: renderer2.clone() };
        let t = Instant::now(); let mut accs = vec![]; let mut toks = 0.0; let mut n = 0.0;
        for e in &evals { let mut done = 0; let lines = harness::eval::evaluate(&policy, e, &es, 1, &mut done, &Silent)?; accs.push(100.0 * lines.iter().map(|l| l.outcome.reward()).sum::<f64>() / lines.len() as f64); toks += lines.iter().map(|l| l.tokens as f64).sum::<f64>(); n += lines.len() as f64; }
        let s = t.elapsed().as_secs_f64();
        println!("{label} avg {:.1} {:?} {:.1} tok/resp {:.0} tok/s {:.1}s", accs.iter().sum::<f64>() / 8.0, accs.iter().map(|a| a.round() as i32).collect::<Vec<_>>(), toks / n, toks / s, s); Ok(())
    };
    if std::path::Path::new(&path).exists() { a.model.replace_weights(&std::fs::read(&path)?)?; } else {
    let t = Instant::now(); let mut avg = 0.0;
    for step in 0..ws.steps { let l = a.learn(&lessons)?; avg = if step == 0 { l } else { 0.95 * avg + 0.05 * l }; if step % 50 == 49 { println!("{} loss {:.4} {:.1}s", step + 1, avg, t.elapsed().as_secs_f64()); }
       if step % (env("EVERY", 300.) as u64) == env("EVERY", 300.) as u64 - 1 { evaluate(&a.model, "  eval")?; } }
    std::fs::write(&path, a.model.to_bytes()?)?; }
    let base = Policy { model: a.model, renderer: renderer2.clone() };
    evaluate(&base.model, "base")?;
    for name in std::env::args().skip(1) {
        let mut algorithm = Algorithm::preset(&name).unwrap();
        if let (Some(p), true) = (&mut algorithm.perception, std::env::var("GROUPMASK").is_ok()) { p.corruption.scope = CorruptionScope::Group; }
        let train = TrainSettings { steps: env("RL", 60.) as u64, prompts_per_step: env("PROMPTS", 32.) as usize, group_size: 8, mini_batch_prompts: env("MINI", 32.) as usize, micro_batch_responses: 64, refill_prompts: env("REFILL", 32.) as usize, max_refills: 0, old_logp: OldLogp::Rollout, checkpoint_every: 10 };
        let sampling = Sampling { temperature: 1.0, top_p: 0.99, top_k: 0, max_new_tokens: 64 };
        let opt = OptimizerSettings { learning_rate: env("RLLR", 3e-4), beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.01, max_grad_norm: 1.0 };
        let recipe = Recipe { algorithm: &algorithm, train: &train, sampling: &sampling, optimizer: &opt, seed: env("SEED", 101.) as u64 };
        let data = World(world.clone());
        let mut tr = Trainer::new(recipe, &data, &base)?; let t = Instant::now();
        for s in 0..train.steps { let f = tr.run_step(&Silent)?; if s % 10 == 9 || s == 0 { println!("{name} {} acc {:.3} kept {:.2} draws {} ent {:.3} len {:.1} gn {:.2} keep {:.2} dep {:.3} low {:.2} gapmax {:.1e} noans {:.3} {:.1}s", s + 1, f["correct_frac"], f["kept_groups_frac"], f["draws"], f["entropy"], f["response_tokens_mean"], f["grad_norm"], f["kept_tokens_frac"], f.get("dependency_mean").unwrap_or(&0.), f.get("dependency_below_0.2_frac").unwrap_or(&0.), f["logp_gap_max"], f["no_answer_frac"]+f["truncated_frac"], t.elapsed().as_secs_f64()); } }
        evaluate(&tr.policy().model, &name)?;
    }
    Ok(())
}
