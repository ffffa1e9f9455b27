//! The filter of the list: what the address says, and the form that makes it.

use jiff::{Timestamp, ToSpan as _, civil::Date, tz::Offset};
use maud::{Markup, html};
use serde::Deserialize;
use url::form_urlencoded;

use crate::{
    console::mask::{TextMask, mask_numbers},
    index::{CallFilter, Phrase, SearchProject},
    wording::parse_length,
};

/// The words that PolyAI uses. Others may be typed.
const ENVIRONMENTS: [&str; 3] = ["live", "pre-release", "sandbox"];
const CHANNELS: [&str; 3] = ["VOICE-SIP", "WEBCHAT", "CHAT"];
/// The states of a recording, as `polyhook list` writes them.
const AUDIO_STATES: [&str; 5] = ["ready", "absent", "failed", "not_applicable", "disabled"];
/// The longest text of a field.
const MAX_FIELD_BYTES: usize = 1000;

/// The query of the address. An empty field counts as absent.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ListQuery {
    text: String,
    from: String,
    to: String,
    project: String,
    environment: String,
    channel: String,
    handoff: String,
    reason: String,
    min: String,
    max: String,
    audio: String,
    id: String,
    /// The cursor of the page.
    pub(super) after: String,
}

impl ListQuery {
    /// Returns the fields of the form with their names, without empty ones.
    fn fields(&self) -> Vec<(&'static str, &str)> {
        let fields = [
            ("text", &self.text),
            ("from", &self.from),
            ("to", &self.to),
            ("project", &self.project),
            ("environment", &self.environment),
            ("channel", &self.channel),
            ("handoff", &self.handoff),
            ("reason", &self.reason),
            ("min", &self.min),
            ("max", &self.max),
            ("audio", &self.audio),
            ("id", &self.id),
        ];
        fields
            .into_iter()
            .map(|(name, value)| (name, value.trim()))
            .filter(|(_, value)| !value.is_empty())
            .collect()
    }

    /// Returns true if nothing is filtered.
    pub(super) fn is_empty(&self) -> bool {
        self.fields().is_empty()
    }

    /// Returns true if a field of the folded part of the form is set.
    fn has_details(&self) -> bool {
        self.fields().iter().any(|(name, _)| !matches!(*name, "text" | "from" | "to"))
    }

    /// Returns the address of the same list at a cursor, or of its first page.
    pub(super) fn address(&self, after: Option<&str>) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.extend_pairs(self.fields());
        if let Some(after) = after {
            query.append_pair("after", after);
        }
        let query = query.finish();
        if query.is_empty() { "/conversations".to_owned() } else { format!("/conversations?{query}") }
    }

    /// Returns the filter, or what is wrong with the fields, each with a message.
    pub(super) fn filter(
        &self,
        now: Timestamp,
        mask: TextMask,
    ) -> Result<CallFilter, Vec<(&'static str, String)>> {
        let mut problems = Vec::new();
        let mut filter = CallFilter::default();
        for (name, value) in self.fields() {
            if let Err(problem) = set_field(&mut filter, name, value, now, mask) {
                problems.push((name, problem));
            }
        }
        if let (Some(first), Some(last)) = (filter.first_date, filter.last_date)
            && first > last
        {
            problems.push(("to", format!("Last day: {last} is before the first day, {first}.")));
        }
        if let (Some(min), Some(max)) = (filter.min_seconds, filter.max_seconds)
            && min > max
        {
            problems.push(("max", "Length at most: it is shorter than the other length.".to_owned()));
        }
        if problems.is_empty() { Ok(filter) } else { Err(problems) }
    }
}

