//! Looks at the files that decide who may do what, and tells when the content of one has changed.
//! Knows nothing of what stands in them.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// A file that is looked at again and again.
#[derive(Debug)]
pub(super) struct Watched {
    /// The flag that names it.
    pub(super) flag: &'static str,
    path: PathBuf,
    bytes_max: usize,
    /// What the last look found: a hash of the content, or why there was none.
    seen: Result<[u8; 32], String>,
    /// The same of what was returned last.
    told: Result<[u8; 32], String>,
}

impl Watched {
    /// Looks at the file for the first time, and returns its content.
    pub(super) fn open(flag: &'static str, path: &Path, bytes_max: usize) -> Result<(Watched, String), String> {
        let text = read(path, bytes_max)?;
        let seen = Ok(hash(&text));
        Ok((Watched { flag, path: path.to_owned(), bytes_max, told: seen.clone(), seen }, text))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the content if it is another one than was returned last, or why there is none, if
    /// that is new. A file may be half written, so a content counts only once two looks in a row
    /// have found the same.
    pub(super) fn look(&mut self) -> Option<Result<String, String>> {
        let found = read(&self.path, self.bytes_max);
        let seen = found.as_ref().map(|text| hash(text)).map_err(Clone::clone);
        let is_settled = std::mem::replace(&mut self.seen, seen.clone()) == seen;
        if !is_settled || self.told == seen {
            return None;
        }
        self.told = seen;
        Some(found)
    }
}

fn hash(text: &str) -> [u8; 32] {
    *blake3::hash(text.as_bytes()).as_bytes()
}

fn read(path: &Path, bytes_max: usize) -> Result<String, String> {
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|error| format!("it cannot be opened: {error}"))?;
    let read = file.take(bytes_max as u64 + 1).read_to_end(&mut bytes);
    read.map_err(|error| format!("it cannot be read: {error}"))?;
    if bytes.len() > bytes_max {
        return Err(format!("it is larger than {bytes_max} bytes"));
    }
    String::from_utf8(bytes).map_err(|_| "it is no text in UTF-8".into())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Looks until a content that stays as it is counts.
    fn settled(file: &mut Watched) -> Option<Result<String, String>> {
        assert_eq!(file.look(), None, "it may be half written");
        file.look()
    }

    #[test]
    fn a_change_is_told_once() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("policy");
        assert!(Watched::open("--policy", &path, 8).unwrap_err().contains("cannot be opened"));
        std::fs::write(&path, "one").unwrap();
        let (mut file, text) = Watched::open("--policy", &path, 8).unwrap();
        assert_eq!((text.as_str(), settled(&mut file)), ("one", None));
        std::fs::write(&path, "two").unwrap();
        assert_eq!((settled(&mut file), file.look()), (Some(Ok("two".into())), None));
        std::fs::write(&path, "far too long").unwrap();
        assert_eq!((settled(&mut file), file.look()), (Some(Err("it is larger than 8 bytes".into())), None));
        std::fs::remove_file(&path).unwrap();
        assert!(settled(&mut file).unwrap().is_err() && file.look().is_none());
        std::fs::write(&path, "two").unwrap();
        assert_eq!((settled(&mut file), file.look()), (Some(Ok("two".into())), None), "it is back");
        std::fs::write(&path, b"\xff").unwrap();
        assert_eq!(settled(&mut file), Some(Err("it is no text in UTF-8".into())));
    }

    #[test]
    fn a_half_written_file_does_not_count() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("policy");
        std::fs::write(&path, "one").unwrap();
        let (mut file, _) = Watched::open("--policy", &path, 8).unwrap();
        std::fs::write(&path, "tw").unwrap();
        assert_eq!(file.look(), None);
        std::fs::write(&path, "two").unwrap();
        assert_eq!((file.look(), file.look()), (None, Some(Ok("two".into()))));
        std::fs::write(&path, "").unwrap();
        assert_eq!(file.look(), None);
        std::fs::write(&path, "two").unwrap();
        assert_eq!((file.look(), file.look()), (None, None), "nothing has changed");
    }
}
