//! Reads dead letters for pages: one request at a time, with results that others share for a moment.

use std::{
    collections::VecDeque,
    ops::ControlFlow,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Mutex as AsyncMutex, OwnedMutexGuard},
    time::{Instant, timeout},
};

use super::{
    listing::{Listing, ListingBuilder},
    scan::{Extent, LIST, ONE, scan},
    scope::ListQuery,
};
use crate::{
    console::{Console, error::PageError},
    queue::DeadLetter,
};

/// The time for which a result is shared if reading hides letters. Otherwise only requests share it that waited for their turn
/// when the reading began.
const SHARED_FOR: Duration = Duration::from_secs(5);
/// The number of results that are kept.
const MAX_SHARED: usize = 4;
/// The time for which a request waits for others that read.
const TURN_TIMEOUT: Duration = Duration::from_secs(10);
/// The letters of one id, usually one.
pub(super) type Found = (Arc<Vec<DeadLetter>>, Extent);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Reader {
    turn: Arc<AsyncMutex<()>>,
    lists: Shared<ListQuery, Arc<Listing>>,
    found: Shared<String, Found>,
}

impl Reader {
    /// Waits until no request or action reads.
    pub(super) async fn next_turn(&self) -> OwnedMutexGuard<()> {
        Arc::clone(&self.turn).lock_owned().await
    }

    /// Waits as long as a request may wait for its turn.
    pub(super) async fn turn(&self) -> Result<OwnedMutexGuard<()>, PageError> {
        timeout(TURN_TIMEOUT, self.next_turn()).await.map_err(|_| {
            PageError::unavailable(
                "Another page or action reads the dead letters, and only one at a time may.",
                "Reload this page in a moment.",
            )
        })
    }

    /// Forgets results, because an action has changed the dead letters.
    pub(super) fn forget(&self) {
        self.lists.clear();
        self.found.clear();
    }

    /// Returns a page of the list.
    pub(super) async fn list(
        self: &Arc<Self>,
        console: &Arc<Console>,
        query: ListQuery,
    ) -> Result<Arc<Listing>, PageError> {
        let asked = Instant::now();
        if let Some(shared) = self.lists.get(&query, asked) {
            return shared;
        }
        let (reader, shared_console) = (Arc::clone(self), Arc::clone(console));
        let reading = async move {
            let _turn = reader.turn().await?;
            if let Some(shared) = reader.lists.get(&query, asked) {
                return shared;
            }
            let begun = Instant::now();
            let (now, mask) = (shared_console.clock.now(), shared_console.text_mask());
            let mut builder = ListingBuilder::new(&query, now, mask)?;
            let mut visit = |letter: DeadLetter, _| {
                builder.add(&letter);
                ControlFlow::Continue(())
            };
            let scanned = scan(&*shared_console.queue, LIST, &mut visit).await;
            let hides = scanned.as_ref().is_ok_and(|extent| extent.hides);
            let result = scanned.map(|extent| Arc::new(builder.finish(extent)));
            reader.lists.put(query, begun, hides, result.clone());
            result
        };
        finish(console, reading).await
    }

    /// Returns the dead letters of an event id. Where reading hides letters, it stops at the first one.
    pub(super) async fn find(
        self: &Arc<Self>,
        console: &Arc<Console>,
        id: String,
    ) -> Result<Found, PageError> {
        const MAX_OF_ONE_ID: usize = 4;
        let asked = Instant::now();
        if let Some(shared) = self.found.get(&id, asked) {
            return shared;
        }
        let (reader, shared_console) = (Arc::clone(self), Arc::clone(console));
        let reading = async move {
            let _turn = reader.turn().await?;
            if let Some(shared) = reader.found.get(&id, asked) {
                return shared;
            }
            let begun = Instant::now();
            let mut found = Vec::new();
            let mut visit = |letter: DeadLetter, hides| {
                if letter.message.id == id {
                    found.push(letter);
                }
                let is_enough = found.len() == MAX_OF_ONE_ID || hides && !found.is_empty();
                if is_enough { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            };
            let scanned = scan(&*shared_console.queue, ONE, &mut visit).await;
            let hides = scanned.as_ref().is_ok_and(|extent| extent.hides);
            let result = scanned.map(|extent| (Arc::new(found), extent));
            reader.found.put(id, begun, hides, result.clone());
            result
        };
        finish(console, reading).await
    }
}

/// Runs a task to its end even if its client leaves, so that RabbitMQ gets back what was read, and the next request has the
/// result.
pub(super) async fn finish<T: Send + 'static>(
    console: &Console,
    task: impl Future<Output = Result<T, PageError>> + Send + 'static,
) -> Result<T, PageError> {
    console.lifecycle.spawn_tracked(task).await.unwrap_or_else(|_| {
        Err(PageError::unavailable(
            "A bug in polyhook ended the request.",
            "Report it with the log, which names the place.",
        ))
    })
}

/// The latest results, each for a short time.
#[derive(Debug)]
struct Shared<K, T> {
    results: Mutex<VecDeque<SharedResult<K, T>>>,
}

#[derive(Debug)]
struct SharedResult<K, T> {
    key: K,
    begun: Instant,
    hides: bool,
    result: Result<T, PageError>,
}

impl<K, T> Default for Shared<K, T> {
    fn default() -> Self {
        Self { results: Mutex::default() }
    }
}

impl<K: PartialEq, T: Clone> Shared<K, T> {
    /// Returns a result that is recent enough for a request of the time `asked`.
    fn get(&self, key: &K, asked: Instant) -> Option<Result<T, PageError>> {
        let results = self.results.lock().unwrap_or_else(PoisonError::into_inner);
        let is_recent = |shared: &&SharedResult<K, T>| {
            let age = asked.saturating_duration_since(shared.begun);
            let max_age = if shared.hides { SHARED_FOR } else { Duration::ZERO };
            shared.key == *key && age <= max_age
        };
        results.iter().find(is_recent).map(|shared| shared.result.clone())
    }

    fn put(&self, key: K, begun: Instant, hides: bool, result: Result<T, PageError>) {
        let mut results = self.results.lock().unwrap_or_else(PoisonError::into_inner);
        results.retain(|shared| shared.key != key);
        results.truncate(MAX_SHARED - 1);
        results.push_front(SharedResult { key, begun, hides, result });
    }

    fn clear(&self) {
        self.results.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_reading_that_hides_letters_is_shared_with_later_requests() {
        let begun = Instant::now();
        let shared = Shared::default();
        shared.put("embedded", begun, false, Ok(1));
        shared.put("rabbitmq", begun, true, Ok(2));
        let get = |key, asked| shared.get(&key, asked).map(Result::unwrap);
        for (key, asked, expected) in [
            ("embedded", begun, Some(1)),
            ("embedded", begun + Duration::from_millis(1), None),
            ("rabbitmq", begun + Duration::from_secs(5), Some(2)),
            ("rabbitmq", begun + Duration::from_secs(6), None),
            ("other", begun, None),
        ] {
            assert_eq!(get(key, asked), expected, "{key} {:?}", asked - begun);
        }
        shared.clear();
        assert_eq!(get("rabbitmq", begun), None);
    }
}
