//! What chat templates may use in transformers and minijinja does not bring: Python's `tojson` and the methods of
//! Python's texts and dictionaries.
//!
//! Source: transformers' `chat_template_utils.py` (`_compile_jinja_template`) and Python's documentation.

use minijinja::value::{Kwargs, ValueKind, from_args};
use minijinja::{Error, ErrorKind, State, Value};

/// The filter `tojson`: Python's `json.dumps(value, ensure_ascii=False, indent=indent)`, without the escapes for HTML
/// that minijinja's own has.
pub(super) fn tojson(value: &Value, options: Kwargs) -> Result<Value, Error> {
    let indent = options.get::<Option<usize>>("indent")?;
    if options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false) {
        return Err(invalid("tojson(ensure_ascii=true) is not supported".to_owned()));
    }
    options.assert_all_used()?;
    let mut out = String::new();
    write_json(&mut out, value, indent, 1)?;
    Ok(out.into())
}

fn write_json(out: &mut String, value: &Value, indent: Option<usize>, depth: usize) -> Result<(), Error> {
    match value.kind() {
        ValueKind::None => out.push_str("null"),
        ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
        ValueKind::Number => out.push_str(&value.to_string()),
        ValueKind::String => write_text(out, value.as_str().unwrap_or_default())?,
        ValueKind::Seq | ValueKind::Iterable => {
            let items: Vec<Value> = value.try_iter()?.collect();
            write_items(out, ['[', ']'], &items, indent, depth, |out, item| {
                write_json(out, item, indent, depth + 1)
            })?;
        }
        ValueKind::Map => {
            let keys: Vec<Value> = value.try_iter()?.collect();
            write_items(out, ['{', '}'], &keys, indent, depth, |out, key| {
                write_text(out, &key.to_string())?;
                out.push_str(": ");
                write_json(out, &value.get_item(key)?, indent, depth + 1)
            })?;
        }
        kind => return Err(invalid(format!("a value of kind {kind} cannot become JSON"))),
    }
    Ok(())
}

fn write_text(out: &mut String, text: &str) -> Result<(), Error> {
    let json = serde_json::to_string(text).map_err(|error| invalid(error.to_string()))?;
    out.push_str(&json);
    Ok(())
}

fn write_items(
    out: &mut String,
    [open, close]: [char; 2],
    items: &[Value],
    indent: Option<usize>,
    depth: usize,
    mut write: impl FnMut(&mut String, &Value) -> Result<(), Error>,
) -> Result<(), Error> {
    let new_line = |out: &mut String, depth: usize| {
        if let Some(width) = indent.filter(|_| !items.is_empty()) {
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', width * depth));
        }
    };
    out.push(open);
    for (i, item) in items.iter().enumerate() {
        if i > 0 {
            out.push_str(if indent.is_some() { "," } else { ", " });
        }
        new_line(out, depth);
        write(out, item)?;
    }
    new_line(out, depth - 1);
    out.push(close);
    Ok(())
}

/// Methods that templates call on texts and dictionaries.
///
/// # Errors
/// `UnknownMethod` for all others, which minijinja words for the user.
pub(super) fn call_method(
    state: &mut State,
    value: &Value,
    method: &str,
    args: &[Value],
) -> Result<Value, Error> {
    if let Some(text) = value.as_str() {
        return text_method(text, method, args);
    }
    match (value.kind(), method) {
        (ValueKind::Map, "items") => state.apply_filter("items", std::slice::from_ref(value)),
        (ValueKind::Map, "keys") => Ok(value.try_iter()?.collect::<Vec<Value>>().into()),
        (ValueKind::Map, "get") => {
            let (key, default): (Value, Option<Value>) = from_args(args)?;
            let found = value.get_item(&key)?;
            Ok(if found.is_undefined() { default.unwrap_or_else(|| Value::from(())) } else { found })
        }
        _ => Err(ErrorKind::UnknownMethod.into()),
    }
}

fn text_method(text: &str, method: &str, args: &[Value]) -> Result<Value, Error> {
    let none = || from_args::<()>(args);
    Ok(match method {
        "strip" | "lstrip" | "rstrip" => {
            let (chars,): (Option<&str>,) = from_args(args)?;
            let strips = |c: char| chars.map_or(c.is_whitespace(), |chars| chars.contains(c));
            let rest = if method == "rstrip" { text } else { text.trim_start_matches(strips) };
            if method == "lstrip" { rest } else { rest.trim_end_matches(strips) }.into()
        }
        "startswith" => text.starts_with(from_args::<(&str,)>(args)?.0).into(),
        "endswith" => text.ends_with(from_args::<(&str,)>(args)?.0).into(),
        "split" => match from_args::<(Option<&str>,)>(args)?.0 {
            Some(separator) => text.split(separator).map(Value::from).collect::<Vec<Value>>().into(),
            None => text.split_whitespace().map(Value::from).collect::<Vec<Value>>().into(),
        },
        "replace" => {
            let (from, to): (&str, &str) = from_args(args)?;
            text.replace(from, to).into()
        }
        "lower" => none().map(|()| text.to_lowercase().into())?,
        "upper" => none().map(|()| text.to_uppercase().into())?,
        _ => return Err(ErrorKind::UnknownMethod.into()),
    })
}

fn invalid(message: String) -> Error {
    Error::new(ErrorKind::InvalidOperation, message)
}
