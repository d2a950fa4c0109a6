//! Writes small Parquet files, for cases that no fixture has.

use parquet::basic::{Compression, ZstdLevel};
use parquet::column::writer::ColumnWriter;
use parquet::data_type::ByteArray;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

/// The values of one leaf column, in the order of the schema.
pub enum Leaf {
    /// Of `optional binary x`, one per row.
    Bytes(Vec<Option<Vec<u8>>>),
    /// Of `required int64 x`, one per row.
    Numbers(Vec<i64>),
    /// Of a struct's `optional binary bytes`, where the struct is there in every row.
    Pictures(Vec<Option<Vec<u8>>>),
    /// A list that is null in every one of so many rows.
    NoLists(usize),
}

/// A leaf of texts.
pub fn texts<'a>(values: impl IntoIterator<Item = &'a str>) -> Leaf {
    Leaf::Bytes(values.into_iter().map(|text| Some(text.as_bytes().to_vec())).collect())
}

/// Writes a file with one row group, compressed with Zstandard.
pub fn write(path: &Path, schema: &str, leaves: Vec<Leaf>) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let schema = Arc::new(parse_message_type(&format!("message schema {{ {schema} }}")).unwrap());
    let zstd = Compression::ZSTD(ZstdLevel::default());
    let properties = Arc::new(WriterProperties::builder().set_compression(zstd).build());
    let mut file = SerializedFileWriter::new(File::create(path).unwrap(), schema, properties).unwrap();
    let mut group = file.next_row_group().unwrap();
    for leaf in leaves {
        let mut column = group.next_column().unwrap().expect("a leaf more than the schema has");
        match (column.untyped(), leaf) {
            (ColumnWriter::ByteArrayColumnWriter(writer), Leaf::Bytes(values)) => {
                let (values, levels) = optional(values, 0);
                writer.write_batch(&values, Some(&levels), None).unwrap();
            }
            (ColumnWriter::ByteArrayColumnWriter(writer), Leaf::Pictures(values)) => {
                let (values, levels) = optional(values, 1);
                writer.write_batch(&values, Some(&levels), None).unwrap();
            }
            (ColumnWriter::Int64ColumnWriter(writer), Leaf::Numbers(values)) => {
                writer.write_batch(&values, None, None).unwrap();
            }
            (ColumnWriter::ByteArrayColumnWriter(writer), Leaf::NoLists(rows)) => {
                writer.write_batch(&[], Some(&vec![0; rows]), Some(&vec![0; rows])).unwrap();
            }
            _ => panic!("a leaf of another type than the schema says"),
        }
        column.close().unwrap();
    }
    group.close().unwrap();
    file.close().unwrap();
}

/// Values that are there, and the definition level of every row.
fn optional(values: Vec<Option<Vec<u8>>>, outer: i16) -> (Vec<ByteArray>, Vec<i16>) {
    let levels = values.iter().map(|value| outer + i16::from(value.is_some())).collect();
    (values.into_iter().flatten().map(ByteArray::from).collect(), levels)
}
