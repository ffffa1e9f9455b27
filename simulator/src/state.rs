//! What the stand-in knows and does, shared by its routes, its control interface and Rust callers.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use futures_util::Stream;
use jiff::Timestamp;
use tokio::sync::broadcast;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    calls::{CallInfo, Calls, Filter, Found, Key, NewCall},
    clock::Clock,
    delivery::Delivery,
    endpoints::Endpoints,
    errors::ApiError,
    faults::{Fault, Faults, Operation, Plan, Scope},
    scenario::{CallScript, Project, Scenario, ServedApis},
    sender::{DeliveryReport, Sender},
    summary::DeliverySummary,
};

/// Deliveries that are remembered.
const DELIVERIES: usize = 20_000;
/// What a slow listener may miss.
const ACTIVITIES: usize = 4_096;

/// Something that happened, for whoever watches.
#[derive(Clone, Debug)]
pub enum Activity {
    /// A delivery came to its end.
    Delivered(DeliveryReport),
    /// A conversation was sent.
    ConversationServed {
        /// Its id.
        id: String,
    },
    /// A recording was sent in full.
    AudioServed {
        /// The conversation's id.
        id: String,
        /// The recording's size.
        bytes: u64,
    },
    /// A request was answered with an error.
    ErrorServed {
        /// What it asked for.
        operation: Operation,
        /// The conversation or endpoint it named.
        id: Option<String>,
        /// The answer.
        status: u16,
    },
}

/// The stand-in's state. Clones are handles to the same state.
#[derive(Clone, Debug)]
pub struct SimulatorState(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    scenario: Scenario,
    secret: String,
    clock: Clock,
    /// Fires when the simulator must stop.
    shutdown: CancellationToken,
    /// Connections and deliveries in progress.
    tasks: TaskTracker,
    calls: Mutex<Calls>,
    faults: Mutex<Faults>,
    served: Mutex<ServedApis>,
    endpoints: Mutex<Endpoints>,
    /// The keys that took the place of the scenario's, by project.
    new_keys: Mutex<BTreeMap<usize, String>>,
    answers: Mutex<BTreeMap<Operation, BTreeMap<u16, u64>>>,
    buckets: Mutex<Vec<Bucket>>,
    deliveries: Mutex<VecDeque<DeliveryReport>>,
    activity: broadcast::Sender<Activity>,
}

/// A project's requests per second.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    tokens: f64,
    filled: Instant,
}

