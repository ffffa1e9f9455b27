//! What the archive has of a conversation, and where it came from.

use maud::{Markup, html};

use super::{
    super::{Console, access::Viewer, format},
    place::Conversation,
    reading::Verdict,
};
use crate::{
    archive::{ArchiveError, MANIFEST, Manifest, ManifestObject, ObjectKind, Timings},
    event,
    worker::announcement_of,
};

/// The state of an object in the archive.
#[derive(Debug)]
pub(super) struct ObjectState {
    pub(super) name: String,
    pub(super) is_audio: bool,
    /// `None`: it has the right size, and its bytes were not read. The error says why nothing is known.
    pub(super) verdict: Result<Option<Verdict>, String>,
}

impl ObjectState {
    /// Compares the size of an object with the manifest.
    pub(super) fn of_size(object: &ManifestObject, size: Result<Option<u64>, ArchiveError>) -> Self {
        let verdict = size.map(|size| match size {
            None => Some(Verdict::Missing),
            Some(size) if size != object.size_bytes => Some(Verdict::Changed),
            Some(_) => None,
        });
        Self::new(object, verdict)
    }

    pub(super) fn new(object: &ManifestObject, verdict: Result<Option<Verdict>, ArchiveError>) -> Self {
        Self {
            name: object.name.clone(),
            is_audio: object.kind == ObjectKind::Audio,
            verdict: verdict.map_err(|error| error.to_string()),
        }
    }
}

pub(super) fn show(
    console: &Console,
    viewer: &Viewer,
    conversation: &Conversation,
    states: &[ObjectState],
) -> Markup {
    let (manifest, mask) = (conversation.manifest(), console.text_mask());
    html! {
        section class="card" aria-labelledby="archive-title" {
            h2 id="archive-title" { "In the archive" }
            @for warning in &manifest.warnings { p class="notice warn" { (format::outside_text(&mask.apply(warning))) } }
            (objects(conversation, states))
            div class="actions" {
                form method="post" action=(conversation.url("/verify")) {
                    (viewer.csrf_field())
                    button { "Verify" }
                }
                span class="quiet" { "Reads every object again and compares its SHA-256 with the manifest." }
            }
            (provenance(conversation, console))
        }
        (fetch_again(console, viewer, conversation))
    }
}

fn objects(conversation: &Conversation, states: &[ObjectState]) -> Markup {
    let manifest = conversation.manifest();
    let url = |object: &ManifestObject| match (object.kind, object.direction) {
        (ObjectKind::Audio, Some(direction)) => conversation.url(&format!("/audio/{}", direction.as_str())),
        _ => conversation.url(&format!("/{}", object.name)),
    };
    html! {
        table class="stack" {
            thead { tr { th { "Object" } th { "Size" } th { "SHA-256" } th { "State" } } }
            tbody {
                @for object in &manifest.objects {
                    tr {
                        td data-label="Object" {
                            a href={ (url(object)) "&download" } { (format::outside_text(&object.name)) }
                            @if object.kind == ObjectKind::Revision { span class="quiet" { " (earlier revision)" } }
                            (wav(object))
                        }
                        td data-label="Size" { (format::bytes(object.size_bytes)) }
                        td data-label="SHA-256" { code { (format::outside_text(&object.sha256)) } }
                        td data-label="State" { (state(states.iter().find(|state| state.name == object.name))) }
                    }
                }
                tr {
                    td data-label="Object" { a href={ (conversation.url(&format!("/{MANIFEST}"))) "&download" } { (MANIFEST) } }
                    td data-label="Size" { (format::bytes(conversation.stored.size_bytes)) }
                    td data-label="SHA-256" { code { (conversation.stored.sha256) } }
                    td data-label="State" { span class="quiet" { "has the hashes above" } }
                }
            }
        }
        p class="quiet" {
            "polyhook wrote " (MANIFEST) ". The other objects are the bytes that PolyAI sent, with phone numbers as they are."
        }
    }
}

fn wav(object: &ManifestObject) -> Markup {
    html! {
        @if let Some(wav) = &object.wav {
            span class="quiet" {
                " " (wav.format) ", " (wav.sample_rate_hz) " Hz, " (wav.channels) " "
                (if wav.channels == 1 { "channel" } else { "channels" }) ", " (format::length(wav.seconds))
            }
        }
    }
}

fn state(state: Option<&ObjectState>) -> Markup {
    match state.map(|state| &state.verdict) {
        None | Some(Ok(None)) => html! { span class="quiet" { "not verified" } },
        Some(Ok(Some(Verdict::Intact))) => format::badge("good", "intact"),
        Some(Ok(Some(Verdict::Changed))) => format::badge("bad", "damaged"),
        Some(Ok(Some(Verdict::Missing))) => format::badge("bad", "missing"),
        Some(Err(error)) => html! { (format::badge("warn", "unknown")) " " (error) },
    }
}

fn provenance(conversation: &Conversation, console: &Console) -> Markup {
    let Manifest { provenance, timings, facts, revision, polyhook_version, .. } = conversation.manifest();
    let Timings { received_at, fetched_at, archived_at } = timings;
    let (kind, id) = announcement_of(conversation.manifest());
    let environment = event::routing_environment(&facts.environment);
    html! {
        dl class="facts" {
            dt { "Revision" } dd { (revision) }
            dt { "Served by" } dd { (provenance.served_by.as_str()) }
            dt { "Trigger" } dd {
                (provenance.trigger.as_str())
                @if let Some(event) = &provenance.event_id { " " code { (format::outside_text(event)) } }
            }
            @if let Some(received_at) = received_at { dt { "Event received" } dd { (format::time(*received_at)) } }
            dt { "Fetched" } dd { (format::time(*fetched_at)) }
            dt { "Archived" } dd { (format::time(*archived_at)) span class="quiet" { " by polyhook " (format::outside_text(polyhook_version)) } }
            dt { "Announced as" } dd { code { (kind) "." (console.text_mask().apply(&environment)) } ", id " code { (id) } }
        }
    }
}

fn fetch_again(console: &Console, viewer: &Viewer, conversation: &Conversation) -> Markup {
    let argument = format::argument(conversation.id());
    html! {
        section class="card" aria-labelledby="fetch-title" {
            h2 id="fetch-title" { "Fetch again" }
            p {
                "A worker asks PolyAI for the conversation and for recordings that the archive lacks. If the answer differs, the archive keeps \
                 the earlier conversation.json as a revision, and the new one is announced. Nothing is removed."
            }
            @if console.config.allow_replay {
                form method="post" action=(conversation.url("/fetch")) {
                    (viewer.csrf_field())
                    button class="primary" { "Fetch again" }
                }
            } @else {
                p class="quiet" { "This console changes nothing. Set " code { "console.allow_replay = true" } ", or use the command line:" }
            }
            @for verb in ["fetch", "show"] { p { (format::command(&console.command(&format!("{verb} {argument}")))) } }
        }
    }
}
