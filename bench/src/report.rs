//! Figures from what the processes of the generator and the kernel have to say.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use crate::checks::Faults;
use crate::{
    checks::judge,
    procs::{Sample, Usage},
    run::{Moment, Raw},
};

/// Figures by name. The unit is the end of the name, or the name says it: `cpu_s_per_million_deliveries`.
pub type Figures = BTreeMap<String, f64>;

/// What a command has measured, as `--json` writes it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// Name of the scenario.
    pub scenario: String,
    /// What was measured: a deployment, or URLs.
    pub target: String,
    /// The arguments.
    pub parameters: serde_json::Value,
    /// Each run.
    pub runs: Vec<Run>,
    /// The median over the valid runs, figure by figure.
    pub median: Figures,
}

/// One run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Run {
    /// False: a loss, a double, an error, or another order where one is promised. Its figures do not count.
    pub valid: bool,
    /// What was measured.
    pub figures: Figures,
    /// What was wrong.
    pub faults: Faults,
}

impl Report {
    /// Whether every run counts.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        self.runs.iter().all(|run| run.valid)
    }

    /// Whether people want to see it; JSON has everything.
    fn is_told(&self, name: &str) -> bool {
        let has = |name: &str| self.median.contains_key(name);
        let memory = ["resident", "proportional", "kernel"];
        let memory = memory.iter().any(|kind| name.starts_with(kind));
        let of_one_process = name.contains('.');
        let processes = self
            .median
            .keys()
            .filter(|name| name.starts_with("cpu_s."))
            .count();
        let of_acks = name.ends_with("_acks") && has("deliveries");
        !(memory && !matches!(&*self.scenario, "idle" | "mixed")
            || of_one_process && (processes < 2 || !name.contains("_per_"))
            || of_acks
            || name.ends_with("_p90")
            || name.contains("_acks.") && has("deliveries")
            || matches!(name, "recovered") && self.scenario != "storm"
            || matches!(name, "left") && !matches!(&*self.scenario, "churn" | "mixed"))
    }

    /// The table for people.
    #[must_use]
    pub fn table(&self) -> String {
        use std::fmt::Write;
        let mut table = format!("{} on {}\n", self.scenario, self.target);
        let names: Vec<_> = self.median.keys().filter(|name| self.is_told(name)).collect();
        let width = names.iter().map(|name| name.len()).max().unwrap_or(0);
        for name in names {
            // Writing to a String does not fail.
            let _ = write!(table, "  {name:width$} {:>12}", shown(self.median[name]));
            if self.runs.len() > 1 {
                for run in &self.runs {
                    let one = run.figures.get(name).map(|one| shown(*one));
                    let _ = write!(table, " {:>12}", one.unwrap_or_default());
                }
            }
            table.push('\n');
        }
        for (number, run) in (1..).zip(&self.runs) {
            let faults = run.faults;
            let _ = writeln!(
                table,
                "  run {number}: {}; lost {}, doubled {}, reordered {}, members with another order {}, stray {}, errors {}",
                if run.valid { "valid" } else { "INVALID" },
                faults.lost,
                faults.doubled,
                faults.reordered,
                faults.order_differs,
                faults.stray,
                faults.errors
            );
        }
        table
    }
}

fn shown(figure: f64) -> String {
    match figure.abs() {
        1000.0.. => format!("{figure:.0}"),
        10.0.. => format!("{figure:.1}"),
        _ => format!("{figure:.3}"),
    }
}

/// The median of each figure.
#[must_use]
pub fn median(runs: &[Run]) -> Figures {
    let mut all: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    let valid = runs.iter().filter(|run| run.valid);
    for (name, figure) in valid.flat_map(|run| &run.figures) {
        all.entry(name).or_default().push(*figure);
    }
    all.into_iter()
        .map(|(name, mut figures)| {
            figures.sort_by(f64::total_cmp);
            let half = figures.len() / 2;
            let median = if figures.len() % 2 == 1 {
                figures[half]
            } else {
                f64::midpoint(figures[half - 1], figures[half])
            };
            (name.to_owned(), median)
        })
        .collect()
}

