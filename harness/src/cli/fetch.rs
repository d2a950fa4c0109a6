//! `fetch`: downloads with a lock file.

use super::FetchArgs;
use super::display::Display;
use crate::bench::Manifest;
use crate::config::{Scale, Study};
use crate::hub::{self, Hub, RepoKind, Wanted};
use crate::study::{self, RunConfig};
use anyhow::{Context, Result};

pub(super) fn fetch(args: &FetchArgs) -> Result<()> {
    let wanted = wanted(args)?;
    let mut settings = hub::Settings::from_env(args.lock.clone())?;
    settings.offline |= args.offline;
    settings.update |= args.update;
    let hub = Hub::new(settings)?;
    let display = Display::new()?;
    if args.dry_run {
        for line in hub.plan(&wanted)?.lines() {
            println!("{line}");
        }
        return Ok(());
    }
    for repository in &wanted {
        if args.verify {
            let count = hub.verify(repository, &display)?;
            println!("{}: {count} files are as the lock says", repository.id);
        } else {
            let fetched = hub.fetch(repository, &display)?;
            println!("{} at {}: {} files in {}", repository.id, fetched.commit, fetched.files.len(), fetched.dir.display());
        }
    }
    Ok(())
}

/// What the arguments name, or all that the scale needs.
fn wanted(args: &FetchArgs) -> Result<Vec<Wanted>> {
    let mut wanted = vec![];
    if let Some(id) = &args.model {
        wanted.push(study::checkpoint_files(id, "main"));
    }
    for name in &args.names {
        let manifest = Manifest::by_name(name)?;
        let source = manifest.source(args.source.as_deref())?;
        wanted.push(study::wanted_dataset(&manifest, source));
    }
    if wanted.is_empty() {
        let (scale, study) = (Scale::load(&args.scale)?, Study::load("main")?);
        let mut config = RunConfig::resolve(&scale, &study, "base", 1, &[])?;
        let scale = &args.scale;
        let data = config.data.as_mut().with_context(|| format!("scale {scale} makes its own model and questions"))?;
        if let Some(source) = &args.source {
            data.eval_source = source.clone();
        }
        wanted = study::downloads(&config)?;
    }
    Ok(wanted)
}
