//! The results of a benchmark in words: the page in Markdown, and the lines that are printed while
//! it runs. It computes no figure, apart from whether a target was reached.

use super::applied::Applied;
use super::conditions::Conditions;
use super::figures::{Block, Load, Quantity, Results, Spread, System};
use super::syncs::{SYNCS_A_PUT_MIN, Syncs};

/// Two bounds of a figure.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) must: f64,
    pub(super) goal: f64,
    pub(super) is_better_high: bool,
}

impl Bounds {
    /// Says which of the bounds a figure reaches.
    pub(super) fn reached_by(self, figure: f64) -> &'static str {
        let reaches = |bound: f64| if self.is_better_high { figure >= bound } else { figure <= bound };
        match (reaches(self.goal), reaches(self.must)) {
            (true, _) => "goal",
            (false, true) => "must",
            (false, false) => "no",
        }
    }
}

/// Part by which the machine's own speed before a block may differ from the median before the block
/// is called a noisy one.
const NOISE_MAX: f64 = 0.15;

/// A ratio that Lockstep is to reach.
struct Target {
    operation: &'static str,
    clients: u64,
    quantity: Quantity,
    must: f64,
    goal: f64,
}

const fn target(operation: &'static str, clients: u64, quantity: Quantity, must: f64, goal: f64) -> Target {
    Target { operation, clients, quantity, must, goal }
}

const TARGETS: [Target; 14] = [
    target("get", 64, Quantity::CallsPerSecond, 1.5, 2.2),
    target("get", 64, Quantity::Cpu, 0.6, 0.35),
    target("get", 1, Quantity::P50, 0.8, 0.6),
    target("put", 1, Quantity::P50, 0.85, 0.7),
    target("put", 1, Quantity::Cpu, 0.7, 0.5),
    target("put", 64, Quantity::CallsPerSecond, 1.7, 2.2),
    target("put", 64, Quantity::P99, 0.6, 0.35),
    target("put", 64, Quantity::Cpu, 0.4, 0.25),
    target("put", 64, Quantity::BytesWritten, 0.45, 0.35),
    target("put", 256, Quantity::CallsPerSecond, 1.9, 2.2),
    target("put", 256, Quantity::P99, 0.6, 0.35),
    target("put", 256, Quantity::Cpu, 0.4, 0.25),
    target("put", 256, Quantity::Resident, 0.8, 0.5),
    target("local_get", 64, Quantity::Cpu, 0.6, 0.35),
];

impl Target {
    fn of(load: &Load, quantity: Quantity) -> Option<&'static Target> {
        let is_it = |target: &&Target| {
            target.operation == load.operation && target.clients == load.clients && target.quantity == quantity
        };
        TARGETS.iter().find(is_it)
    }

    fn reached_by(&self, ratio: f64) -> &'static str {
        let is_better_high = self.quantity.is_better_high();
        Bounds { must: self.must, goal: self.goal, is_better_high }.reached_by(ratio)
    }
}

/// Returns the page about a benchmark. `plots` has the name and the title of each plot beside it.
pub(super) fn page(results: &Results, plots: &[(String, String)]) -> String {
    let conditions = &results.conditions;
    let title = if conditions.etcd.is_some() { "Lockstep beside etcd" } else { "Lockstep alone" };
    let mut page = format!("# {title}, {}\n\n", conditions.date);
    page += "`cargo xtask bench` has made this page. `docs/benchmarks/README.md` says what its figures\n";
    page += "mean, and what they do not show.\n\n## Conditions\n\n";
    page += &conditions_table(conditions);
    page += "\n## Figures\n\n";
    page += "Each figure is the median over the rounds, with the lowest and the highest. A ratio is\n";
    page += "Lockstep's figure divided by etcd's of the same round.\n\n";
    page += &figures(results);
    page += "\n## Durability\n\n";
    page += &syncs_table(results);
    page += "\n## The machine\n\n";
    page += &machine(results);
    if let Some(applied) = &results.applied {
        page += &format!("\n## Apply\n\n{}\n", applied_line(applied).replace(". ", ".\n"));
    }
    page += "\n## Plots\n\n";
    for (name, title) in plots {
        page += &format!("![{title}]({name})\n");
    }
    page
}

