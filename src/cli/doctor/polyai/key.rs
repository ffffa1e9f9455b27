//! Checks whether the key gives access to the project, and if not, where the key belongs.

use futures_util::future::join_all;

use super::{
    super::{
        Args,
        report::{Finding, Subject},
    },
    Attempt,
};
use crate::polyai::{
    Api, ApiRequest, ErrorKind, Hosts, Target,
    probe::{CandidateRegion, Prober},
};

pub(super) async fn check(
    subject: &Subject,
    prober: &Prober,
    attempt: &Attempt,
    all: &[Attempt],
    args: &Args,
    v3_works: bool,
    archived_before: bool,
) -> Finding {
    let Attempt { target, response, wrong_host } = attempt;
    if *wrong_host {
        return subject.skipped("the host does not answer as PolyAI", "see polyai.host");
    }
    let Err(error) = &response.outcome else { return subject.ok("the key gives access to the project") };
    let correlation_id =
        error.correlation_id.as_ref().map_or_else(String::new, |id| format!(" (correlation id {id})"));
    match error.kind {
        ErrorKind::KeyRejected | ErrorKind::KeyLacksScope if !error.in_envelope => subject.fail(
            format!("{error}{correlation_id}"),
            "the answer says nothing about the key; look for a gateway, a proxy or a firewall between here and PolyAI, and try again",
        ),
        ErrorKind::KeyRejected if target.api() == Api::Data && v3_works => subject.warn(
            format!("the Data API rejects the key that v3 accepts{correlation_id}"),
            "if PolyAI gave you a separate key for the Data API, put it into projects.data_api_key_file; it is not needed where v3 serves conversations by id",
        ),
        ErrorKind::KeyRejected => {
            let (message, next) = match locate_key(prober, target, all, args).await {
                KeyPlace::Unknown(..) if archived_before => (
                    "expired or revoked key: the archive has conversations of this project, so its key worked before"
                        .to_owned(),
                    "create a new key in Agent Studio and put it into projects.api_key_file".to_owned(),
                ),
                KeyPlace::Elsewhere(message, next) | KeyPlace::Unknown(message, next) => (message, next),
            };
            subject.fail(format!("{message}{correlation_id}"), next)
        }
        ErrorKind::KeyLacksScope => subject.fail(
            format!("wrong project: the key is good, but not for this one{correlation_id}"),
            "correct projects.account_id and projects.project_id, or ask PolyAI to give the key access to the project",
        ),
        ErrorKind::UnknownProject => {
            let (what, setting) = match error.code.as_deref() {
                Some("ACCOUNT_NOT_FOUND") => ("account", "projects.account_id"),
                _ => ("project", "projects.project_id"),
            };
            subject.fail(
                format!("wrong {what}: the key is good, but PolyAI knows no such {what}{correlation_id}"),
                format!("correct {setting}; Agent Studio's URL contains it"),
            )
        }
        ErrorKind::RateLimited => subject.warn(
            format!("too many requests at present{correlation_id}"),
            "try again in a minute; if it persists, lower polyai.max_requests_per_second, or ask PolyAI for a higher rate",
        ),
        _ => subject.fail(
            format!("{error}{correlation_id}"),
            "try again; if it persists, give the correlation id to PolyAI's support",
        ),
    }
}

/// The place where a rejected key is valid, with the message and the next step.
enum KeyPlace {
    /// Another API or region accepts the key.
    Elsewhere(String, String),
    /// No place is known that does.
    Unknown(String, String),
}

/// Finds out where a rejected key belongs.
async fn locate_key(prober: &Prober, target: &Target, all: &[Attempt], args: &Args) -> KeyPlace {
    let same_key =
        all.iter().find(|other| other.target.api() != target.api() && other.target.has_same_key_as(target));
    if same_key.is_some_and(|other| other.response.accepts_key()) {
        return KeyPlace::Elsewhere(
            "wrong kind of key: v3 rejects it, the Data API accepts it".to_owned(),
            "set projects.api (or polyai.api) to \"data\", or ask PolyAI for a key for the Conversations API v3"
                .to_owned(),
        );
    }
    let regions = candidate_regions(all, args);
    if regions.is_empty() {
        return KeyPlace::Unknown(
            "the key is wrong, expired, or of another region".to_owned(),
            "if the key worked before, it is expired or revoked: create a new one; put the right key into projects.api_key_file, and check polyai.region; other regions were not tried"
                .to_owned(),
        );
    }
    let attempts = regions
        .iter()
        .flat_map(|region| target.at_hosts(&region.hosts).into_iter().map(move |target| (region, target)));
    let attempts = attempts.map(async |(region, target)| {
        (region, target.api(), prober.send(&target, ApiRequest::List { limit: 1 }).await)
    });
    let attempts = join_all(attempts).await;
    match attempts.iter().find(|(_, _, response)| response.accepts_key()) {
        Some((region, ..)) if region.hosts.runtime.is_none() => KeyPlace::Elsewhere(
            "wrong region: it is a Studio key".to_owned(),
            format!("set polyai.region = \"{}\" (this implies api = \"data\")", region.region),
        ),
        Some((region, api, _)) => {
            let api = if *api == Api::Data {
                ", and polyai.api = \"data\", because v3 rejects it there"
            } else {
                ""
            };
            KeyPlace::Elsewhere(
                format!("wrong region: the key is of region {}", region.region),
                format!("set polyai.region = \"{}\" (or the project's own region){api}", region.region),
            )
        }
        None => {
            let names: Vec<_> = regions.iter().map(|region| region.region.as_str()).collect();
            KeyPlace::Unknown(
                format!("wrong key: it is refused here and in every other region ({})", names.join(", ")),
                "the key is mistyped, expired or revoked; put a valid one into projects.api_key_file"
                    .to_owned(),
            )
        }
    }
}

/// Returns the regions in which a rejected key is tried.
fn candidate_regions(all: &[Attempt], args: &Args) -> Vec<CandidateRegion> {
    if args.no_other_regions {
        return Vec::new();
    }
    if args.other_region.is_empty() {
        let hosts: Vec<_> = all.iter().map(|attempt| attempt.target.base()).collect();
        return CandidateRegion::other_than(&hosts);
    }
    let candidate = |(region, url): &(String, url::Url)| CandidateRegion {
        region: region.clone(),
        // The studio region has no v3 API.
        hosts: Hosts { runtime: (region != "studio").then(|| url.clone()), platform: Some(url.clone()) },
    };
    args.other_region.iter().map(candidate).collect()
}
