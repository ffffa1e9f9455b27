//! One conversation: by id on each API, its transcript, its recording, and whether that is the redacted one.

use futures_util::future::join_all;

use super::{
    super::{
        Args,
        report::{Finding, Subject},
    },
    Knock, Visit,
};
use crate::{
    config::Config,
    polyai::{
        Api, Direction, ErrorKind, Summary,
        probe::{Answer, Ask, Body, Door, Listed, Prober},
    },
};

/// How many recordings are compared with their redacted ones until two differ: a call may have nothing private in it.
const COMPARED: usize = 3;

pub(super) async fn check(
    config: &Config,
    args: &Args,
    prober: &Prober,
    project: &str,
    knocks: &[Knock],
    visit: &mut Visit,
) {
    let open: Vec<_> = knocks.iter().filter(|knock| knock.answer.listed().is_some()).collect();
    let nothing = |said: &str, next: &str| {
        ["polyai.conversation", "polyai.transcript", "polyai.recording"]
            .map(|check| Subject::new(check, project).skipped(said, next))
    };
    if open.is_empty() {
        visit.findings.extend(nothing("no key opens the project", "see polyai.key"));
        return;
    }
    let recent = || open.iter().filter_map(|knock| knock.answer.listed()).flatten().collect::<Vec<_>>();
    let ids = args.conversation.clone().map_or_else(|| choose(recent()), |id| vec![id]);
    let Some((id, others)) = ids.split_first() else {
        visit
            .findings
            .extend(nothing("there is no conversation yet", "make a call, or give --conversation ID"));
        return;
    };
    let answers = open.iter().map(|knock| prober.ask(&knock.door, Ask::Conversation(id)));
    let answers: Vec<_> = open.iter().map(|knock| &knock.door).zip(join_all(answers).await).collect();
    let mut served: Vec<(&Door, Summary)> = Vec::new();
    for (door, answer) in &answers {
        served.extend(summary(answer, id).map(|summary| (*door, summary)));
    }
    visit.found = !served.is_empty();
    let target = format!("{id} of {project}");
    if served.is_empty() && answers.iter().all(|(_, answer)| is_unknown(answer)) && !all_unserved(&answers) {
        let subject = Subject::new("polyai.conversation", target);
        let unknown = subject.fail(
            "PolyAI does not know this conversation under this account and project",
            "check the id, and projects.account_id and project_id",
        );
        visit.unknown = Some((subject, unknown));
        return;
    }
    for (door, answer) in &answers {
        let subject = Subject::new("polyai.conversation", format!("{target} ({})", door.api.label()));
        visit.findings.push(by_id(&subject, door, answer, summary(answer, id).is_some(), visit.found));
    }
    let Some((_, first)) = served.first() else { return };
    visit.findings.push(transcript(&Subject::new("polyai.transcript", &*target), first));
    let doors: Vec<_> = open.iter().map(|knock| &knock.door).collect();
    visit.findings.push(
        recording(&Subject::new("polyai.recording", target), config, prober, &doors, (id, others), first)
            .await,
    );
}

/// The newest first, calls that are over before everything else.
fn choose(mut recent: Vec<Listed>) -> Vec<String> {
    recent.sort_by_key(|listed| (listed.in_progress, !listed.voice));
    let calls = recent.iter().filter(|listed| listed.voice && !listed.in_progress).count();
    recent.truncate(calls.clamp(1, COMPARED));
    recent.into_iter().map(|listed| listed.id).collect()
}

fn summary(answer: &Answer, id: &str) -> Option<Summary> {
    let body = answer.outcome.as_ref().ok()?;
    Summary::read(&body.start).ok().filter(|summary| summary.id.as_deref() == Some(id))
}

fn is_unknown(answer: &Answer) -> bool {
    matches!(answer.error(), Some(ErrorKind::UnknownConversation | ErrorKind::NotServed))
}

fn all_unserved(answers: &[(&Door, Answer)]) -> bool {
    answers.iter().all(|(_, answer)| answer.error() == Some(ErrorKind::NotServed))
}

fn by_id(subject: &Subject, door: &Door, answer: &Answer, right: bool, found: bool) -> Finding {
    match answer.error() {
        None if right => subject.ok(format!("served in {} ms", answer.elapsed.as_millis())),
        None => subject.fail(
            "the answer is not that conversation",
            "a proxy or login page between here and PolyAI does that: check polyai.base_url and polyai.platform_url",
        ),
        Some(ErrorKind::NotServed) if found => {
            subject.ok(format!("not served by {} here; the other API does, and polyhook asks it", door.api.label()))
        }
        Some(ErrorKind::NotServed) => {
            let next = match door.api {
                Api::V3 => "leave polyai.api at \"auto\", and give projects.data_api_key_file a key to the Data API if yours is not one",
                Api::Data => "check polyai.platform_url, and ask PolyAI which API serves conversations by id for you",
            };
            subject.fail(format!("{} lists conversations but does not serve one by id", door.api.label()), next)
        }
        Some(_) => {
            let error = answer.outcome.as_ref().err();
            let said = error.map(ToString::to_string).or(answer.cause.clone()).unwrap_or_default();
            let id = error.and_then(|error| error.correlation_id.as_deref()).unwrap_or("none");
            let next = format!("try again; quote PolyAI's correlation id to their support if it persists: {id}");
            if found { subject.warn(said, next) } else { subject.fail(said, next) }
        }
    }
}

fn transcript(subject: &Subject, summary: &Summary) -> Finding {
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
    doors: &[&Door],
    (id, others): (&str, &[String]),
    summary: &Summary,
) -> Finding {
    let Some(direction) = config.worker.audio.directions().first().copied() else {
        return subject.skipped("worker.audio is off", "nothing to do");
    };
    if !summary.is_voice() {
        return subject.skipped("it is no call, so there is none", "give --conversation ID of a call");
    }
    let ask = async |id, redacted| ask(prober, doors, id, direction, redacted).await;
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
    let differ = |one: &Body, other: Option<&Answer>| {
        other.and_then(|answer| answer.outcome.as_ref().ok()).is_some_and(|other| other.sha256 != one.sha256)
    };
    let mut not_redacted = differ(body, ask(id, true).await.as_ref());
    for id in others {
        if not_redacted {
            break;
        }
        let open = ask(id, false).await.and_then(|answer| answer.outcome.ok());
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
    doors: &[&Door],
    id: &str,
    direction: Direction,
    redacted: bool,
) -> Option<Answer> {
    let mut answer = None;
    for door in doors {
        let this = prober.ask(door, Ask::Audio { id, direction, redacted }).await;
        let served = this.error() != Some(ErrorKind::NotServed);
        answer = Some(this);
        if served {
            break;
        }
    }
    answer
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
