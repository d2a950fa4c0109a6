//! Where cells are kept. Arms with the same settings are one cell, whatever their studies call them: it is trained
//! once, in the folder of the first arm that has these settings, in the order of the repository's studies.

use super::RunConfig;
use crate::config::{Scale, Setting, Study};
use anyhow::Result;
use std::collections::BTreeMap;

/// The names under which cells are kept, by what their settings hash to.
#[derive(Clone, Debug)]
pub struct Homes(BTreeMap<String, (String, String)>);

impl Homes {
    /// Those of the studies of this repository, at a scale and with settings changed by `--set`.
    pub fn new(scale: &Scale, overrides: &[Setting]) -> Result<Homes> {
        let mut homes = Homes(BTreeMap::new());
        for name in Study::names() {
            homes.add(scale, &Study::load(name)?, overrides)?;
        }
        Ok(homes)
    }

    /// These and, for arms that differ from all others, those of another study. An arm that the settings of `--set` do
    /// not fit is passed over: it is no cell.
    pub fn add(&mut self, scale: &Scale, study: &Study, overrides: &[Setting]) -> Result<()> {
        for variant in &study.variants {
            // The seed is no setting.
            let Ok(config) = RunConfig::resolve(scale, study, &variant.name, 1, overrides) else { continue };
            self.0.entry(config.settings_hash()?).or_insert((study.name.clone(), variant.name.clone()));
        }
        Ok(())
    }

    /// The settings with the address of the cell that has them.
    pub(super) fn settle(&self, mut config: RunConfig) -> Result<RunConfig> {
        if let Some((study, variant)) = self.0.get(&config.settings_hash()?) {
            (config.study, config.variant) = (study.clone(), variant.clone());
        }
        Ok(config)
    }
}
