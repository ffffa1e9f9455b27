//! The command line that shows the same as the page.

use std::{fmt::Write as _, time::Duration};

use jiff::civil::Date;

use crate::{index::CallFilter, shell, wording};

/// Returns the arguments that list the conversations of a filter, but for the phrase, which the command cannot search for.
///
/// A filter without a first day takes the first day of the calls on the page; if there are none, no command lists the same.
pub(super) fn list(filter: &CallFilter, shown: Option<(Date, Date)>, today: Date) -> Option<String> {
    let first = filter.first_date.or(shown.map(|(first, _)| first))?;
    let shown_last = || if filter.first_date.is_some() { None } else { shown.map(|(_, last)| last) };
    let last = filter.last_date.or_else(shown_last).unwrap_or(today).max(first);
    if first.until(last).map_or(i32::MAX, |span| span.get_days()) >= CallFilter::MAX_LISTED_DAYS {
        return None;
    }
    let mut command = "list".to_owned();
    let mut add = |option: &str, value: Option<String>| {
        if let Some(value) = value {
            // With `=`, a value that begins with a hyphen is not an option.
            let space = if value.starts_with('-') { '=' } else { ' ' };
            let _ = write!(command, " --{option}{space}{}", shell::quote(&value));
        }
    };
    add("date", Some(first.to_string()));
    add("to", (last > first).then(|| last.to_string()));
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
    Some(command)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::Phrase;

    const TODAY: Date = Date::constant(2026, 11, 30);

    #[test]
    fn names_the_days_that_were_searched() {
        let days = Some((Date::constant(2026, 11, 20), Date::constant(2026, 11, 22)));
        for (from, to, shown, expected) in [
            (None, None, None, None),
            (None, None, days, Some("list --date 2026-11-20 --to 2026-11-22")),
            (None, Some("2026-11-23"), days, Some("list --date 2026-11-20 --to 2026-11-23")),
            (None, Some("2026-11-23"), None, None),
            (Some("2026-11-19"), None, None, Some("list --date 2026-11-19 --to 2026-11-30")),
            (Some("2026-11-19"), None, days, Some("list --date 2026-11-19 --to 2026-11-30")),
            (Some("2026-11-30"), None, None, Some("list --date 2026-11-30")),
            (Some("2026-12-24"), None, None, Some("list --date 2026-12-24")),
            (Some("2025-11-30"), None, None, Some("list --date 2025-11-30 --to 2026-11-30")),
            (Some("2025-11-29"), None, days, None),
        ] {
            let date = |text: Option<&str>| text.map(|text| text.parse().unwrap());
            let filter = CallFilter { first_date: date(from), last_date: date(to), ..CallFilter::default() };
            assert_eq!(list(&filter, shown, TODAY).as_deref(), expected, "{from:?} {to:?} {shown:?}");
        }
    }

    #[test]
    fn quotes_what_people_typed() {
        let filter = CallFilter {
            first_date: Some(TODAY),
            project_id: Some("-p".to_owned()),
            handoff_reason: Phrase::new("$(reboot) it's"),
            handoff: Some(true),
            max_seconds: Some(90),
            ..CallFilter::default()
        };
        assert_eq!(
            list(&filter, None, TODAY).unwrap(),
            r"list --date 2026-11-30 --project=-p --handoff yes --handoff-reason '$(reboot) it'\''s' --max-length 1:30"
        );
    }
}
