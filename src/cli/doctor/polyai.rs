//! PolyAI: hosts, keys, projects, clock, and one conversation with its recording.
//!
//! A wrong host, a wrong key, a wrong region and a wrong project all lead to a 401 or a 404. The checks distinguish them
//! by trying the same key elsewhere: at the other API of its region, and in the other regions.

mod conversation;
mod host;
mod key;
mod recording;

use std::{borrow::Cow, time::Duration};

use futures_util::future::join_all;
use jiff::{SignedDuration, Timestamp};

use super::{
    Args,
    report::{Finding, Subject},
};
use crate::{
    archive::Archive,
    clock::Clock,
    config::Config,
    polyai::{
        self, AccountError, Api, ApiChoice, ApiRequest, ErrorKind, ProjectConfig, Target, http,
        probe::{ProbeResponse, Prober},
    },
};

/// The number of conversations that are listed, so that one with a recording is among them.
const LISTED_CONVERSATIONS: usize = 10;
/// A larger clock skew is a warning. From half of `signature.tolerance` on, deliveries are at risk.
const MAX_CLOCK_SKEW: SignedDuration = SignedDuration::from_secs(5);
/// A certificate that expires sooner should have been renewed already.
const MIN_CERTIFICATE_VALIDITY: SignedDuration = SignedDuration::from_hours(14 * 24);

/// The longest time for a look into the archive.
const ARCHIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// The findings about one project.
#[derive(Debug, Default)]
struct ProjectCheck {
    hosts: Vec<Finding>,
    clock_skews: Vec<SignedDuration>,
    findings: Vec<Finding>,
    /// Set if PolyAI does not know the conversation in this project. Another project may have it.
    unknown_conversation: Option<(Subject, Finding)>,
    conversation_found: bool,
}

/// A target and its response to a list request.
#[derive(Debug)]
struct Attempt {
    target: Target,
    response: ProbeResponse,
    /// The host is not PolyAI, so the response says nothing about the key.
    wrong_host: bool,
}

pub(super) async fn check(config: &Config, args: &Args, clock: Clock) -> Vec<Finding> {
    let Ok(prober) = Prober::new(clock.clone()) else {
        let subject = Subject::new("polyai.host", "all");
        return vec![subject.fail("cannot create an HTTP client", http::CLIENT_SETUP_HINT)];
    };
    let checks = config.projects.iter().map(|project| check_project(config, project, args, &prober, &clock));
    let mut checks = join_all(checks).await;
    let found = checks.iter().any(|check| check.conversation_found);
    let mut findings: Vec<Finding> = Vec::new();
    // Projects share hosts.
    for host in checks.iter_mut().flat_map(|check| std::mem::take(&mut check.hosts)) {
        if !findings.iter().any(|known| known.is_duplicate_of(&host)) {
            findings.push(host);
        }
    }
    if !checks.is_empty() {
        let skews = checks.iter().flat_map(|check| &check.clock_skews).copied();
        findings.push(clock_finding(skews.min_by_key(|skew| skew.abs()), config.signature.tolerance));
    }
    for check in checks {
        findings.extend(check.findings);
        findings.extend(check.unknown_conversation.map(|(subject, unknown)| {
            if found {
                subject.skipped("the conversation belongs to another project", "nothing to do")
            } else {
                unknown
            }
        }));
    }
    findings
}

