//! The table of dead letters, printed while it is read.
//!
//! The first rows decide how wide the columns are. On a terminal they are made to fit it: what one would copy
//! from there stays whole, other texts are cut, and the last columns left out if need be. Elsewhere nothing is.

use std::{
    io::{self, IsTerminal},
    time::Duration,
};

use console::{Alignment, Term, measure_text_width, pad_str};
use jiff::Timestamp;

use super::{Summary, age, harmless, output};
use crate::queue::DeadLetter;

/// How many rows are looked at before the first is printed.
const LOOKED_AT: usize = 100;
/// The first columns are never cut.
const WHOLE: usize = 3;
/// No other is made narrower.
const NARROWEST: usize = 10;
const GAP: &str = "  ";

const HEAD: [&str; 7] = ["ID", "REASON", "DEAD", "PROJECT", "CONVERSATION", "TRIES", "CORRELATION ID"];

type Row = [String; HEAD.len()];

#[derive(Debug)]
struct Widths {
    /// Of those that are shown.
    columns: Vec<usize>,
    /// Whether what is wider is cut.
    cut: bool,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Table {
    now: Timestamp,
    waiting: Vec<Row>,
    widths: Option<Widths>,
}

impl Table {
    pub(super) fn new(now: Timestamp) -> Self {
        Self { now, waiting: Vec::new(), widths: None }
    }

    /// Prints a letter, or keeps it until the widths are known.
    pub(super) fn row(&mut self, letter: &DeadLetter) {
        let Summary { id, reason, project_id, conversation_id, tries, correlation_id, .. } =
            Summary::of(letter);
        let text = |name: Option<&str>| harmless(name.unwrap_or("-"));
        let row = [
            harmless(id),
            harmless(reason),
            short_age(age(letter, self.now)),
            text(project_id.as_deref()),
            text(conversation_id.as_deref()),
            tries.to_string(),
            text(correlation_id),
        ];
        if let Some(widths) = &self.widths {
            output::line(line(&row, widths));
            return;
        }
        self.waiting.push(row);
        if self.waiting.len() == LOOKED_AT {
            self.finish();
        }
    }

    /// Prints what was kept.
    pub(super) fn finish(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        let room = io::stdout().is_terminal().then(|| usize::from(Term::stdout().size().1));
        let widths = widths(&self.waiting, room);
        output::line(output::dim(line(&HEAD.map(str::to_owned), &widths)));
        for row in self.waiting.drain(..) {
            output::line(line(&row, &widths));
        }
        self.widths = Some(widths);
    }
}

fn line(row: &Row, widths: &Widths) -> String {
    let cut = widths.cut.then_some("…");
    let cells = row.iter().zip(&widths.columns);
    let cells = cells.map(|(cell, width)| pad_str(cell, *width, Alignment::Left, cut));
    cells.collect::<Vec<_>>().join(GAP).trim_end().to_owned()
}

/// As wide as the widest, then less for the widest until all of it has room.
fn widths(rows: &[Row], room: Option<usize>) -> Widths {
    let mut columns = HEAD.map(str::len).to_vec();
    for row in rows {
        for (width, cell) in columns.iter_mut().zip(row) {
            *width = (*width).max(measure_text_width(cell));
        }
    }
    let Some(room) = room else { return Widths { columns, cut: false } };
    let taken = |columns: &[usize]| columns.iter().sum::<usize>() + GAP.len() * (columns.len() - 1);
    let least = |columns: &[usize]| {
        let (whole, others) = columns.split_at(WHOLE);
        taken(&[whole, &others.iter().map(|width| NARROWEST.min(*width)).collect::<Vec<_>>()].concat())
    };
    while columns.len() > WHOLE && least(&columns) > room {
        columns.pop();
    }
    while taken(&columns) > room
        && let Some(widest) = columns[WHOLE..].iter_mut().max().filter(|widest| **widest > NARROWEST)
    {
        *widest -= 1;
    }
    Widths { columns, cut: true }
}

/// `45s`, `12m`, `5h`, `3d`
pub(super) fn short_age(age: Duration) -> String {
    match age.as_secs() {
        seconds @ 0..60 => format!("{seconds}s"),
        seconds @ 60..3600 => format!("{}m", seconds / 60),
        seconds @ 3600..172_800 => format!("{}h", seconds / 3600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(id: &str, conversation: &str) -> Row {
        [id, "unauthorized", "5h", "front-desk", conversation, "1", "corr-1"].map(str::to_owned)
    }

    #[test]
    fn fits_the_terminal_and_cuts_nothing_elsewhere() {
        let rows = [row("evt_1", "CA1"), row(&"i".repeat(36), &"ü".repeat(60))];
        for (room, shown) in [(60, 3), (80, 5), (120, 7), (300, 7)] {
            let widths = widths(&rows, Some(room));
            assert_eq!(widths.columns.len(), shown, "{room}: {widths:?}");
            for row in &rows {
                let line = line(row, &widths);
                assert!(measure_text_width(&line) <= room && line.contains(&row[0]), "{line}");
            }
        }
        // Also what comes after the widths are known.
        let whole = line(&rows[1], &widths(&rows[..1], None));
        assert!(rows[1].iter().all(|cell| whole.contains(cell)), "{whole}");
        // Narrower than anybody's: it wraps.
        widths(&rows, Some(3));
    }

    #[test]
    fn ages_are_short() {
        let ages = [0, 59, 60, 3599, 3600, 172_799, 172_800].map(|s| short_age(Duration::from_secs(s)));
        assert_eq!(ages, ["0s", "59s", "1m", "59m", "1h", "47h", "2d"]);
    }
}
