//! The choice between the routes to a conversation, a recording or a list: v3, the Data API, and the list of v3.
//!
//! v3 is asked first. If it does not serve the path, the Data API is asked. If that does not help, a conversation is taken
//! from the list of v3 (`list/lookup.rs`): a customer may have a key for v3 only, and v3 may serve nothing but the list.
//!
//! If PolyAI itself said that v3 does not serve the path (in its error envelope, which a gateway does not have) and another
//! route succeeds, that route is asked first from then on: for [`MEMORY`], or until it fails. Each project remembers this
//! separately for conversations, recordings and lists.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::{
    Api, Target,
    error::{Advice, ApiError, ErrorKind},
};

/// The time for which something is remembered. After it v3 is tried again.
const MEMORY: Duration = Duration::from_hours(1);

/// A way to ask PolyAI for something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// The path of v3.
    V3,
    /// The path of the Data API.
    Data,
    /// The list of v3, for one conversation.
    V3List,
}

impl Route {
    /// Returns its name for the log.
    fn label(self) -> &'static str {
        match self {
            Self::V3 => "v3",
            Self::Data => "the Data API",
            Self::V3List => "the list of v3",
        }
    }
}

/// A route of one project.
#[derive(Clone, Copy, Debug)]
pub(super) struct Source<'a> {
    pub(super) route: Route,
    pub(super) target: &'a Target,
}

impl Source<'_> {
    /// Returns a source for each target.
    pub(super) fn each(targets: &[Target]) -> Vec<Source<'_>> {
        let route = |target: &Target| if target.api() == Api::V3 { Route::V3 } else { Route::Data };
        targets.iter().map(|target| Source { route: route(target), target }).collect()
    }

    /// Returns the sources of a single conversation: each target, then the list of v3.
    pub(super) fn of_conversation(targets: &[Target]) -> Vec<Source<'_>> {
        let list = targets.iter().find(|target| target.api() == Api::V3);
        let list = list.map(|target| Source { route: Route::V3List, target });
        Source::each(targets).into_iter().chain(list).collect()
    }
}

/// The route that is asked first for one kind of request.
#[derive(Debug, Default)]
pub(super) struct PreferredRoute {
    memory: Mutex<Memory>,
}

#[derive(Debug, Default)]
struct Memory {
    /// The route that is asked first, and the time at which PolyAI last said that v3 does not serve the path. `None` if v3
    /// is asked first.
    preferred: Option<(Route, Instant)>,
    /// The time of the last success of a route other than the list.
    worked: Option<Instant>,
    /// The error of the last request, if it says that PolyAI rejects the key.
    key_rejection: Option<String>,
}

