//! Passes the record of the state to the SDK's `export!`, which compares it with the state of the
//! crate. The record is the file `state.lock` beside the author's Cargo.toml; `contract` knows what
//! stands in it. This file decides nothing about a state.

use std::path::Path;
use std::{env, fs, io};

use lockstep_contract::{STATE_LOCK_FILE, StateLock};

use crate::Error;

/// Environment variable of the compiler that the SDK's macros read.
const VARIABLE: &str = "LOCKSTEP_STATE_LOCK";

/// Prints what cargo has to know. Without the file, nothing is compared.
pub(crate) fn pass_on() -> Result<(), Error> {
    let root = env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default();
    let root = Path::new(&root);
    lines(root)?.iter().for_each(|line| println!("{line}"));
    Ok(())
}

fn lines(root: &Path) -> Result<Vec<String>, Error> {
    let path = root.join(STATE_LOCK_FILE);
    let refused = |problem: String| Error::State { path: path.clone(), problem };
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // Cargo would run the build script again and again for a file that is not there. The
            // file matters once a source has changed, so the script then looks for it again.
            let sources = root.join("src");
            return Ok(if sources.is_dir() { vec![changes(&sources)] } else { Vec::new() });
        }
        Err(error) => return Err(refused(error.to_string())),
    };
    let lock = StateLock::parse(&text).map_err(|error| refused(error.to_string()))?;
    Ok(vec![changes(&path), format!("cargo:rustc-env={VARIABLE}={}", lock.compact())])
}

fn changes(path: &Path) -> String {
    format!("cargo:rerun-if-changed={}", path.display())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_record_is_passed_on_if_there_is_one() {
        let root = tempfile::tempdir().unwrap();
        assert!(lines(root.path()).unwrap().is_empty());
        fs::create_dir(root.path().join("src")).unwrap();
        let looked = lines(root.path()).unwrap();
        assert!(matches!(&looked[..], [line] if line.ends_with("/src")), "{looked:?}");
        fs::write(root.path().join(STATE_LOCK_FILE), "# mine\n1 names: Set<String>\n").unwrap();
        let passed = lines(root.path()).unwrap();
        assert!(passed[0].ends_with("/state.lock"), "{passed:?}");
        assert_eq!(passed[1], "cargo:rustc-env=LOCKSTEP_STATE_LOCK=1 Set<String>");
        fs::write(root.path().join(STATE_LOCK_FILE), "names: Set<String>\n").unwrap();
        let told = lines(root.path()).unwrap_err().to_string();
        assert!(told.contains("state.lock: line 1: `names: Set<String>` is neither"), "{told}");
    }
}