/// Returns the table of the conditions.
pub(super) fn conditions_table(conditions: &Conditions) -> String {
    let seconds = format!("{} of {} s for each load and system", conditions.rounds, conditions.seconds);
    let cores = conditions.cores.to_string();
    let rows: [(&str, &str); 12] = [
        ("commit", &conditions.commit),
        ("Lockstep", &conditions.lockstep),
        ("etcd", conditions.etcd.as_deref().unwrap_or("not measured")),
        ("processor", &conditions.cpu),
        ("cores", &cores),
        ("memory", &conditions.memory),
        ("kernel", &conditions.kernel),
        ("file system", &conditions.file_system),
        ("disk", &conditions.disk),
        ("load average before", &conditions.load_average_before),
        ("load average after", &conditions.load_average_after),
        ("blocks", &seconds),
    ];
    let mut table = "| condition | |\n|---|---|\n".to_owned();
    for (name, value) in rows {
        // A bar would end the cell.
        table += &format!("| {name} | {} |\n", value.replace('|', "\\|"));
    }
    if conditions.is_in_memory() {
        table += "\nThe files were in memory, where a sync costs nothing. The puts say nothing about a disk.\n";
    }
    table
}

/// Returns the table of all figures, with ratios where there are two systems.
pub(super) fn figures(results: &Results) -> String {
    let mut table = "| load | figure | Lockstep | etcd | ratio | must | goal | reached |\n".to_owned();
    table += "|---|---|---|---|---|---|---|---|\n";
    for load in &results.loads {
        for quantity in Quantity::ALL.into_iter().filter(|quantity| is_shown(results, load, *quantity)) {
            table += &row(results, load, quantity);
        }
    }
    table
}

/// Bytes are those of loads that write. Memory is shown once, behind the largest load of puts.
fn is_shown(results: &Results, load: &Load, quantity: Quantity) -> bool {
    let most = results.loads.iter().filter(|load| load.operation == "put").map(|load| load.clients).max();
    match quantity {
        Quantity::BytesWritten => matches!(load.operation.as_str(), "put" | "mixed"),
        Quantity::Resident | Quantity::ResidentAnonymous => load.operation == "put" && Some(load.clients) == most,
        _ => true,
    }
}

fn row(results: &Results, load: &Load, quantity: Quantity) -> String {
    let of = |system| results.spread(system, load, quantity);
    let ratio = results.ratio(load, quantity);
    let target = Target::of(load, quantity);
    let sign = if quantity.is_better_high() { ">=" } else { "<=" };
    let bound = |bound: Option<f64>| bound.map_or_else(String::new, |bound| format!("{sign} {bound}"));
    let reached = target.zip(ratio).map_or("", |(target, ratio)| target.reached_by(ratio.median));
    format!(
        "| {load} | {} | {} | {} | {} | {} | {} | {reached} |\n",
        quantity.words(),
        spread(of(System::Lockstep)),
        spread(of(System::Etcd)),
        spread(ratio),
        bound(target.map(|target| target.must)),
        bound(target.map(|target| target.goal)),
    )
}

fn syncs_table(results: &Results) -> String {
    let mut text = "One client puts, and strace counts each fsync and fdatasync of the three processes. A put that\n\
                    a majority has on disk needs at least two.\n\n"
        .to_owned();
    text += "| system | puts | syncs of each process | syncs a put | on a majority's disks |\n|---|---|---|---|---|\n";
    for (system, counted) in &results.syncs {
        text += &match counted {
            Syncs::Counted { calls, syncs } => {
                let each: Vec<String> = syncs.iter().map(u64::to_string).collect();
                let a_put = syncs.iter().sum::<u64>() as f64 / *calls as f64;
                let is_durable = if counted.are_durable() == Some(true) { "yes" } else { "NO" };
                format!("| {} | {calls} | {} | {a_put:.2} | {is_durable} |\n", system.name(), each.join(", "))
            }
            Syncs::NotCounted(why) => {
                let why = why.replace('|', "\\|").replace('\n', " ");
                format!("| {} | | | | not counted: {why} |\n", system.name())
            }
        };
    }
    text
}

