//! PolyAI: hosts, keys, projects, clock, and one conversation with its recording.
//!
//! A wrong host, a wrong key, a wrong region and a wrong project all end in a 401 or a 404. They are told apart by
//! asking the same key elsewhere: at the other API of its region, and in the other regions.

mod conversation;

use std::time::Duration;

use futures_util::future::join_all;
use jiff::{SignedDuration, Timestamp};

use super::{
    Args,
    report::{Finding, Subject},
};
use crate::{
    clock::Clock,
    config::Config,
    polyai::{
        Api, ErrorKind, Hosts, ProjectConfig,
        probe::{CandidateRegion, ProbeRequest, ProbeResponse, Prober, Target},
    },
};

/// How many conversations a list is asked for, so that one with a recording is among them.
const LISTED: usize = 10;
/// A clock that is further off needs attention. From half of `signature.tolerance` on deliveries are at risk.
const SKEWED: SignedDuration = SignedDuration::from_secs(5);
/// A certificate that ends sooner should have been renewed.
const RENEWED: SignedDuration = SignedDuration::from_hours(14 * 24);

/// What one project's part of the check found.
#[derive(Debug, Default)]
struct Visit {
    hosts: Vec<Finding>,
    skews: Vec<SignedDuration>,
    findings: Vec<Finding>,
    /// The conversation asked for is not this project's.
    unknown: Option<(Subject, Finding)>,
    found: bool,
}

/// A target and what happened at it.
#[derive(Debug)]
struct Attempt {
    target: Target,
    response: ProbeResponse,
    /// Why nothing can be said of the key: the host is not what it should be.
    wrong_host: bool,
}

pub(super) async fn check(config: &Config, args: &Args, clock: Clock) -> Vec<Finding> {
    let Ok(prober) = Prober::new(clock.clone()) else {
        let subject = Subject::new("polyai.host", "all");
        return vec![subject.fail("there is no HTTP client", crate::polyai::http::CLIENT_SETUP_HINT)];
    };
    let visits = config.projects.iter().map(|project| visit(config, project, args, &prober, &clock));
    let mut visits = join_all(visits).await;
    let found = visits.iter().any(|visit| visit.found);
    let mut findings: Vec<Finding> = Vec::new();
    for host in visits.iter_mut().flat_map(|visit| std::mem::take(&mut visit.hosts)) {
        if !findings.iter().any(|known| known.is_like(&host)) {
            findings.push(host);
        }
    }
    if !visits.is_empty() {
        let skews = visits.iter().flat_map(|visit| &visit.skews).copied();
        findings.push(clock_of(skews.min_by_key(|skew| skew.abs()), config.signature.tolerance));
    }
    for visit in visits {
        findings.extend(visit.findings);
        findings.extend(visit.unknown.map(|(subject, unknown)| {
            if found {
                subject.skipped("not a conversation of this project", "nothing to do")
            } else {
                unknown
            }
        }));
    }
    findings
}

async fn visit(
    config: &Config,
    project: &ProjectConfig,
    args: &Args,
    prober: &Prober,
    clock: &Clock,
) -> Visit {
    let name = format!("{}/{}", project.account_id, project.project_id);
    let mut visit = Visit::default();
    let targets = match Target::configured(&config.polyai, project) {
        Ok(targets) => targets,
        Err(error) => {
            let subject = Subject::new("polyai.key", name);
            visit.findings.push(subject.fail(error.to_string(), "correct [polyai] or [[projects]]"));
            return visit;
        }
    };
    let attempts = targets.into_iter().map(async |target| {
        let response = prober.send(&target, ProbeRequest::List(LISTED)).await;
        Attempt { target, response, wrong_host: false }
    });
    let mut attempts = join_all(attempts).await;
    let v3_works =
        attempts.iter().any(|attempt| attempt.target.api == Api::V3 && attempt.response.accepts_key());
    for attempt in &mut attempts {
        visit.skews.extend(attempt.response.skew);
        let subject = Subject::new(
            "polyai.host",
            format!("{} ({})", attempt.target.host(), attempt.target.api.label()),
        );
        visit.hosts.extend(certificate(&subject, attempt.response.certificate_expires, clock.now()));
        let host = host(&subject, prober, &attempt.target, &attempt.response, v3_works).await;
        attempt.wrong_host = !host.is_green();
        visit.hosts.push(host);
    }
    for attempt in &attempts {
        let subject = Subject::new("polyai.key", format!("{name} ({})", attempt.target.api.label()));
        visit.findings.push(key(&subject, prober, attempt, &attempts, args, v3_works).await);
    }
    conversation::check(config, args, prober, &name, &attempts, &mut visit).await;
    visit
}

