//! What the arms of a study change, and whether that is what they state.

use super::{Difference, Presets, RunConfig, Scale, Setting, Study, Variant};
use anyhow::{Result, ensure};
use std::collections::BTreeSet;

/// The settings in which a variant differs from the one that it is a change of; none for the base.
pub fn changes<A: Presets>(
    scale: &Scale,
    study: &Study,
    variant: &Variant,
    overrides: &[Setting],
) -> Result<Vec<Difference>> {
    let Some(reference) = study.reference(variant) else { return Ok(vec![]) };
    // The seed is part of a run's address and changes no setting.
    let resolve = |name: &str| RunConfig::<A>::resolve(scale, study, name, 1, overrides);
    resolve(&variant.name)?.changes(&resolve(reference)?)
}

/// Fails where a variant changes, at this scale, other settings than it states. What `--set` asks for is for all arms
/// alike and does not count.
pub fn check_changes<A: Presets>(scale: &Scale, study: &Study) -> Result<()> {
    for variant in &study.variants {
        let found = changes::<A>(scale, study, variant, &[])?;
        let found: BTreeSet<&str> = found.iter().map(|difference| difference.key.as_str()).collect();
        let stated: BTreeSet<&str> = variant.changes.iter().map(String::as_str).collect();
        ensure!(
            found == stated,
            "variant `{}` of study `{}` does not change at scale `{}` in `{}` what it states in `changes`: {}",
            variant.name,
            study.name,
            scale.name,
            study.reference(variant).unwrap_or_default(),
            discrepancies(&found, &stated)
        );
    }
    Ok(())
}

fn discrepancies(found: &BTreeSet<&str>, stated: &BTreeSet<&str>) -> String {
    let only = |ours: &BTreeSet<&str>, others: &BTreeSet<&str>, what: &str| -> Vec<String> {
        ours.difference(others).map(|key| format!("`{key}` {what}")).collect()
    };
    let unstated = only(found, stated, "is changed and not stated");
    let unchanged = only(stated, found, "is stated and not changed");
    [unstated, unchanged].concat().join(", ")
}