fn set_field(
    filter: &mut CallFilter,
    name: &str,
    value: &str,
    now: Timestamp,
    mask: TextMask,
) -> Result<(), String> {
    if value.len() > MAX_FIELD_BYTES {
        return Err(format!("{}: it is too long.", label(name)));
    }
    let text = || Some(value.to_owned());
    let phrase = || -> Result<Phrase, String> {
        if mask.hides(value) {
            return Err(format!(
                "{}: phone numbers cannot be searched, because console.show_numbers is off.",
                label(name)
            ));
        }
        let limit = Phrase::MAX_CHARS;
        let phrase = Phrase::new(value)
            .ok_or_else(|| format!("{}: write at most {limit} characters.", label(name)))?;
        Ok(if mask.show_numbers { phrase } else { phrase.in_masked(mask_numbers) })
    };
    match name {
        "text" => filter.text = Some(phrase()?),
        "reason" => filter.handoff_reason = Some(phrase()?),
        "from" => filter.first_date = Some(date(value, now).ok_or_else(|| wrong_date(name))?),
        "to" => filter.last_date = Some(date(value, now).ok_or_else(|| wrong_date(name))?),
        "project" => filter.project_id = text(),
        "environment" => filter.environment = text(),
        "channel" => filter.channel = text(),
        "audio" if AUDIO_STATES.contains(&value) => filter.audio = text(),
        "audio" => {
            return Err(format!("Recording: choose one of {}.", super::in_words(&AUDIO_STATES.join(", "))));
        }
        "id" => filter.id_prefix = text(),
        "min" => filter.min_seconds = Some(parse_length(value).ok_or_else(|| wrong_length(name))?),
        "max" => filter.max_seconds = Some(parse_length(value).ok_or_else(|| wrong_length(name))?),
        "handoff" => match value {
            "yes" => filter.handoff = Some(true),
            "no" => filter.handoff = Some(false),
            _ => return Err("Handoff: choose yes or no.".to_owned()),
        },
        _ => {}
    }
    Ok(())
}

fn wrong_date(name: &str) -> String {
    format!("{}: write a date, such as 2026-11-22, or today or yesterday.", label(name))
}

fn wrong_length(name: &str) -> String {
    format!("{}: write minutes and seconds, such as 1:30, or a length, such as 90s.", label(name))
}

/// Reads a day (UTC), like `polyhook list --date`.
fn date(text: &str, now: Timestamp) -> Option<Date> {
    let today = Offset::UTC.to_datetime(now).date();
    match text {
        "today" => Some(today),
        "yesterday" => Some(today.saturating_sub(1.day())),
        date => date.parse().ok(),
    }
}

/// Returns the label of a field.
fn label(name: &str) -> &'static str {
    match name {
        "text" => "Text in the transcript",
        "from" => "First day (UTC)",
        "to" => "Last day (UTC)",
        "project" => "Project",
        "environment" => "Environment",
        "channel" => "Channel",
        "handoff" => "Handoff",
        "reason" => "Reason of the handoff",
        "min" => "Length at least",
        "max" => "Length at most",
        "audio" => "Recording",
        _ => "Conversation id",
    }
}

/// Returns the form.
pub(super) fn render(query: &ListQuery, projects: &[SearchProject]) -> Markup {
    let input = |name: &'static str, kind: &str, value: &str, hint: &str| {
        html! {
            label class={ "field " (name) } {
                (label(name))
                input type=(kind) name=(name) value=(value) placeholder=[(!hint.is_empty()).then_some(hint)]
                    maxlength=(Phrase::MAX_CHARS) autocomplete="off" spellcheck="false";
            }
        }
    };
    let suggested = |name: &'static str, value: &str, words: &[&str]| {
        html! {
            label class={ "field " (name) } {
                (label(name))
                input name=(name) value=(value) list={ (name) "-words" } maxlength=(Phrase::MAX_CHARS)
                    autocomplete="off" spellcheck="false";
            }
            datalist id={ (name) "-words" } { @for word in words { option value=(word) {} } }
        }
    };
    let ids: std::collections::BTreeSet<_> =
        projects.iter().map(|project| project.project_id.as_str()).collect();
    let mut project_ids: Vec<_> = ids.into_iter().collect();
    if !query.project.is_empty() && !project_ids.contains(&query.project.as_str()) {
        project_ids.push(&query.project);
    }
    html! {
        form class="filters conversations" action="/conversations" method="get" role="search" {
            (input("text", "search", &query.text, "a word or a phrase"))
            (input("from", "date", &query.from, ""))
            (input("to", "date", &query.to, ""))
            details open[query.has_details()] {
                summary { "More filters" }
                div class="fields" {
                    (select("project", &query.project, &project_ids, str::to_owned))
                    (suggested("environment", &query.environment, &ENVIRONMENTS))
                    (suggested("channel", &query.channel, &CHANNELS))
                    (select("handoff", &query.handoff, &["yes", "no"], str::to_owned))
                    (input("reason", "text", &query.reason, ""))
                    (input("min", "text", &query.min, "0:30"))
                    (input("max", "text", &query.max, "10:00"))
                    (select("audio", &query.audio, &AUDIO_STATES, super::in_words))
                    (input("id", "text", &query.id, "all of it, or its beginning"))
                }
            }
            div class="actions" {
                button class="primary" type="submit" { "Search" }
                @if !query.is_empty() { a class="button" href="/conversations" { "Clear" } }
            }
        }
    }
}

