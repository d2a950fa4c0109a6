//! Rows of a Parquet file, one row group at a time and only the columns asked for.
//!
//! Knows columns ([`Column`]) and values, no dataset. Uses the `parquet` crate's record reader, so Arrow is not
//! needed; the compressions are none, Snappy and Zstandard.

use super::pictures::Pictures;
use super::schema::{Column, choose, projection};
use crate::types::Picture;
use anyhow::{Context, Result, anyhow, bail};
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::reader::TreeBuilder;
use parquet::record::{Field, Row as Record};
use parquet::schema::types::{SchemaDescPtr, SchemaDescriptor, Type, TypePtr};
use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

/// Values of a column decoded at once; small, as they may be pictures of megabytes.
const BATCH_VALUES: usize = 16;

/// The values of one row, in the order of the columns asked for.
pub(super) struct Row<'a> {
    columns: &'a [Column],
    /// What the columns are called in this file.
    names: &'a [String],
    values: Vec<Field>,
    pictures: &'a mut Pictures,
}

/// Calls `each` with every row of a file and its number, from 1.
///
/// # Errors
/// If the file cannot be read or its columns do not fit, and the first error of `each` with the row's number.
pub(super) fn for_each_row(
    path: &Path,
    columns: &[Column],
    pictures: &mut Pictures,
    mut each: impl FnMut(usize, Row) -> Result<()>,
) -> Result<()> {
    let file = File::open(path).with_context(|| format!("{} cannot be opened", path.display()))?;
    let reader =
        guarded(|| Ok(SerializedFileReader::new(file)?)).context("this is no readable Parquet file")?;
    let plan =
        guarded(|| Plan::new(reader.metadata().file_metadata().schema_descr().root_schema(), columns))?;
    let builder = TreeBuilder::new().with_batch_size(BATCH_VALUES);
    let mut number = 0;
    for group in 0..reader.num_row_groups() {
        let broken = || format!("row group {} cannot be read", group + 1);
        let group = guarded(|| Ok(reader.get_row_group(group)?)).with_context(broken)?;
        let mut records =
            guarded(|| Ok(builder.as_iter(plan.projected.clone(), &*group)?)).with_context(broken)?;
        let mut step = || guarded(|| Ok(records.next().transpose()?));
        while let Some(record) = step().with_context(|| format!("row {}", number + 1))? {
            number += 1;
            let row = Row { columns, names: &plan.names, values: plan.values(record), pictures };
            each(number, row).with_context(|| format!("row {number}"))?;
        }
    }
    Ok(())
}

/// What is read of a file.
struct Plan {
    /// What the columns asked for are called.
    names: Vec<String>,
    /// Which of them the file has.
    present: Vec<bool>,
    /// The part of the schema that is read.
    projected: SchemaDescPtr,
}

impl Plan {
    fn new(schema: &Type, columns: &[Column]) -> Result<Plan> {
        let chosen = choose(schema, columns)?;
        let name = |(column, field): (&Column, &Option<TypePtr>)| match field {
            Some(field) => field.name().to_owned(),
            None => column.role.to_owned(),
        };
        Ok(Plan {
            names: columns.iter().zip(&chosen).map(name).collect(),
            present: chosen.iter().map(Option::is_some).collect(),
            projected: Arc::new(SchemaDescriptor::new(Arc::new(projection(schema, &chosen)?))),
        })
    }

    /// The values of a record with a null where an optional column is missing.
    fn values(&self, record: Record) -> Vec<Field> {
        let mut values = record.into_columns().into_iter().map(|(_, value)| value);
        let value = |&there: &bool| if there { values.next() } else { None };
        self.present.iter().map(value).map(|value| value.unwrap_or(Field::Null)).collect()
    }
}

/// Turns a panic of the Parquet library, which some damaged files cause, into an error. (The panic's own message
/// still goes to the terminal.)
fn guarded<T>(step: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(step)).unwrap_or_else(|_| bail!("the file is damaged"))
}

impl Row<'_> {
    /// A text; null is an error.
    pub(super) fn text(&self, role: &str) -> Result<String> {
        self.optional_text(role)?.ok_or_else(|| anyhow!("column `{}` is null", self.name(role)))
    }

    /// A text or number as text; `None` for null or a missing column.
    pub(super) fn optional_text(&self, role: &str) -> Result<Option<String>> {
        Ok(match self.value(role)? {
            Field::Null => None,
            Field::Str(text) => Some(text.clone()),
            Field::Byte(number) => Some(number.to_string()),
            Field::Short(number) => Some(number.to_string()),
            Field::Int(number) => Some(number.to_string()),
            Field::Long(number) => Some(number.to_string()),
            Field::UByte(number) => Some(number.to_string()),
            Field::UShort(number) => Some(number.to_string()),
            Field::UInt(number) => Some(number.to_string()),
            Field::ULong(number) => Some(number.to_string()),
            _ => bail!("column `{}` holds something else than a text", self.name(role)),
        })
    }

    /// A list of texts; null is an empty list.
    pub(super) fn texts(&self, role: &str) -> Result<Vec<String>> {
        let text = |value: &Field| match value {
            Field::Str(text) => Ok(text.clone()),
            _ => bail!("column `{}`: a list with a null", self.name(role)),
        };
        match self.value(role)? {
            Field::Null => Ok(Vec::new()),
            Field::ListInternal(list) => list.elements().iter().map(text).collect(),
            _ => bail!("column `{}` holds something else than a list", self.name(role)),
        }
    }

    /// The pictures of a column, one or a list; null is none.
    pub(super) fn pictures(&mut self, role: &str) -> Result<Vec<Picture>> {
        let value = self.value(role)?.clone();
        let encoded = match &value {
            Field::Null => Vec::new(),
            Field::ListInternal(list) => list.elements().iter().map(bytes_of).collect(),
            single => vec![bytes_of(single)],
        };
        let mut kept = Vec::with_capacity(encoded.len());
        for bytes in encoded {
            let bytes = bytes.filter(|bytes| !bytes.is_empty()).with_context(|| {
                format!(
                    "column `{}`: a picture has no bytes; the file may hold only paths, take the version with \
                     embedded pictures",
                    self.name(role)
                )
            })?;
            kept.push(self.pictures.keep(bytes));
        }
        Ok(kept)
    }

    fn name<'n>(&'n self, role: &'n str) -> &'n str {
        self.index(role).and_then(|index| self.names.get(index)).map_or(role, String::as_str)
    }

    fn value(&self, role: &str) -> Result<&Field> {
        let value = self.index(role).and_then(|index| self.values.get(index));
        value.with_context(|| format!("no column has the role `{role}`"))
    }

    fn index(&self, role: &str) -> Option<usize> {
        self.columns.iter().position(|column| column.role == role)
    }
}

fn bytes_of(value: &Field) -> Option<&[u8]> {
    match value {
        Field::Bytes(bytes) => Some(bytes.data()),
        Field::Group(group) => group.get_column_iter().next().and_then(|(_, bytes)| bytes_of(bytes)),
        _ => None,
    }
}
