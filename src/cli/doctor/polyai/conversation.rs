//! One conversation: by id on each API, its transcript, its recording, and whether that is the redacted one.

use futures_util::future::join_all;

use super::{
    super::{
        Args,
        report::{Finding, Subject},
    },
    Attempt, Visit,
};
use crate::{
    config::Config,
    polyai::{
        Api, AudioDirection, ConversationInfo, ErrorKind,
        probe::{Body, ProbeRequest, ProbeResponse, ProbedConversation, Prober, Target},
    },
};

/// How many recordings are compared with their redacted ones until two differ: a call may have nothing private in it.
const COMPARED: usize = 3;

pub(super) async fn check(
    config: &Config,
    args: &Args,
    prober: &Prober,
    project: &str,
    attempts: &[Attempt],
    visit: &mut Visit,
) {
    let open: Vec<_> = attempts.iter().filter(|attempt| attempt.response.conversations().is_some()).collect();
    let nothing = |said: &str, next: &str| {
        ["polyai.conversation", "polyai.transcript", "polyai.recording"]
            .map(|check| Subject::new(check, project).skipped(said, next))
    };
    if open.is_empty() {
        visit.findings.extend(nothing("no key opens the project", "see polyai.key"));
        return;
    }
    let recent =
        || open.iter().filter_map(|attempt| attempt.response.conversations()).flatten().collect::<Vec<_>>();
    let ids = args.conversation.clone().map_or_else(|| choose(recent()), |id| vec![id]);
    let Some((id, others)) = ids.split_first() else {
        visit
            .findings
            .extend(nothing("there is no conversation yet", "make a call, or give --conversation ID"));
        return;
    };
    let responses = open.iter().map(|attempt| prober.send(&attempt.target, ProbeRequest::Conversation(id)));
    let responses: Vec<_> =
        open.iter().map(|attempt| &attempt.target).zip(join_all(responses).await).collect();
    let mut served: Vec<(&Target, ConversationInfo)> = Vec::new();
    for (target, response) in &responses {
        served.extend(summary(response, id).map(|summary| (*target, summary)));
    }
    visit.found = !served.is_empty();
    let label = format!("{id} of {project}");
    if served.is_empty()
        && responses.iter().all(|(_, response)| is_unknown(response))
        && !all_unserved(&responses)
    {
        let subject = Subject::new("polyai.conversation", label);
        let unknown = subject.fail(
            "PolyAI does not know this conversation under this account and project",
            "check the id, and projects.account_id and project_id",
        );
        visit.unknown = Some((subject, unknown));
        return;
    }
    for (target, response) in &responses {
        let subject = Subject::new("polyai.conversation", format!("{label} ({})", target.api.label()));
        visit.findings.push(by_id(&subject, target, response, summary(response, id).is_some(), visit.found));
    }
    let Some((_, first)) = served.first() else { return };
    visit.findings.push(transcript(&Subject::new("polyai.transcript", &*label), first));
    let targets: Vec<_> = open.iter().map(|attempt| &attempt.target).collect();
    visit.findings.push(
        recording(&Subject::new("polyai.recording", label), config, prober, &targets, (id, others), first)
            .await,
    );
}

/// The newest first, calls that are over before everything else.
fn choose(mut recent: Vec<ProbedConversation>) -> Vec<String> {
    recent.sort_by_key(|listed| (listed.in_progress, !listed.voice));
    let calls = recent.iter().filter(|listed| listed.voice && !listed.in_progress).count();
    recent.truncate(calls.clamp(1, COMPARED));
    recent.into_iter().map(|listed| listed.id).collect()
}

fn summary(response: &ProbeResponse, id: &str) -> Option<ConversationInfo> {
    let body = response.outcome.as_ref().ok()?;
    ConversationInfo::read(&body.start).ok().filter(|summary| summary.id.as_deref() == Some(id))
}

fn is_unknown(response: &ProbeResponse) -> bool {
    matches!(response.error(), Some(ErrorKind::UnknownConversation | ErrorKind::NotServed))
}

fn all_unserved(responses: &[(&Target, ProbeResponse)]) -> bool {
    responses.iter().all(|(_, response)| response.error() == Some(ErrorKind::NotServed))
}

fn by_id(subject: &Subject, target: &Target, response: &ProbeResponse, right: bool, found: bool) -> Finding {
    match response.error() {
        None if right => subject.ok(format!("served in {} ms", response.elapsed.as_millis())),
        None => subject.fail(
            "the answer is not that conversation",
            "a proxy or login page between here and PolyAI does that: check polyai.base_url and polyai.platform_url",
        ),
        Some(ErrorKind::NotServed) if found => {
            subject.ok(format!("not served by {} here; the other API does, and polyhook asks it", target.api.label()))
        }
        Some(ErrorKind::NotServed) => {
            let next = match target.api {
                Api::V3 => "leave polyai.api at \"auto\", and give projects.data_api_key_file a key to the Data API if yours is not one",
                Api::Data => "check polyai.platform_url, and ask PolyAI which API serves conversations by id for you",
            };
            subject.fail(format!("{} lists conversations but does not serve one by id", target.api.label()), next)
        }
        Some(_) => {
            let error = response.outcome.as_ref().err();
            let said = error.map(ToString::to_string).or(response.cause.clone()).unwrap_or_default();
            let id = error.and_then(|error| error.correlation_id.as_deref()).unwrap_or("none");
            let next = format!("try again; quote PolyAI's correlation id to their support if it persists: {id}");
            if found { subject.warn(said, next) } else { subject.fail(said, next) }
        }
    }
}