/// Puts the processes of the generator together.
pub(crate) fn merge(raws: &[Raw], samples: &[(Moment, Sample)], one_order: bool) -> Run {
    let mut figures = Figures::new();
    let mut faults = Faults::default();
    for raw in raws {
        faults.add(raw.faults);
    }
    let groups = raws.first().map_or(0, |raw| raw.rooms.len());
    for group in 0..groups {
        let rooms = raws[0].rooms[group].1.len();
        faults.add(judge(
            (0..rooms).map(|room| raws.iter().map(|raw| &raw.rooms[group].1[room]).collect()),
        ));
    }
    let sum = |of: fn(&Raw) -> u64| raws.iter().map(of).sum::<u64>() as f64;
    let longest = |of: fn(&Raw) -> f64| raws.iter().map(of).fold(0.0, f64::max);
    let wall = longest(|raw| raw.wall);
    let deliveries = sum(|raw| raw.deliveries);
    let acks = sum(|raw| raw.acks);
    let joins = sum(|raw| raw.joins);
    let clients = sum(|raw| raw.clients);
    let connects = clients - sum(|raw| raw.first);
    let mut put = |name: &str, figure: f64| {
        if figure.is_finite() {
            figures.insert(name.to_owned(), figure);
        }
    };
    put("wall_s", wall);
    if clients > 0.0 {
        put("clients", clients);
        put("connects_per_s", connects / longest(|raw| raw.connect_seconds));
    }
    let own = raws.iter().map(|raw| raw.cpu_seconds).sum::<f64>();
    put("generator_cpu_s", own);
    if deliveries > 0.0 {
        put("deliveries", deliveries);
        put("deliveries_per_s", deliveries / wall);
        put("published", sum(|raw| raw.published));
        put("published_per_s", sum(|raw| raw.published) / wall);
        put("generator_cpu_s_per_million_deliveries", own * 1e6 / deliveries);
    }
    if acks > 0.0 {
        put("acks", acks);
        put("acks_per_s", acks / wall);
        put("generator_cpu_s_per_million_acks", own * 1e6 / acks);
    }
    if joins > 0.0 {
        put("joins", joins);
        put("joins_per_s", joins / wall);
        put("recovered", sum(|raw| raw.recovered));
        put("left", sum(|raw| raw.left));
    }
    for (name, ranks) in [
        ("delivery", ranks(raws.iter().flat_map(|raw| &raw.delivery))),
        ("answer", ranks(raws.iter().flat_map(|raw| &raw.answer))),
        ("connect", ranks(raws.iter().flat_map(|raw| &raw.connect))),
    ] {
        for (rank, milliseconds) in ranks {
            put(&format!("{name}_ms_{rank}"), milliseconds);
        }
    }

    let at = |wanted: Moment| {
        let found = samples.iter().find(|(moment, _)| *moment == wanted);
        found.map(|(_, sample)| sample)
    };
    if let (Some(begin), Some(end)) = (at(Moment::Begin), at(Moment::End)) {
        let cpu = end.cpu_seconds() - begin.cpu_seconds();
        put("cpu_s", cpu);
        put("cpu_share_of_a_core", cpu / ((end.at - begin.at) as f64 / 1e9));
        let each = begin.processes.iter().zip(&end.processes);
        let each: Vec<_> = each
            .map(|(begin, end)| (&end.name, end.cpu_seconds - begin.cpu_seconds))
            .collect();
        for (name, cpu) in &each {
            put(&format!("cpu_s.{name}"), *cpu);
        }
        let mut per = |what: &str, number: f64, unit: f64| {
            if number > 0.0 {
                put(what, cpu * unit / number);
                for (name, cpu) in &each {
                    put(&format!("{what}.{name}"), cpu * unit / number);
                }
            }
        };
        per("cpu_s_per_million_deliveries", deliveries, 1e6);
        per("cpu_s_per_million_acks", acks, 1e6);
        per("cpu_ms_per_join", joins, 1e3);
    }
    if let (Some(start), Some(connected)) = (at(Moment::Start), at(Moment::Connected)) {
        let cpu = connected.cpu_seconds() - start.cpu_seconds();
        put("cpu_ms_per_connect", cpu * 1e3 / connects);
        for (role, cpu) in by_role(start, connected, |usage| usage.cpu_seconds) {
            put(&format!("cpu_ms_per_connect.{role}"), cpu * 1e3 / connects);
        }
    }
    if let (Some(start), Some(settled)) = (at(Moment::Start), at(Moment::Settled)) {
        let each = |before: u64, after: u64| (after as f64 - before as f64) / connects;
        put(
            "resident_bytes_per_client",
            each(start.resident(), settled.resident()),
        );
        for (role, bytes) in by_role(start, settled, |usage| usage.resident as f64) {
            put(&format!("resident_bytes_per_client.{role}"), bytes / connects);
        }
        put(
            "proportional_bytes_per_client",
            each(start.proportional(), settled.proportional()),
        );
        // Both ends of the connection are on this machine.
        put(
            "kernel_slab_bytes_per_client_both_ends",
            each(start.slab_bytes, settled.slab_bytes),
        );
        put(
            "kernel_socket_bytes_per_client_both_ends",
            each(start.socket_bytes, settled.socket_bytes),
        );
    }
    for (moment, name) in [
        (Moment::Start, "before"),
        (Moment::Settled, "start"),
        (Moment::Middle, "middle"),
        (Moment::Drained, "end"),
    ] {
        if let Some(sample) = at(moment) {
            put(&format!("resident_bytes_{name}"), sample.resident() as f64);
        }
    }
    Run {
        valid: faults.none(one_order),
        figures,
        faults,
    }
}

