//! Layers of settings: values, and where each of them was written.

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Where settings were written, by dotted key: `file:line` or the `--set` argument.
#[derive(Clone, Debug, Default)]
pub(super) struct Origins(BTreeMap<String, String>);

impl Origins {
    /// Origin of a key; else of something inside it; else of the nearest table around it.
    pub fn of(&self, key: &str) -> Option<&str> {
        let mut key = key;
        loop {
            if let Some(origin) = self.0.get(key).or_else(|| self.inside(key)) {
                return Some(origin);
            }
            key = &key[..key.rfind(['.', '['])?];
        }
    }

    /// Origin of the first key inside the table `key`.
    fn inside(&self, key: &str) -> Option<&String> {
        let prefix = format!("{key}.");
        self.0.iter().find(|(known, _)| known.starts_with(&prefix)).map(|(_, origin)| origin)
    }

    /// Takes over the origins of a layer above; a table stays where it was first opened.
    fn extend(&mut self, above: &Origins) {
        for (key, origin) in &above.0 {
            match above.inside(key) {
                Some(_) => drop(self.0.entry(key.clone()).or_insert(origin.clone())),
                None => drop(self.0.insert(key.clone(), origin.clone())),
            }
        }
    }

    /// ` (origin)` for messages; empty where the origin is not known.
    pub fn shown(&self, key: &str) -> String {
        self.of(key).map_or(String::new(), |origin| format!(" ({origin})"))
    }

    /// The origins below `prefix`, with the prefix taken off.
    pub fn below(&self, prefix: &str) -> Origins {
        let inside = |(key, origin): (&String, &String)| {
            Some((key.strip_prefix(prefix)?.strip_prefix('.')?.to_string(), origin.clone()))
        };
        Origins(self.0.iter().filter_map(inside).collect())
    }

    fn replace_below(&mut self, key: &str) {
        let prefix = format!("{key}.");
        self.0.retain(|known, _| !known.starts_with(&prefix));
    }
}

/// Parses a TOML file into JSON values with the line of every key. `name` is how messages call the file.
pub(super) fn parse_toml(name: &str, text: &str) -> Result<Layer> {
    let document = DeTable::parse(text).map_err(|e| anyhow!("{name}: {e}"))?;
    let mut origins = Origins::default();
    note_lines(name, text, "", document.get_ref(), &mut origins);
    let table: toml::Table = toml::from_str(text).map_err(|e| anyhow!("{name}: {e}"))?;
    let value = to_json(&toml::Value::Table(table)).with_context(|| name.to_string())?;
    Ok(Layer { value, origins })
}

fn note_lines(name: &str, text: &str, prefix: &str, table: &DeTable<'_>, origins: &mut Origins) {
    for (key, value) in table {
        let path =
            if prefix.is_empty() { key.get_ref().to_string() } else { format!("{prefix}.{}", key.get_ref()) };
        let line = 1 + text[..key.span().start].matches('\n').count();
        origins.0.insert(path.clone(), format!("{name}:{line}"));
        note_lines_inside(name, text, &path, value, origins);
    }
}

fn note_lines_inside(
    name: &str,
    text: &str,
    path: &str,
    value: &Spanned<DeValue<'_>>,
    origins: &mut Origins,
) {
    match value.get_ref() {
        DeValue::Table(table) => note_lines(name, text, path, table, origins),
        DeValue::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                note_lines_inside(name, text, &format!("{path}[{index}]"), item, origins);
            }
        }
        _ => {}
    }
}

/// TOML to JSON. Dates and numbers that are not finite have no place in a configuration.
fn to_json(value: &toml::Value) -> Result<Value> {
    Ok(match value {
        toml::Value::String(text) => json!(text),
        toml::Value::Integer(number) => json!(number),
        toml::Value::Float(number) if number.is_finite() => json!(number),
        toml::Value::Boolean(flag) => json!(flag),
        toml::Value::Array(items) => items.iter().map(to_json).collect::<Result<_>>()?,
        toml::Value::Table(table) => {
            let entry = |(key, value): (&String, &toml::Value)| Ok((key.clone(), to_json(value)?));
            Value::Object(table.iter().map(entry).collect::<Result<Map<_, _>>>()?)
        }
        other => {
            bail!("`{other}` is no setting: write a finite number, a text, true, false, a list or a table")
        }
    })
}

/// One `--set key.path=value`.
#[derive(Clone, Debug, PartialEq)]
pub struct Setting {
    text: String,
    path: Vec<String>,
    value: Value,
}

impl std::str::FromStr for Setting {
    type Err = anyhow::Error;

    /// Parses `key.path=value`; the value is TOML where it parses as TOML, else text.
    fn from_str(text: &str) -> Result<Setting> {
        let (key, value) = text
            .split_once('=')
            .ok_or_else(|| anyhow!("--set {text}: write key.path=value, as in train.steps=20"))?;
        let path: Vec<String> = key.trim().split('.').map(str::to_string).collect();
        ensure!(path.iter().all(|part| !part.is_empty()), "--set {text}: the key has an empty part");
        let value = value.trim();
        let value = match value.parse::<toml::Value>() {
            Ok(parsed) => to_json(&parsed).with_context(|| format!("--set {text}"))?,
            Err(_) => json!(value),
        };
        Ok(Setting { text: text.into(), path, value })
    }
}

