//! Which column of a Parquet file is which: by name and by what the column holds.
//!
//! A dataset's page may not state its columns, and revisions rename them. So each column that an adapter needs
//! has a list of names and a [`Shape`]; only a column of that shape is taken, and pictures are also found by
//! their shape alone. What cannot be settled is an error that prints the file's schema.

use anyhow::{Context, Result, bail};
use parquet::basic::{ConvertedType, LogicalType, Repetition, Type as Physical};
use parquet::schema::types::{Type, TypePtr};
use std::sync::Arc;

/// What a column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// A text.
    Text,
    /// A text or a whole number.
    Label,
    /// A list of texts.
    Texts,
    /// Encoded pictures: one or a list, each a struct with `bytes` or plain binary.
    Pictures,
}

/// A column that an adapter needs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Column {
    /// Its name in the adapter.
    pub role: &'static str,
    /// Its names in files, the preferred first, in any case.
    pub names: &'static [&'static str],
    /// What it must hold.
    pub shape: Shape,
    /// Whether a file may lack it.
    pub optional: bool,
}

/// Finds each column in a file's schema, in the order asked for; `None` for an optional one that is missing.
///
/// # Errors
/// If a needed column is missing or several fit: names the column and prints the schema.
pub(super) fn choose(schema: &Type, columns: &[Column]) -> Result<Vec<Option<TypePtr>>> {
    let found = columns.iter().map(|column| find(schema.get_fields(), column));
    found.collect::<Result<_>>().with_context(|| format!("the file's columns are:\n{}", describe(schema)))
}

fn find(fields: &[TypePtr], column: &Column) -> Result<Option<TypePtr>> {
    let fitting: Vec<&TypePtr> = fields.iter().filter(|field| fits(field, column.shape)).collect();
    for name in column.names {
        let mut named = fitting.iter().filter(|field| field.name().eq_ignore_ascii_case(name));
        match (named.next(), named.next()) {
            (Some(_), Some(_)) => bail!("several columns are called {name:?}"),
            (Some(&field), None) => return Ok(Some(field.clone())),
            _ => {}
        }
    }
    match (&fitting[..], column.shape) {
        ([only], Shape::Pictures) => Ok(Some((*only).clone())),
        _ if column.optional => Ok(None),
        ([_, _, ..], Shape::Pictures) => {
            bail!("several columns hold pictures and none is called {}", column.names.join(" or "))
        }
        _ => bail!(
            "no column for `{}`: it must be called {} and hold {}",
            column.role,
            column.names.join(" or "),
            wanted(column.shape)
        ),
    }
}

fn wanted(shape: Shape) -> &'static str {
    match shape {
        Shape::Text => "texts",
        Shape::Label => "texts or whole numbers",
        Shape::Texts => "lists of texts",
        Shape::Pictures => "encoded pictures (binary, struct<bytes: binary, ...>, or lists of these)",
    }
}

fn fits(field: &Type, shape: Shape) -> bool {
    match shape {
        Shape::Text => is_text(field),
        Shape::Label => is_text(field) || is_integer(field),
        Shape::Texts => element(field).is_some_and(|element| is_text(element)),
        Shape::Pictures => is_picture(field) || element(field).is_some_and(|element| is_picture(element)),
    }
}

fn is_text(field: &Type) -> bool {
    let texts = [ConvertedType::UTF8, ConvertedType::ENUM, ConvertedType::JSON];
    is_single(field)
        && field.get_physical_type() == Physical::BYTE_ARRAY
        && texts.contains(&field.get_basic_info().converted_type())
}

fn is_integer(field: &Type) -> bool {
    let info = field.get_basic_info();
    let plain = match info.logical_type_ref() {
        Some(logical) => matches!(logical, LogicalType::Integer { .. }),
        None => !matches!(
            info.converted_type(),
            ConvertedType::DECIMAL
                | ConvertedType::DATE
                | ConvertedType::TIME_MILLIS
                | ConvertedType::TIME_MICROS
                | ConvertedType::TIMESTAMP_MILLIS
                | ConvertedType::TIMESTAMP_MICROS
        ),
    };
    is_single(field) && matches!(field.get_physical_type(), Physical::INT32 | Physical::INT64) && plain
}

