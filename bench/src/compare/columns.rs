//! What is measured: a column a scenario, the same command for every row but for what the row speaks.

use serde::{Deserialize, Serialize};

use super::rows::Row;

/// A scenario of the comparison.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Column {
    /// One room of 1,000, 20 events a second.
    Sustained,
    /// One room of 1,000, one publisher, one event in flight.
    One,
    /// The same, 16 in flight.
    Sixteen,
    /// A hundred rooms of ten, everybody publishes.
    Rooms,
    /// Acknowledged round trips of 100 clients.
    Echo,
    /// Clients that connect to a namespace with what lets them in: what that costs.
    Connect,
    /// Clients in rooms of a hundred that do nothing: memory.
    Idle,
    /// A hundred rooms of ten at 10,000 deliveries a second: latency.
    Latency,
}

/// A figure of a column that the table shows.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// Where it is measured.
    pub column: Column,
    /// Its name in the report of a run.
    pub figure: &'static str,
    /// Head of the table.
    pub title: &'static str,
    /// Whether less is better.
    pub less: bool,
}

const CPU: &str = "cpu_s_per_million_deliveries";

/// What the table shows, in its order.
pub const SHOWN: [Shown; 10] = [
    shown(
        Column::Sustained,
        CPU,
        "room of 1,000, 20 events/s: CPU-s a million",
        true,
    ),
    shown(
        Column::One,
        CPU,
        "1 publisher, 1 in flight: CPU-s a million",
        true,
    ),
    shown(
        Column::Sixteen,
        CPU,
        "1 publisher, 16 in flight: CPU-s a million",
        true,
    ),
    shown(
        Column::Rooms,
        "deliveries_per_s",
        "rooms of 10, all publish: deliveries/s",
        false,
    ),
    shown(Column::Rooms, CPU, "rooms of 10: CPU-s a million", true),
    shown(
        Column::Echo,
        "acks_per_s",
        "acknowledged round trips/s, 100 clients",
        false,
    ),
    shown(
        Column::Idle,
        "resident_bytes_per_client",
        "resident bytes an idle connection",
        true,
    ),
    shown(Column::Connect, "cpu_ms_per_connect", "CPU-ms a connect", true),
    shown(
        Column::Latency,
        "delivery_ms_p50",
        "10,000 deliveries/s: p50 ms",
        true,
    ),
    shown(
        Column::Latency,
        "delivery_ms_p99",
        "10,000 deliveries/s: p99 ms",
        true,
    ),
];

const fn shown(column: Column, figure: &'static str, title: &'static str, less: bool) -> Shown {
    Shown {
        column,
        figure,
        title,
        less,
    }
}

impl Shown {
    /// Name of its plot's file, without ending.
    #[must_use]
    pub fn plot(&self) -> String {
        format!("{}-{}", self.column.name(), self.figure.replace('_', "-"))
    }
}

impl Column {
    /// All, in the order they are measured.
    pub const ALL: [Self; 8] = [
        Self::Sustained,
        Self::One,
        Self::Sixteen,
        Self::Rooms,
        Self::Echo,
        Self::Latency,
        Self::Connect,
        Self::Idle,
    ];

    /// As `--only` takes it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Sustained => "sustained",
            Self::One => "one",
            Self::Sixteen => "sixteen",
            Self::Rooms => "rooms",
            Self::Echo => "echo",
            Self::Connect => "connect",
            Self::Idle => "idle",
            Self::Latency => "latency",
        }
    }

    /// Whether a row is measured here.
    #[must_use]
    pub fn has(self, row: Row) -> bool {
        match self {
            // What its protocol has no acknowledged event for.
            Self::Echo => !row.is_two_nodes() && row != Row::Floor,
            Self::Latency => row.is_two_nodes(),
            // The cluster is held against the floor here, no other two nodes are.
            Self::One | Self::Connect | Self::Idle => {
                !row.is_two_nodes()
                    || row == Row::Cluster
                    || (self == Self::One && row == Row::ClusterVolatile)
            }
            Self::Sustained | Self::Sixteen | Self::Rooms => true,
        }
    }

    /// How often of `repeat` times; memory varies little, and takes long.
    #[must_use]
    pub fn rounds(self, repeat: usize) -> usize {
        match self {
            Self::Idle => repeat.min(1),
            _ => repeat,
        }
    }

    /// The arguments of `fanfare bench` for a row.
    #[must_use]
    pub fn arguments(self, row: Row, quick: bool) -> Vec<&'static str> {
        let mut arguments = match self {
            Self::Sustained => vec!["fanout", "--members", "1000", "--rate", "20"],
            Self::One => vec!["fanout", "--members", "1000", "--in-flight", "1"],
            Self::Sixteen => vec!["fanout", "--members", "1000", "--in-flight", "16"],
            Self::Rooms => vec!["rooms", "--rooms", "100", "--members", "10"],
            Self::Echo => vec!["echo", "--clients", "100"],
            Self::Latency => vec!["rooms", "--rooms", "100", "--members", "10", "--rate", "10000"],
            // A process may hold 20,000 descriptors.
            Self::Idle => vec!["idle", "--clients", if quick { "4000" } else { "19000" }],
            Self::Connect => vec![
                "idle",
                "--clients",
                if quick { "4000" } else { "19000" },
                "--rooms-size",
                "0",
            ],
        };
        if !matches!(self, Self::Connect | Self::Idle) {
            arguments.extend(["--warm-up", "1", "--seconds", if quick { "2" } else { "4" }]);
        }
        arguments.extend(row.arguments());
        arguments
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::Bench;

    #[test]
    fn the_command_line_takes_every_cell() {
        for column in Column::ALL {
            for row in Row::ALL {
                let arguments = column.arguments(row, false);
                Bench::try_parse_from(std::iter::once("bench").chain(arguments)).unwrap();
            }
        }
    }
}
