//! Where cells are kept. Arms whose settings agree in all that counts are one cell, whatever their studies call them: it
//! is run once, under the name of the first such arm in the order of the repository's studies.

use super::RunConfig;
use crate::config::{Scale, Setting, Study};
use anyhow::Result;
use std::collections::BTreeMap;

/// Any seed will do: it is part of a cell's address and changes no setting.
const SEED: u64 = 1;

/// The cells of one scale with one list of `--set`: their complete settings, by the hash of what counts in them.
#[derive(Clone, Debug)]
pub struct Homes(BTreeMap<String, RunConfig>);

impl Homes {
    /// Those of the studies of this repository, and of this one.
    pub fn new(scale: &Scale, study: &Study, overrides: &[Setting]) -> Result<Homes> {
        let mut homes = Homes(BTreeMap::new());
        for name in Study::names() {
            homes.add(scale, &Study::load(name)?, overrides)?;
        }
        homes.add(scale, study, overrides)?;
        Ok(homes)
    }

    /// Adds the arms that are not there yet. One that `--set` does not fit is no cell; its own study says so.
    fn add(&mut self, scale: &Scale, study: &Study, overrides: &[Setting]) -> Result<()> {
        for variant in &study.variants {
            if let Ok(config) = RunConfig::resolve(scale, study, &variant.name, SEED, overrides) {
                self.0.entry(config.settings_hash()?).or_insert(config);
            }
        }
        Ok(())
    }

    /// The settings of the cell that an arm shares, or its own.
    pub(super) fn settle(&self, config: RunConfig) -> Result<RunConfig> {
        Ok(match self.0.get(&config.settings_hash()?) {
            Some(home) => RunConfig { seed: config.seed, ..home.clone() },
            None => config,
        })
    }
}