/// Nothing here is left half done by a panic, so a poisoned lock is as good as any.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl SimulatorState {
    pub(crate) fn new(scenario: Scenario, clock: Clock, shutdown: CancellationToken) -> Self {
        let end = scenario.epoch.unwrap_or_else(|| clock.now());
        let bucket = Bucket { tokens: scenario.rate_limit.unwrap_or(0.0).max(1.0), filled: Instant::now() };
        Self(Arc::new(Inner {
            secret: scenario.secret(),
            calls: Mutex::new(Calls::new(&scenario, end)),
            faults: Mutex::new(Faults::new(scenario.seed, &scenario.faults)),
            served: Mutex::new(scenario.served),
            endpoints: Mutex::new(Endpoints::new(scenario.seed)),
            new_keys: Mutex::default(),
            answers: Mutex::default(),
            buckets: Mutex::new(vec![bucket; scenario.projects.len()]),
            deliveries: Mutex::default(),
            activity: broadcast::channel(ACTIVITIES).0,
            scenario,
            clock,
            shutdown,
            tasks: TaskTracker::new(),
        }))
    }

    /// Everything that happens from now on. A listener that falls behind is told how much it has missed.
    pub fn subscribe(&self) -> broadcast::Receiver<Activity> {
        self.0.activity.subscribe()
    }

    /// All calls, oldest first, as they stand now.
    pub fn calls(&self) -> Vec<CallInfo> {
        lock(&self.0.calls).infos(&self.0.scenario, self.now())
    }

    /// The call `id` as it stands now.
    pub fn call(&self, id: &str) -> Option<CallInfo> {
        lock(&self.0.calls).info(&self.0.scenario, id, self.now())
    }

    /// Adds a call; `None` if it names a project that is not there.
    pub fn add_call(&self, new: &NewCall) -> Option<CallInfo> {
        let project = match &new.project_id {
            Some(name) => self.project_named(name)?,
            None => 0,
        };
        let now = self.now();
        let id = lock(&self.0.calls).add(&self.0.scenario, new, project, now, now);
        let faults = new.script.as_ref().map(|script| script.faults.as_slice()).unwrap_or_default();
        self.call_faults(&id, faults);
        self.call(&id)
    }

    /// Says what is special about the call `id` from now on; whether there is such a call.
    pub fn set_script(&self, id: &str, script: CallScript) -> bool {
        let faults = script.faults.clone();
        let known = lock(&self.0.calls).script(id, script, self.now());
        if known {
            self.call_faults(id, &faults);
        }
        known
    }

    fn call_faults(&self, id: &str, faults: &[Fault]) {
        let mut table = lock(&self.0.faults);
        let scope = Scope::Call(id.to_owned());
        table.clear(&scope);
        for fault in faults {
            table.add(scope.clone(), fault.clone());
        }
    }

    /// Makes something go wrong for everybody, or for the project of that name; whether there is one.
    pub fn add_fault(&self, project: Option<&str>, fault: Fault) -> bool {
        let scope = match project {
            None => Scope::All,
            Some(name) => match self.project_named(name) {
                Some(project) => Scope::Project(project),
                None => return false,
            },
        };
        lock(&self.0.faults).add(scope, fault);
        true
    }

    /// Ends all that goes wrong, the scenario's own faults included.
    pub fn clear_faults(&self) {
        lock(&self.0.faults).clear_all();
    }

    /// Opens and closes doors.
    pub fn set_served(&self, served: ServedApis) {
        *lock(&self.0.served) = served;
    }

    /// Gives the project of that name (the first where absent) another key; the old one opens nothing any more.
    /// Whether there is such a project.
    pub fn set_api_key(&self, project: Option<&str>, key: String) -> bool {
        let project = project.map_or(Some(0), |name| self.project_named(name));
        project.map(|project| lock(&self.0.new_keys).insert(project, key)).is_some()
    }

    /// Requests so far, per operation and status.
    pub fn request_counts(&self) -> BTreeMap<Operation, BTreeMap<u16, u64>> {
        lock(&self.0.answers).clone()
    }

    /// Requests so far for one operation, whatever the answer.
    pub fn request_count(&self, operation: Operation) -> u64 {
        lock(&self.0.answers).get(&operation).map_or(0, |statuses| statuses.values().sum())
    }

    /// Starts counting again.
    pub fn reset_request_counts(&self) {
        lock(&self.0.answers).clear();
    }

    /// The latest deliveries that came to their end, oldest first.
    pub fn deliveries(&self) -> Vec<DeliveryReport> {
        lock(&self.0.deliveries).iter().cloned().collect()
    }

    /// Notes a delivery of somebody's [`super::Sender`].
    pub fn record_delivery(&self, report: DeliveryReport) {
        let mut deliveries = lock(&self.0.deliveries);
        if deliveries.len() == DELIVERIES {
            deliveries.pop_front();
        }
        deliveries.push_back(report.clone());
        drop(deliveries);
        self.tell(Activity::Delivered(report));
    }

    /// Runs `deliveries` through `sender` and makes each end known here, as it comes.
    pub async fn run_sender<S>(&self, sender: &Sender, deliveries: S) -> DeliverySummary
    where
        S: Stream<Item = Delivery> + Send,
    {
        sender.run_with(deliveries, |report| self.record_delivery(report.clone())).await
    }

    pub(crate) fn tell(&self, activity: Activity) {
        // Nobody has to listen.
        let _ = self.0.activity.send(activity);
    }

    pub(crate) fn scenario(&self) -> &Scenario {
        &self.0.scenario
    }

    pub(crate) fn secret(&self) -> &str {
        &self.0.secret
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

    pub(crate) fn endpoints(&self) -> MutexGuard<'_, Endpoints> {
        lock(&self.0.endpoints)
    }

    pub(crate) fn count(&self, operation: Operation, status: u16) {
        *lock(&self.0.answers).entry(operation).or_default().entry(status).or_default() += 1;
    }

    pub(crate) fn strike(&self, operation: Operation, call: Option<&str>, project: usize) -> Plan {
        lock(&self.0.faults).strike(operation, call, Some(project))
    }

    pub(crate) fn open(&self, project: usize, id: &str) -> Result<Found, ApiError> {
        let found = lock(&self.0.calls).open(&self.0.scenario, project, id, self.now());
        found.ok_or_else(ApiError::unknown_conversation)
    }

    pub(crate) fn listen(&self, project: usize, id: &str) -> Result<Found, ApiError> {
        let found = lock(&self.0.calls).listen(&self.0.scenario, project, id, self.now());
        found.ok_or_else(ApiError::unknown_conversation)
    }

    /// A page of what `filter` takes: its keys, and whether there is more.
    pub(crate) fn page(
        &self,
        project: usize,
        filter: &Filter,
        before: Option<Key>,
        offset: usize,
        limit: usize,
    ) -> (Vec<Key>, bool) {
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

    /// How many calls `filter` takes.
    pub(crate) fn total(&self, project: usize, filter: &Filter) -> usize {
        lock(&self.0.calls).select(project, filter, None, self.now()).count()
    }

    pub(crate) fn show(&self, key: Key) -> Option<Found> {
        lock(&self.0.calls).show(&self.0.scenario, key, self.now())
    }

    fn project_named(&self, name: &str) -> Option<usize> {
        self.0
            .scenario
            .projects
            .iter()
            .position(|project| names(&project.project_id, &project.project_slug, name))
    }

    /// Whether `key` opens this door, and as which project.
    ///
    /// A key nobody has, or one of another region, is a 401; a key of another project is a 403 where the
    /// project exists, and what does not exist is a 404.
    pub(crate) fn admit(
        &self,
        operation: Operation,
        account: Option<&str>,
        project: Option<&str>,
        key: Option<&str>,
    ) -> Result<usize, ApiError> {
        let projects = &self.0.scenario.projects;
        let key = key.ok_or_else(ApiError::unauthorized)?;
        let new_keys = lock(&self.0.new_keys).clone();
        let opens = |index: usize, project: &Project| {
            let own = match operation {
                _ if operation.is_webhooks() => project.webhooks_api_key.as_ref(),
                Operation::DataList | Operation::DataConversation | Operation::DataAudio => {
                    project.data_api_key.as_ref()
                }
                _ => None,
            };
            let api_key = new_keys.get(&index).unwrap_or(&project.api_key);
            own.unwrap_or(api_key) == key
                && project.region.as_ref().is_none_or(|region| *region == self.0.scenario.region)
        };
        let of_key = projects.iter().enumerate().position(|(index, project)| opens(index, project));
        let of_key = of_key.ok_or_else(ApiError::unauthorized)?;
        let Some(name) = project else { return Ok(of_key) };
        let in_account = |project: &Project| {
            account.is_none_or(|account| names(&project.account_id, &project.account_slug, account))
        };
        if !projects.iter().any(in_account) {
            return Err(ApiError::unknown_account());
        }
        let named = projects
            .iter()
            .position(|project| {
                in_account(project) && names(&project.project_id, &project.project_slug, name)
            })
            .ok_or_else(ApiError::unknown_project)?;
        if opens(named, &projects[named]) { Ok(named) } else { Err(ApiError::forbidden()) }
    }

    /// Whether the project has a request left this second; if not, how long until it has.
    pub(crate) fn spend(&self, project: usize) -> Result<(), Duration> {
        let Some(rate) = self.0.scenario.rate_limit.filter(|rate| *rate > 0.0) else { return Ok(()) };
        let mut buckets = lock(&self.0.buckets);
        let Some(bucket) = buckets.get_mut(project) else { return Ok(()) };
        let now = Instant::now();
        let gained = now.duration_since(bucket.filled).as_secs_f64() * rate;
        *bucket = Bucket { tokens: (bucket.tokens + gained).min(rate.max(1.0)), filled: now };
        if bucket.tokens >= 1.0 {
            bucket.tokens -= 1.0;
            Ok(())
        } else {
            Err(Duration::from_secs_f64(((1.0 - bucket.tokens) / rate).min(86_400.0)))
        }
    }
}

fn names(id: &str, slug: &str, name: &str) -> bool {
    id == name || slug == name
}