fn transcript(subject: &Subject, summary: &ConversationInfo) -> Finding {
    if summary.transcript_hidden() {
        return subject.warn(
            format!("{} turns, and none of them is shown: transcript visibility is off", summary.num_turns),
            "in Agent Studio, API Keys > Configuration > Conversation transcript; conversations archived before that stay without",
        );
    }
    if summary.turns_present == 0 {
        return subject.skipped("the conversation has no turns", "give --conversation ID of one that has");
    }
    subject.ok("turns are shown")
}

async fn recording(
    subject: &Subject,
    config: &Config,
    prober: &Prober,
    targets: &[&Target],
    (id, others): (&str, &[String]),
    summary: &ConversationInfo,
) -> Finding {
    let Some(direction) = config.worker.audio.directions().first().copied() else {
        return subject.skipped("worker.audio is off", "nothing to do");
    };
    if !summary.is_voice() {
        return subject.skipped("it is no call, so there is none", "give --conversation ID of a call");
    }
    let ask = async |id, redacted| ask(prober, targets, id, direction, redacted).await;
    let Some(wanted) = ask(id, config.worker.redacted).await else {
        return subject.skipped("no API to ask", "see polyai.host");
    };
    let body = match &wanted.outcome {
        Ok(body) if is_wav(&body.start) => body,
        Ok(_) => {
            let content = wanted.content_type.as_deref().unwrap_or("no content type");
            return subject.fail(
                format!("what came is not a recording ({content})"),
                "a proxy or login page between here and PolyAI does that; otherwise quote the conversation to PolyAI's support",
            );
        }
        Err(error) => return refused(subject, error.kind, &error.to_string()),
    };
    if config.worker.redacted {
        return subject.ok("there, and redacted, as worker.redacted asks for");
    }
    // The redacted one is as long, with what is private muted.
    let differ = |one: &Body, other: Option<&ProbeResponse>| {
        other
            .and_then(|response| response.outcome.as_ref().ok())
            .is_some_and(|other| other.sha256 != one.sha256)
    };
    let mut not_redacted = differ(body, ask(id, true).await.as_ref());
    for id in others {
        if not_redacted {
            break;
        }
        let open = ask(id, false).await.and_then(|response| response.outcome.ok());
        not_redacted = match open {
            Some(open) => differ(&open, ask(id, true).await.as_ref()),
            None => false,
        };
    }
    if not_redacted {
        return subject.ok("there, and not redacted");
    }
    let calls = if others.is_empty() { String::new() } else { format!(" (of {} calls)", others.len() + 1) };
    subject.warn(
        format!("there, but the same as the redacted one{calls}: the key has no access to personal data, or nothing private is said in it"),
        "try --conversation with a call in which something private is said; ask PolyAI for PII access, or set worker.redacted = true to say that it is meant",
    )
}

/// Asks the first API that serves recordings.
async fn ask(
    prober: &Prober,
    targets: &[&Target],
    id: &str,
    direction: AudioDirection,
    redacted: bool,
) -> Option<ProbeResponse> {
    let mut response = None;
    for target in targets {
        let this = prober.send(target, ProbeRequest::Audio { id, direction, redacted }).await;
        let served = this.error() != Some(ErrorKind::NotServed);
        response = Some(this);
        if served {
            break;
        }
    }
    response
}

fn refused(subject: &Subject, kind: ErrorKind, said: &str) -> Finding {
    match kind {
        ErrorKind::RecordingNotFound => subject.warn(
            "there is none of this call (yet)",
            "give --conversation ID of an older call; polyhook waits for worker.audio_wait",
        ),
        ErrorKind::KeyRejected | ErrorKind::KeyLacksScope => subject.fail(
            format!("the key may read the conversation but not hear it: {said}"),
            "ask PolyAI to let the key fetch recordings, or set worker.audio = \"off\"",
        ),
        ErrorKind::NotServed => subject.fail(
            "no API of the project serves recordings",
            "leave polyai.api at \"auto\"; the Data API serves them where v3 does not",
        ),
        _ => subject.fail(said, "try again; quote the conversation to PolyAI's support if it persists"),
    }
}

fn is_wav(start: &[u8]) -> bool {
    [&b"RIFF"[..], b"RF64", b"BW64"].iter().any(|magic| start.starts_with(magic))
}
