//! The choice between v3 and the Data API.
//!
//! v3 is asked first. If it does not serve the path, the Data API is asked. If PolyAI itself said so (in its error
//! envelope, which a gateway does not have) and the Data API succeeds, the Data API is asked first from then on: for
//! [`PREFERENCE_LIFETIME`], or until it fails. Each project remembers this separately for conversations, recordings and
//! lists.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::{
    Target,
    error::{Advice, ApiError, ErrorKind},
};

/// The time after which v3 is tried again.
const PREFERENCE_LIFETIME: Duration = Duration::from_hours(1);

/// The API that is asked first for one kind of request.
#[derive(Debug, Default)]
pub(super) struct PreferredApi {
    /// The time at which PolyAI last said that v3 does not serve the path; `None` if v3 is asked first.
    v3_unserved_since: Mutex<Option<Instant>>,
}

impl PreferredApi {
    /// Sends a request to the preferred one of a project's targets and, if that does not serve the path, to the other
    /// one.
    pub(super) async fn request<'a, T, F>(
        &self,
        targets: &'a [Target],
        request: impl Fn(&'a Target) -> F,
    ) -> Result<T, ApiError>
    where
        F: Future<Output = Result<T, ApiError>>,
    {
        match targets {
            [] => Err(ApiError::new(ErrorKind::NotServed, "no host")),
            [only] => request(only).await,
            [v3, data, ..] if self.prefers_data() => {
                let result = request(data).await;
                if let Err(error) = &result
                    && is_failure(error)
                {
                    *self.v3_unserved_since() = None;
                }
                match result {
                    Err(error) if error.kind == ErrorKind::NotServed => second(error, request(v3).await),
                    result => result,
                }
            }
            [v3, data, ..] => match request(v3).await {
                Err(error) if error.kind == ErrorKind::NotServed => {
                    let result = request(data).await;
                    if error.in_envelope && result.is_ok() {
                        self.prefer_data(v3, data);
                    }
                    second(error, result)
                }
                result => {
                    if result.is_ok() {
                        *self.v3_unserved_since() = None;
                    }
                    result
                }
            },
        }
    }

    fn prefers_data(&self) -> bool {
        self.v3_unserved_since().is_some_and(|since| since.elapsed() < PREFERENCE_LIFETIME)
    }

    fn prefer_data(&self, v3: &Target, data: &Target) {
        if self.v3_unserved_since().replace(Instant::now()).is_none() {
            tracing::info!(
                project.id = data.project_id(),
                api = data.api().label(),
                "{} does not serve this path; {} does and is asked first from now on",
                v3.api().label(),
                data.api().label()
            );
        }
    }

