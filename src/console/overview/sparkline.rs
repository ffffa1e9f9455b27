//! A line of the last hour as SVG, with a text that says the same.

use std::fmt::Write;

use maud::{Markup, html};

use super::{
    samples::{Line, POINTS},
    stages::StageKind,
};

/// The distance of two points.
const STEP: usize = 2;
const HEIGHT: u64 = 24;

/// Returns the line as a picture. Where nothing is known it has a gap.
pub(super) fn sparkline(line: &Line, kind: StageKind) -> Markup {
    let view_box = format!("0 0 {} {}", STEP * (POINTS - 1) + 2, HEIGHT + 2);
    let path = path(line);
    html! {
        svg class="sparkline" viewBox=(view_box) preserveAspectRatio="none" role="img" aria-label=(describe(line, kind)) {
            @if !path.is_empty() { path d=(path) {} }
        }
    }
}

fn path(line: &Line) -> String {
    let max = line.iter().flatten().copied().max().unwrap_or_default().max(1);
    let mut path = String::new();
    let mut is_open = false;
    for (number, value) in line.iter().enumerate() {
        if let Some(value) = value {
            let (x, y) = (1 + STEP * number, HEIGHT + 1 - value * HEIGHT / max);
            // A point without neighbours is a short line.
            let _ = if is_open { write!(path, "L{x} {y}") } else { write!(path, "M{x} {y}h.1") };
        }
        is_open = value.is_some();
    }
    path
}

/// Returns the text alternative.
fn describe(line: &Line, kind: StageKind) -> String {
    let known = line.iter().flatten();
    let (Some(min), Some(max)) = (known.clone().min(), known.clone().max()) else {
        return "last hour: not known".to_owned();
    };
    match (kind, line[POINTS - 1]) {
        (StageKind::Counter, _) => {
            format!("last hour: {} in all, at most {max} in a minute", known.sum::<u64>())
        }
        (StageKind::Gauge, Some(now)) => format!("last hour: between {min} and {max}, now {now}"),
        (StageKind::Gauge, None) => format!("last hour: between {min} and {max}, now not known"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(values: &[Option<u64>]) -> Line {
        let mut line = [None; POINTS];
        line[POINTS - values.len()..].copy_from_slice(values);
        line
    }

    #[test]
    fn a_line_has_a_gap_where_nothing_is_known_and_a_text_alternative() {
        let values = line(&[Some(0), Some(4), None, Some(2)]);
        assert_eq!(path(&values), "M113 25h.1L115 1M119 13h.1");
        assert_eq!(describe(&values, StageKind::Gauge), "last hour: between 0 and 4, now 2");
        assert_eq!(describe(&values, StageKind::Counter), "last hour: 6 in all, at most 4 in a minute");
        assert_eq!(describe(&line(&[]), StageKind::Gauge), "last hour: not known");
        let zero = sparkline(&line(&[Some(0), Some(0)]), StageKind::Gauge).into_string();
        assert!(zero.contains("M117 25h.1L119 25"), "{zero}");
        let huge = line(&[Some(u64::MAX / 30), Some(0)]);
        assert!(path(&huge).starts_with("M117 1"));
    }
}
