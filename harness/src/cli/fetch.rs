//! `fetch`: downloads with a lock file.

use super::FetchArgs;
use super::display::Display;
use crate::bench::Manifest;
use crate::config::{Scale, Study};
use crate::hub::{self, Condition, Hub, Wanted};
use crate::study::{self, RunConfig};
use anyhow::{Context, Result, ensure};

pub(super) fn fetch(args: &FetchArgs) -> Result<()> {
    if let Some(model) = &args.model {
        let parts = model.split('/').filter(|part| !part.is_empty()).count();
        ensure!(parts == 2, "--model {model}: write OWNER/NAME, a repository of the hub");
    }
    let wanted = wanted(args)?;
    let mut settings = hub::Settings::from_env(args.lock.clone())?;
    settings.offline |= args.offline;
    settings.update |= args.update;
    let hub = Hub::new(settings)?;
    let display = Display::new()?;
    if args.dry_run {
        for line in study::downloads_in_words(&hub.plan(&wanted)?) {
            println!("{line}");
        }
        return Ok(());
    }
    if args.verify {
        return verify(&hub, &display);
    }
    for repository in &wanted {
        let fetched = hub.fetch(repository, &display)?;
        let licence = fetched.licence.as_deref().unwrap_or("not stated");
        println!(
            "{}: {} files at commit {}; licence: {licence}",
            fetched.repo,
            fetched.files.len(),
            fetched.commit
        );
    }
    Ok(())
}

fn verify(hub: &Hub, display: &Display) -> Result<()> {
    let checked = hub.verify(display)?;
    ensure!(!checked.is_empty(), "the lock pins nothing: run `harness fetch` first");
    let bad: Vec<_> = checked.iter().filter(|file| file.condition != Condition::Good).collect();
    for file in &bad {
        println!("{:?}: {} of {}", file.condition, file.file.display(), file.repo);
    }
    ensure!(
        bad.is_empty(),
        "{} of {} files are not what the lock pins: run `harness fetch`",
        bad.len(),
        checked.len()
    );
    println!("{} files are what the lock pins", checked.len());
    Ok(())
}

/// What the arguments name, or all that the scale needs.
fn wanted(args: &FetchArgs) -> Result<Vec<Wanted>> {
    let mut wanted = vec![];
    if let Some(id) = &args.model {
        wanted.push(study::checkpoint_files(id, "main"));
    }
    for name in &super::own::benchmark_names(&args.names)? {
        let manifest = Manifest::by_name(name)?;
        let source = manifest.source(args.source.as_deref())?;
        wanted.push(study::wanted_dataset(&manifest, source));
    }
    if wanted.is_empty() {
        let (scale, study) = (Scale::load(&args.scale)?, Study::load("main")?);
        let mut config = RunConfig::resolve(&scale, &study, "base", 1, &[])?;
        let scale = &args.scale;
        let data = config
            .data
            .as_mut()
            .with_context(|| format!("scale {scale} makes its own model and questions"))?;
        if let Some(source) = &args.source {
            data.eval_source = source.clone();
        }
        wanted = study::downloads(&config)?;
    }
    Ok(study::by_repository(wanted))
}
