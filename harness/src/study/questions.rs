//! The questions of a run: generated ones, or training set and benchmarks from the hub.

use super::RunConfig;
use super::inputs::{DataRecord, fingerprint};
use crate::bench::tiny::{FAMILIES, Split, generate};
use crate::bench::{self, Manifest, RowCheck, Source};
use crate::config::Origin;
use crate::hub::{self, Fetched, Hub, Repo, Wanted};
use crate::model::checkpoint::CONFIG;
use crate::progress::{Interrupted, Progress};
use crate::rollout::Policy;
use crate::settings::{CheckpointSettings, DataSettings, WorldSettings};
use crate::train::TrainingData;
use crate::types::Example;
use anyhow::{Context, Result, ensure};
use rayon::prelude::*;
use std::path::PathBuf;

/// Evaluation questions by benchmark, in the order of the table's columns.
pub type Benchmarks = Vec<(String, Vec<Example>)>;

/// Files of a checkpoint that are needed; older repositories have no template of its own.
const CHECKPOINT_FILES: [&str; 3] = ["*.safetensors", "*.json", "*.jinja?"];

/// Where files of the hub come from, and how strictly they are taken.
#[derive(Clone, Debug)]
pub struct Sources {
    /// Downloads.
    pub hub: hub::Settings,
    /// A folder with copies of repositories, `OWNER/NAME/FILES`, in place of downloads.
    pub folder: Option<PathBuf>,
    /// What happens where a dataset has another number of rows than its manifest says.
    pub rows: RowCheck,
    /// Whether rows that the paper's filters leave out are taken too.
    pub unfiltered: bool,
}

impl Sources {
    /// The folder of a checkpoint's files, downloaded if need be, and the commit that was fetched.
    pub fn checkpoint(
        &self,
        checkpoint: &CheckpointSettings,
        progress: &dyn Progress,
    ) -> Result<(PathBuf, Option<String>)> {
        if let Some(folder) = &self.folder {
            return Ok((folder.join(&checkpoint.repo), None));
        }
        let wanted = checkpoint_files(&checkpoint.repo, &checkpoint.revision);
        let fetched = self.fetched(&wanted, progress)?;
        let config = fetched.files.iter().find(|(path, _)| path == CONFIG);
        let dir = config.and_then(|(_, file)| file.parent());
        let dir = dir.with_context(|| format!("{} has no {CONFIG}", fetched.repo))?.to_owned();
        Ok((dir, Some(fetched.commit)))
    }

    /// Files that are pinned and in the cache are taken as they are; hashing them again is `harness fetch`'s.
    fn fetched(&self, wanted: &Wanted, progress: &dyn Progress) -> Result<Fetched> {
        let hub = Hub::new(self.hub.clone())?;
        hub.find(wanted).or_else(|_| hub.fetch(wanted, progress))
    }

    /// All questions of a dataset, downloaded if need be, and what there is to know of them.
    pub fn dataset(
        &self,
        name: &str,
        source: &str,
        progress: &dyn Progress,
    ) -> Result<(Vec<Example>, DataRecord)> {
        let manifest = Manifest::by_name(name)?;
        let source = manifest.source(Some(source))?;
        let wanted = wanted_dataset(&manifest, source);
        let (files, commit) = match &self.folder {
            Some(folder) => {
                let files = bench::files_below(&folder.join(&source.hub)).with_context(|| {
                    format!("{} is looked for in DIR/{} of --from DIR", manifest.name, source.hub)
                })?;
                (files, None)
            }
            None => {
                let fetched = self.fetched(&wanted, progress)?;
                (fetched.files, Some(fetched.commit))
            }
        };
        let loaded = match self.unfiltered {
            true => bench::read(&manifest, &source.unfiltered(), &files, self.rows)?,
            false => bench::read(&manifest, source, &files, self.rows)?,
        };
        for note in &loaded.notes {
            progress.note(&format!("{}: {note}", manifest.name));
        }
        let record = DataRecord {
            dataset: manifest.name.clone(),
            source: source.name.clone(),
            repository: source.hub.clone(),
            commit,
            rows_read: loaded.rows_read,
            questions: loaded.examples.len(),
            left_out: loaded.filtered,
            notes: loaded.notes,
            content: fingerprint(&loaded.examples),
        };
        Ok((loaded.examples, record))
    }
}

/// What the fetcher needs to know of a checkpoint.
pub fn checkpoint_files(repo: &str, revision: &str) -> Wanted {
    let files = CHECKPOINT_FILES.map(str::to_owned).into();
    Wanted { repo: Repo::model(repo, revision), files, licence: None }
}

/// What the fetcher needs to know of a dataset.
pub fn wanted_dataset(manifest: &Manifest, source: &Source) -> Wanted {
    let repo = Repo::dataset(&source.hub, &source.revision);
    // The authors' bundle has a licence of its own, which its page names or not.
    let licence = (source.name != "vppo_eval").then(|| manifest.licence.clone());
    Wanted { repo, files: source.files.clone(), licence }
}

/// Training questions.
pub enum Questions {
    /// Generated, families in turn.
    World(WorldSettings),
    /// Read from files.
    Rows(Vec<Example>),
}

impl TrainingData for Questions {
    fn len(&self) -> usize {
        match self {
            Questions::World(world) => world.train_items * FAMILIES.len(),
            Questions::Rows(rows) => rows.len(),
        }
    }