/// Amber if the certificate ends soon; one that has ended is a failed connection.
pub(super) fn certificate(subject: &Subject, expires: Option<Timestamp>, now: Timestamp) -> Option<Finding> {
    let expires = expires.filter(|expires| expires.duration_since(now) < RENEWED)?;
    Some(subject.warn(
        format!("its certificate ends at {expires}"),
        "renew it, or ask whoever runs the host why that has not happened by itself",
    ))
}

/// Whether it is PolyAI that answers, with the API that it is asked for.
async fn host(
    subject: &Subject,
    prober: &Prober,
    target: &Target,
    response: &ProbeResponse,
    v3_works: bool,
) -> Finding {
    const WRONG: &str = "check polyai.region, polyai.base_url (v3) and polyai.platform_url (Data API); a proxy or a login page in between does that too";
    if let Some(cause) = &response.cause {
        return subject
            .fail(cause.clone(), "check DNS, proxy and firewall from this machine, and the host's name");
    }
    let status = response.outcome.as_ref().map_or_else(|error| error.status.unwrap_or_default(), |_| 200);
    let content = response.content_type.as_deref().unwrap_or("no content type");
    match response.error() {
        None if response.conversations().is_some() => {}
        None => {
            return subject.fail(
                format!("wrong host: it answers 200, but with {content} and no list of conversations"),
                WRONG,
            );
        }
        Some(ErrorKind::Redirected) => {
            return subject
                .fail("wrong host: it redirects elsewhere, and a key is not sent elsewhere", WRONG);
        }
        Some(_) if !response.is_polyai => {
            return subject.fail(
                format!("wrong host: it answers {status} with {content}, and it is not PolyAI"),
                WRONG,
            );
        }
        Some(ErrorKind::NotServed) if target.api == Api::Data && v3_works => {
            return subject.skipped(
                "it does not serve the Data API",
                "nothing to do as long as v3 serves conversations by id",
            );
        }
        Some(ErrorKind::NotServed) => {
            let other = target.other_api();
            let swapped = prober.send(&other, ProbeRequest::List(1)).await;
            let there = swapped.conversations().is_some()
                || !matches!(swapped.error(), None | Some(ErrorKind::NotServed));
            let api = target.api.label();
            return if there && swapped.is_polyai {
                let next = match target.api {
                    Api::V3 => {
                        "polyai.base_url is the runtime host (api.us-1.platform.polyai.app, and so on), not the poly.ai one; a tenant without v3 needs polyai.api = \"data\""
                    }
                    Api::Data => "polyai.platform_url is the poly.ai host, not the runtime one",
                };
                subject.fail(format!("wrong host: it serves {} but not {api}", other.api.label()), next)
            } else {
                subject.fail(format!("wrong host: it does not serve conversations by {api}"), WRONG)
            };
        }
        Some(_) => {}
    }
    subject.ok(format!("PolyAI answers in {} ms", response.elapsed.as_millis()))
}

/// Whether the key opens the project, and if not, what it does open.
async fn key(
    subject: &Subject,
    prober: &Prober,
    attempt: &Attempt,
    all: &[Attempt],
    args: &Args,
    v3_works: bool,
) -> Finding {
    let Attempt { target, response, .. } = attempt;
    let quote = match &response.outcome {
        Err(error) => {
            error.correlation_id.as_ref().map_or_else(String::new, |id| format!(" (correlation id {id})"))
        }
        Ok(_) => String::new(),
    };
    if attempt.wrong_host {
        return subject.skipped("the host does not answer as PolyAI", "see polyai.host");
    }
    let Some(kind) = response.error() else { return subject.ok("the key opens the project") };
    match kind {
        ErrorKind::KeyRejected if target.api == Api::Data && v3_works => subject.warn(
            format!("the Data API refuses the key that v3 takes{quote}"),
            "if PolyAI gave you another key for the Data API, put it into projects.data_api_key_file; where v3 serves conversations by id it is not needed",
        ),
        ErrorKind::KeyRejected => {
            let (said, next) = rejected(prober, target, all, args).await;
            subject.fail(format!("{said}{quote}"), next)
        }
        ErrorKind::KeyLacksScope => subject.fail(
            format!("wrong project: the key is good, but not for this one{quote}"),
            "correct projects.account_id and projects.project_id, or ask PolyAI to provision the key for the project",
        ),
        ErrorKind::UnknownProject => {
            let unknown = response.outcome.as_ref().err().and_then(|error| error.code.as_deref());
            let (what, setting) = match unknown {
                Some("ACCOUNT_NOT_FOUND") => ("account", "projects.account_id"),
                _ => ("project", "projects.project_id"),
            };
            subject.fail(
                format!("wrong {what}: the key is good, but PolyAI knows no such {what}{quote}"),
                format!("correct {setting}: it stands in Agent Studio's URL"),
            )
        }
        ErrorKind::RateLimited => subject.warn(
            format!("too many requests at present{quote}"),
            "try again in a minute; lower polyai.max_requests_per_second if it persists",
        ),
        _ => {
            let said = response.outcome.as_ref().err().map(ToString::to_string).unwrap_or_default();
            subject.fail(format!("{said}{quote}"), "try again; quote the correlation id to PolyAI's support if it persists")
        }
    }
}

