//! Reading a source's files, whatever their layout.

use super::adapter::adapter;
use super::draft::{Collector, Loaded, RowCheck};
use super::manifest::{Columns, Layout, Manifest, Source};
use super::papo_eval;
use super::pictures::Pictures;
use super::table::{Row, for_each_row};
use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Reads the rows of a source. `files` are its files, each with its path in the repository and where it lies;
/// files that the source does not ask for are ignored, and their order does not matter.
///
/// # Errors
/// Names the dataset, the file, the row and what is wrong: missing files, an unreadable file, columns that
/// cannot be settled (with the file's schema), a row that is no complete question, an id used twice, and with
/// [`RowCheck::Refuse`] a number of rows or clusters that is not the expected one.
pub fn read(
    manifest: &Manifest,
    source: &Source,
    files: &[(String, PathBuf)],
    check: RowCheck,
) -> Result<Loaded> {
    load(manifest, source, files, check).with_context(|| format!("{} from {}", manifest.name, source.hub))
}

/// All files below a folder that copies a repository: each with its path in the repository and where it lies.
///
/// # Errors
/// Names a folder that cannot be read.
pub fn files_below(folder: &Path) -> Result<Vec<(String, PathBuf)>> {
    let mut files = Vec::new();
    let mut folders = vec![(String::new(), folder.to_owned())];
    while let Some((prefix, folder)) = folders.pop() {
        let unreadable = || format!("{}: cannot be read", folder.display());
        for entry in fs::read_dir(&folder).with_context(unreadable)? {
            let path = entry.with_context(unreadable)?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if path.is_dir() {
                folders.push((format!("{prefix}{name}/"), path));
            } else {
                files.push((format!("{prefix}{name}"), path));
            }
        }
    }
    files.sort();
    Ok(files)
}

fn load(
    manifest: &Manifest,
    source: &Source,
    files: &[(String, PathBuf)],
    check: RowCheck,
) -> Result<Loaded> {
    let wanted = files.iter().filter(|(path, _)| source.wants(path));
    let files: BTreeMap<&str, &PathBuf> = wanted.map(|(path, file)| (path.as_str(), file)).collect();
    ensure!(!files.is_empty(), "none of the files fits {}", source.files.join(" or "));
    let mut collector = Collector::new(&manifest.name, source.filter);
    let notes = match &source.layout {
        Layout::Parquet { columns } => {
            read_tables(&files, *columns, &mut collector)?;
            Vec::new()
        }
        Layout::PapoEval { stems, cluster_in_path } => {
            papo_eval::read(&files, stems, cluster_in_path.as_deref(), &mut collector)?
        }
    };
    let mut loaded = collector.finish(source.expected, check)?;
    loaded.notes.extend(notes);
    Ok(loaded)
}

fn read_tables(files: &BTreeMap<&str, &PathBuf>, columns: Columns, collector: &mut Collector) -> Result<()> {
    let adapter = adapter(columns);
    let mut pictures = Pictures::default();
    for (path, file) in files {
        let add = |number, mut row: Row| {
            let draft = (adapter.draft)(&mut row, path)?;
            collector.add(draft, &format!("{path}, row {number}"))
        };
        for_each_row(file, adapter.columns, &mut pictures, add).with_context(|| path.to_string())?;
    }
    Ok(())
}