impl PreferredRoute {
    /// Sends a request to the preferred one of the sources and, while it can be elsewhere, to the others in order.
    pub(super) async fn request<'a, T, F>(
        &self,
        sources: &[Source<'a>],
        request: impl Fn(Source<'a>) -> F,
    ) -> Result<T, ApiError>
    where
        F: Future<Output = Result<T, ApiError>>,
    {
        let preferred = self.preferred();
        let is_preferred = |source: &&Source<'_>| Some(source.route) == preferred;
        let first = sources.iter().filter(is_preferred);
        let others = sources.iter().filter(|source| !is_preferred(source));
        let mut failures: Vec<(Route, ApiError)> = Vec::new();
        for source in first.chain(others) {
            match request(*source).await {
                Ok(answer) => {
                    self.note_success(source, &failures);
                    return Ok(answer);
                }
                Err(error) => {
                    if Some(source.route) == preferred && is_failure(&error) {
                        self.memory().preferred = None;
                    }
                    let goes_on = may_be_elsewhere(source.route, &error, sources);
                    failures.push((source.route, error));
                    if !goes_on {
                        break;
                    }
                }
            }
        }
        let error = failures.into_iter().reduce(more_telling).map(|(_, error)| error);
        let error = error.unwrap_or_else(|| ApiError::new(ErrorKind::NotServed, "no host"));
        if matches!(error.kind, ErrorKind::KeyRejected | ErrorKind::KeyLacksScope) {
            self.memory().key_rejection = Some(error.to_string());
        }
        Err(error)
    }

    /// Returns the error of the last request that could succeed, if it says that PolyAI rejects the key.
    pub(super) fn key_rejection(&self) -> Option<String> {
        self.memory().key_rejection.clone()
    }

    pub(super) fn forget_key_rejection(&self) {
        self.memory().key_rejection = None;
    }

    /// Returns whether a path of v3 or the Data API served such a request lately.
    pub(super) fn worked_lately(&self) -> bool {
        is_recent(self.memory().worked)
    }

    fn preferred(&self) -> Option<Route> {
        self.memory().preferred.filter(|(_, since)| is_recent(Some(*since))).map(|(route, _)| route)
    }

    /// Remembers the route that succeeded after `failures`.
    fn note_success(&self, source: &Source<'_>, failures: &[(Route, ApiError)]) {
        let mut memory = self.memory();
        memory.key_rejection = None;
        if source.route != Route::V3List {
            memory.worked = Some(Instant::now());
        }
        if source.route == Route::V3 {
            memory.preferred = None;
        } else if failures.iter().any(|(route, error)| *route == Route::V3 && error.in_envelope) {
            let before = memory.preferred.replace((source.route, Instant::now()));
            if before.is_none_or(|(route, _)| route != source.route) {
                let api = source.target.api().label();
                tracing::info!(
                    project.id = source.target.project_id(),
                    api,
                    "v3 does not serve this path; {} does and is asked first from now on",
                    source.route.label()
                );
            }
        }
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns whether the next source may have what this one did not return.
fn may_be_elsewhere(route: Route, error: &ApiError, sources: &[Source<'_>]) -> bool {
    match error.kind {
        ErrorKind::NotServed => true,
        // The list needs no key for the Data API.
        ErrorKind::KeyRejected | ErrorKind::KeyLacksScope | ErrorKind::UnknownProject => {
            route == Route::Data && sources.iter().any(|source| source.route == Route::V3List)
        }
        _ => false,
    }
}

fn is_recent(at: Option<Instant>) -> bool {
    at.is_some_and(|at| at.elapsed() < MEMORY)
}

/// Returns whether an error of the preferred route is a reason to ask v3 first. PolyAI's word about one conversation and
/// its limits are none.
fn is_failure(error: &ApiError) -> bool {
    !matches!(
        error.kind,
        ErrorKind::UnknownConversation
            | ErrorKind::RecordingNotFound
            | ErrorKind::RateLimited
            | ErrorKind::Paused
            | ErrorKind::TooLarge
    )
}

/// Returns the one of two failures to report: that of the sources so far, or that of the next one.
fn more_telling(first: (Route, ApiError), next: (Route, ApiError)) -> (Route, ApiError) {
    let is_first_final = first.1.advice() == Advice::GiveUp;
    // The correlation id of the first answer is the one to quote.
    let is_no_answer = match next.1.kind {
        ErrorKind::NotServed => true,
        // Whatever answers there, it is not a list.
        ErrorKind::BadAnswer => next.0 == Route::V3List && !is_first_final,
        // A gateway stood before the first source, so a final word of the next one about its own key or project says
        // nothing about the first one.
        _ => next.1.advice() == Advice::GiveUp && !first.1.in_envelope,
    };
    if is_no_answer { first } else { next }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;
    use crate::{
        polyai::{PolyAiConfig, ProjectConfig},
        secret::Secret,
    };

    const V3: Route = Route::V3;
    const DATA: Route = Route::Data;

    fn targets() -> Vec<Target> {
        let project = ProjectConfig {
            account_id: "a".to_owned(),
            project_id: "p".to_owned(),
            api_key: Secret::new("key"),
            ..ProjectConfig::default()
        };
        Target::configured(&PolyAiConfig::default(), &project).unwrap()
    }

    fn error(kind: ErrorKind, status: u16, code: Option<&str>, in_envelope: bool) -> ApiError {
        ApiError {
            status: Some(status),
            code: code.map(str::to_owned),
            in_envelope,
            ..ApiError::new(kind, "api.example")
        }
    }

    /// PolyAI itself does not serve the path.
    fn not_served() -> ApiError {
        error(ErrorKind::NotServed, 404, None, true)
    }

    fn gateway_404() -> ApiError {
        error(ErrorKind::NotServed, 404, None, false)
    }

    fn key_rejected() -> ApiError {
        error(ErrorKind::KeyRejected, 401, Some("AUTH_USER_UNAUTHORIZED"), true)
    }

    /// Sends one request to APIs with these answers. Returns the APIs that were asked, in order, and the result.
    async fn ask(
        preferred: &PreferredRoute,
        v3: Result<(), ApiError>,
        data: Result<(), ApiError>,
    ) -> (Vec<Route>, Result<(), ApiError>) {
        let (targets, asked) = (targets(), RefCell::new(Vec::new()));
        let result = preferred
            .request(&Source::each(&targets), |source| {
                asked.borrow_mut().push(source.route);
                let answer = if source.route == V3 { v3.clone() } else { data.clone() };
                async move { answer }
            })
            .await;
        (asked.into_inner(), result)
    }

    async fn first_asked(preferred: &PreferredRoute) -> Route {
        ask(preferred, Err(not_served()), Ok(())).await.0[0]
    }

    #[tokio::test]
    async fn learns_only_from_polyais_own_answer() {
        let preferred = PreferredRoute::default();
        for _ in 0..3 {
            let (asked, result) = ask(&preferred, Err(gateway_404()), Ok(())).await;
            assert_eq!((asked, result.is_ok()), (vec![V3, DATA], true), "a gateway moves no project");
        }
        ask(&preferred, Err(not_served()), Ok(())).await.1.unwrap();
        assert_eq!(ask(&preferred, Err(not_served()), Ok(())).await.0, [DATA]);
    }

    #[tokio::test]
    async fn learns_nothing_from_two_failures() {
        let preferred = PreferredRoute::default();
        let unavailable = error(ErrorKind::Unavailable, 503, None, false);
        assert!(ask(&preferred, Err(not_served()), Err(unavailable)).await.1.is_err());
        assert_eq!(first_asked(&preferred).await, V3);
    }

    #[tokio::test(start_paused = true)]
    async fn tries_v3_again_after_a_while() {
        let preferred = PreferredRoute::default();
        ask(&preferred, Err(not_served()), Ok(())).await.1.unwrap();
        tokio::time::advance(MEMORY / 2).await;
        assert_eq!(ask(&preferred, Ok(()), Ok(())).await.0, [DATA]);
        tokio::time::advance(MEMORY / 2).await;
        assert_eq!(ask(&preferred, Err(not_served()), Ok(())).await.0, [V3, DATA], "still not served");
        assert_eq!(first_asked(&preferred).await, DATA, "for another while");
        tokio::time::advance(MEMORY).await;
        assert_eq!(ask(&preferred, Ok(()), Ok(())).await.0, [V3]);
        assert_eq!(first_asked(&preferred).await, V3);
    }

    #[tokio::test]
    async fn tries_v3_again_when_the_data_api_fails() {
        for failure in [
            error(ErrorKind::Unavailable, 503, None, false),
            error(ErrorKind::KeyLacksScope, 403, None, false),
            error(ErrorKind::BadAnswer, 200, None, false),
            key_rejected(),
            ApiError::new(ErrorKind::Timeout, "api.example"),
        ] {
            let preferred = PreferredRoute::default();
            ask(&preferred, Err(not_served()), Ok(())).await.1.unwrap();
            assert_eq!(ask(&preferred, Ok(()), Err(failure.clone())).await.0, [DATA], "{failure}");
            assert_eq!(first_asked(&preferred).await, V3, "{failure}");
        }
        for unserved in [not_served(), gateway_404()] {
            let preferred = PreferredRoute::default();
            ask(&preferred, Err(not_served()), Ok(())).await.1.unwrap();
            assert_eq!(ask(&preferred, Ok(()), Err(unserved)).await.0, [DATA, V3]);
            assert_eq!(first_asked(&preferred).await, V3);
        }
    }

    #[tokio::test]
    async fn an_answer_about_one_conversation_changes_no_preference() {
        let preferred = PreferredRoute::default();
        ask(&preferred, Err(not_served()), Ok(())).await.1.unwrap();
        for kind in [ErrorKind::UnknownConversation, ErrorKind::RecordingNotFound] {
            let unknown = error(kind, 404, Some("CONVERSATIONS_NOT_FOUND"), true);
            assert_eq!(ask(&preferred, Ok(()), Err(unknown)).await.0, [DATA]);
        }
        assert_eq!(first_asked(&preferred).await, DATA);
    }

    #[tokio::test]
    async fn a_gateway_before_one_api_makes_no_error_of_the_other_final() {
        let result = ask(&PreferredRoute::default(), Err(gateway_404()), Err(key_rejected())).await.1;
        assert_eq!(result.unwrap_err().advice(), Advice::Retry(None));
        let result = ask(&PreferredRoute::default(), Err(not_served()), Err(key_rejected())).await.1;
        assert_eq!(result.unwrap_err().advice(), Advice::GiveUp, "PolyAI serves nothing else");
    }

    /// Like [`ask`], with the list of v3 as the last source.
    async fn ask_for_conversation(
        preferred: &PreferredRoute,
        answers: [Result<(), ApiError>; 3],
    ) -> (Vec<Route>, Result<(), ApiError>) {
        let (targets, asked) = (targets(), RefCell::new(Vec::new()));
        let result = preferred
            .request(&Source::of_conversation(&targets), |source| {
                asked.borrow_mut().push(source.route);
                let [v3, data, list] = answers.clone();
                let answer = match source.route {
                    Route::V3 => v3,
                    Route::Data => data,
                    Route::V3List => list,
                };
                async move { answer }
            })
            .await;
        (asked.into_inner(), result)
    }

    #[tokio::test(start_paused = true)]
    async fn the_list_is_the_last_source_and_is_remembered_for_a_while() {
        const LIST: Route = Route::V3List;
        let preferred = PreferredRoute::default();
        for unserved in [not_served(), key_rejected()] {
            let answers = [Err(gateway_404()), Err(unserved), Ok(())];
            assert_eq!(ask_for_conversation(&preferred, answers).await.0, [V3, DATA, LIST], "a gateway");
        }
        let unserved = [Err(not_served()), Err(not_served()), Ok(())];
        assert_eq!(ask_for_conversation(&preferred, unserved.clone()).await.0, [V3, DATA, LIST]);
        assert_eq!(ask_for_conversation(&preferred, unserved.clone()).await.0, [LIST]);
        let unknown = error(ErrorKind::UnknownConversation, 200, None, false);
        let absent = [Ok(()), Ok(()), Err(unknown)];
        let (asked, result) = ask_for_conversation(&preferred, absent).await;
        assert_eq!((asked, result.unwrap_err().kind), (vec![LIST], ErrorKind::UnknownConversation));
        assert!(!preferred.worked_lately(), "only the list did");
        tokio::time::advance(MEMORY).await;
        assert_eq!(ask_for_conversation(&preferred, unserved.clone()).await.0, [V3, DATA, LIST]);
        let broken = [Ok(()), Ok(()), Err(error(ErrorKind::Unavailable, 503, None, false))];
        assert_eq!(ask_for_conversation(&preferred, broken).await.0, [LIST]);
        assert_eq!(ask_for_conversation(&preferred, [Ok(()), Ok(()), Ok(())]).await.0, [V3]);
        assert!(preferred.worked_lately());
    }

    #[tokio::test]
    async fn a_temporary_error_of_one_source_is_no_reason_for_the_list() {
        for failure in [ErrorKind::Unavailable, ErrorKind::RateLimited, ErrorKind::UnknownConversation] {
            let error = error(failure, 503, None, true);
            let answers = [Err(not_served()), Err(error.clone()), Ok(())];
            let (asked, result) = ask_for_conversation(&PreferredRoute::default(), answers).await;
            assert_eq!((asked, result.unwrap_err().kind), (vec![V3, DATA], failure));
            let answers = [Err(error), Ok(()), Ok(())];
            assert_eq!(ask_for_conversation(&PreferredRoute::default(), answers).await.0, [V3]);
        }
    }

    #[tokio::test]
    async fn the_error_of_the_list_is_reported_unless_it_is_not_served_either() {
        let report = async |list| {
            let answers = [Err(not_served()), Err(key_rejected()), Err(list)];
            ask_for_conversation(&PreferredRoute::default(), answers).await.1.unwrap_err().kind
        };
        assert_eq!(report(not_served()).await, ErrorKind::KeyRejected);
        // Of these, none is final.
        for kind in [ErrorKind::UnknownConversation, ErrorKind::RateLimited, ErrorKind::BadAnswer] {
            assert_eq!(report(error(kind, 200, None, false)).await, kind);
        }
        let login_page = error(ErrorKind::BadAnswer, 200, None, false);
        let answers = [Err(gateway_404()), Err(key_rejected()), Err(login_page)];
        let reported = ask_for_conversation(&PreferredRoute::default(), answers).await.1.unwrap_err();
        assert_eq!(reported.kind, ErrorKind::NotServed);
    }
}