impl Setting {
    /// The setting as a layer of its own.
    pub(super) fn layer(&self) -> Layer {
        let nest = |inner: Value, key: &String| json!({ key: inner });
        let value = self.path.iter().rev().fold(self.value.clone(), nest);
        let origin = format!("--set {}", self.text);
        Layer { value, origins: Origins(BTreeMap::from([(self.path.join("."), origin)])) }
    }
}

/// What a layer may do to optional parts that are off below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Parts {
    /// Switch them on.
    Set,
    /// Nothing: it only adapts parts that are on.
    Adapt,
}

/// Settings, and where each was written.
#[derive(Clone, Debug)]
pub(super) struct Layer {
    /// A JSON object.
    pub value: Value,
    /// By dotted key.
    pub origins: Origins,
}

impl Layer {
    /// Lays another layer over this one.
    pub fn overlay(&mut self, above: &Layer, parts: Parts) {
        merge("", &mut self.value, &above.value, parts, &mut self.origins);
        self.origins.extend(&above.origins);
    }

    /// Sets keys of the run's address.
    pub fn identify(&mut self, entries: &[(&str, Value)]) {
        for (key, value) in entries {
            self.value[*key] = value.clone();
        }
    }
}

fn merge(key: &str, below: &mut Value, above: &Value, parts: Parts, origins: &mut Origins) {
    match (&mut *below, above) {
        (Value::Null, Value::Object(_)) if parts == Parts::Adapt => {}
        (Value::Object(old), Value::Object(new)) if same_kind(old, new) => {
            for (name, value) in new {
                let path = if key.is_empty() { name.clone() } else { format!("{key}.{name}") };
                match old.get_mut(name) {
                    Some(inner) => merge(&path, inner, value, parts, origins),
                    None => drop(old.insert(name.clone(), value.clone())),
                }
            }
        }
        (old, Value::String(text)) if text == "none" && !old.is_string() => *below = Value::Null,
        _ => {
            origins.replace_below(key);
            *below = above.clone();
        }
    }
}

/// Whether a table adapts the one below it: it does not select another `name`.
fn same_kind(below: &Map<String, Value>, above: &Map<String, Value>) -> bool {
    match (below.get("name"), above.get("name")) {
        (Some(old), Some(new)) => old == new,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merged(below: Value, above: Value, parts: Parts) -> Value {
        let mut layer = Layer { value: below, origins: Origins::default() };
        layer.overlay(&Layer { value: above, origins: Origins::default() }, parts);
        layer.value
    }

    #[test]
    fn tables_merge_and_names_replace() {
        assert_eq!(
            merged(json!({"a": {"x": 1, "y": 2}}), json!({"a": {"y": 3}}), Parts::Set),
            json!({"a": {"x": 1, "y": 3}})
        );
        let patches = json!({"kind": {"name": "patches", "p": 0.5}});
        assert_eq!(
            merged(patches.clone(), json!({"kind": {"p": 1}}), Parts::Set),
            json!({"kind": {"name": "patches", "p": 1}})
        );
        let noise = json!({"kind": {"name": "noise", "std": 1}});
        assert_eq!(merged(patches, noise.clone(), Parts::Set), noise);
    }

    #[test]
    fn none_switches_off_and_a_scale_does_not_switch_on() {
        assert_eq!(merged(json!({"a": {"x": 1}}), json!({"a": "none"}), Parts::Set), json!({"a": null}));
        assert_eq!(merged(json!({"a": "x"}), json!({"a": "none"}), Parts::Set), json!({"a": "none"}));
        assert_eq!(merged(json!({"a": null}), json!({"a": {"x": 1}}), Parts::Set), json!({"a": {"x": 1}}));
        assert_eq!(merged(json!({"a": null}), json!({"a": {"x": 1}}), Parts::Adapt), json!({"a": null}));
    }

    #[test]
    fn a_setting_is_toml_or_text() {
        let value = |text: &str| text.parse::<Setting>().unwrap().layer().value;
        assert_eq!(value("a.b=1"), json!({"a": {"b": 1}}));
        assert_eq!(value("a = 1e-3"), json!({"a": 1e-3}));
        assert_eq!(value("a=[1, 2]"), json!({"a": [1, 2]}));
        assert_eq!(value("a=true"), json!({"a": true}));
        assert_eq!(value("a=rollout"), json!({"a": "rollout"}));
        assert_eq!(value("a=x=y"), json!({"a": "x=y"}));
        for bad in ["a", "=1", "a..b=1", "a=nan", "a=2020-01-01"] {
            assert!(bad.parse::<Setting>().is_err(), "{bad}");
        }
    }

    #[test]
    fn every_key_knows_its_line() {
        let text = "a = 1\n[t]\nb = { c = 2 }\n\n[[v]]\nd = 1\n[v.s]\ne.f = 1\n";
        let origins = parse_toml("x.toml", text).unwrap().origins;
        let lines = [("a", 1), ("t", 2), ("t.b.c", 3), ("v[0].d", 6), ("v[0].s.e.f", 8), ("t.unheard.of", 2)];
        for (key, line) in lines {
            assert_eq!(origins.of(key), Some(format!("x.toml:{line}").as_str()), "{key}");
        }
        assert_eq!(origins.below("v[0].s").of("e.f"), Some("x.toml:8"));
        assert_eq!(origins.of("nowhere"), None);
    }
}
