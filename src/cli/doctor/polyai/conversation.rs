//! Fetches one conversation by id from each API and checks its transcript.

use futures_util::future::join_all;

use super::{
    super::{
        Args,
        report::{Finding, Subject},
    },
    Attempt, ProjectCheck,
    recording::{self, MAX_COMPARED_RECORDINGS},
};
use crate::{
    config::Config,
    polyai::{
        Api, ApiRequest, ConversationInfo, ErrorKind, Target,
        probe::{ProbeResponse, ProbedConversation, Prober},
    },
};

pub(super) async fn check(
    config: &Config,
    args: &Args,
    prober: &Prober,
    project: &str,
    attempts: &[Attempt],
    check: &mut ProjectCheck,
) {
    let targets: Vec<_> = attempts
        .iter()
        .filter(|attempt| attempt.response.conversations().is_some())
        .map(|attempt| &attempt.target)
        .collect();
    let skip_all = |message: &str, next: &str| {
        ["polyai.conversation", "polyai.transcript", "polyai.recording"]
            .map(|check| Subject::new(check, project).skipped(message, next))
    };
    if targets.is_empty() {
        check.findings.extend(skip_all(no_list(attempts), "see polyai.key"));
        return;
    }
    let ids = match &args.conversation {
        Some(id) => vec![id.clone()],
        None => {
            choose(attempts.iter().filter_map(|attempt| attempt.response.conversations()).flatten().collect())
        }
    };
    let Some((id, other_ids)) = ids.split_first() else {
        let next = "make a call, or give --conversation ID";
        check.findings.extend(skip_all("there is no conversation yet", next));
        return;
    };
    let responses = targets.iter().map(|target| prober.send(target, ApiRequest::Conversation { id }));
    let responses: Vec<_> = targets.iter().copied().zip(join_all(responses).await).collect();
    let conversation = responses.iter().find_map(|(_, response)| read_conversation(response, id));
    check.conversation_found = conversation.is_some();
    let label = format!("{id} of {project}");
    if conversation.is_none() && is_unknown_everywhere(&responses) {
        let subject = Subject::new("polyai.conversation", label);
        let unknown = subject.fail(
            "PolyAI does not know this conversation in this account and project",
            "check the id, projects.account_id and projects.project_id",
        );
        check.unknown_conversation = Some((subject, unknown));
        return;
    }
    for (target, response) in &responses {
        let subject = Subject::new("polyai.conversation", format!("{label} ({})", target.api().label()));
        let matches = read_conversation(response, id).is_some();
        check.findings.push(by_id(&subject, target, response, matches, check.conversation_found));
    }
    let Some(conversation) = conversation else { return };
    check.findings.push(transcript(&Subject::new("polyai.transcript", &*label), &conversation));
    let subject = Subject::new("polyai.recording", label);
    check
        .findings
        .push(recording::check(&subject, config, prober, &targets, (id, other_ids), &conversation).await);
}

/// Returns the reason why no target lists conversations. A failed request says nothing about the key.
fn no_list(attempts: &[Attempt]) -> &'static str {
    let denials =
        [ErrorKind::KeyRejected, ErrorKind::KeyLacksScope, ErrorKind::UnknownProject, ErrorKind::NotServed];
    let is_denied =
        |attempt: &Attempt| attempt.response.error().is_some_and(|error| denials.contains(&error));
    if attempts.iter().all(is_denied) {
        "no key gives access to the project"
    } else {
        "it is not known whether a key gives access to the project"
    }
}

/// Returns the ids of the newest conversations. Finished calls come first, because they have recordings.
fn choose(mut recent: Vec<ProbedConversation>) -> Vec<String> {
    recent.sort_by_key(|conversation| (conversation.in_progress, !conversation.voice));
    let calls = recent.iter().filter(|conversation| conversation.voice && !conversation.in_progress).count();
    recent.truncate(calls.clamp(1, MAX_COMPARED_RECORDINGS));
    recent.into_iter().map(|conversation| conversation.id).collect()
}

fn read_conversation(response: &ProbeResponse, id: &str) -> Option<ConversationInfo> {
    let body = response.outcome.as_ref().ok()?;
    ConversationInfo::read(&body.start).ok().filter(|conversation| conversation.id.as_deref() == Some(id))
}

/// Returns whether no API knows the conversation, and at least one of them serves conversations by id.
fn is_unknown_everywhere(responses: &[(&Target, ProbeResponse)]) -> bool {
    let errors = || responses.iter().map(|(_, response)| response.error());
    errors().all(|error| matches!(error, Some(ErrorKind::UnknownConversation | ErrorKind::NotServed)))
        && !errors().all(|error| error == Some(ErrorKind::NotServed))
}

fn by_id(
    subject: &Subject,
    target: &Target,
    response: &ProbeResponse,
    matches: bool,
    found: bool,
) -> Finding {
    let api = target.api().label();
    match response.error() {
        None if matches => subject.ok(format!("served in {} ms", response.elapsed.as_millis())),
        None => subject.fail(
            "the response is not this conversation",
            "a proxy or login page may answer instead of PolyAI; check polyai.base_url and polyai.platform_url",
        ),
        Some(ErrorKind::NotServed) if found => {
            subject.ok(format!("not served by {api} here; polyhook uses the other API"))
        }
        Some(ErrorKind::NotServed) => {
            let message = format!("{api} lists conversations but does not serve one by id");
            match target.api() {
                Api::V3 => subject.warn(
                    format!("{message}; polyhook takes them from the list, without recordings"),
                    "leave polyai.api at \"auto\", and add a key for the Data API with projects.data_api_key_file, which serves recordings",
                ),
                Api::Data => subject.fail(
                    message,
                    "check polyai.platform_url, and ask PolyAI which API serves conversations by id for you",
                ),
            }
        }
        Some(_) => {
            let error = response.outcome.as_ref().err();
            let message = error.map(ToString::to_string).or(response.cause.clone()).unwrap_or_default();
            let id = error.and_then(|error| error.correlation_id.as_deref()).unwrap_or("none");
            let next = format!("try again; if it persists, give the correlation id to PolyAI's support: {id}");
            if found { subject.warn(message, next) } else { subject.fail(message, next) }
        }
    }
}

fn transcript(subject: &Subject, conversation: &ConversationInfo) -> Finding {
    if conversation.transcript_hidden() {
        return subject.warn(
            format!("none of {} turns is shown: transcript visibility is off", conversation.num_turns),
            "turn it on in Agent Studio, API Keys > Configuration > Conversation transcript; conversations that are already archived stay without it",
        );
    }
    if conversation.turns_present == 0 {
        return subject
            .skipped("the conversation has no turns", "give --conversation ID of one that has turns");
    }
    subject.ok("turns are shown")
}
