use super::*;
use crate::{archive::Trigger, event::Discovery, queue::Attempt};

const TOLERANCE: Duration = Duration::from_millis(100);

fn at(seconds: f64) -> Timestamp {
    Timestamp::from_millisecond(1_790_000_000_000).unwrap() + Duration::from_secs_f64(seconds)
}

fn request(event_id: &str, received_at: f64) -> FetchRequest {
    FetchRequest {
        conversation_id: "CA1".to_owned(),
        account_id: None,
        project_id: None,
        trigger: Trigger::Webhook,
        event_id: Some(event_id.to_owned()),
        received_at: at(received_at),
        started_at: None,
        environment: None,
        traceparent: None,
        any_environment: false,
        discovery: None,
    }
}

fn attempted(seconds: f64) -> History {
    let mut history = History::default();
    history.push(Attempt {
        at: at(seconds),
        reason: "network".into(),
        detail: String::new(),
        status: None,
        correlation_id: None,
    });
    history
}

fn need<'a>(request: &'a FetchRequest, history: &History) -> AnswerNeed<'a> {
    AnswerNeed::of(request, history, history.failures >= 2, TOLERANCE)
}

/// Ends a fetch that is not the last attempt of its job.
fn finish(slot: FetchSlot, request: &FetchRequest, result: &Result<FetchOutcome, JobFailure>) {
    slot.finish(request, &need(request, &History::default()), result);
}

fn failure() -> JobFailure {
    JobFailure::new("network", "no answer", RetryDecision::Retry(None))
}

/// One worker, whose wall clock is given with each call.
#[derive(Default)]
struct World(Arc<JobCoalescer>);

impl World {
    fn admit_with(&self, request: &FetchRequest, history: &History, now: f64) -> Admission {
        self.0.admit(request, &need(request, history), at(now))
    }

    fn admit(&self, event_id: &str, received_at: f64, now: f64) -> Admission {
        self.admit_with(&request(event_id, received_at), &History::default(), now)
    }

    fn fetch(&self, event_id: &str, received_at: f64, result: &Result<FetchOutcome, JobFailure>) {
        let request = request(event_id, received_at);
        let Admission::Fetch(slot) = self.admit(event_id, received_at, received_at + 0.2) else {
            panic!("not admitted")
        };
        slot.set_began(at(received_at + 0.2));
        finish(slot, &request, result);
    }
}

fn is_done(admission: &Admission) -> bool {
    matches!(admission, Admission::Answered(Ok(())))
}

fn waits(admission: &Admission) -> Duration {
    let Admission::Wait(time) = admission else { panic!("{admission:?}") };
    *time
}

#[tokio::test(start_paused = true)]
async fn one_job_at_a_time_fetches_a_conversation() {
    let world = World::default();
    let Admission::Fetch(slot) = world.admit("a", 0.0, 0.1) else { panic!("not admitted") };
    assert_eq!(waits(&world.admit("b", 0.0, 0.2)), MIN_WAIT);
    tokio::time::advance(Duration::from_secs(30)).await;
    assert_eq!(waits(&world.admit("b", 0.0, 0.2)), Duration::from_secs(15), "half the time so far");
    tokio::time::advance(Duration::from_hours(1)).await;
    assert_eq!(waits(&world.admit("b", 0.0, 0.2)), MAX_WAIT);
    let forced = FetchRequest {
        discovery: Some(Discovery { force: true, ..Discovery::default() }),
        ..request("c", 0.0)
    };
    waits(&world.admit_with(&forced, &History::default(), 0.2));
    let other = FetchRequest { conversation_id: "CA2".to_owned(), ..request("a", 0.0) };
    assert!(matches!(world.admit_with(&other, &History::default(), 0.2), Admission::Fetch(_)));
    drop(slot);
    assert!(matches!(world.admit("b", 0.0, 0.3), Admission::Fetch(_)), "its job ended without a result");
}

#[tokio::test(start_paused = true)]
async fn a_fetch_answers_the_jobs_that_waited_when_it_began() {
    let world = World::default();
    world.fetch("a", 1.0, &Ok(FetchOutcome::Skipped));
    assert!(is_done(&world.admit("b", 0.5, 3.0)));
    assert!(is_done(&world.admit("b", 1.05, 3.0)));
    assert!(is_done(&world.admit("a", 1.3, 3.0)), "the same event again");
    assert!(!is_done(&world.admit("b", 1.15, 3.0)), "within the tolerance of the clocks");
    assert!(!is_done(&world.admit("b", 1.3, 3.0)), "it arrived later");
    assert!(!is_done(&world.admit("b", 0.5, 1.1)), "the clock was set back");
    let forced = FetchRequest {
        discovery: Some(Discovery { force: true, ..Discovery::default() }),
        ..request("b", 0.5)
    };
    assert!(matches!(world.admit_with(&forced, &History::default(), 3.0), Admission::Fetch(_)));
    let other = FetchRequest { project_id: Some("PROJECT-2".to_owned()), ..request("b", 0.5) };
    assert!(matches!(world.admit_with(&other, &History::default(), 3.0), Admission::Fetch(_)));
    let mut replayed = attempted(0.6);
    replayed.replay(at(2.0));
    let replay = world.admit_with(&request("a", 0.5), &replayed, 3.0);
    assert!(matches!(replay, Admission::Fetch(_)), "a person asked after the fetch");
}

#[tokio::test(start_paused = true)]
async fn an_id_that_is_a_hash_of_the_body_does_not_identify_a_delivery() {
    let world = World::default();
    world.fetch("sha256:00", 1.0, &Ok(FetchOutcome::Skipped));
    assert!(is_done(&world.admit("sha256:00", 1.0, 3.0)), "the same delivery");
    assert!(!is_done(&world.admit("sha256:00", 1.3, 3.0)), "the same body, sent again");
}

