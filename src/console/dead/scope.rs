//! The part of the dead letters that a page lists or an action takes, as the query of an address and as fields of a form.

use std::{borrow::Cow, time::Duration};

use maud::{Markup, html};
use url::form_urlencoded;

use crate::{console::error::PageError, queue::DeadLetterFilter, shell, terminal};

/// The highest page that is served. What comes after it is found by narrowing.
const MAX_PAGE: usize = 100_000;

/// Properties of dead letters, as a person wrote them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Scope {
    pub(super) reason: Option<String>,
    pub(super) project: Option<String>,
    pub(super) environment: Option<String>,
    pub(super) older_than: Option<String>,
    pub(super) newer_than: Option<String>,
}

impl Scope {
    /// Takes a field of a form or query, if it belongs to the scope. Empty fields mean no restriction.
    pub(super) fn take(&mut self, name: &str, value: &str) -> bool {
        let slot = match name {
            "reason" => &mut self.reason,
            "project" => &mut self.project,
            "environment" => &mut self.environment,
            "older_than" => &mut self.older_than,
            "newer_than" => &mut self.newer_than,
            _ => return false,
        };
        *slot = Some(value.trim().to_owned()).filter(|value| !value.is_empty());
        true
    }

    /// Returns the names and values of the restrictions.
    pub(super) fn fields(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let Self { reason, project, environment, older_than, newer_than } = self;
        let fields = [
            ("reason", reason),
            ("project", project),
            ("environment", environment),
            ("older_than", older_than),
            ("newer_than", newer_than),
        ];
        fields.into_iter().filter_map(|(name, value)| Some((name, value.as_deref()?)))
    }

    pub(super) fn is_everything(&self) -> bool {
        self.fields().next().is_none()
    }

    pub(super) fn with_reason(&self, reason: &str) -> Self {
        Self { reason: Some(reason.to_owned()), ..self.clone() }
    }

    pub(super) fn filter(&self) -> Result<DeadLetterFilter, PageError> {
        let list = |value: &Option<String>| value.iter().cloned().collect();
        Ok(DeadLetterFilter {
            reasons: list(&self.reason),
            projects: list(&self.project),
            environments: list(&self.environment),
            older_than: duration(self.older_than.as_deref())?,
            newer_than: duration(self.newer_than.as_deref())?,
        })
    }

    /// Returns the fields of a form that carry the scope.
    pub(super) fn hidden_fields(&self) -> Markup {
        html! {
            @for (name, value) in self.fields() { input type="hidden" name=(name) value=(value); }
        }
    }

    /// Returns the address of a page of the list.
    pub(super) fn url(&self, page: usize) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.extend_pairs(self.fields());
        if page > 1 {
            query.append_pair("page", &page.to_string());
        }
        match query.finish() {
            query if query.is_empty() => "/dead".to_owned(),
            query => format!("/dead?{query}"),
        }
    }

    /// Returns the options of `polyhook dead` that select the same, if there are such.
    pub(super) fn options(&self) -> Option<String> {
        if self.environment.is_some() {
            return None;
        }
        if self.is_everything() {
            return Some("--all".to_owned());
        }
        let option = |(name, value): (&str, &str)| {
            // Only `--option=value` also takes a value that begins with a hyphen.
            let equals = if value.starts_with('-') { "=" } else { " " };
            format!("--{}{equals}{}", name.replace('_', "-"), shell::quote(value))
        };
        Some(self.fields().map(option).collect::<Vec<_>>().join(" "))
    }
}

/// A page of the list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ListQuery {
    pub(super) scope: Scope,
    /// From one.
    pub(super) page: usize,
}

impl ListQuery {
    /// Reads the query of the address. An unknown parameter is an error: without it, the list would have other letters than its
    /// author meant.
    pub(super) fn parse(query: &str) -> Result<Self, PageError> {
        let mut parsed = Self { page: 1, ..Self::default() };
        for (name, value) in pairs(query.as_bytes()) {
            if parsed.scope.take(&name, &value) {
                continue;
            }
            if name != "page" {
                return Err(PageError::bad_request(
                    format!("The address has an unknown filter, {}.", terminal::escape(&name)),
                    "Filter by reason, project, environment, older_than or newer_than.",
                ));
            }
            parsed.page = value.parse().unwrap_or(1).clamp(1, MAX_PAGE);
        }
        Ok(parsed)
    }
}

/// Returns the fields of a form or a query, in order.
pub(super) fn pairs(encoded: &[u8]) -> impl Iterator<Item = (Cow<'_, str>, Cow<'_, str>)> {
    form_urlencoded::parse(encoded)
}

fn duration(text: Option<&str>) -> Result<Option<Duration>, PageError> {
    text.map(humantime::parse_duration).transpose().map_err(|_| {
        PageError::bad_request("An age is not a duration.", "Write a duration, such as 10m, 12h or 30d.")
    })
}