/// What grew from one sample to the other, of all processes of a role: `gateway` of `gateway0` and `gateway1`.
fn by_role(before: &Sample, after: &Sample, of: impl Fn(&Usage) -> f64) -> BTreeMap<String, f64> {
    let mut roles = BTreeMap::new();
    for (before, after) in before.processes.iter().zip(&after.processes) {
        let role = after
            .name
            .trim_end_matches(|letter: char| letter.is_ascii_digit());
        *roles.entry(role.to_owned()).or_default() += of(after) - of(before);
    }
    roles
}

/// Ranks of latencies, in milliseconds.
fn ranks<'a>(counts: impl Iterator<Item = &'a (u64, u64)>) -> Vec<(&'static str, f64)> {
    let mut merged: BTreeMap<u64, u64> = BTreeMap::new();
    for (value, count) in counts {
        *merged.entry(*value).or_default() += count;
    }
    let all: u64 = merged.values().sum();
    if all == 0 {
        return Vec::new();
    }
    let at = |share: f64| {
        let mut left = (all as f64 * share).ceil().max(1.0) as u64;
        for (value, count) in &merged {
            if left <= *count {
                return *value as f64 / 1e6;
            }
            left -= count;
        }
        0.0
    };
    vec![
        ("p50", at(0.5)),
        ("p90", at(0.9)),
        ("p99", at(0.99)),
        ("p99_9", at(0.999)),
        ("max", at(1.0)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::RoomSeen;

    fn raw(deliveries: u64, seen: u64, order: u64) -> Raw {
        Raw {
            clients: 10,
            first: 1,
            connect_seconds: 1.0,
            wall: 2.0,
            deliveries,
            acks: 5,
            published: 5,
            joins: 0,
            recovered: 0,
            left: 0,
            cpu_seconds: 0.5,
            faults: Faults::default(),
            rooms: vec![(
                "a".to_owned(),
                vec![RoomSeen {
                    published: 5,
                    members: 10,
                    seen,
                    order: Some(order),
                    differ: 0,
                }],
            )],
            delivery: vec![(1_000_000, 99), (9_000_000, 1)],
            answer: Vec::new(),
            connect: Vec::new(),
        }
    }

    #[test]
    fn processes_are_summed_and_compared() {
        let run = merge(&[raw(100, 100, 7), raw(100, 100, 7)], &[], true);
        assert!(run.valid, "{run:?}");
        assert_eq!(run.figures["deliveries_per_s"], 100.0);
        assert_eq!(run.figures["delivery_ms_p50"], 1.0);
        assert_eq!(run.figures["delivery_ms_max"], 9.0);
        assert_eq!(run.figures["generator_cpu_s_per_million_deliveries"], 5000.0);
        let run = merge(&[raw(100, 100, 7), raw(100, 100, 8)], &[], true);
        assert!(!run.valid);
        assert!(merge(&[raw(100, 100, 7), raw(100, 100, 8)], &[], false).valid);
        let run = merge(&[raw(100, 100, 7), raw(99, 99, 8)], &[], false);
        assert_eq!((run.valid, run.faults.lost), (false, 1));
    }

    #[test]
    fn the_median_is_of_what_counts() {
        let run = |valid, figure| Run {
            valid,
            figures: Figures::from([("x".to_owned(), figure)]),
            faults: Faults::default(),
        };
        assert_eq!(
            median(&[run(true, 1.0), run(true, 9.0), run(true, 2.0), run(false, 50.0)])["x"],
            2.0
        );
        assert_eq!(median(&[run(true, 1.0), run(true, 2.0)])["x"], 1.5);
    }
}
