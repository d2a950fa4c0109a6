//! Which files a pattern names. Special are `*`, and a `?` at the end: the pattern may name nothing.

use anyhow::{Result, bail};

/// Whether `path` matches `pattern`, in which `*` stands for any characters, `/` among them.
pub fn matches(pattern: &str, path: &str) -> bool {
    let pattern = pattern.strip_suffix('?').unwrap_or(pattern);
    let Some((head, rest)) = pattern.split_once('*') else { return pattern == path };
    let Some(mut path) = path.strip_prefix(head) else { return false };
    let mut pieces: Vec<&str> = rest.split('*').collect();
    let last = pieces.pop().unwrap_or_default();
    for piece in pieces {
        match path.find(piece) {
            Some(at) => path = &path[at + piece.len()..],
            None => return false,
        }
    }
    path.ends_with(last)
}

/// Keeps what some pattern names. A pattern that must name something and does not is an error; `of` says in what it was looked for.
pub(super) fn select<T>(
    patterns: &[String],
    items: Vec<T>,
    path: fn(&T) -> &str,
    of: &str,
) -> Result<Vec<T>> {
    for pattern in patterns.iter().filter(|pattern| !pattern.ends_with('?')) {
        if !items.iter().any(|item| matches(pattern, path(item))) {
            let some: Vec<&str> = items.iter().take(5).map(path).collect();
            bail!(
                "{of}: no file matches `{pattern}`; of {} files there the first are: {}",
                items.len(),
                some.join(", ")
            );
        }
    }
    let named = |item: &T| patterns.iter().any(|pattern| matches(pattern, path(item)));
    Ok(items.into_iter().filter(named).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_characters() {
        for (pattern, path) in [
            ("a.json", "a.json"),
            ("*", "deep/er/x"),
            ("data/*.parquet", "data/a/b.parquet"),
            ("*.safetensors", "model-1.safetensors"),
            ("a*b*c", "abbc"),
            ("a**c", "ac"),
            ("*a*", "a"),
            ("*aab", "aaab"),
        ] {
            assert!(matches(pattern, path), "{pattern} {path}");
        }
        for (pattern, path) in [
            ("a.json", "b/a.json"),
            ("a*a", "a"),
            ("data/*.parquet", "other/a.parquet"),
            ("*.json", "a.jsonl"),
            ("a*b*c", "acb"),
            ("", "a"),
        ] {
            assert!(!matches(pattern, path), "{pattern} {path}");
        }
    }

    #[test]
    fn a_pattern_without_files_is_an_error() {
        let files = vec!["a.json".to_owned(), "b.json".to_owned()];
        let path: fn(&String) -> &str = |name| name;
        assert_eq!(select(&["b*".to_owned()], files.clone(), path, "x").unwrap(), ["b.json"]);
        let optional = ["b*?", "c*?"].map(str::to_owned);
        assert_eq!(select(&optional, files.clone(), path, "x").unwrap(), ["b.json"]);
        let error = select(&["*.json".to_owned(), "c".to_owned()], files, path, "dataset a/b").unwrap_err();
        assert_eq!(
            error.to_string(),
            "dataset a/b: no file matches `c`; of 2 files there the first are: a.json, b.json"
        );
    }
}