#[tokio::test(start_paused = true)]
async fn fetches_of_later_events_have_growing_pauses() {
    let world = World::default();
    let mut fetches = 0;
    let mut now = 0.0;
    // An event every 100 ms for an hour.
    while now < 3600.0 {
        if let Admission::Fetch(slot) = world.admit(&format!("evt {now}"), now, now) {
            fetches += 1;
            slot.set_began(at(now));
            finish(slot, &request("evt", now), &Ok(FetchOutcome::Skipped));
        }
        now += 0.1;
        tokio::time::advance(Duration::from_millis(100)).await;
    }
    assert!((60..70).contains(&fetches), "{fetches}");
    tokio::time::advance(PAUSE_RESET).await;
    world.fetch("later", now + 700.0, &Ok(FetchOutcome::Skipped));
    assert_eq!(waits(&world.admit("next", now + 700.5, now + 700.5)), FIRST_PAUSE);
}

#[tokio::test(start_paused = true)]
async fn jobs_share_a_failure_and_keep_their_schedules() {
    let world = World::default();
    world.fetch("a", 1.0, &Err(failure()));
    let shared = world.admit("b", 0.5, 1.5);
    assert!(matches!(&shared, Admission::Answered(Err(failure)) if failure.reason == "network"));
    // The retry of the job that failed is due before the pause ends.
    assert!(matches!(world.admit_with(&request("a", 1.0), &attempted(1.3), 1.4), Admission::Fetch(_)));
    waits(&world.admit("c", 1.3, 1.4));

    let Admission::Fetch(slot) = world.admit_with(&request("a", 1.0), &attempted(1.3), 11.3) else {
        panic!("not admitted")
    };
    slot.set_began(at(11.3));
    finish(slot, &request("a", 1.0), &Err(failure()));
    let retry = |now| world.admit_with(&request("b", 0.5), &attempted(1.5), now);
    assert!(matches!(retry(11.5), Admission::Answered(Err(_))), "failed a moment ago");
    assert!(matches!(retry(60.0), Admission::Fetch(_)), "a failure of long ago is no attempt");
    assert!(is_done(&{
        world.fetch_retry(70.0);
        retry(200.0)
    }));
}

#[tokio::test(start_paused = true)]
async fn the_last_attempt_of_a_job_shares_only_the_failure_of_a_last_attempt() {
    let world = World::default();
    let mut last = attempted(1.0);
    last.push(last.attempts[0].clone());
    world.fetch("a", 1.5, &Err(failure()));
    let Admission::Fetch(slot) = world.admit_with(&request("b", 0.5), &last, 1.8) else {
        panic!("its conversation is archived without a recording in this attempt")
    };
    slot.set_began(at(1.8));
    slot.finish(&request("b", 0.5), &need(&request("b", 0.5), &last), &Err(failure()));
    let other = world.admit_with(&request("c", 0.5), &last, 2.0);
    assert!(matches!(other, Admission::Answered(Err(_))), "{other:?}");
}

impl World {
    fn fetch_retry(&self, now: f64) {
        let request = request("a", 1.0);
        let Admission::Fetch(slot) = self.admit_with(&request, &attempted(now - 5.0), now) else {
            panic!("not admitted")
        };
        slot.set_began(at(now));
        finish(slot, &request, &Ok(FetchOutcome::Skipped));
    }
}

#[tokio::test(start_paused = true)]
async fn results_without_a_fetch_answer_no_other_job() {
    let world = World::default();
    world.fetch("a", 1.0, &Ok(FetchOutcome::Erased));
    assert!(matches!(world.admit("b", 0.5, 3.0), Admission::Fetch(_)));
    world.fetch("a", 1.0, &Err(JobFailure::held_up("desk")));
    assert!(matches!(world.admit("b", 0.5, 3.0), Admission::Fetch(_)));
    assert!(world.0.conversations().is_empty(), "nothing is remembered");
}

#[tokio::test(start_paused = true)]
async fn looks_seldom_at_a_conversation_that_another_worker_fetches() {
    let world = World::default();
    let Admission::Fetch(slot) = world.admit("a", 0.0, 4.0) else { panic!("not admitted") };
    assert_eq!(slot.wait_for_other_worker(), MIN_WAIT);
    drop(slot);
    assert_eq!(waits(&world.admit("b", 3.9, 4.0)), MIN_WAIT);
    tokio::time::advance(Duration::from_secs(8)).await;
    let Admission::Fetch(slot) = world.admit("b", 3.9, 12.0) else { panic!("not admitted") };
    assert_eq!(slot.wait_for_other_worker(), Duration::from_secs(4), "half the time so far");
    drop(slot);
    tokio::time::advance(Duration::from_secs(4)).await;
    assert!(matches!(world.admit("b", 3.9, 16.0), Admission::Fetch(_)));
}

#[tokio::test(start_paused = true)]
async fn memory_is_bounded() {
    let world = World::default();
    for n in 0..MAX_CONVERSATIONS * 2 {
        let request = FetchRequest { conversation_id: format!("CA{n}"), ..request("a", 0.0) };
        let Admission::Fetch(slot) = world.admit_with(&request, &History::default(), 1.0) else {
            panic!("not admitted")
        };
        slot.set_began(at(1.0));
        finish(slot, &request, &Ok(FetchOutcome::Skipped));
    }
    assert!(world.0.conversations().len() <= MAX_CONVERSATIONS);
}
