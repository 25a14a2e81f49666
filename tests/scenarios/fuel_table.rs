//! Checks that the fuel table in docs/limits.md has the values that its command measures.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use lockstep_tests::{lockstep, prices_wasm};

use crate::printed;

/// Most percent by which a price may differ from the page. Another compiler may generate slightly
/// different code.
const TOLERANCE_PERCENT: u64 = 10;
/// Difference in the number of repetitions between the two lines of a pair.
const TIMES: u64 = 1000;
/// Difference that is always allowed. A small price is rounded too much to be compared by percent.
const ROUNDING: u64 = 2;

fn checkout() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Returns name and price of each row of the page's table, in order.
fn table() -> Result<Vec<(String, u64)>> {
    let page = std::fs::read_to_string(checkout().join("docs/limits.md"))?;
    let section = page.split("## What things cost").nth(1).context("no section")?;
    let rows = section.lines().skip_while(|line| !line.starts_with("|---")).skip(1);
    let rows = rows.take_while(|line| line.starts_with('|')).map(|row| {
        let mut cells = row.split('|').skip(1).map(str::trim);
        let (what, price) = (cells.next().context("no name")?, cells.next().context("no price")?);
        Ok((what.to_owned(), price.replace(',', "").parse().with_context(|| format!("{row} has no number"))?))
    });
    rows.collect()
}

/// Returns the fuel of each line of the script.
fn measured() -> Result<Vec<u64>> {
    let script = checkout().join("guests/prices/calls.jsonl").display().to_string();
    let output = lockstep(&["guest", "bench", &prices_wasm().display().to_string(), "--script", &script, "--fuel"])?;
    ensure!(output.status.success(), "{}", printed::all(&output));
    let text = String::from_utf8(output.stdout)?;
    ensure!(!text.contains("failed") && !text.contains("refused"), "{text}");
    let lines = text.lines().skip_while(|line| !line.starts_with("line ")).skip(1).take_while(|line| !line.is_empty());
    lines.map(|line| Ok(line.split_whitespace().nth(1).context("no fuel")?.parse()?)).collect()
}

#[test]
fn the_table_of_fuel_is_what_its_command_measures() -> Result<()> {
    // The first line fills the state.
    let fuel = measured()?;
    let prices: Vec<u64> = fuel[1..].chunks_exact(2).map(|pair| (pair[1] - pair[0]).div_ceil(TIMES)).collect();
    let table = table()?;
    let shown: Vec<String> = table.iter().zip(&prices).map(|((what, _), price)| format!("{what}: {price}")).collect();
    let shown = format!("measured:\n{}", shown.join("\n"));
    ensure!(table.len() == prices.len(), "{} rows and {} measurements; {shown}", table.len(), prices.len());
    for ((what, said), price) in table.iter().zip(&prices) {
        let off = said.abs_diff(*price);
        ensure!(
            off <= ROUNDING || 100 * off <= TOLERANCE_PERCENT * price,
            "{what} is said to cost {said} and costs {price}; {shown}"
        );
    }
    Ok(())
}
