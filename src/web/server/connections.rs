//! The open connections of a listener, and which of them makes room for a new one.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{Instant, timeout},
};

use super::{activity::Activity, limits::ConnectionLimits};
use crate::telemetry::GaugeGuard;

/// Interval at which a listener without room looks for a connection that has become idle.
const ROOM_CHECK_INTERVAL: Duration = Duration::from_millis(50);

/// The open connections of a listener.
#[derive(Debug)]
pub(super) struct Connections {
    started: Instant,
    limits: ConnectionLimits,
    list: Mutex<List>,
    /// Notified when a connection ends.
    ended: Notify,
}

#[derive(Debug, Default)]
struct List {
    open: HashMap<u64, Arc<Activity>>,
    last_number: u64,
    /// Connections that end to make room.
    making_room: usize,
    /// Connections that were idle when the list was made, as their times and numbers, the oldest first. Those that are
    /// not in it became idle later, so they come after it.
    idle: VecDeque<(u64, u64)>,
}

impl List {
    /// Takes out the connection that has been idle for the longest time.
    fn oldest_idle(&mut self) -> Option<&Activity> {
        let mut number = self.next_idle();
        if number.is_none() {
            let idle = self.open.iter().filter(|(_, activity)| !activity.is_closing());
            let idle = idle.filter_map(|(number, activity)| Some((activity.idle_since()?, *number)));
            self.idle = idle.collect();
            self.idle.make_contiguous().sort_unstable();
            number = self.next_idle();
        }
        self.open.get(&number?).map(|activity| &**activity)
    }

    /// Takes the next connection from the list of idle ones that has been idle since.
    fn next_idle(&mut self) -> Option<u64> {
        loop {
            let (since, number) = self.idle.pop_front()?;
            if self.open.get(&number).is_some_and(|activity| activity.idle_since() == Some(since)) {
                return Some(number);
            }
        }
    }
}

impl Connections {
    pub(super) fn new(limits: ConnectionLimits) -> Arc<Self> {
        Arc::new(Self { started: Instant::now(), limits, list: Mutex::default(), ended: Notify::new() })
    }

    fn list(&self) -> MutexGuard<'_, List> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Registers a new connection until the returned guard is dropped.
    pub(super) fn open(self: &Arc<Self>, count: GaugeGuard) -> OpenConnection {
        let activity = Arc::new(Activity::new(self.started, &self.limits));
        let mut list = self.list();
        list.last_number += 1;
        let number = list.last_number;
        list.open.insert(number, Arc::clone(&activity));
        drop(list);
        OpenConnection { activity, number, connections: Arc::clone(self), _count: count }
    }

    /// Waits until there is room for one more connection, and closes the one that has been idle for the longest time if
    /// there is none. Returns true if it had to wait.
    pub(super) async fn make_room(&self) -> bool {
        let mut was_full = false;
        while !self.has_room() {
            was_full = true;
            // There is no notice of a connection that becomes idle, because each request would have to give one.
            let _ = timeout(ROOM_CHECK_INTERVAL, self.ended.notified()).await;
        }
        was_full
    }

    /// Returns the number of connections that may be opened now.
    pub(super) fn room(&self) -> usize {
        self.limits.max_connections.saturating_sub(self.list().open.len())
    }

    /// Returns true if there is room for one more connection. Lets a connection make room if none does so already.
    fn has_room(&self) -> bool {
        let list = self.list();
        let max = self.limits.max_connections;
        let (open, making_room) = (list.open.len(), list.making_room);
        drop(list);
        if open - making_room >= max {
            self.close_oldest_idle();
        }
        open < max
    }

    /// Closes the connection that has been idle for the longest time, if one is idle.
    pub(super) fn close_oldest_idle(&self) {
        let mut list = self.list();
        if let Some(activity) = list.oldest_idle() {
            activity.make_room();
            list.making_room += 1;
        }
    }

    /// Ends all connections and waits until they have ended. Open requests are answered first.
    pub(super) async fn drain(&self) {
        for activity in self.list().open.values() {
            activity.drain();
        }
        while !self.list().open.is_empty() {
            self.ended.notified().await;
        }
    }
}

/// A registered connection.
#[derive(Debug)]
pub(super) struct OpenConnection {
    pub(super) activity: Arc<Activity>,
    number: u64,
    connections: Arc<Connections>,
    _count: GaugeGuard,
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        let mut list = self.connections.list();
        list.open.remove(&self.number);
        if self.activity.makes_room() {
            list.making_room -= 1;
        }
        drop(list);
        self.connections.ended.notify_one();
    }
}
