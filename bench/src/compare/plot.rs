//! Bars as SVG: no font, no script and no library needed to see them.

use std::fmt::Write;

use super::{columns::Shown, markdown::number, results::Results, rows::Row};

const WIDTH: f64 = 860.0;
const LABELS: f64 = 380.0;
const VALUES: f64 = 80.0;
const BAR: f64 = 20.0;
const STEP: f64 = 27.0;
const TOP: f64 = 44.0;

/// A bar a server that has the figure; `None` when none has.
#[must_use]
pub fn bars(results: &Results, shown: &Shown) -> Option<String> {
    let bars: Vec<_> = Row::ALL
        .into_iter()
        .filter_map(|row| Some((row, results.figure(shown.column, row, shown.figure)?)))
        .collect();
    let most = bars.iter().map(|(_, figure)| *figure).reduce(f64::max)?;
    let height = TOP + STEP * bars.len() as f64 + 10.0;
    let better = if shown.less {
        "less is better"
    } else {
        "more is better"
    };
    // Text and page have colours that are readable on light and dark pages.
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n\
         <text x=\"10\" y=\"26\" font-size=\"16\" font-weight=\"bold\">{}</text>\n\
         <text x=\"{:.0}\" y=\"26\" text-anchor=\"end\" fill=\"#666666\">{better}</text>\n",
        escaped(shown.title),
        WIDTH - 10.0,
    );
    for (place, (row, figure)) in bars.iter().enumerate() {
        let y = TOP + STEP * place as f64;
        let length = if most > 0.0 {
            (figure / most).max(0.0) * (WIDTH - LABELS - VALUES)
        } else {
            0.0
        };
        let colour = if row.is_fanfare() { "#d9480f" } else { "#8a97a6" };
        // Writing to a String does not fail.
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\
             <rect x=\"{LABELS}\" y=\"{y:.1}\" width=\"{length:.1}\" height=\"{BAR}\" fill=\"{colour}\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            LABELS - 8.0,
            y + 15.0,
            escaped(row.title()),
            LABELS + length + 6.0,
            y + 15.0,
            number(*figure),
        );
    }
    svg.push_str("</svg>\n");
    Some(svg)
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::{columns::SHOWN, results::tests::fixture};

    #[test]
    fn bars_are_as_long_as_their_figures() {
        let svg = bars(&fixture(), &SHOWN[1]).unwrap();
        assert_eq!(svg.matches("<rect x=").count(), 2, "{svg}");
        assert!(
            svg.contains("width=\"320.0\"") && svg.contains("width=\"400.0\""),
            "{svg}"
        );
        assert!(svg.contains("Fanfare, standalone") && svg.contains("less is better"));
    }

    #[test]
    fn there_is_no_plot_of_nothing() {
        assert_eq!(bars(&fixture(), &SHOWN[6]), None);
    }
}
