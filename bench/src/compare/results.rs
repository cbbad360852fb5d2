//! What the comparison has measured.

use serde::{Deserialize, Serialize};

use super::{columns::Column, machine::Machine, rows::Row};
use crate::report::{Figures, Run, median};

/// Everything RESULTS.md is made of.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Results {
    /// Where and with what.
    pub machine: Machine,
    /// Whether the runs were the short ones.
    pub quick: bool,
    /// What was measured, in the order of the table.
    pub cells: Vec<Cell>,
}

/// A row in a column.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Cell {
    /// The scenario.
    pub column: Column,
    /// The server.
    pub row: Row,
    /// The runs that came to their end.
    pub runs: Vec<Run>,
    /// Why others did not.
    pub failures: Vec<String>,
}

impl Results {
    /// The cell, if it was measured.
    #[must_use]
    pub fn cell(&self, column: Column, row: Row) -> Option<&Cell> {
        self.cells
            .iter()
            .find(|cell| cell.column == column && cell.row == row)
    }

    /// What was measured anew takes the place of what there was, and what was not there is put behind it.
    pub(super) fn replace(&mut self, anew: Self) {
        for cell in anew.cells {
            let known = self
                .cells
                .iter_mut()
                .find(|known| (known.column, known.row) == (cell.column, cell.row));
            match known {
                Some(known) => *known = cell,
                None => self.cells.push(cell),
            }
        }
    }

    /// The median of a figure over the runs that count; `None` when there are none.
    #[must_use]
    pub fn figure(&self, column: Column, row: Row, figure: &str) -> Option<f64> {
        self.cell(column, row)?.median().get(figure).copied()
    }
}

impl Cell {
    /// The medians over the runs that count.
    #[must_use]
    pub fn median(&self) -> Figures {
        median(&self.runs)
    }

    /// Keeps what a reader may ask for: all else is derived from it, or another column's.
    pub(super) fn add(&mut self, mut run: Run) {
        const KEPT: [&str; 14] = [
            "acks_per_s",
            "answer_ms_p50",
            "answer_ms_p99",
            "cpu_ms_per_connect",
            "cpu_share_of_a_core",
            "delivery_ms_max",
            "delivery_ms_p50",
            "delivery_ms_p99",
            "deliveries_per_s",
            "generator_cpu_s",
            "kernel_slab_bytes_per_client_both_ends",
            "kernel_socket_bytes_per_client_both_ends",
            "resident_bytes_per_client",
            "wall_s",
        ];
        const BY_ROLE: [&str; 3] = [
            "cpu_ms_per_connect.",
            "cpu_s_per_million_",
            "resident_bytes_per_client.",
        ];
        run.figures.retain(|name, _| {
            KEPT.contains(&name.as_str()) || BY_ROLE.iter().any(|kept| name.starts_with(kept))
        });
        self.runs.push(run);
    }
}

#[cfg(test)]
pub(super) mod tests {
    /// Two columns, with a run that does not count and a row that failed.
    pub(in crate::compare) fn fixture() -> super::Results {
        serde_json::from_str(include_str!("fixture.json")).unwrap()
    }

    #[test]
    fn what_is_measured_anew_takes_its_place() {
        use crate::compare::{columns::Column, rows::Row};
        let mut results = fixture();
        let mut anew = fixture();
        anew.cells
            .retain(|cell| (cell.column, cell.row) == (Column::One, Row::Floor));
        for run in &mut anew.cells[0].runs {
            run.figures.insert("cpu_s_per_million_deliveries".to_owned(), 3.0);
        }
        let cells = results.cells.len();
        results.replace(anew);
        let figure = |row| results.figure(Column::One, row, "cpu_s_per_million_deliveries");
        assert_eq!((figure(Row::Floor), figure(Row::Fanfare)), (Some(3.0), Some(5.0)));
        assert_eq!(results.cells.len(), cells);
    }

    #[test]
    fn only_what_counts_counts() {
        use crate::compare::{columns::Column, rows::Row};
        let results = fixture();
        let figure = |row| results.figure(Column::One, row, "cpu_s_per_million_deliveries");
        assert_eq!(figure(Row::Floor), Some(4.0));
        assert_eq!(figure(Row::Fanfare), Some(5.0));
        assert_eq!(figure(Row::Axum), None);
        assert_eq!(figure(Row::Nats), None);
    }
}
