//! The choice between v3 and the Data API.
//!
//! v3 is asked first. If it does not serve the path, the Data API is asked; if that succeeds, it is asked first from
//! then on. Each project remembers this separately for conversations, recordings and lists.

use std::sync::atomic::{AtomicBool, Ordering};

use super::{
    Api, Target,
    error::{ApiError, ErrorKind},
};

/// The API that is asked first for one kind of request.
#[derive(Debug, Default)]
pub(super) struct PreferredApi {
    data: AtomicBool,
}

impl PreferredApi {
    /// Remembers the API that succeeded. Returns whether that is a change.
    pub(super) fn set(&self, api: Api) -> bool {
        let data = api == Api::Data;
        self.data.swap(data, Ordering::Relaxed) != data
    }

    /// Sends a request to the preferred one of a project's targets and, if that does not serve the path, to the other
    /// one. Only a success changes the preference.
    pub(super) async fn request<'a, T, F>(
        &self,
        targets: &'a [Target],
        request: impl Fn(&'a Target) -> F,
    ) -> Result<T, ApiError>
    where
        F: Future<Output = Result<T, ApiError>>,
    {
        let (first, second) = match targets {
            [] => return Err(ApiError::new(ErrorKind::NotServed, "no host")),
            [only] => return request(only).await,
            [v3, data, ..] if self.data.load(Ordering::Relaxed) => (data, v3),
            [v3, data, ..] => (v3, data),
        };
        let first_error = match request(first).await {
            Err(error) if error.kind == ErrorKind::NotServed => error,
            other => return other,
        };
        match request(second).await {
            Ok(value) => {
                if self.set(second.api()) {
                    tracing::info!(
                        project.id = second.project_id(),
                        api = second.api().label(),
                        "{} does not serve this path; {} does and is asked first from now on",
                        first.api().label(),
                        second.api().label()
                    );
                }
                Ok(value)
            }
            // Neither serves the path. The correlation id of the first answer is the one to quote.
            Err(error) if error.kind == ErrorKind::NotServed => Err(first_error),
            Err(error) => Err(error),
        }
    }
}
