//! Turns the refusals of the settings' types into messages that name key, origin and the nearest valid name.

use super::layer::Origins;
use anyhow::{Result, anyhow};
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Names less alike than this are not suggested.
const ALIKE: f64 = 0.55;

/// Reads settings as their type.
pub(super) fn typed<T: DeserializeOwned>(value: &Value, origins: &Origins) -> Result<T> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let path = error.path().to_string();
        let path = if path == "." { "" } else { path.as_str() };
        anyhow!(explain(path, &error.inner().to_string(), origins))
    })
}

/// `path`: where serde stopped; `refusal`: what it said.
fn explain(path: &str, refusal: &str, origins: &Origins) -> String {
    let (said, expected) = refusal.split_once(", expected ").unwrap_or((refusal, ""));
    let quoted = quoted(said);
    if said.starts_with("unknown field") {
        let key = within(path, quoted.first().copied().unwrap_or_default());
        let name = key.rsplit('.').next().unwrap_or_default();
        let known = self::quoted(expected);
        return format!("unknown setting `{key}`{}{}", origins.shown(&key), nearest(name, &known));
    }
    if said.starts_with("missing field") {
        let key = within(path, quoted.first().copied().unwrap_or_default());
        return format!(
            "the setting `{key}` is missing{}: state it there, or with --set {key}=...",
            origins.shown(&key)
        );
    }
    let origin = origins.shown(path);
    if said.starts_with("unknown variant") {
        let found = quoted.first().copied().unwrap_or_default();
        return format!("`{path}` cannot be `{found}`{origin}{}", nearest(found, &self::quoted(expected)));
    }
    let found = said.split_once(": ").map_or(said, |(_, found)| found);
    if expected.is_empty() {
        return format!("`{path}` cannot be read{origin}: {found}");
    }
    format!("`{path}` has the wrong type{origin}: found {found}, expected {}", plain(expected))
}

/// `path.name`, unless the path already ends in the name.
fn within(path: &str, name: &str) -> String {
    match path {
        "" => name.into(),
        _ if path == name || path.ends_with(&format!(".{name}")) => path.into(),
        _ => format!("{path}.{name}"),
    }
}

/// The words between backquotes.
fn quoted(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

/// Rust's type names in the words of a configuration file.
fn plain(expected: &str) -> &str {
    match expected {
        "u8" | "u32" | "u64" | "usize" => "a whole number, not negative",
        "f32" | "f64" => "a number",
        "a string" => "a text",
        "a boolean" => "true or false",
        other if other.starts_with("struct ") || other == "a map" => "a table",
        other => other,
    }
}

/// `: did you mean ...` with all known names; says so where there are none.
pub(super) fn nearest<S: AsRef<str>>(name: &str, known: &[S]) -> String {
    let alike = |candidate: &&S| strsim::normalized_damerau_levenshtein(name, candidate.as_ref());
    let best = known.iter().max_by(|a, b| alike(a).total_cmp(&alike(b))).filter(|best| alike(best) >= ALIKE);
    let question = best.map_or(String::new(), |best| format!(": did you mean `{}`?", best.as_ref()));
    let names: Vec<String> = known.iter().map(|name| format!("`{}`", name.as_ref())).collect();
    let colon = if question.is_empty() { ":" } else { "" };
    if names.is_empty() {
        ": there is nothing to set here".into()
    } else {
        format!("{question}{colon} known here: {}", names.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{Corruption, TrainSettings};
    use serde_json::json;

    fn refusal<T: DeserializeOwned>(value: Value) -> String {
        typed::<T>(&value, &Origins::default()).err().map(|e| e.to_string()).unwrap_or_default()
    }

    #[test]
    fn messages_name_key_and_nearest() {
        let text = refusal::<TrainSettings>(json!({"stepz": 1}));
        assert!(
            text.starts_with("unknown setting `stepz`: did you mean `steps`? known here: `steps`, "),
            "{text}"
        );
        let text = refusal::<TrainSettings>(json!({"steps": "many"}));
        assert_eq!(
            text,
            "`steps` has the wrong type: found string \"many\", expected a whole number, not negative"
        );
        let text = refusal::<TrainSettings>(json!({"steps": -1}));
        assert!(text.contains("found integer `-1`"), "{text}");
        let text = refusal::<TrainSettings>(json!({"steps": 1}));
        assert!(text.starts_with("the setting `prompts_per_step` is missing: state it"), "{text}");
        let text = refusal::<TrainSettings>(json!({"old_logp": "recomputed"}));
        assert!(text.starts_with("`old_logp` cannot be `recomputed`: did you mean `recompute`?"), "{text}");
    }

    #[test]
    fn tagged_parts_are_named_too() {
        let text = refusal::<Corruption>(json!({"kind": {"name": "noise", "sdt": 1.0}}));
        assert!(text.starts_with("unknown setting `kind.sdt`: did you mean `std`?"), "{text}");
        let text = refusal::<Corruption>(json!({"kind": {"name": "noise"}}));
        assert!(text.starts_with("the setting `kind.std` is missing"), "{text}");
        let text = refusal::<Corruption>(json!({"kind": {"name": "nose"}}));
        assert!(text.contains("cannot be `nose`: did you mean `noise`?"), "{text}");
    }

    #[test]
    fn nothing_alike_is_not_suggested() {
        assert_eq!(nearest("zzz", &["steps"]), ": known here: `steps`");
    }
}