async fn check_project(
    config: &Config,
    project: &ProjectConfig,
    args: &Args,
    prober: &Prober,
    clock: &Clock,
) -> ProjectCheck {
    let mut check = ProjectCheck::default();
    let known = match find_account(config, project, clock).await {
        None => Cow::Borrowed(project),
        Some((known, finding)) => {
            check.findings.push(finding);
            Cow::Owned(known)
        }
    };
    let project = &*known;
    let account = if project.needs_account() { "(unknown account)" } else { &project.account_id };
    let name = format!("{account}/{}", project.project_id);
    let targets = match Target::configured(&config.polyai, project) {
        Ok(targets) => targets,
        Err(error) => {
            let subject = Subject::new("polyai.key", name);
            check.findings.push(subject.fail(error.to_string(), "correct [polyai] or [[projects]]"));
            return check;
        }
    };
    let attempts = targets.into_iter().map(async |target| {
        let response = prober.send(&target, ApiRequest::List { limit: LISTED_CONVERSATIONS }).await;
        Attempt { target, response, wrong_host: false }
    });
    let mut attempts = join_all(attempts).await;
    let v3_works =
        attempts.iter().any(|attempt| attempt.target.api() == Api::V3 && attempt.response.accepts_key());
    for attempt in &mut attempts {
        let Attempt { target, response, .. } = &*attempt;
        let subject =
            Subject::new("polyai.host", format!("{} ({})", target.host_and_port(), target.api().label()));
        check.clock_skews.extend(response.skew);
        check.hosts.extend(certificate_finding(&subject, response.certificate_expiry, clock.now()));
        let host = host::check(&subject, prober, target, response, v3_works).await;
        attempt.wrong_host = !host.is_ok();
        check.hosts.push(host);
    }
    let is_rejected = |attempt: &Attempt| attempt.response.error() == Some(ErrorKind::KeyRejected);
    let archived_before =
        attempts.iter().any(is_rejected) && has_archived(config, project, clock.clone()).await;
    for attempt in &attempts {
        let subject = Subject::new("polyai.key", format!("{name} ({})", attempt.target.api().label()));
        let finding = key::check(&subject, prober, attempt, &attempts, args, v3_works, archived_before).await;
        check.findings.push(finding);
    }
    // The other roles only list.
    if args.role.roles().work {
        conversation::check(config, args, prober, &name, &attempts, &mut check).await;
    }
    check
}

/// Finds out the account of a project that names none. Without it, only the Data API can be checked.
async fn find_account(
    config: &Config,
    project: &ProjectConfig,
    clock: &Clock,
) -> Option<(ProjectConfig, Finding)> {
    if !project.needs_account() {
        return None;
    }
    let subject = Subject::new("polyai.account", project.project_id.clone());
    let mut project = project.clone();
    let finding = match polyai::find_account(&config.polyai, &project, clock.clone()).await {
        Ok(account_id) => {
            project.account_id = account_id;
            subject.ok(format!("{}, as the Data API says", project.account_id))
        }
        Err(error @ AccountError::NoConversation(_)) => {
            subject.warn(error.to_string(), "nothing is fetched until the first call, or until you set it")
        }
        Err(error) => subject.fail(error.to_string(), "set POLYAI_ACCOUNT_ID, or see polyai.key below"),
    };
    if project.needs_account() {
        project.api = Some(ApiChoice::Data);
    }
    Some((project, finding))
}

/// Returns whether the archive has conversations of the project. An archive that cannot be read says nothing.
async fn has_archived(config: &Config, project: &ProjectConfig, clock: Clock) -> bool {
    let Ok(archive) = Archive::open(&config.archive, clock) else { return false };
    let found = archive.has_conversations(&project.account_id, &project.project_id);
    matches!(tokio::time::timeout(ARCHIVE_TIMEOUT, found).await, Ok(Ok(true)))
}

/// Returns a warning if the certificate expires soon. An expired certificate is a failed connection instead.
pub(super) fn certificate_finding(
    subject: &Subject,
    expires: Option<Timestamp>,
    now: Timestamp,
) -> Option<Finding> {
    let expires = expires.filter(|expires| expires.duration_since(now) < MIN_CERTIFICATE_VALIDITY)?;
    Some(subject.warn(
        format!("the certificate expires at {expires}"),
        "renew it, or ask the operator of the host why it was not renewed automatically",
    ))
}

fn clock_finding(skew: Option<SignedDuration>, tolerance: Duration) -> Finding {
    let subject = Subject::new("clock", "this machine");
    let Some(skew) = skew else {
        return subject.skipped("no response contained the time", "see polyai.host");
    };
    let difference = skew.abs();
    let direction = if skew.is_negative() { "ahead of" } else { "behind" };
    let message = format!("{} s {direction} PolyAI's", difference.as_secs());
    let next = "synchronize the clock with NTP (chrony, systemd-timesyncd); deliveries beyond signature.tolerance are rejected";
    if difference * 2 >= SignedDuration::try_from(tolerance).unwrap_or(SignedDuration::MAX) {
        subject.fail(message, next)
    } else if difference > MAX_CLOCK_SKEW {
        subject.warn(message, next)
    } else {
        subject.ok("within a few seconds of PolyAI's clock")
    }
}
