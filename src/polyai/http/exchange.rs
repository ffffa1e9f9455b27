//! Requests to PolyAI's APIs and their answers.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, StatusCode, Uri,
    header::{ACCEPT, LOCATION},
};
use hyper_util::client::proxy::matcher::Matcher;
use jiff::Timestamp;
use reqwest::{Client, ClientBuilder, RequestBuilder, Response};
use tokio::time::timeout;
use url::Url;

use super::{
    address::{ForbiddenAddress, GuardedResolver, Reach},
    body::{self, DecodedBody, SizeLimit},
    builder, certificate_expiry, describe_error, find_cause,
    pace::TransferLimits,
    redirect::{Redirects, is_redirect},
    transport_error,
};
use crate::polyai::{
    correlation::CorrelationId,
    error::{ApiError, ErrorKind, retry_after},
    request::authorized,
};

/// The most bytes that are received of an error's body. A part of them is kept.
const MAX_ERROR_TRANSFER: SizeLimit = SizeLimit { bytes: 4 << 20, error: ErrorKind::BadAnswer };

/// The client for PolyAI's APIs. It follows the redirects of a GET, decodes answers, and gives up transfers that are too
/// slow or too large.
#[derive(Debug)]
pub(in crate::polyai) struct HttpClient {
    api: Client,
    /// For the hosts to which APIs redirect: one client for each [`Reach`].
    guarded: [OnceLock<Client>; 3],
    /// Behind a proxy, the proxy resolves names and decides which hosts can be reached.
    proxies: Matcher,
    limits: TransferLimits,
}

/// The headers of an answer, and its body, which has not been read yet.
#[derive(Debug)]
pub(in crate::polyai) struct Answer {
    response: Response,
    /// The host of the API.
    host: Arc<str>,
    /// The id of the API's answer, or of the request.
    correlation_id: String,
    /// The redirect by which another host answers.
    redirect: Option<Redirect>,
    limits: TransferLimits,
}

/// A redirect to another host.
#[derive(Clone, Debug)]
struct Redirect {
    /// The error for a redirect that cannot be followed to its end, without `detail`.
    error: ApiError,
    /// The host to which the API redirects.
    to: String,
}

impl HttpClient {
    /// Builds a client. `change` adds options to those of every client.
    pub(in crate::polyai) fn new(
        change: impl FnOnce(ClientBuilder) -> ClientBuilder,
    ) -> Result<Self, reqwest::Error> {
        Ok(Self {
            api: change(builder()).build()?,
            guarded: [const { OnceLock::new() }; 3],
            proxies: Matcher::from_system(),
            limits: TransferLimits::default(),
        })
    }

    /// Prepares a request with an API key, for [`send`](Self::send).
    pub(in crate::polyai) fn request(
        &self,
        method: Method,
        url: Url,
        key: HeaderValue,
        accept: &'static str,
        id: &CorrelationId,
    ) -> RequestBuilder {
        authorized(&self.api, method, url, key, accept, id)
    }

    /// Sends a request, and follows no redirect: a request that changes something is never repeated.
    pub(in crate::polyai) async fn send(
        &self,
        request: RequestBuilder,
        host: &str,
        id: &CorrelationId,
    ) -> Result<Answer, ApiError> {
        let host: Arc<str> = host.into();
        let sent = timeout(self.limits.headers, request.send()).await;
        let response = sent
            .map_err(|_| timed_out(&host))
            .and_then(|sent| sent.map_err(|error| transport_error(&error, &host)));
        let response = response.map_err(|error| id.complete(error))?;
        let correlation_id = id.of_answer(response.headers());
        Ok(Answer { response, host, correlation_id, redirect: None, limits: self.limits })
    }

    /// Sends a GET, and follows its redirects. The key and the id are sent to the host of `url` only.
    pub(in crate::polyai) async fn get(
        &self,
        url: Url,
        key: HeaderValue,
        accept: &'static str,
        id: &CorrelationId,
    ) -> Result<Answer, ApiError> {
        let host: Arc<str> = url.host_str().unwrap_or("no host").into();
        // Every job holds this future, and it is large.
        let answered = Box::pin(self.follow(url, key, accept, id, &host));
        let answered = timeout(self.limits.headers, answered).await;
        answered.unwrap_or_else(|_| Err(timed_out(&host))).map_err(|error| id.complete(error))
    }

