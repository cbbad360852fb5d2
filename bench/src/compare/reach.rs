//! What Fanfare is to reach: ratios within one comparison, and a few absolute figures.

use super::{columns::Column, results::Results, rows::Row};

const CPU: &str = "cpu_s_per_million_deliveries";

/// A goal.
#[derive(Copy, Clone, Debug)]
pub struct Goal {
    /// What it is about.
    pub what: &'static str,
    column: Column,
    row: Row,
    figure: &'static str,
    bound: Bound,
}

#[derive(Copy, Clone, Debug)]
enum Bound {
    /// At most so many times the same figure of another row, of all its processes.
    AtMost(f64, Row),
    /// At least so many times the same figure of another row.
    AtLeast(f64, Row),
    /// At most this.
    Under(f64),
}

/// A goal, and where it stands.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// The goal.
    pub goal: Goal,
    /// Fanfare's figure.
    pub measured: Option<f64>,
    /// How many times the other's figure that is, or of the bound itself where there is no other.
    pub ratio: Option<f64>,
    /// Whether it is reached; `None` when a figure is missing.
    pub reached: Option<bool>,
    /// How far away it is, as a share of the bound; 0 when reached.
    pub distance: Option<f64>,
}

/// All goals of a comparison.
pub const GOALS: [Goal; 19] = [
    goal(
        "room of 1,000, 20 events/s",
        Column::Sustained,
        Row::Fanfare,
        CPU,
        Bound::AtMost(1.15, Row::Floor),
    ),
    goal(
        "1 publisher, 1 in flight",
        Column::One,
        Row::Fanfare,
        CPU,
        Bound::AtMost(1.15, Row::Floor),
    ),
    goal(
        "1 publisher, 16 in flight",
        Column::Sixteen,
        Row::Fanfare,
        CPU,
        Bound::AtMost(1.0, Row::Axum),
    ),
    goal(
        "cluster, all processes: 20 events/s",
        Column::Sustained,
        Row::Cluster,
        CPU,
        Bound::AtMost(1.5, Row::Floor),
    ),
    goal(
        "cluster, all processes: 1 in flight",
        Column::One,
        Row::Cluster,
        CPU,
        Bound::AtMost(1.5, Row::Floor),
    ),
    goal(
        "cluster, all processes: 16 in flight",
        Column::Sixteen,
        Row::Cluster,
        CPU,
        Bound::AtMost(0.75, Row::SocketioxideRedis),
    ),
    goal(
        "cluster, rooms of 10, stored and acknowledged: deliveries/s",
        Column::Rooms,
        Row::Cluster,
        "deliveries_per_s",
        Bound::AtLeast(3.0, Row::SocketIoStreams),
    ),
    goal(
        "the same: CPU a delivery",
        Column::Rooms,
        Row::Cluster,
        CPU,
        Bound::AtMost(1.0 / 3.0, Row::SocketIoStreams),
    ),
    goal(
        "cluster, rooms of 10, not stored: deliveries/s",
        Column::Rooms,
        Row::ClusterVolatile,
        "deliveries_per_s",
        Bound::AtLeast(1.0, Row::SocketioxideRedis),
    ),
    goal(
        "the same: CPU a delivery",
        Column::Rooms,
        Row::ClusterVolatile,
        CPU,
        Bound::AtMost(1.0, Row::SocketioxideRedis),
    ),
    goal(
        "acknowledged round trips/s",
        Column::Echo,
        Row::Fanfare,
        "acks_per_s",
        Bound::AtLeast(1.0, Row::Socketioxide),
    ),
    goal(
        "latency, stored: p50 ms",
        Column::Latency,
        Row::Cluster,
        "delivery_ms_p50",
        Bound::Under(1.0),
    ),
    goal(
        "latency, stored: p99 ms",
        Column::Latency,
        Row::Cluster,
        "delivery_ms_p99",
        Bound::Under(3.0),
    ),
    goal(
        "latency, not stored: p50 ms",
        Column::Latency,
        Row::ClusterVolatile,
        "delivery_ms_p50",
        Bound::Under(0.4),
    ),
    goal(
        "latency, not stored: p99 ms",
        Column::Latency,
        Row::ClusterVolatile,
        "delivery_ms_p99",
        Bound::Under(1.0),
    ),
    goal(
        "idle connection, resident bytes of the gateway",
        Column::Idle,
        Row::Cluster,
        "resident_bytes_per_client.gateway",
        Bound::Under(4096.0),
    ),
    goal(
        "the same, of standalone with all it keeps",
        Column::Idle,
        Row::Fanfare,
        "resident_bytes_per_client",
        Bound::Under(4096.0),
    ),
    goal(
        "CPU-ms a connect, token checked, presence told: the gateway",
        Column::Connect,
        Row::Cluster,
        "cpu_ms_per_connect.gateway",
        Bound::AtMost(1.0, Row::Socketioxide),
    ),
    goal(
        "the same: standalone with all it does",
        Column::Connect,
        Row::Fanfare,
        "cpu_ms_per_connect",
        Bound::AtMost(1.0, Row::Socketioxide),
    ),
];

