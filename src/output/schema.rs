//! The JSON Schema of [JSON lines](super::json), for whoever reads them with a program.
//!
//! Owns the document; the keys, their types and meanings are those of
//! [`columns`](super::columns) and [`loss`](crate::loss).

use serde_json::{Map, Value, json};

use super::columns::{COLUMNS, Column};
use super::grouped;
use super::json::SCHEMA;
use crate::loss::LossCause;

/// The document (JSON Schema 2020-12). It describes every key that an object may have:
/// which of the columns are there depends on `--columns` and `--by`. Newer versions may add
/// keys, so others are not forbidden.
pub fn schema() -> String {
    let mut keys = Map::new();
    keys.insert("schema".into(), json!({ "const": SCHEMA }));
    let events = ["sample", "closed", "expired", "group", "lost"];
    keys.insert("event".into(), json!({ "enum": events }));
    for column in COLUMNS.iter().chain(grouped::own()) {
        keys.insert(column.name.into(), of_column(column));
    }
    let mut lost = Map::new();
    for cause in LossCause::ALL {
        lost.insert(cause.name().into(), json!({ "type": "integer", "minimum": 0 }));
    }
    let causes: Vec<&String> = lost.keys().collect();
    let document = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A line of tcptop --format json",
        "type": "object",
        "required": ["schema", "event"],
        "properties": keys,
        "if": { "properties": { "event": { "const": "lost" } } },
        "then": { "required": causes, "properties": lost },
    });
    // A value can always be written.
    serde_json::to_string_pretty(&document).unwrap_or_default() + "\n"
}

fn of_column(column: &Column) -> Value {
    let unit = if column.unit.is_empty() { String::new() } else { format!(" ({})", column.unit) };
    json!({
        "description": format!("{}{unit}", column.about),
        "type": [column.kind.name(), "null"],
    })
}