    async fn follow(
        &self,
        url: Url,
        key: HeaderValue,
        accept: &'static str,
        id: &CorrelationId,
        host: &Arc<str>,
    ) -> Result<Answer, ApiError> {
        let mut redirects = Redirects::starting_at(url);
        let mut redirect: Option<Redirect> = None;
        loop {
            let response = match &redirect {
                None => {
                    let url = redirects.current().clone();
                    let sent = self.request(Method::GET, url, key.clone(), accept, id).send().await;
                    sent.map_err(|error| transport_error(&error, host))?
                }
                Some(redirect) => self
                    .request_from_other_host(&redirects, accept)
                    .await
                    .map_err(|what| redirect.failed(&what))?,
            };
            if !is_redirect(response.status()) {
                let of_redirect =
                    redirect.as_ref().and_then(|redirect| redirect.error.correlation_id.clone());
                let correlation_id = of_redirect.unwrap_or_else(|| id.of_answer(response.headers()));
                let (host, limits) = (Arc::clone(host), self.limits);
                return Ok(Answer { response, host, correlation_id, redirect, limits });
            }
            let error = ApiError {
                status: Some(response.status().as_u16()),
                correlation_id: Some(id.of_answer(response.headers())),
                ..ApiError::new(ErrorKind::Redirected, host)
            };
            match (redirects.follow(response.headers().get(LOCATION)), &mut redirect) {
                (Ok(()), Some(redirect)) => {
                    redirects.other_host().unwrap_or_default().clone_into(&mut redirect.to);
                }
                (Ok(()), None) => {
                    redirect = redirects.other_host().map(|to| Redirect { error, to: to.to_owned() });
                }
                (Err(what), Some(redirect)) => return Err(redirect.failed(&what)),
                (Err(what), None) => return Err(ApiError { detail: Some(what.into()), ..error }),
            }
        }
    }

    /// Sends a GET without the key to a host that the API does not have. An error describes what the host does.
    async fn request_from_other_host(
        &self,
        redirects: &Redirects,
        accept: &'static str,
    ) -> Result<Response, String> {
        let url = redirects.current();
        let reach = Reach::of_host(redirects.api()).await;
        // The HTTP client resolves names only, and a proxy resolves names itself.
        reach.check(url).await.map_err(|error| error.to_string())?;
        let client = if self.has_proxy_for(url) {
            self.api.clone()
        } else {
            self.guarded(reach).map_err(|error| describe_error(&error))?
        };
        client.get(url.clone()).header(ACCEPT, accept).send().await.map_err(|error| {
            find_cause::<ForbiddenAddress>(&error)
                .map_or_else(|| describe_error(&error), ForbiddenAddress::to_string)
        })
    }

    fn has_proxy_for(&self, url: &Url) -> bool {
        url.as_str().parse::<Uri>().is_ok_and(|uri| self.proxies.intercept(&uri).is_some())
    }

    /// Returns the client that connects to addresses within `reach` only.
    fn guarded(&self, reach: Reach) -> Result<Client, reqwest::Error> {
        let client = &self.guarded[reach as usize];
        if let Some(client) = client.get() {
            return Ok(client.clone());
        }
        let new = builder().dns_resolver(GuardedResolver(reach)).build()?;
        Ok(client.get_or_init(|| new).clone())
    }
}

fn timed_out(host: &str) -> ApiError {
    ApiError::new(ErrorKind::Timeout, host)
}

impl Redirect {
    /// Returns the error for another host that fails as `what` says.
    fn failed(&self, what: &str) -> ApiError {
        let detail = format!("it redirects to {}: {what}", self.to);
        ApiError { detail: Some(detail.into()), ..self.error.clone() }
    }
}

impl Answer {
    /// Returns the status.
    pub(in crate::polyai) fn status(&self) -> StatusCode {
        self.response.status()
    }

    /// Returns the headers.
    pub(in crate::polyai) fn headers(&self) -> &HeaderMap {
        self.response.headers()
    }

    /// Returns the id of the request to quote to PolyAI's support.
    pub(in crate::polyai) fn correlation_id(&self) -> &str {
        &self.correlation_id
    }

    /// Returns the end of validity of the host's certificate, if the client keeps it.
    pub(in crate::polyai) fn certificate_expiry(&self) -> Option<Timestamp> {
        certificate_expiry(&self.response)
    }

    /// Returns the error for an answer that is not a success, if another host gave it. Only PolyAI's own answers say
    /// something about the key, the project or the conversation.
    pub(in crate::polyai) fn redirect_error(&self, now: Timestamp) -> Option<ApiError> {
        let redirect = self.redirect.as_ref()?;
        let error = redirect.failed(&format!("it answered {}", self.status().as_u16()));
        Some(ApiError { retry_after: retry_after(self.headers(), now), ..error })
    }

    /// Begins to read the body.
    ///
    /// # Errors
    ///
    /// The body has a coding that polyhook does not support, or it fails at its beginning.
    pub(in crate::polyai) async fn decode(self, max: SizeLimit) -> Result<DecodedBody, ApiError> {
        Box::pin(body::decode(self.response, &self.host, self.limits, max)).await
    }

    /// Reads the whole body. A body of more than `max` bytes is [`ErrorKind::TooLarge`].
    pub(in crate::polyai) async fn whole(self, max: usize) -> Result<Bytes, ApiError> {
        let max = SizeLimit { bytes: max as u64, error: ErrorKind::TooLarge };
        body::read_whole(self.decode(max).await?.parts).await
    }

    /// Reads the first `max` bytes of an error's body, or fewer if it fails.
    pub(in crate::polyai) async fn start(self, max: usize) -> Bytes {
        match self.decode(MAX_ERROR_TRANSFER).await {
            Ok(body) => body::read_start(body.parts, max).await,
            Err(_) => Bytes::new(),
        }
    }
}

#[cfg(test)]
mod tests;