fn select(name: &'static str, value: &str, options: &[&str], text: fn(&str) -> String) -> Markup {
    html! {
        label class={ "field " (name) } {
            (label(name))
            select name=(name) {
                option value="" { "any" }
                @for option in options {
                    option value=(option) selected[*option == value] { (text(option)) }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(query: &ListQuery) -> Result<CallFilter, Vec<&'static str>> {
        let now = "2026-11-30T23:59:59Z".parse().unwrap();
        query
            .filter(now, TextMask { show_numbers: false })
            .map_err(|problems| problems.into_iter().map(|(name, _)| name).collect())
    }

    #[test]
    fn reads_every_field() {
        let text = "text=a+b&from=yesterday&to=2026-11-30&project=p&environment=live&channel=SMS&handoff=no\
                    &reason=angry&min=1:30&max=2m&audio=ready&id=CA1";
        let query: ListQuery = serde_urlencoded(text);
        let filter = filter(&query).unwrap();
        assert!(filter.text.is_some() && filter.handoff_reason.is_some());
        assert_eq!(
            (filter.first_date, filter.last_date),
            (Some(Date::constant(2026, 11, 29)), Some(Date::constant(2026, 11, 30)))
        );
        assert_eq!(
            (filter.min_seconds, filter.max_seconds, filter.handoff),
            (Some(90), Some(120), Some(false))
        );
        let words = [filter.project_id, filter.environment, filter.channel, filter.audio, filter.id_prefix];
        assert_eq!(words.map(Option::unwrap), ["p", "live", "SMS", "ready", "CA1"]);
        assert_eq!(serde_urlencoded(query.address(None).split_once('?').unwrap().1).fields(), query.fields());
    }

    /// Otherwise a number could be found digit by digit.
    #[test]
    fn digits_that_the_viewer_does_not_see_are_not_found() {
        let query = serde_urlencoded("text=5550");
        for (show_numbers, is_found) in [(false, false), (true, true)] {
            let filter = query.filter(Timestamp::UNIX_EPOCH, TextMask { show_numbers }).unwrap();
            assert_eq!(filter.text.unwrap().is_in("Call +1 555 0100123, or +15550100123."), is_found);
        }
    }

    #[test]
    fn names_every_field_that_is_wrong() {
        let long = "x".repeat(2000);
        for (text, expected) in [
            ("from=x&to=2026-02-30", vec!["from", "to"]),
            ("from=2026-11-02&to=2026-11-01", vec!["to"]),
            ("min=1:60", vec!["min"]),
            ("max=-1", vec!["max"]),
            ("min=2m&max=1m", vec!["max"]),
            ("handoff=maybe&audio=zzz", vec!["handoff", "audio"]),
            (&format!("text={long}&reason={long}&id={long}"), vec!["text", "reason", "id"]),
            ("text=555+0100199&reason=%2B15550100199", vec!["text", "reason"]),
        ] {
            assert_eq!(filter(&serde_urlencoded(text)).unwrap_err(), expected, "{text}");
        }
        let empty = serde_urlencoded("text=+&from=&min=&unknown=1");
        assert!(filter(&empty).is_ok() && empty.is_empty());
    }

    fn serde_urlencoded(text: &str) -> ListQuery {
        let uri = format!("/?{text}").parse().unwrap();
        axum::extract::Query::try_from_uri(&uri).unwrap().0
    }

    #[test]
    fn the_form_keeps_hostile_fields_as_texts() {
        let query =
            ListQuery { text: "\"><script>".to_owned(), project: "<p>".to_owned(), ..ListQuery::default() };
        let form = render(&query, &[]).into_string();
        assert!(!form.contains("<script>") && !form.contains("<p>"), "{form}");
        assert!(form.contains("value=\"&quot;&gt;&lt;script&gt;\""), "{form}");
        assert!(form.contains("<details open>"), "the project is set");
        assert!(form.contains("<option value=\"not_applicable\">not applicable</option>"), "{form}");
        assert!(!render(&ListQuery::default(), &[]).into_string().contains("<details open>"));
    }
}