    fn example(&self, index: usize) -> Result<Example> {
        Ok(match self {
            Questions::World(world) => {
                let family = index % FAMILIES.len();
                generate(world.seed, Split::Train, family, index / FAMILIES.len()).example
            }
            Questions::Rows(rows) => rows[index].clone(),
        })
    }
}

/// The training questions of a run. Those whose prompts are too long are left out and counted.
pub fn training_questions(
    config: &RunConfig,
    base: &Policy,
    sources: &Sources,
    progress: &dyn Progress,
) -> Result<(Questions, Option<DataRecord>)> {
    match config.origin()? {
        Origin::Made { world, .. } => Ok((Questions::World(world.clone()), None)),
        Origin::Hub { data, .. } => {
            let (rows, mut record) = sources.dataset(&data.train, &data.train_source, progress)?;
            let kept = without_long_prompts(rows, base, data.max_prompt_tokens, &mut record, progress)?;
            Ok((Questions::Rows(kept), Some(record)))
        }
    }
}

/// Leaves out the questions whose prompts have more than `limit` tokens, and tells and records how many they are.
///
/// # Errors
/// Names a question whose pictures cannot be read; if none is left; if interrupted.
pub fn without_long_prompts(
    questions: Vec<Example>,
    policy: &Policy,
    limit: usize,
    record: &mut DataRecord,
    progress: &dyn Progress,
) -> Result<Vec<Example>> {
    const CHUNK: usize = 256;
    let total = questions.len();
    progress.begin("count prompt tokens", 0, total as u64);
    let mut kept = Vec::with_capacity(total);
    let (mut seen, mut longest) = (0, 0);
    for chunk in questions.chunks(CHUNK) {
        if progress.stop_requested() {
            return Err(Interrupted.into());
        }
        let tokens: Vec<usize> = chunk
            .par_iter()
            .map(|question| Ok(policy.renderer.prompt_size(question)?.tokens))
            .collect::<Result<_>>()?;
        longest = tokens.iter().copied().fold(longest, usize::max);
        let short = chunk.iter().zip(&tokens).filter(|(_, tokens)| **tokens <= limit);
        kept.extend(short.map(|(question, _)| question.clone()));
        seen += chunk.len();
        progress.advance(seen as u64, &format!("{} longer than {limit}", seen - kept.len()));
    }
    progress.end();
    progress.note(&format!(
        "training questions: {} of {total} kept, {} left out for prompts of more than {limit} tokens (longest: {longest})",
        kept.len(),
        total - kept.len()
    ));
    record.left_out.push((format!("the prompt has more than {limit} tokens"), total - kept.len()));
    record.questions = kept.len();
    ensure!(!kept.is_empty(), "every training question has a prompt of more than {limit} tokens");
    Ok(kept)
}

/// The names of a run's benchmarks: the table's columns.
pub fn columns(config: &RunConfig) -> Result<Vec<String>> {
    Ok(match config.origin()? {
        Origin::Made { .. } => FAMILIES.map(str::to_owned).to_vec(),
        Origin::Hub { data, .. } => column_names(data)?,
    })
}

/// How many rows each benchmark of the hub has.
pub fn expected_rows(data: &DataSettings) -> Result<Vec<usize>> {
    let rows = |name: &String| Ok(Manifest::by_name(name)?.source(Some(&data.eval_source))?.expected.kept);
    data.benchmarks.iter().map(rows).collect()
}

fn column_names(data: &DataSettings) -> Result<Vec<String>> {
    data.benchmarks.iter().map(|name| Ok(Manifest::by_name(name)?.name)).collect()
}

/// The evaluation questions of a run, and what there is to know of those that come from files.
pub fn benchmarks(
    config: &RunConfig,
    sources: &Sources,
    progress: &dyn Progress,
) -> Result<(Benchmarks, Vec<DataRecord>)> {
    match config.origin()? {
        Origin::Made { world, .. } => Ok((generated(world, item_limit(config)), vec![])),
        Origin::Hub { data, .. } => {
            named_benchmarks(&data.benchmarks, &data.eval_source, item_limit(config), sources, progress)
        }
    }
}

/// Most items of each benchmark.
pub fn item_limit(config: &RunConfig) -> usize {
    if config.eval.items == 0 { usize::MAX } else { config.eval.items }
}

/// The first questions of benchmarks by name.
pub fn named_benchmarks(
    names: &[String],
    source: &str,
    limit: usize,
    sources: &Sources,
    progress: &dyn Progress,
) -> Result<(Benchmarks, Vec<DataRecord>)> {
    let (mut benchmarks, mut records) = (Benchmarks::new(), vec![]);
    for name in names {
        let (mut examples, record) = sources.dataset(name, source, progress)?;
        ensure!(benchmarks.iter().all(|(known, _)| *known != record.dataset), "{name} is named twice");
        examples.truncate(limit);
        benchmarks.push((record.dataset.clone(), examples));
        records.push(record);
    }
    Ok((benchmarks, records))
}

fn generated(world: &WorldSettings, limit: usize) -> Benchmarks {
    let count = world.eval_items.min(limit);
    let items = |family| (0..count).map(|i| generate(world.seed, Split::Eval, family, i).example).collect();
    FAMILIES.iter().enumerate().map(|(family, name)| ((*name).to_owned(), items(family))).collect()
}
