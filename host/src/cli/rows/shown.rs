//! Rows and keys as other commands show them: as the lines of an export, by what the guest says
//! about its state. A guest that says nothing has its rows shown as bytes.

use super::described::Described;
use super::line;
use super::shape::Collection;
use crate::cli::json::Tree;

/// Names of the parts of a line that are of the value.
const VALUE_PARTS: [&str; 2] = ["value", "raw_value"];

/// What the rows of a guest are.
pub(in crate::cli) struct RowShapes(Vec<Collection>);

impl RowShapes {
    /// Reads what an encoded component says.
    pub(in crate::cli) fn of(encoded: &[u8]) -> RowShapes {
        RowShapes(Described::new(encoded).map(|described| described.collections).unwrap_or_default())
    }

    /// Shows a row.
    pub(in crate::cli) fn row(&self, key: &[u8], value: &[u8]) -> Tree {
        line::show(&self.0, key, value).json
    }

    /// Shows the key of a row.
    pub(in crate::cli) fn key(&self, key: &[u8]) -> Tree {
        match self.row(key, &[]) {
            Tree::Object(pairs) => {
                Tree::Object(pairs.into_iter().filter(|(name, _)| !VALUE_PARTS.contains(&name.as_str())).collect())
            }
            other => other,
        }
    }
}
