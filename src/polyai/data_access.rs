//! Whether a project can use the Data API.
//!
//! A project without a Data API key of its own uses its v3 key there. That key may be one for both APIs, or for v3 only, and
//! the host of the Data API may be out of reach. So as long as the Data API has not worked for such a project, its refusal
//! means that it does not serve this customer. It is no error, and it is not asked again for [`MEMORY`].

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::{
    Api, Target,
    error::{ApiError, ErrorKind},
};

/// The time for which an answer of the Data API is remembered.
const MEMORY: Duration = Duration::from_hours(1);

/// The experience with the Data API of one project.
#[derive(Debug)]
pub(super) struct DataAccess {
    /// False if the configuration names a key for the Data API, or no other API.
    may_be_missing: bool,
    memory: Mutex<Memory>,
}

#[derive(Debug, Default)]
struct Memory {
    worked: Option<Instant>,
    refused: Option<Instant>,
}

impl DataAccess {
    pub(super) fn new(targets: &[Target]) -> Self {
        let may_be_missing = matches!(targets, [v3, data] if Arc::ptr_eq(v3.key(), data.key()));
        Self { may_be_missing, memory: Mutex::default() }
    }

    /// Sends a request, unless its answer is known: the Data API refuses the key.
    pub(super) async fn request<T>(
        &self,
        target: &Target,
        request: impl Future<Output = Result<T, ApiError>>,
    ) -> Result<T, ApiError> {
        if !self.may_be_missing || target.api() != Api::Data {
            return request.await;
        }
        if is_recent(self.memory().refused) {
            return Err(ApiError::new(ErrorKind::NotServed, target.host()));
        }
        let result = request.await;
        let now = Some(Instant::now());
        match result {
            Ok(answer) => {
                *self.memory() = Memory { worked: now, refused: None };
                Ok(answer)
            }
            Err(error) if is_refusal(&error) && self.expects_refusal(target) => {
                if error.in_envelope {
                    self.memory().refused = now;
                }
                Err(ApiError { kind: ErrorKind::NotServed, code: None, ..error })
            }
            Err(error) => Err(error),
        }
    }

    /// Returns whether a refusal by `target` would only mean that the project has no key for it.
    pub(super) fn expects_refusal(&self, target: &Target) -> bool {
        self.may_be_missing && target.api() == Api::Data && !is_recent(self.memory().worked)
    }

    /// Forgets that the key was refused, because there is another one.
    pub(super) fn forget_refusal(&self) {
        self.memory().refused = None;
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_recent(at: Option<Instant>) -> bool {
    at.is_some_and(|at| at.elapsed() < MEMORY)
}

fn is_refusal(error: &ApiError) -> bool {
    matches!(
        error.kind,
        ErrorKind::KeyRejected
            | ErrorKind::KeyLacksScope
            | ErrorKind::UnknownProject
            | ErrorKind::Network
            | ErrorKind::Timeout
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        polyai::{PolyAiConfig, ProjectConfig},
        secret::Secret,
    };

    fn targets(data_api_key: Option<&str>) -> Vec<Target> {
        let project = ProjectConfig {
            account_id: "a".to_owned(),
            project_id: "p".to_owned(),
            api_key: Secret::new("key"),
            data_api_key: data_api_key.map(Secret::new),
            ..ProjectConfig::default()
        };
        Target::configured(&PolyAiConfig::default(), &project).unwrap()
    }

    fn rejected() -> ApiError {
        let code = Some("AUTH_USER_UNAUTHORIZED".to_owned());
        ApiError { status: Some(401), in_envelope: true, code, ..ApiError::new(ErrorKind::KeyRejected, "h") }
    }

    /// Returns the kind of the error, and whether a request was sent.
    async fn ask(
        access: &DataAccess,
        target: &Target,
        answer: Result<(), ApiError>,
    ) -> (Option<ErrorKind>, bool) {
        let sent = std::cell::Cell::new(false);
        let request = async {
            sent.set(true);
            answer
        };
        let result = access.request(target, request).await;
        (result.err().map(|error| error.kind), sent.get())
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_v3_key_is_not_tried_at_the_data_api_for_an_hour() {
        let targets = targets(None);
        let [v3, data] = &targets[..] else { panic!("two targets") };
        let access = DataAccess::new(&targets);
        assert_eq!(ask(&access, v3, Err(rejected())).await, (Some(ErrorKind::KeyRejected), true));
        assert_eq!(ask(&access, data, Err(rejected())).await, (Some(ErrorKind::NotServed), true));
        assert_eq!(ask(&access, data, Ok(())).await, (Some(ErrorKind::NotServed), false));
        access.forget_refusal();
        assert_eq!(ask(&access, data, Err(rejected())).await, (Some(ErrorKind::NotServed), true));
        tokio::time::advance(MEMORY).await;
        assert_eq!(ask(&access, data, Ok(())).await, (None, true));
        assert_eq!(
            ask(&access, data, Err(rejected())).await,
            (Some(ErrorKind::KeyRejected), true),
            "it worked"
        );
    }

    #[tokio::test]
    async fn a_host_out_of_reach_is_asked_again_and_a_failing_one_is_an_error() {
        let targets = targets(None);
        let access = DataAccess::new(&targets);
        let error = |kind| Err(ApiError::new(kind, "h"));
        for kind in [ErrorKind::Network, ErrorKind::Timeout] {
            assert_eq!(ask(&access, &targets[1], error(kind)).await, (Some(ErrorKind::NotServed), true));
        }
        for kind in [ErrorKind::Unavailable, ErrorKind::RateLimited, ErrorKind::UnknownConversation] {
            assert_eq!(ask(&access, &targets[1], error(kind)).await, (Some(kind), true));
        }
    }

    #[tokio::test]
    async fn a_key_for_the_data_api_is_expected_to_work() {
        let targets = targets(Some("data key"));
        let access = DataAccess::new(&targets);
        for _ in 0..2 {
            assert_eq!(
                ask(&access, &targets[1], Err(rejected())).await,
                (Some(ErrorKind::KeyRejected), true)
            );
        }
        let access = DataAccess::new(&targets[1..]);
        assert_eq!(ask(&access, &targets[1], Err(rejected())).await, (Some(ErrorKind::KeyRejected), true));
    }
}