const fn goal(what: &'static str, column: Column, row: Row, figure: &'static str, bound: Bound) -> Goal {
    Goal {
        what,
        column,
        row,
        figure,
        bound,
    }
}

impl Goal {
    /// As in "≤ 1.15 × floor".
    #[must_use]
    pub fn bound(&self) -> String {
        match self.bound {
            Bound::AtMost(factor, row) => format!("≤ {} × {}", short(factor), row.name()),
            Bound::AtLeast(factor, row) => format!("≥ {} × {}", short(factor), row.name()),
            Bound::Under(most) => format!("≤ {}", short(most)),
        }
    }

    /// Where it stands.
    #[must_use]
    pub fn judge(&self, results: &Results) -> Verdict {
        let measured = results.figure(self.column, self.row, self.figure);
        let (ratio, share) = match self.bound {
            Bound::AtMost(factor, row) => {
                let ratio = self.ratio(results, measured, row);
                (ratio, ratio.map(|ratio| ratio / factor))
            }
            Bound::AtLeast(factor, row) => {
                let ratio = self.ratio(results, measured, row);
                (ratio, ratio.map(|ratio| factor / ratio))
            }
            Bound::Under(most) => {
                let ratio = measured.map(|measured| measured / most);
                (ratio, ratio)
            }
        };
        Verdict {
            goal: *self,
            measured,
            ratio,
            reached: share.map(|share| share <= 1.0),
            distance: share.map(|share| (share - 1.0).max(0.0)),
        }
    }

    fn ratio(&self, results: &Results, measured: Option<f64>, row: Row) -> Option<f64> {
        let of_all = self.figure.split('.').next()?;
        let other = results.figure(self.column, row, of_all)?;
        measured
            .map(|measured| measured / other)
            .filter(|ratio| ratio.is_finite())
    }
}

/// Two decimals at most.
fn short(number: f64) -> String {
    let text = format!("{number:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::results::tests::fixture;

    fn verdict(what: &str) -> Verdict {
        let goal = GOALS.iter().find(|goal| goal.what == what).unwrap();
        goal.judge(&fixture())
    }

    #[test]
    fn a_figure_is_held_against_another_row() {
        let one = verdict("1 publisher, 1 in flight");
        assert_eq!(
            (one.measured, one.ratio, one.reached),
            (Some(5.0), Some(1.25), Some(false))
        );
        assert!((one.distance.unwrap() - 0.087).abs() < 0.001, "{one:?}");
        let echo = verdict("acknowledged round trips/s");
        assert_eq!((echo.reached, echo.distance), (Some(true), Some(0.0)));
        assert_eq!(echo.goal.bound(), "≥ 1 × socketioxide");
    }

    #[test]
    fn a_figure_is_held_against_a_bound() {
        let p50 = verdict("latency, stored: p50 ms");
        assert_eq!((p50.reached, p50.distance), (Some(false), Some(1.0)));
        assert_eq!(verdict("latency, stored: p99 ms").reached, Some(true));
    }

    #[test]
    fn nothing_is_said_without_a_figure() {
        assert_eq!(verdict("1 publisher, 16 in flight").reached, None);
        assert_eq!(verdict("latency, not stored: p50 ms").reached, None);
    }
}