/// Where a refused key belongs: what it means, and what to do.
async fn rejected(prober: &Prober, target: &Target, all: &[Attempt], args: &Args) -> (String, String) {
    let same_key =
        all.iter().find(|other| other.target.api != target.api && other.target.has_same_key_as(target));
    if same_key.is_some_and(|other| other.response.accepts_key()) {
        return (
            "wrong kind of key: v3 refuses it, the Data API takes it".to_owned(),
            "set projects.api (or polyai.api) to \"data\", or ask PolyAI for a key to the Conversations API v3".to_owned(),
        );
    }
    let hosts: Vec<_> = all.iter().map(|attempt| &attempt.target.base).collect();
    let regions = match (args.no_other_regions, args.other_region.is_empty()) {
        (true, _) => Vec::new(),
        (false, true) => CandidateRegion::other_than(&hosts),
        (false, false) => given(args),
    };
    if regions.is_empty() {
        return (
            "the key is wrong, expired, or of another region".to_owned(),
            "put the right key into projects.api_key_file, and check polyai.region; other regions were not asked".to_owned(),
        );
    }
    let asked = regions.iter().flat_map(|candidate| {
        target.at_hosts(&candidate.hosts).into_iter().map(move |target| (candidate, target))
    });
    let asked = asked.map(async |(candidate, target)| {
        (candidate, target.api, prober.send(&target, ProbeRequest::List(1)).await)
    });
    let asked = join_all(asked).await;
    let takes_it = asked.iter().find(|(_, _, response)| response.accepts_key());
    match takes_it {
        Some((candidate, ..)) if candidate.hosts.runtime.is_none() => (
            "wrong region: it is a Studio key".to_owned(),
            format!("set polyai.region = \"{}\" (api = \"data\" follows from it)", candidate.region),
        ),
        Some((candidate, api, _)) => {
            let api =
                if *api == Api::Data { ", and polyai.api = \"data\", for v3 refuses it there" } else { "" };
            (
                format!("wrong region: the key is of region {}", candidate.region),
                format!("set polyai.region = \"{}\" (or the project's own region){api}", candidate.region),
            )
        }
        None => {
            let names: Vec<_> = regions.iter().map(|candidate| candidate.region.as_str()).collect();
            (
                format!("wrong key: it is refused here and in every other region ({})", names.join(", ")),
                "it is mistyped, expired or revoked: put a good one into projects.api_key_file".to_owned(),
            )
        }
    }
}

/// The regions that were named on the command line; studio has no v3.
fn given(args: &Args) -> Vec<CandidateRegion> {
    let candidate = |(region, url): &(String, url::Url)| CandidateRegion {
        region: region.clone(),
        hosts: Hosts { runtime: (region != "studio").then(|| url.clone()), platform: url.clone() },
    };
    args.other_region.iter().map(candidate).collect()
}

fn clock_of(skew: Option<SignedDuration>, tolerance: Duration) -> Finding {
    let subject = Subject::new("clock", "this machine");
    let Some(skew) = skew else {
        return subject.skipped("no answer said what time it is", "see polyai.host");
    };
    let off = skew.abs();
    let direction = if skew.is_negative() { "ahead of" } else { "behind" };
    let said = format!("{} s {direction} PolyAI's", off.as_secs());
    let next = "keep it with NTP (chrony, systemd-timesyncd); a signed delivery is refused beyond signature.tolerance";
    if off * 2 >= SignedDuration::try_from(tolerance).unwrap_or(SignedDuration::MAX) {
        subject.fail(said, next)
    } else if off > SKEWED {
        subject.warn(said, next)
    } else {
        subject.ok("agrees with PolyAI's to a few seconds")
    }
}