    fn v3_unserved_since(&self) -> MutexGuard<'_, Option<Instant>> {
        self.v3_unserved_since.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns whether an error of the preferred API is a reason to ask the other one first. PolyAI's word about one
/// conversation and its limits are none.
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

/// Returns the result of the second API after the first one did not serve the path, or else the error to report.
fn second<T>(first_error: ApiError, result: Result<T, ApiError>) -> Result<T, ApiError> {
    match result {
        // Neither serves the path. The correlation id of the first answer is the one to quote.
        Err(error) if error.kind == ErrorKind::NotServed => Err(first_error),
        // A gateway stood before the first API, so a final word of the second one about its own key or project says
        // nothing about the first one.
        Err(error) if error.advice() == Advice::GiveUp && !first_error.in_envelope => Err(first_error),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;
    use crate::{
        polyai::{Api, PolyAiConfig, ProjectConfig},
        secret::Secret,
    };

    const V3: Api = Api::V3;
    const DATA: Api = Api::Data;

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
        preferred: &PreferredApi,
        v3: Result<(), ApiError>,
        data: Result<(), ApiError>,
    ) -> (Vec<Api>, Result<(), ApiError>) {
        let (targets, asked) = (targets(), RefCell::new(Vec::new()));
        let result = preferred
            .request(&targets, |target| {
                asked.borrow_mut().push(target.api());
                let answer = if target.api() == V3 { v3.clone() } else { data.clone() };
                async move { answer }
            })
            .await;
        (asked.into_inner(), result)
    }

    async fn first_asked(preferred: &PreferredApi) -> Api {
        ask(preferred, Err(not_served()), Ok(())).await.0[0]
    }

    #[tokio::test]
    async fn learns_only_from_polyais_own_answer() {
        let preferred = PreferredApi::default();
        for _ in 0..3 {
            let (asked, result) = ask(&preferred, Err(gateway_404()), Ok(())).await;
            assert_eq!((asked, result.is_ok()), (vec![V3, DATA], true), "a gateway moves no project");
        }
        ask(&preferred, Err(not_served()), Ok(())).await.1.unwrap();
        assert_eq!(ask(&preferred, Err(not_served()), Ok(())).await.0, [DATA]);
    }

    #[tokio::test]
    async fn learns_nothing_from_two_failures() {
        let preferred = PreferredApi::default();
        let unavailable = error(ErrorKind::Unavailable, 503, None, false);
        assert!(ask(&preferred, Err(not_served()), Err(unavailable)).await.1.is_err());
        assert_eq!(first_asked(&preferred).await, V3);
    }

    #[tokio::test(start_paused = true)]
    async fn tries_v3_again_after_a_while() {
        let preferred = PreferredApi::default();
        ask(&preferred, Err(not_served()), Ok(())).await.1.unwrap();
        tokio::time::advance(PREFERENCE_LIFETIME / 2).await;
        assert_eq!(ask(&preferred, Ok(()), Ok(())).await.0, [DATA]);
        tokio::time::advance(PREFERENCE_LIFETIME / 2).await;
        assert_eq!(ask(&preferred, Err(not_served()), Ok(())).await.0, [V3, DATA], "still not served");
        assert_eq!(first_asked(&preferred).await, DATA, "for another while");
        tokio::time::advance(PREFERENCE_LIFETIME).await;
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
            let preferred = PreferredApi::default();
            ask(&preferred, Err(not_served()), Ok(())).await.1.unwrap();
            assert_eq!(ask(&preferred, Ok(()), Err(failure.clone())).await.0, [DATA], "{failure}");
            assert_eq!(first_asked(&preferred).await, V3, "{failure}");
        }
        for unserved in [not_served(), gateway_404()] {
            let preferred = PreferredApi::default();
            ask(&preferred, Err(not_served()), Ok(())).await.1.unwrap();
            assert_eq!(ask(&preferred, Ok(()), Err(unserved)).await.0, [DATA, V3]);
            assert_eq!(first_asked(&preferred).await, V3);
        }
    }

    #[tokio::test]
    async fn an_answer_about_one_conversation_changes_no_preference() {
        let preferred = PreferredApi::default();
        ask(&preferred, Err(not_served()), Ok(())).await.1.unwrap();
        for kind in [ErrorKind::UnknownConversation, ErrorKind::RecordingNotFound] {
            let unknown = error(kind, 404, Some("CONVERSATIONS_NOT_FOUND"), true);
            assert_eq!(ask(&preferred, Ok(()), Err(unknown)).await.0, [DATA]);
        }
        assert_eq!(first_asked(&preferred).await, DATA);
    }

    #[tokio::test]
    async fn a_gateway_before_one_api_makes_no_error_of_the_other_final() {
        let result = ask(&PreferredApi::default(), Err(gateway_404()), Err(key_rejected())).await.1;
        assert_eq!(result.unwrap_err().advice(), Advice::Retry(None));
        let result = ask(&PreferredApi::default(), Err(not_served()), Err(key_rejected())).await.1;
        assert_eq!(result.unwrap_err().advice(), Advice::GiveUp, "PolyAI serves nothing else");
    }
}
