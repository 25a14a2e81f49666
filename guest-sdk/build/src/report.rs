//! Formats the errors of the compiler of `.proto` files as `file:line:column: …`, with hints.
//! Compiles nothing and reads no files; it only checks on disk where an import is.

use std::fmt;
use std::path::{Path, PathBuf};

use miette::{Diagnostic, SourceCode};
use prost_reflect::FileDescriptor;

use crate::OPTIONS_PROTO_NAME;

/// Types that come with protobuf, and the files that declare them.
const GOOGLE: [(&str, &str); 17] = [
    ("Any", "any"),
    ("Duration", "duration"),
    ("Empty", "empty"),
    ("FieldMask", "field_mask"),
    ("Struct", "struct"),
    ("ListValue", "struct"),
    ("Value", "struct"),
    ("Timestamp", "timestamp"),
    ("BoolValue", "wrappers"),
    ("BytesValue", "wrappers"),
    ("DoubleValue", "wrappers"),
    ("FloatValue", "wrappers"),
    ("Int32Value", "wrappers"),
    ("Int64Value", "wrappers"),
    ("StringValue", "wrappers"),
    ("UInt32Value", "wrappers"),
    ("UInt64Value", "wrappers"),
];

/// A place in a `.proto`. Lines and columns count from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file, as others import it or as a path on disk.
    pub file: String,
    /// Line.
    pub line: usize,
    /// Column, in bytes.
    pub column: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

impl Place {
    /// Returns the place with the file's path on disk, which editors and terminals can open.
    pub(crate) fn on_disk(self, includes: &[impl AsRef<Path>]) -> Place {
        Place { file: on_disk(&self.file, includes), ..self }
    }
}

/// Returns the place of the declaration with this path. It comes from the source info, which only a
/// build keeps.
pub(crate) fn place(file: &FileDescriptor, path: &[i32]) -> Option<Place> {
    let info = file.file_descriptor_proto().source_code_info.as_ref()?;
    let location = info.location.iter().find(|location| location.path == path)?;
    let from_one = |zero: &i32| usize::try_from(*zero).ok().map(|zero| zero + 1);
    let (line, column) = (from_one(location.span.first()?)?, from_one(location.span.get(1)?)?);
    Some(Place { file: file.name().to_owned(), line, column })
}

/// Returns all errors, one line each, then the hints.
pub(crate) fn text(error: &protox::Error, includes: &[impl AsRef<Path>]) -> String {
    let source = error.source_code();
    let file = error.file().map(|file| on_disk(file, includes));
    let mut lines = vec![line(error, source, file.as_deref())];
    for related in error.related().into_iter().flatten() {
        lines.push(line(related, source, file.as_deref()));
    }
    if let Some((place, _)) =
        lines[0].split_once(": expected 'enum'").filter(|(_, rest)| rest.ends_with("found 'edition'"))
    {
        lines = vec![format!("{place}: editions are not understood here")];
    }
    let mut hints: Vec<String> = error.help().map(|help| help.to_string()).into_iter().collect();
    hints.extend(hint(&lines.join("\n"), includes));
    lines.extend(hints.iter().map(|hint| format!("  hint: {hint}")));
    lines.join("\n")
}

fn line(error: &dyn Diagnostic, source: Option<&dyn SourceCode>, file: Option<&str>) -> String {
    let span = error.labels().and_then(|mut labels| labels.next());
    let found = span.zip(source).and_then(|(span, source)| source.read_span(span.inner(), 0, 0).ok());
    // An error while reading a file has its reason in its cause.
    let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
    match (file, found) {
        (Some(file), Some(found)) => format!("{file}:{}:{}: {error}", found.line() + 1, found.column() + 1),
        (Some(file), None) => format!("{file}: {error}{cause}"),
        (None, _) => format!("{error}{cause}"),
    }
}

fn hint(text: &str, includes: &[impl AsRef<Path>]) -> Option<String> {
    let google = GOOGLE.iter().find(|(name, _)| text.contains(&format!("'google.protobuf.{name}'")));
    if let (Some((_, file)), true) = (google, text.contains("not defined")) {
        return Some(format!("add `import \"google/protobuf/{file}.proto\";` below the syntax line"));
    }
    if text.contains("editions are not understood") {
        return Some(
            "write `syntax = \"proto3\";` in place of the edition, `optional` before each singular field that tells unset from zero, and no \
             `features`; what is sent stays the same, but for features that change the encoding"
                .to_owned(),
        );
    }
    if text.contains("'lockstep.") && text.contains("is not defined") {
        return Some(format!("add `import \"{OPTIONS_PROTO_NAME}\";` below the syntax line"));
    }
    if text.contains("lockstep.method)") || text.contains("'lockstep.") {
        return Some(
            "kind is COMMAND, QUERY or WATCH; of a query or a watch, consistency is LINEARIZABLE or LOCAL, or consistency_field names \
             a bool field of the request"
                .to_owned(),
        );
    }
    if text.contains("import '") && text.contains("not found") {
        let looked: Vec<String> = includes.iter().map(|include| absolute(include.as_ref())).collect();
        return Some(format!(
            "looked in {}, and among {OPTIONS_PROTO_NAME} and google/protobuf/*.proto, which are built in",
            looked.join(", ")
        ));
    }
    None
}

/// Returns the path of an imported file. A name that is in no include directory is returned
/// unchanged.
fn on_disk(name: &str, includes: &[impl AsRef<Path>]) -> String {
    let candidates = includes.iter().map(|include| include.as_ref().join(name));
    let found: Option<PathBuf> = candidates.into_iter().find(|path| path.is_file());
    let found = found.map(|path| path.strip_prefix(".").map(Path::to_owned).unwrap_or(path));
    found.map_or_else(|| name.to_owned(), |path| path.display().to_string())
}

pub(crate) fn absolute(path: &Path) -> String {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned()).display().to_string()
}
