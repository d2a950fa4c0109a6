//! One spelling per JSON value, so that equal configurations have equal bytes and equal hashes.

use serde_json::{Map, Value};
use std::fmt;

/// A value with the keys of every object in byte order, whatever order they came in.
fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_by_key(|(key, _)| *key);
            Value::Object(entries.into_iter().map(|(k, v)| (k.clone(), sorted(v))).collect::<Map<_, _>>())
        }
        Value::Array(items) => Value::Array(items.iter().map(sorted).collect()),
        other => other.clone(),
    }
}

/// The canonical text of a value: sorted keys, no spaces, shortest decimal form of every float.
pub fn canonical_json(value: &Value) -> String {
    sorted(value).to_string()
}

/// The canonical value laid out for people: sorted keys, two spaces of indentation, a final newline.
pub fn pretty_json(value: &Value) -> String {
    format!("{:#}\n", sorted(value))
}

/// BLAKE3 of the canonical text, as 64 hexadecimal digits.
pub fn content_hash(value: &Value) -> String {
    blake3::hash(canonical_json(value).as_bytes()).to_hex().to_string()
}

/// One setting in which two configurations differ. `None`: the key is not there.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    /// Dotted path of the setting.
    pub key: String,
    /// Its value on the left side.
    pub left: Option<Value>,
    /// Its value on the right side.
    pub right: Option<Value>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let show = |value: &Option<Value>| value.as_ref().map_or("(absent)".into(), canonical_json);
        write!(f, "{}: {} -> {}", self.key, show(&self.left), show(&self.right))
    }
}

/// The dotted keys in which two values differ, in byte order. Objects are compared key by key; arrays, objects of
/// different `name` (another alternative is chosen), and an object against anything else are compared whole.
pub fn differences(left: &Value, right: &Value) -> Vec<Difference> {
    let mut found = Vec::new();
    compare(String::new(), Some(left), Some(right), &mut found);
    found
}

fn compare(key: String, left: Option<&Value>, right: Option<&Value>, found: &mut Vec<Difference>) {
    match (left, right) {
        (Some(Value::Object(l)), Some(Value::Object(r))) if l.get("name") == r.get("name") => {
            let names: std::collections::BTreeSet<&String> = l.keys().chain(r.keys()).collect();
            for name in names {
                let path = if key.is_empty() { name.clone() } else { format!("{key}.{name}") };
                compare(path, l.get(name), r.get(name), found);
            }
        }
        _ if left == right => {}
        _ => found.push(Difference { key, left: left.cloned(), right: right.cloned() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn canonical_text_is_sorted_and_stable() {
        let value: Value = serde_json::from_str(r#"{"b":1.0,"a":{"z":[{"y":1,"x":2}],"k":1e-6}}"#).unwrap();
        assert_eq!(canonical_json(&value), r#"{"a":{"k":1e-6,"z":[{"x":2,"y":1}]},"b":1.0}"#);
        let again: Value = serde_json::from_str(&pretty_json(&value)).unwrap();
        assert_eq!(content_hash(&again), content_hash(&value));
        assert_ne!(content_hash(&json!({"b": 1})), content_hash(&json!({"b": 1.0})));
    }

    #[test]
    fn differences_name_leaves() {
        let a = json!({"t": {"x": 1, "y": [1, 2]}, "p": null, "same": 1, "k": {"name": "u", "v": 1}});
        let b = json!({"t": {"x": 2, "y": [1]}, "p": {"q": 1}, "same": 1, "new": true, "k": {"name": "w"}});
        let shown: Vec<_> = differences(&a, &b).iter().map(ToString::to_string).collect();
        let expected = [
            r#"k: {"name":"u","v":1} -> {"name":"w"}"#,
            "new: (absent) -> true",
            r#"p: null -> {"q":1}"#,
            "t.x: 1 -> 2",
            "t.y: [1,2] -> [1]",
        ];
        assert_eq!(shown, expected);
        assert!(differences(&a, &a).is_empty());
    }
}
