//! The command line that shows the same as the page.

use std::{fmt::Write as _, time::Duration};

use jiff::civil::Date;

use crate::{index::CallFilter, shell, wording};

/// Returns the command that lists the conversations of a filter, but for the phrase, which it cannot search for.
///
/// Without dates, the command lists the days of the calls on the page, or today.
pub(super) fn list(filter: &CallFilter, shown: Option<(Date, Date)>) -> String {
    let mut command = "polyhook list".to_owned();
    let first = filter.first_date.or(shown.map(|(first, _)| first)).or(filter.last_date);
    let last = filter.last_date.or(shown.map(|(_, last)| last));
    let mut add = |option: &str, value: Option<String>| {
        if let Some(value) = value {
            // With `=`, a value that begins with a hyphen is not an option.
            let space = if value.starts_with('-') { '=' } else { ' ' };
            let _ = write!(command, " --{option}{space}{}", shell::quote(&value));
        }
    };
    add("date", first.map(|date| date.to_string()));
    add("to", last.filter(|last| first.is_some_and(|first| *last > first)).map(|date| date.to_string()));
    add("project", filter.project_id.clone());
    add("environment", filter.environment.clone());
    add("channel", filter.channel.clone());
    add("audio", filter.audio.clone());
    add("handoff", filter.handoff.map(|handoff| if handoff { "yes" } else { "no" }.to_owned()));
    add("handoff-reason", filter.handoff_reason.as_ref().map(|reason| reason.as_str().to_owned()));
    let length = |seconds: u32| wording::length(Duration::from_secs(seconds.into()));
    add("min-length", filter.min_seconds.map(length));
    add("max-length", filter.max_seconds.map(length));
    add("id", filter.id_prefix.clone());
    command
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::Phrase;

    #[test]
    fn quotes_what_people_typed() {
        let shown = (Date::constant(2026, 11, 20), Date::constant(2026, 11, 22));
        assert_eq!(list(&CallFilter::default(), None), "polyhook list");
        assert_eq!(
            list(&CallFilter::default(), Some(shown)),
            "polyhook list --date 2026-11-20 --to 2026-11-22"
        );
        let filter = CallFilter {
            last_date: Some(shown.1),
            project_id: Some("-p".to_owned()),
            handoff_reason: Phrase::new("$(reboot) it's"),
            handoff: Some(true),
            max_seconds: Some(90),
            ..CallFilter::default()
        };
        assert_eq!(
            list(&filter, None),
            r"polyhook list --date 2026-11-22 --project=-p --handoff yes --handoff-reason '$(reboot) it'\''s' --max-length 1:30"
        );
    }
}