/// Returns what the machine did before the blocks, and what went wrong in them.
fn machine(results: &Results) -> String {
    let mut text = "Before each block, 256 bytes are written and synced, and sent over loopback and back, again\n\
                    and again. These are medians of a block's loop, in microseconds.\n\n"
        .to_owned();
    text += "| before the blocks of | fdatasync | echo | calls that failed |\n|---|---|---|---|\n";
    for system in System::ALL {
        let blocks = || results.blocks.iter().filter(move |block| block.system == system);
        let syncs = Spread::of(blocks().map(|block| block.calibration.fdatasync_us.p50));
        let echoes = Spread::of(blocks().map(|block| block.calibration.echo_us.p50));
        if blocks().next().is_some() {
            let errors = results.errors(system);
            text += &format!("| {} | {} | {} | {errors} |\n", system.name(), spread(syncs), spread(echoes));
        }
    }
    let percent = NOISE_MAX * 100.0;
    text += &format!(
        "\nBefore {} of {} blocks, one of the two differed by more than {percent:.0} % from its median over the\n\
         run. Such blocks are counted like all others.\n",
        noisy(&results.blocks),
        results.blocks.len(),
    );
    text
}

/// Returns how many blocks found a machine that was faster or slower than usual.
fn noisy(blocks: &[Block]) -> usize {
    let figures: [fn(&Block) -> f64; 2] =
        [|block| block.calibration.fdatasync_us.p50, |block| block.calibration.echo_us.p50];
    let medians = figures.map(|figure| Spread::of(blocks.iter().map(figure)).map_or(f64::NAN, |spread| spread.median));
    let differs = |block: &&Block| {
        figures.iter().zip(medians).any(|(figure, median)| (figure(block) / median - 1.0).abs() > NOISE_MAX)
    };
    blocks.iter().filter(differs).count()
}

/// Returns the line about a block that has just ended.
pub(super) fn line(block: &Block) -> String {
    let of = |quantity: Quantity| number(quantity.of(block));
    let errors: u64 = block.report.errors.values().sum();
    let failed = if errors == 0 { String::new() } else { format!(", {errors} FAILED") };
    format!(
        "{:<9} {:<24} {:>7} calls/s, p50 {} ms, p99 {} ms, CPU {} us{failed}",
        block.system.name(),
        block.load.to_string(),
        of(Quantity::CallsPerSecond),
        of(Quantity::P50),
        of(Quantity::P99),
        of(Quantity::Cpu),
    )
}

/// Returns the line about the syncs of a system.
pub(super) fn syncs_line(system: System, counted: &Syncs) -> String {
    let name = system.name();
    match counted {
        Syncs::Counted { calls, syncs } => {
            let sum: u64 = syncs.iter().sum();
            let verdict = match counted.are_durable() {
                Some(true) => "each put was on the disks of a majority",
                _ => "TOO FEW: puts are answered before a majority has them on disk",
            };
            format!("{name:<9} {sum} syncs for {calls} puts (at least {SYNCS_A_PUT_MIN} each): {verdict}")
        }
        Syncs::NotCounted(why) => format!("{name:<9} not counted: {why}"),
    }
}

/// Returns the line about apply.
pub(super) fn applied_line(applied: &Applied) -> String {
    let entries: u64 = applied.points.iter().map(|point| point.entries).sum();
    let flushes: u64 = applied.points.iter().map(|point| point.flushes).sum();
    let longest = applied.longest_pause() * 1000.0;
    let pause = if longest > 0.0 {
        format!("Apply stood still for {longest:.0} ms at most.")
    } else {
        "Apply never stood still from one look to the next.".to_owned()
    };
    format!("{}: the leader applied {entries} entries, with {flushes} flushes. {pause}", applied.load)
}

/// Returns a median with the ends around it; nothing if there is none.
pub(super) fn spread(spread: Option<Spread>) -> String {
    let Some(Spread { median, min, max }) = spread else { return String::new() };
    if min == max {
        return number(median);
    }
    format!("{} ({} to {})", number(median), number(min), number(max))
}

/// Returns a number with about three digits, or all that stand before the point.
pub(super) fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