fn is_binary(field: &Type) -> bool {
    let info = field.get_basic_info();
    is_single(field)
        && field.get_physical_type() == Physical::BYTE_ARRAY
        && info.converted_type() == ConvertedType::NONE
        && info.logical_type_ref().is_none()
}

fn is_picture(field: &Type) -> bool {
    is_binary(field) || picture_bytes(field).is_some()
}

/// The child `bytes` of a picture struct.
fn picture_bytes(field: &Type) -> Option<&TypePtr> {
    let info = field.get_basic_info();
    let single = info.converted_type() == ConvertedType::NONE && info.repetition() != Repetition::REPEATED;
    let bytes = || children(field).iter().find(|child| child.name() == "bytes" && is_binary(child));
    if single { bytes() } else { None }
}

fn is_single(field: &Type) -> bool {
    field.is_primitive() && field.get_basic_info().repetition() != Repetition::REPEATED
}

/// The element of a three-level list, the form that Arrow writes.
fn element(field: &Type) -> Option<&TypePtr> {
    let [repeated] = children(field) else { return None };
    let [element] = children(repeated) else { return None };
    let repeats = |field: &Type| field.get_basic_info().repetition() == Repetition::REPEATED;
    let old_form = repeated.name() == "array" || repeated.name().ends_with("_tuple");
    let list = field.get_basic_info().converted_type() == ConvertedType::LIST;
    (list && repeats(repeated) && !repeats(field) && !repeats(element) && !old_form).then_some(element)
}

/// The children of a group; a primitive has none.
fn children(field: &Type) -> &[TypePtr] {
    if field.is_group() { field.get_fields() } else { &[] }
}

/// The part of a schema that has to be read: the chosen columns, of picture structs only the bytes.
pub(super) fn projection(schema: &Type, chosen: &[Option<TypePtr>]) -> Result<Type> {
    let fields = chosen.iter().flatten().map(reduced).collect::<Result<_>>()?;
    Ok(Type::group_type_builder(schema.name()).with_fields(fields).build()?)
}

fn reduced(field: &TypePtr) -> Result<TypePtr> {
    if let Some(bytes) = picture_bytes(field) {
        return with_children(field, vec![bytes.clone()]);
    }
    match (element(field), children(field)) {
        (Some(element), [repeated]) => {
            let repeated = with_children(repeated, vec![reduced(element)?])?;
            with_children(field, vec![repeated])
        }
        _ => Ok(field.clone()),
    }
}

fn with_children(group: &Type, fields: Vec<TypePtr>) -> Result<TypePtr> {
    let info = group.get_basic_info();
    let built = Type::group_type_builder(group.name())
        .with_repetition(info.repetition())
        .with_converted_type(info.converted_type())
        .with_logical_type(info.logical_type_ref().cloned())
        .with_fields(fields)
        .build()?;
    Ok(Arc::new(built))
}

/// A schema, one line `name: type` per column.
fn describe(schema: &Type) -> String {
    let lines = schema.get_fields().iter().map(|field| format!("  {}: {}", field.name(), type_name(field)));
    lines.collect::<Vec<_>>().join("\n")
}

