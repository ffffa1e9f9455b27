//! The table of dead letters.

use std::time::Duration;

use jiff::Timestamp;

use super::{Summary, age};
use crate::{cli::table::Table, queue::DeadLetter};

const HEADER: [&str; 7] = ["ID", "REASON", "DEAD", "PROJECT", "CONVERSATION", "TRIES", "CORRELATION ID"];
/// The id, the reason and the age are never cut.
const UNCUT_COLUMNS: usize = 3;

/// A table with one dead letter in each row.
#[derive(Debug)]
pub(super) struct DeadLetterTable {
    now: Timestamp,
    table: Table<{ HEADER.len() }>,
}

impl DeadLetterTable {
    pub(super) fn new(now: Timestamp) -> Self {
        Self { now, table: Table::new(HEADER, UNCUT_COLUMNS) }
    }

    pub(super) fn row(&mut self, letter: &DeadLetter) {
        let Summary { id, reason, project_id, conversation_id, tries, correlation_id, .. } =
            Summary::of(letter);
        let or_dash = |text: Option<&str>| text.unwrap_or("-").to_owned();
        self.table.row([
            id.to_owned(),
            reason.to_owned(),
            short_age(age(letter, self.now)),
            or_dash(project_id.as_deref()),
            or_dash(conversation_id.as_deref()),
            tries.to_string(),
            or_dash(correlation_id),
        ]);
    }

    /// Prints the rows that the table still holds back.
    pub(super) fn flush(&mut self) {
        self.table.flush();
    }
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

    #[test]
    fn ages_are_short() {
        let ages = [0, 59, 60, 3599, 3600, 172_799, 172_800].map(|s| short_age(Duration::from_secs(s)));
        assert_eq!(ages, ["0s", "59s", "1m", "59m", "1h", "47h", "2d"]);
    }
}
