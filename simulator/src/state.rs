//! The state of the simulator, shared by its routes, its control interface and Rust callers.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use futures_util::Stream;
use jiff::Timestamp;
use tokio::sync::broadcast;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    calls::{CallFilter, CallInfo, CallKey, CallStore, CallView, NewCall},
    clock::Clock,
    delivery::Delivery,
    endpoints::EndpointStore,
    error::ApiError,
    fault::{ActiveFaults, Fault, FaultPlan, FaultScope, Operation},
    scenario::{Project, Scenario, ServedApis},
    script::CallScript,
    sender::{DeliveryReport, DeliverySummary, Sender},
};

/// The number of delivery reports that are kept.
const MAX_DELIVERY_REPORTS: usize = 20_000;
/// The number of activities that a slow subscriber may be behind.
const MAX_UNREAD_ACTIVITIES: usize = 4_096;

/// An event inside the simulator.
#[derive(Clone, Debug)]
pub enum Activity {
    /// A delivery ended.
    Delivered(DeliveryReport),
    /// A conversation was sent.
    ConversationServed {
        /// The conversation's id.
        id: String,
    },
    /// A recording was sent in full.
    AudioServed {
        /// The conversation's id.
        id: String,
        /// The size of the recording.
        bytes: u64,
    },
    /// A request was answered with an error.
    ErrorServed {
        /// The kind of the request.
        operation: Operation,
        /// The conversation or endpoint that the request named.
        id: Option<String>,
        /// The HTTP status of the answer.
        status: u16,
    },
}

/// The state of a simulator. Clones are handles of the same state.
#[derive(Clone, Debug)]
pub struct SimulatorState(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    scenario: Scenario,
    signing_secret: String,
    clock: Clock,
    /// Fires when the simulator must stop.
    shutdown: CancellationToken,
    /// Connections and deliveries in progress.
    tasks: TaskTracker,
    calls: Mutex<CallStore>,
    faults: Mutex<ActiveFaults>,
    served: Mutex<ServedApis>,
    endpoints: Mutex<EndpointStore>,
    /// Keys that replaced those of the scenario, by project.
    replaced_keys: Mutex<BTreeMap<usize, String>>,
    responses: Mutex<BTreeMap<Operation, BTreeMap<u16, u64>>>,
    rate_limits: Mutex<Vec<TokenBucket>>,
    deliveries: Mutex<VecDeque<DeliveryReport>>,
    activity: broadcast::Sender<Activity>,
}

/// The rate limit of a project.
#[derive(Clone, Copy, Debug)]
struct TokenBucket {
    tokens: f64,
    filled_at: Instant,
}

