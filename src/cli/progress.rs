//! Progress on standard error, for a person at a terminal.
//!
//! A bar has a total that is known when it is shown. If there is no such total, a spinner shows counts and no share: time or
//! pages that were read say little about the work that is left.

use indicatif::{ProgressBar, ProgressStyle};

/// Returns a bar for `total` items that are `done` ("archived", "published"). A `hidden` one prints nothing.
pub(super) fn bar(total: u64, done: &str, hidden: bool) -> ProgressBar {
    if hidden {
        return ProgressBar::hidden();
    }
    ProgressBar::new(total).with_style(style(&format!("{{bar:30}} {{pos}}/{{len}} {done} {{msg}}")))
}

/// Returns a spinner whose message holds counts. A `hidden` one prints nothing.
pub(super) fn spinner(hidden: bool) -> ProgressBar {
    if hidden {
        return ProgressBar::hidden();
    }
    ProgressBar::new_spinner().with_style(style("{spinner} {elapsed} {msg}"))
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner())
}
