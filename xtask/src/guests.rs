//! Builds the guests: every crate under `guests/`, for wasm32-unknown-unknown, into
//! `build/<name>.wasm`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::{cargo, place, root};

/// Builds every crate under `guests/`. So a user's own guest is built as soon as it lies there.
pub(crate) fn guests() -> Result<()> {
    let packages: Vec<String> = packages(&root().join("guests"))?.into_iter().map(|(_, name)| name).collect();
    ensure!(!packages.is_empty(), "there is no crate under guests/");
    build(&packages)
}

/// Builds these packages. It does not use `--locked`: a new guest adds itself to Cargo.lock. That
/// changes nothing for the others.
pub(crate) fn build(packages: &[String]) -> Result<()> {
    let mut arguments = vec!["build", "--profile", "guest", "--target", "wasm32-unknown-unknown"];
    for package in packages {
        arguments.extend(["--package", package]);
    }
    cargo(&arguments)?;
    for package in packages {
        let file = format!("{}.wasm", package.replace('-', "_"));
        place(&format!("wasm32-unknown-unknown/guest/{file}"), &format!("{package}.wasm"))?;
    }
    Ok(())
}

/// Returns the guests that have tests with their name.
pub(crate) fn with_tests() -> Result<Vec<String>> {
    let packages = packages(&root().join("guests"))?.into_iter();
    Ok(packages
        .filter(|(place, name)| place.join("tests").join(format!("{name}.rs")).is_file())
        .map(|(_, name)| name)
        .collect())
}

/// Returns the packages in the directories of `place`, sorted: the path and the name of each.
fn packages(place: &Path) -> Result<Vec<(PathBuf, String)>> {
    let mut packages = Vec::new();
    for entry in std::fs::read_dir(place).with_context(|| format!("reading {}", place.display()))? {
        let package = entry?.path();
        let manifest = package.join("Cargo.toml");
        if manifest.is_file() {
            let text = std::fs::read_to_string(&manifest).with_context(|| format!("reading {}", manifest.display()))?;
            let name = name(&text).with_context(|| format!("{} has no line name = \"...\"", manifest.display()))?;
            packages.push((package, name));
        }
    }
    packages.sort();
    Ok(packages)
}

/// Returns the `name` in the `[package]` section of a manifest.
fn name(manifest: &str) -> Option<String> {
    let lines = manifest.lines().map(str::trim).skip_while(|line| *line != "[package]").skip(1);
    let mut fields = lines.take_while(|line| !line.starts_with('[')).filter_map(|line| line.split_once('='));
    let (_, value) = fields.find(|(field, _)| field.trim() == "name")?;
    Some(value.trim().strip_prefix('"')?.split('"').next()?.to_owned())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn every_crate_under_guests_is_found_by_the_name_of_its_package() {
        let found = packages(&root().join("guests")).unwrap();
        assert!(found.iter().any(|(place, name)| name == "kv" && place.ends_with("guests/kv")), "{found:?}");
    }

    #[test]
    fn the_guests_of_the_checkout_are_tested_as_components() {
        assert_eq!(with_tests().unwrap(), ["counter", "kv", "words"]);
    }

    #[test]
    fn the_name_is_that_of_the_package() {
        let manifest = "[lib]\nname = \"other\"\n[package]\nversion = \"1\"\nname = \"my-guest\" # mine\n";
        assert_eq!(name(manifest).unwrap(), "my-guest");
        assert_eq!(name("[package]\n[lib]\nname = \"other\"\n"), None);
    }
}