/// Locks `mutex`. A panic leaves no value half changed here, so a poisoned lock is usable.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl SimulatorState {
    pub(crate) fn new(scenario: Scenario, clock: Clock, shutdown: CancellationToken) -> Self {
        let end = scenario.epoch.unwrap_or_else(|| clock.now());
        let bucket =
            TokenBucket { tokens: scenario.rate_limit.unwrap_or(0.0).max(1.0), filled_at: Instant::now() };
        Self(Arc::new(Inner {
            signing_secret: scenario.signing_secret(),
            calls: Mutex::new(CallStore::new(&scenario, end)),
            faults: Mutex::new(ActiveFaults::new(scenario.seed, &scenario.faults)),
            served: Mutex::new(scenario.served),
            endpoints: Mutex::new(EndpointStore::new(scenario.seed)),
            replaced_keys: Mutex::default(),
            responses: Mutex::default(),
            rate_limits: Mutex::new(vec![bucket; scenario.projects.len()]),
            deliveries: Mutex::default(),
            activity: broadcast::channel(MAX_UNREAD_ACTIVITIES).0,
            scenario,
            clock,
            shutdown,
            tasks: TaskTracker::new(),
        }))
    }

    /// Returns everything that happens from now on. A subscriber that falls behind gets the number of missed events.
    pub fn subscribe(&self) -> broadcast::Receiver<Activity> {
        self.0.activity.subscribe()
    }

    /// Returns all calls as they are now, oldest first.
    pub fn calls(&self) -> Vec<CallInfo> {
        lock(&self.0.calls).infos(&self.0.scenario, self.now())
    }

    /// Returns the call `id` as it is now.
    pub fn call(&self, id: &str) -> Option<CallInfo> {
        lock(&self.0.calls).info(&self.0.scenario, id, self.now())
    }

    /// Adds a call. Returns `None` if it names an unknown project.
    pub fn add_call(&self, new: &NewCall) -> Option<CallInfo> {
        let project = match &new.project_id {
            Some(name) => self.find_project(name)?,
            None => 0,
        };
        let now = self.now();
        let id = lock(&self.0.calls).add(&self.0.scenario, new, project, now, now);
        let faults = new.script.as_ref().map(|script| script.faults.as_slice()).unwrap_or_default();
        self.set_call_faults(&id, faults);
        self.call(&id)
    }

    /// Replaces the script of the call `id`. Returns false if there is no such call.
    pub fn set_script(&self, id: &str, script: CallScript) -> bool {
        let faults = script.faults.clone();
        let known = lock(&self.0.calls).set_script(id, script, self.now());
        if known {
            self.set_call_faults(id, &faults);
        }
        known
    }

    fn set_call_faults(&self, id: &str, faults: &[Fault]) {
        let mut active = lock(&self.0.faults);
        let scope = FaultScope::Call(id.to_owned());
        active.clear(&scope);
        for fault in faults {
            active.add(scope.clone(), fault.clone());
        }
    }

    /// Adds a fault for all requests, or for those of one project. Returns false if there is no such project.
    pub fn add_fault(&self, project: Option<&str>, fault: Fault) -> bool {
        let scope = match project {
            None => FaultScope::All,
            Some(name) => match self.find_project(name) {
                Some(project) => FaultScope::Project(project),
                None => return false,
            },
        };
        lock(&self.0.faults).add(scope, fault);
        true
    }

    /// Removes all faults, including those of the scenario.
    pub fn clear_faults(&self) {
        lock(&self.0.faults).clear_all();
    }

    /// Replaces the set of served APIs.
    pub fn set_served(&self, served: ServedApis) {
        *lock(&self.0.served) = served;
    }

    /// Replaces the key of a project (absent: the first). The old key becomes invalid. Returns false if there is no such
    /// project.
    pub fn set_api_key(&self, project: Option<&str>, key: String) -> bool {
        let project = project.map_or(Some(0), |name| self.find_project(name));
        project.map(|project| lock(&self.0.replaced_keys).insert(project, key)).is_some()
    }

    /// Returns the number of requests so far, by operation and status.
    pub fn request_counts(&self) -> BTreeMap<Operation, BTreeMap<u16, u64>> {
        lock(&self.0.responses).clone()
    }

    /// Returns the number of requests so far for one operation.
    pub fn request_count(&self, operation: Operation) -> u64 {
        lock(&self.0.responses).get(&operation).map_or(0, |statuses| statuses.values().sum())
    }

    /// Sets all request counts to zero.
    pub fn reset_request_counts(&self) {
        lock(&self.0.responses).clear();
    }

    /// Returns the latest finished deliveries, oldest first.
    pub fn deliveries(&self) -> Vec<DeliveryReport> {
        lock(&self.0.deliveries).iter().cloned().collect()
    }

    /// Stores the report of a finished delivery and publishes it to the subscribers.
    pub fn record_delivery(&self, report: DeliveryReport) {
        let mut deliveries = lock(&self.0.deliveries);
        if deliveries.len() == MAX_DELIVERY_REPORTS {
            deliveries.pop_front();
        }
        deliveries.push_back(report.clone());
        drop(deliveries);
        self.publish(Activity::Delivered(report));
    }

    /// Sends `deliveries` through `sender` and records each one when it ends.
    pub async fn run_sender<S>(&self, sender: &Sender, deliveries: S) -> DeliverySummary
    where
        S: Stream<Item = Delivery> + Send,
    {
        sender.run_with(deliveries, |report| self.record_delivery(report.clone())).await
    }

    pub(crate) fn publish(&self, activity: Activity) {
        // The send fails if there are no subscribers.
        let _ = self.0.activity.send(activity);
    }

    pub(crate) fn scenario(&self) -> &Scenario {
        &self.0.scenario
    }

    pub(crate) fn signing_secret(&self) -> &str {
        &self.0.signing_secret
    }

    pub(crate) fn clock(&self) -> &Clock {
        &self.0.clock
    }

    pub(crate) fn shutdown(&self) -> &CancellationToken {
        &self.0.shutdown
    }

    pub(crate) fn tasks(&self) -> &TaskTracker {
        &self.0.tasks
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.0.clock.now()
    }

    pub(crate) fn served(&self) -> ServedApis {
        *lock(&self.0.served)
    }

    pub(crate) fn endpoints(&self) -> MutexGuard<'_, EndpointStore> {
        lock(&self.0.endpoints)
    }

    pub(crate) fn count_response(&self, operation: Operation, status: u16) {
        *lock(&self.0.responses).entry(operation).or_default().entry(status).or_default() += 1;
    }

    pub(crate) fn apply_faults(&self, operation: Operation, call: Option<&str>, project: usize) -> FaultPlan {
        lock(&self.0.faults).apply(operation, call, Some(project))
    }

    pub(crate) fn request_conversation(&self, project: usize, id: &str) -> Result<CallView, ApiError> {
        lock(&self.0.calls)
            .request_conversation(&self.0.scenario, project, id, self.now())
            .ok_or_else(ApiError::unknown_conversation)
    }

    pub(crate) fn request_recording(&self, project: usize, id: &str) -> Result<CallView, ApiError> {
        lock(&self.0.calls)
            .request_recording(&self.0.scenario, project, id, self.now())
            .ok_or_else(ApiError::unknown_conversation)
    }

    /// Returns the keys of one page of the calls that match `filter`, and true if there are more calls.
    pub(crate) fn page(
        &self,
        project: usize,
        filter: &CallFilter,
        before: Option<CallKey>,
        offset: usize,
        limit: usize,
    ) -> (Vec<CallKey>, bool) {
        let calls = lock(&self.0.calls);
        let mut keys: Vec<_> = calls
            .select(project, filter, before, self.now())
            .skip(offset)
            .take(limit.saturating_add(1))
            .collect();
        let more = keys.len() > limit;
        keys.truncate(limit);
        (keys, more)
    }

    /// Returns the number of calls that match `filter`.
    pub(crate) fn count_calls(&self, project: usize, filter: &CallFilter) -> usize {
        lock(&self.0.calls).select(project, filter, None, self.now()).count()
    }

    pub(crate) fn view_call(&self, key: CallKey) -> Option<CallView> {
        lock(&self.0.calls).view(&self.0.scenario, key, self.now())
    }

    fn find_project(&self, name: &str) -> Option<usize> {
        self.0.scenario.projects.iter().position(|project| project.is_named(name))
    }

    /// Returns the project that `key` gives access to for this operation.
    ///
    /// An unknown key, or the key of another region, is a 401. A key of another project is a 403. An account or project
    /// that does not exist is a 404.
    pub(crate) fn authorize(
        &self,
        operation: Operation,
        account: Option<&str>,
        project: Option<&str>,
        key: Option<&str>,
    ) -> Result<usize, ApiError> {
        let projects = &self.0.scenario.projects;
        let key = key.ok_or_else(ApiError::unauthorized)?;
        let of_key = (0..projects.len()).find(|index| self.accepts_key(*index, operation, key));
        let of_key = of_key.ok_or_else(ApiError::unauthorized)?;
        let Some(name) = project else { return Ok(of_key) };
        let in_account = |project: &Project| account.is_none_or(|account| project.is_of_account(account));
        if !projects.iter().any(in_account) {
            return Err(ApiError::unknown_account());
        }
        let named = projects
            .iter()
            .position(|project| in_account(project) && project.is_named(name))
            .ok_or_else(ApiError::unknown_project)?;
        if self.accepts_key(named, operation, key) { Ok(named) } else { Err(ApiError::forbidden()) }
    }

    fn accepts_key(&self, index: usize, operation: Operation, key: &str) -> bool {
        let Some(project) = self.0.scenario.projects.get(index) else { return false };
        let special = match operation {
            _ if operation.is_webhooks() => project.webhooks_api_key.as_deref(),
            _ if operation.is_data_api() => project.data_api_key.as_deref(),
            _ => None,
        };
        let replaced = lock(&self.0.replaced_keys);
        let general = replaced.get(&index).unwrap_or(&project.api_key);
        special.unwrap_or(general) == key
            && project.region.as_ref().is_none_or(|region| *region == self.0.scenario.region)
    }

    /// Takes a request from the project's rate limit. Returns the time until the next one if none is left.
    pub(crate) fn take_rate_token(&self, project: usize) -> Result<(), Duration> {
        let Some(rate) = self.0.scenario.rate_limit.filter(|rate| *rate > 0.0) else { return Ok(()) };
        let mut buckets = lock(&self.0.rate_limits);
        let Some(bucket) = buckets.get_mut(project) else { return Ok(()) };
        let now = Instant::now();
        let gained = now.duration_since(bucket.filled_at).as_secs_f64() * rate;
        *bucket = TokenBucket { tokens: (bucket.tokens + gained).min(rate.max(1.0)), filled_at: now };
        if bucket.tokens >= 1.0 {
            bucket.tokens -= 1.0;
            Ok(())
        } else {
            Err(Duration::from_secs_f64(((1.0 - bucket.tokens) / rate).min(86_400.0)))
        }
    }
}
