//! A line of the last minutes as SVG, with a text that says the same.

use std::fmt::Write;

use maud::{Markup, html};

use super::{
    samples::{Line, POINTS},
    stages::StageKind,
};
use crate::wording::duration;

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
    let max = line.points.iter().flatten().copied().max().unwrap_or_default().max(1);
    let mut path = String::new();
    let mut is_open = false;
    for (number, value) in line.points.iter().enumerate() {
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
    let last = format!("last {}", duration(line.length));
    let known = line.points.iter().flatten();
    let (Some(min), Some(max)) = (known.clone().min(), known.clone().max()) else {
        return format!("{last}: not known");
    };
    match (kind, line.points[POINTS - 1]) {
        (StageKind::Counter, _) => {
            let step = duration(line.length / u32::try_from(POINTS).unwrap_or(1));
            format!("{last}: {} in all, at most {max} in {step}", known.sum::<u64>())
        }
        (StageKind::Gauge, Some(now)) => format!("{last}: between {min} and {max}, now {now}"),
        (StageKind::Gauge, None) => format!("{last}: between {min} and {max}, now not known"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(values: &[Option<u64>]) -> Line {
        let mut points = [None; POINTS];
        points[POINTS - values.len()..].copy_from_slice(values);
        Line { points, length: std::time::Duration::from_mins(15) }
    }

    #[test]
    fn a_line_has_a_gap_where_nothing_is_known_and_a_text_alternative() {
        let values = line(&[Some(0), Some(4), None, Some(2)]);
        assert_eq!(path(&values), "M113 25h.1L115 1M119 13h.1");
        assert_eq!(describe(&values, StageKind::Gauge), "last 15 min: between 0 and 4, now 2");
        assert_eq!(describe(&values, StageKind::Counter), "last 15 min: 6 in all, at most 4 in 15 s");
        assert_eq!(describe(&line(&[]), StageKind::Gauge), "last 15 min: not known");
        let zero = sparkline(&line(&[Some(0), Some(0)]), StageKind::Gauge).into_string();
        assert!(zero.contains("M117 25h.1L119 25"), "{zero}");
        let huge = line(&[Some(u64::MAX / 30), Some(0)]);
        assert!(path(&huge).starts_with("M117 1"));
    }
}