fn type_name(field: &Type) -> String {
    if let Some(element) = element(field) {
        return format!("list<{}>", type_name(element));
    }
    if field.is_group() {
        let child = |child: &TypePtr| format!("{}: {}", child.name(), type_name(child));
        let parts: Vec<String> = children(field).iter().map(child).collect();
        return format!("struct<{}>", parts.join(", "));
    }
    let name = match field.get_physical_type() {
        _ if is_text(field) => "string",
        _ if is_binary(field) => "binary",
        physical => return physical.to_string().to_lowercase(),
    };
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use parquet::schema::parser::parse_message_type;

    const HUB: &str = "message schema {
        optional binary Question (UTF8);
        optional int64 id;
        optional int32 path_of_null (UNKNOWN);
        optional binary image (UTF8);
        optional group decoded_image { optional binary bytes; optional binary path (UTF8); }
        optional group options (LIST) { repeated group list { optional binary element (UTF8); } }
        optional group images (LIST) { repeated group list { optional group element {
            optional binary bytes; optional int32 path; } } }
        optional binary raw;
        optional double score;
    }";

    const fn column(role: &'static str, names: &'static [&'static str], shape: Shape) -> Column {
        Column { role, names, shape, optional: false }
    }

    fn chosen(schema: &Type, column: Column) -> Result<String> {
        Ok(choose(schema, &[column])?[0].as_ref().map_or("-".to_owned(), |field| field.name().to_owned()))
    }

    #[test]
    fn a_column_is_taken_by_name_and_shape() {
        let schema = parse_message_type(HUB).unwrap();
        for (names, shape, name) in [
            (&["question"] as &[&str], Shape::Text, "Question"),
            (&["problem", "question"], Shape::Text, "Question"),
            (&["id"], Shape::Label, "id"),
            (&["options"], Shape::Texts, "options"),
            (&["image", "decoded_image"], Shape::Pictures, "decoded_image"),
            (&["images", "image"], Shape::Pictures, "images"),
            (&["raw"], Shape::Pictures, "raw"),
        ] {
            let names: &'static [&'static str] = names.to_vec().leak();
            assert_eq!(chosen(&schema, column("x", names, shape)).unwrap(), name);
        }
        for names in [&["id"] as &[&str], &["score"], &["decoded_image"]] {
            let names: &'static [&'static str] = names.to_vec().leak();
            assert!(chosen(&schema, column("x", names, Shape::Text)).is_err(), "{names:?}");
        }
        let optional = Column { optional: true, ..column("x", &["qid"], Shape::Label) };
        assert_eq!(chosen(&schema, optional).unwrap(), "-");
    }

    #[test]
    fn what_cannot_be_settled_prints_the_schema() {
        let schema = parse_message_type(HUB).unwrap();
        let error = format!(
            "{:#}",
            choose(&schema, &[column("answer", &["answer", "label"], Shape::Text)]).unwrap_err()
        );
        for part in [
            "no column for `answer`: it must be called answer or label and hold texts",
            "  Question: string\n  id: int64\n",
            "  decoded_image: struct<bytes: binary, path: string>\n  options: list<string>\n",
            "  images: list<struct<bytes: binary, path: int32>>\n  raw: binary\n  score: double",
        ] {
            assert!(error.contains(part), "{part:?} is not in {error}");
        }
        let error =
            format!("{:#}", choose(&schema, &[column("pictures", &["photo"], Shape::Pictures)]).unwrap_err());
        assert!(error.contains("several columns hold pictures and none is called photo"), "{error}");
    }

    #[test]
    fn the_only_picture_column_is_found_whatever_its_name() {
        let text =
            "message schema { optional binary a (UTF8); optional group photo { optional binary bytes; } }";
        let schema = parse_message_type(text).unwrap();
        assert_eq!(chosen(&schema, column("pictures", &["image"], Shape::Pictures)).unwrap(), "photo");
    }

    #[test]
    fn of_pictures_only_the_bytes_are_read() {
        let schema = parse_message_type(HUB).unwrap();
        let wanted =
            [column("a", &["decoded_image"], Shape::Pictures), column("b", &["images"], Shape::Pictures)];
        let read = projection(&schema, &choose(&schema, &wanted).unwrap()).unwrap();
        assert_eq!(
            describe(&read),
            "  decoded_image: struct<bytes: binary>\n  images: list<struct<bytes: binary>>"
        );
        assert!(schema.check_contains(&read));
    }
}
