//! What one algorithm changes in another, field by field.

use super::Algorithm;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fmt;

/// One field whose value differs.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    /// Dotted path of the field, such as `perception.token_filter.fraction`.
    pub path: String,
    /// Its value in the base; null where the part is switched off.
    pub base: Value,
    /// Its value here.
    pub value: Value,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} -> {}", self.path, self.base, self.value)
    }
}

impl Algorithm {
    /// All fields in which `self` differs from `base`, by path. A part that is switched on or off, and a
    /// choice between named alternatives, count as one difference.
    pub fn differences(&self, base: &Algorithm) -> Vec<Difference> {
        let mut found = Vec::new();
        collect("", &as_value(base), &as_value(self), &mut found);
        found
    }
}

/// Plain structs of numbers and names always serialise; null would stand for the impossible failure.
fn as_value(algorithm: &Algorithm) -> Value {
    serde_json::to_value(algorithm).unwrap_or(Value::Null)
}

fn collect(path: &str, base: &Value, value: &Value, found: &mut Vec<Difference>) {
    match (base, value) {
        _ if base == value => {}
        (Value::Object(b), Value::Object(v)) if b.get("name") == v.get("name") => {
            for key in b.keys().chain(v.keys()).collect::<BTreeSet<_>>() {
                let dot = if path.is_empty() { "" } else { "." };
                let of =
                    |object: &serde_json::Map<String, Value>| object.get(key).cloned().unwrap_or(Value::Null);
                collect(&format!("{path}{dot}{key}"), &of(b), &of(v), found);
            }
        }
        _ => found.push(Difference { path: path.to_string(), base: base.clone(), value: value.clone() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(value: &Algorithm, base: &Algorithm) -> Vec<String> {
        value.differences(base).into_iter().map(|d| d.path).collect()
    }

    #[test]
    fn each_changed_field_is_named_once() {
        let base = Algorithm::vppo();
        assert!(base.differences(&base).is_empty());
        assert_eq!(paths(&Algorithm::dapo(), &base), ["perception"]);
        assert_eq!(paths(&Algorithm::mask_only(), &base), ["perception.shaping"]);
        assert_eq!(paths(&Algorithm::dapo_no_entropy_penalty(), &Algorithm::dapo()), ["entropy_penalty"]);
        assert_eq!(
            paths(&Algorithm::vppo_paper(), &base),
            [
                "advantage.epsilon",
                "clip.dual",
                "perception.estimator",
                "perception.shaping.ceiling_scope",
                "perception.shaping.range_scope"
            ]
        );
    }

    #[test]
    fn a_difference_reads_as_a_sentence() {
        let mut changed = Algorithm::dapo();
        changed.clip.high = 0.3;
        let shown: Vec<String> =
            changed.differences(&Algorithm::dapo()).iter().map(|d| d.to_string()).collect();
        assert_eq!(shown, ["clip.high: 0.28 -> 0.3"]);
    }
}
