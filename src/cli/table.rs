//! A table without borders, printed while its rows arrive.
//!
//! The first rows decide the widths of the columns, so memory does not depend on the number of rows. On a terminal the
//! table fits the width of the terminal: the first columns, which users copy from, are never cut; the others are
//! shortened, and the last ones are left out if necessary. Otherwise nothing is cut. Width means display width. Control
//! characters in cells are escaped, so that no cell can change the terminal.

use console::{Alignment, measure_text_width, pad_str};

use super::output;

/// Rows that are held back to decide the widths of the columns.
const SAMPLE_ROWS: usize = 100;
/// Columns that may be cut are not made narrower than this.
const MIN_CUT_WIDTH: usize = 10;
const COLUMN_GAP: &str = "  ";

/// See the module.
#[derive(Debug)]
pub(super) struct Table<const N: usize> {
    /// Printed above the first row.
    header: Option<[&'static str; N]>,
    /// The number of first columns that are never cut.
    uncut: usize,
    /// The width up to which cells are padded; a wider cell moves the rest of its row to the right.
    max_padding: usize,
    /// The number of columns that may be shown.
    columns: usize,
    sample: Vec<Row<N>>,
    layout: Option<Layout>,
}

#[derive(Debug)]
struct Row<const N: usize> {
    cells: [String; N],
    /// Colours the first cell.
    style: fn(&str) -> String,
}

#[derive(Debug)]
struct Layout {
    /// The widths of the columns that are shown.
    widths: Vec<usize>,
    /// The number of first columns that are never cut.
    uncut: usize,
}

impl<const N: usize> Table<N> {
    /// Creates a table with a header, whose first `uncut` columns are never cut.
    pub(super) fn new(header: [&'static str; N], uncut: usize) -> Self {
        Self {
            header: Some(header),
            uncut,
            max_padding: usize::MAX,
            columns: N,
            sample: Vec::new(),
            layout: None,
        }
    }

    /// Creates a table without a header in which nothing is cut. Cells are padded to at most `max_padding` columns.
    pub(super) fn without_header(max_padding: usize) -> Self {
        Self { header: None, uncut: N, max_padding, columns: N, sample: Vec::new(), layout: None }
    }

    /// Never shows the last column.
    pub(super) fn leave_out_last_column(&mut self) {
        self.columns -= 1;
    }

    /// Adds a row.
    pub(super) fn row(&mut self, cells: [String; N]) {
        self.styled_row(str::to_owned, cells);
    }

    /// Adds a row whose first cell is coloured by `style`.
    pub(super) fn styled_row(&mut self, style: fn(&str) -> String, cells: [String; N]) {
        let row = Row { cells: cells.map(|cell| output::sanitize(&cell).replace('\t', " ")), style };
        if let Some(layout) = &self.layout {
            output::line(layout.line(&row));
            return;
        }
        self.sample.push(row);
        if self.sample.len() == SAMPLE_ROWS {
            self.flush();
        }
    }

    /// Prints the rows that are held back. A table without rows prints nothing, not even its header.
    pub(super) fn flush(&mut self) {
        if self.sample.is_empty() || self.layout.is_some() {
            return;
        }
        let layout = self.layout(output::terminal_width());
        if let Some(header) = self.header {
            let header = Row { cells: header.map(str::to_owned), style: str::to_owned };
            output::line(output::dimmed(layout.line(&header)));
        }
        for row in self.sample.drain(..) {
            output::line(layout.line(&row));
        }
        self.layout = Some(layout);
    }

    /// Makes every column as wide as its widest cell, then narrows the widest columns until the table fits.
    fn layout(&self, terminal_width: Option<usize>) -> Layout {
        let mut widths = self.header.map_or([0; N], |header| header.map(str::len)).to_vec();
        for row in &self.sample {
            for (width, cell) in widths.iter_mut().zip(&row.cells) {
                *width = (*width).max(measure_text_width(cell).min(self.max_padding));
            }
        }
        widths.truncate(self.columns);
        let uncut = self.uncut;
        let Some(terminal_width) = terminal_width else { return Layout { widths, uncut: N } };
        let total = |widths: &[usize]| widths.iter().sum::<usize>() + COLUMN_GAP.len() * (widths.len() - 1);
        let narrowest = |widths: &[usize]| {
            let (kept, others) = widths.split_at(uncut);
            total(&[kept, &others.iter().map(|width| MIN_CUT_WIDTH.min(*width)).collect::<Vec<_>>()].concat())
        };
        while widths.len() > uncut && narrowest(&widths) > terminal_width {
            widths.pop();
        }
        while total(&widths) > terminal_width
            && let Some(widest) = widths[uncut..].iter_mut().max().filter(|widest| **widest > MIN_CUT_WIDTH)
        {
            *widest -= 1;
        }
        Layout { widths, uncut }
    }
}

impl Layout {
    fn line<const N: usize>(&self, row: &Row<N>) -> String {
        let cells = row.cells.iter().zip(&self.widths).enumerate().map(|(column, (cell, width))| {
            let cut = (column >= self.uncut).then_some("…");
            let padded = pad_str(cell, *width, Alignment::Left, cut);
            if column == 0 { (row.style)(&padded) } else { padded.into_owned() }
        });
        cells.collect::<Vec<_>>().join(COLUMN_GAP).trim_end().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(rows: &[[&str; 5]]) -> Table<5> {
        let mut table = Table::new(["ID", "REASON", "AGE", "PROJECT", "CONVERSATION"], 3);
        for row in rows {
            table.row(row.map(str::to_owned));
        }
        table
    }

    #[test]
    fn fits_the_terminal_without_cutting_the_first_columns() {
        let (id, conversation) = ("i".repeat(36), "ü".repeat(60));
        let table = table(&[
            ["evt_1", "unauthorized", "5h", "front-desk", "CA1"],
            [&id, "unauthorized", "5h", "front-desk", &conversation],
        ]);
        for (terminal_width, shown) in [(60, 3), (70, 4), (80, 5), (120, 5), (300, 5)] {
            let layout = table.layout(Some(terminal_width));
            assert_eq!(layout.widths.len(), shown, "{terminal_width}: {layout:?}");
            for row in &table.sample {
                let line = layout.line(row);
                assert!(measure_text_width(&line) <= terminal_width, "{line}");
                assert!(line.contains(&row.cells[0]) && line.contains(&row.cells[1]), "{line}");
            }
        }
        // The first columns do not fit: the terminal wraps them.
        table.layout(Some(3));
    }

    #[test]
    fn cuts_nothing_without_a_terminal() {
        let long = "x".repeat(200);
        let layout = table(&[["evt_1", "timeout", "5h", "p", "CA1"]]).layout(None);
        // A row that arrives after the widths are decided.
        let row = Row { cells: [long.as_str(); 5].map(str::to_owned), style: str::to_owned };
        assert_eq!(layout.line(&row).matches(&long).count(), 5);
    }

    #[test]
    fn leaves_out_the_last_column() {
        let mut table = table(&[["evt_1", "timeout", "5h", "p", "CA1"]]);
        table.leave_out_last_column();
        for width in [None, Some(300)] {
            assert!(table.layout(width).line(&table.sample[0]).ends_with('p'));
        }
    }

    #[test]
    fn pads_up_to_a_limit_without_a_header() {
        let mut table = Table::without_header(4);
        table.row(["a", "b"].map(str::to_owned));
        table.row(["long cell", "b"].map(str::to_owned));
        let layout = table.layout(None);
        let lines: Vec<_> = table.sample.iter().map(|row| layout.line(row)).collect();
        assert_eq!(lines, ["a     b", "long cell  b"]);
    }

    #[test]
    fn escapes_control_characters() {
        let table = table(&[["evt\u{1b}[31m", "a\tb", "5h", "p\n", "CA1"]]);
        let line = table.layout(None).line(&table.sample[0]);
        assert!(!line.contains(char::is_control), "{line:?}");
    }
}
