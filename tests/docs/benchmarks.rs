//! Executes the short benchmarks of `docs/benchmarks/README.md`, and looks at what they write. The
//! figures of such short runs mean little, and none of them is judged.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::{ONE_DEMO_AT_A_TIME, blocks, checkout, run, succeeded};

/// Returns the one file of a directory that ends so.
fn only_file(directory: &Path, end: &str) -> Result<String> {
    let files = std::fs::read_dir(directory)?.map(|file| Ok(file?.path())).collect::<Result<Vec<PathBuf>>>()?;
    let found: Vec<&PathBuf> = files.iter().filter(|path| path.to_string_lossy().ends_with(end)).collect();
    let [path] = found[..] else { panic!("{} files of {} end with {end}", found.len(), directory.display()) };
    Ok(std::fs::read_to_string(path)?)
}

/// Runs a short comparison, and a short run with a state that is not large. Where there is no etcd,
/// Lockstep is measured alone, and says so.
#[test]
fn the_page_on_benchmarks_does_what_it_says() -> Result<()> {
    let _turn = ONE_DEMO_AT_A_TIME.lock().unwrap();
    let (out, large) = (checkout().join("build/bench"), checkout().join("build/bench-large"));
    for out in [&out, &large] {
        if out.exists() {
            std::fs::remove_dir_all(out)?;
        }
    }
    let text = succeeded(&run(&blocks("docs/benchmarks/README.md").concat())?)?;
    check_comparison(&out, text.contains("Nothing is compared")).with_context(|| text.clone())?;
    check_large(&large).with_context(|| text.clone())
}

fn check_comparison(out: &Path, is_alone: bool) -> Result<()> {
    let page = only_file(out, ".md")?;
    let title = if is_alone { "# Lockstep alone" } else { "# Lockstep beside etcd" };
    for expected in [title, "| put, 4 clients | calls/s |", "| local_get, 4 clients | server CPU a call, us |"] {
        assert!(page.contains(expected), "{expected} is not in:\n{page}");
    }
    assert!(!page.contains("| NO |"), "puts are answered before a majority has them on disk:\n{page}");
    let raw: serde_json::Value = serde_json::from_str(&only_file(out, ".json")?)?;
    let blocks = raw["blocks"].as_array().context("the raw results have blocks")?;
    assert_eq!(blocks.len(), if is_alone { 3 } else { 6 });
    blocks.iter().for_each(check_block);
    // Three latencies, throughputs and processor times, and apply.
    let plots = std::fs::read_dir(out)?.flatten().filter(|file| file.file_name().to_string_lossy().ends_with(".svg"));
    assert_eq!(plots.count(), 10);
    Ok(())
}

fn check_large(out: &Path) -> Result<()> {
    let page = only_file(out, "-large.md")?;
    for expected in ["# Lockstep with a large state", "| puts among many keys | 20000 |", "at 2000 calls/s"] {
        assert!(page.contains(expected), "{expected} is not in:\n{page}");
    }
    let raw: serde_json::Value = serde_json::from_str(&only_file(out, "-large.json")?)?;
    let list = |name: &str| raw[name].as_array().cloned().with_context(|| format!("the raw results have {name}"));
    let (blocks, watched, restarts, joins) = (list("blocks")?, list("watched")?, list("restarts")?, list("joins")?);
    assert_eq!([blocks.len(), watched.len(), restarts.len(), joins.len()], [2, 2, 2, 1]);
    blocks.iter().for_each(check_block);
    for watched in watched {
        assert!(watched["looks"].as_u64() > Some(10) && watched["snapshots"] == 3, "{watched}");
    }
    for restart in restarts {
        assert!(restart["log_entries"].as_u64() >= Some(1000), "{restart}");
    }
    assert!(joins[0]["newcomer"]["transfer_seconds"].as_f64() > Some(0.0), "{}", joins[0]);
    Ok(())
}

fn check_block(block: &serde_json::Value) {
    assert!(
        block["report"]["calls"].as_u64() > Some(0) && block["report"]["errors"] == serde_json::json!({}),
        "{block}"
    );
    assert!(block["servers"]["cpu_us_per_call"].as_f64() > Some(0.0), "{block}");
}
