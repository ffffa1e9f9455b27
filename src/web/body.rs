//! The memory of bodies: one budget for all requests, charged with what their buffers really hold.
//!
//! While a body arrives, its sender is a stranger: the signature covers the whole body. Strangers must not be able to take
//! the memory that PolyAI's deliveries need, neither with many bodies nor with slow ones. So
//!
//! * a buffer grows with what has arrived, not with what the head announces, and it is charged with its capacity;
//! * a body that needs memory when none is free takes it from the bodies that have been arriving for longest. They are
//!   answered 503, and PolyAI would send them again. PolyAI's bodies arrive within milliseconds; who wants to push one of
//!   them out must send the whole budget in that time, and who sends slowly only makes room;
//! * a complete body keeps its memory until its delivery is answered. If complete bodies hold all of it, the queue is too
//!   slow, and the next body is answered 503.
//!
//! A body that arrives at once, as nearly all do, costs one allocation and no place in the order of arrival.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Body;

use super::outcome::Outcome;

/// Capacity of the first buffer of a body that arrives in parts, unless the head announces less. PolyAI's bodies are of
/// about this size.
const FIRST_CAPACITY: usize = 512;

/// The memory for bodies.
#[derive(Debug)]
pub(super) struct BodyMemory {
    size: usize,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    free: usize,
    /// Bodies of which a part has arrived, the oldest first.
    arriving: BTreeMap<u64, Arc<Mutex<Option<ChargedBuffer>>>>,
    next: u64,
}

/// A share of the memory. It is free again when this is dropped.
#[derive(Debug)]
pub(super) struct Charge {
    memory: Arc<BodyMemory>,
    bytes: usize,
}

/// A buffer and its share of the memory, which is the buffer's capacity.
#[derive(Debug)]
struct ChargedBuffer {
    bytes: Vec<u8>,
    charge: Charge,
}

/// A body of which a part has arrived.
#[derive(Debug)]
struct ArrivingBody {
    memory: Arc<BodyMemory>,
    /// The place in the order of arrival.
    number: u64,
    /// None after a newer body has taken the memory.
    buffer: Arc<Mutex<Option<ChargedBuffer>>>,
    limits: BodyLimits,
}

/// The sizes that bound a body and its buffer.
#[derive(Clone, Copy, Debug)]
pub(super) struct BodyLimits {
    /// Bytes that a body may have.
    pub(super) max: usize,
    /// Bytes that the head announces, if it does.
    pub(super) announced: Option<u64>,
}

impl BodyMemory {
    /// Creates a budget of `size` bytes.
    pub(super) fn new(size: usize) -> Arc<Self> {
        let state = State { free: size, arriving: BTreeMap::new(), next: 0 };
        Arc::new(Self { size, state: Mutex::new(state) })
    }

    /// Returns the bytes that are charged now.
    pub(super) fn used(&self) -> usize {
        self.size - self.lock().free
    }

    /// Reads a body to its end. Returns it with its share of the memory.
    pub(super) async fn read<B>(
        self: &Arc<Self>,
        mut body: B,
        limits: BodyLimits,
    ) -> Result<(Bytes, Charge), Outcome>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        let first = next_part(&mut body).await?.unwrap_or_default();
        let mut buffer = ChargedBuffer::empty(self);
        if body.is_end_stream() {
            // Newer than all that are arriving.
            buffer.append(&first, u64::MAX, limits, first.len())?;
            return Ok(buffer.into_bytes());
        }
        let arriving = ArrivingBody::new(self, buffer, limits);
        let mut part = first;
        loop {
            arriving.append(&part)?;
            part = match next_part(&mut body).await? {
                Some(part) => part,
                None => return arriving.complete(),
            };
        }
    }

    /// Takes `bytes` for the body with this place in the order of arrival, if necessary from older ones.
    fn take(&self, bytes: usize, number: u64) -> Result<(), Outcome> {
        loop {
            let mut state = self.lock();
            if let Some(rest) = state.free.checked_sub(bytes) {
                state.free = rest;
                return Ok(());
            }
            let oldest = state.arriving.first_entry().filter(|oldest| *oldest.key() < number);
            let oldest = oldest.ok_or(Outcome::Overloaded)?.remove();
            // Dropping the buffer returns its memory, which needs the lock.
            drop(state);
            drop(lock(&oldest).take());
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.memory.lock().free += self.bytes;
    }
}

impl ChargedBuffer {
    fn empty(memory: &Arc<BodyMemory>) -> Self {
        Self { bytes: Vec::new(), charge: Charge { memory: Arc::clone(memory), bytes: 0 } }
    }

    /// Appends a part to the body with this place in the order of arrival. A buffer that is too small gets at least
    /// `capacity`.
    fn append(
        &mut self,
        part: &[u8],
        number: u64,
        limits: BodyLimits,
        capacity: usize,
    ) -> Result<(), Outcome> {
        let length = self.bytes.len() + part.len();
        if length > limits.max {
            return Err(Outcome::TooLarge);
        }
        if length > self.bytes.capacity() {
            let capacity = capacity.max(length);
            self.charge.memory.take(capacity - self.charge.bytes, number)?;
            self.charge.bytes = capacity;
            self.bytes.reserve_exact(capacity - self.bytes.len());
        }
        self.bytes.extend_from_slice(part);
        Ok(())
    }

    fn into_bytes(self) -> (Bytes, Charge) {
        (Bytes::from(self.bytes), self.charge)
    }
}

impl ArrivingBody {
    fn new(memory: &Arc<BodyMemory>, buffer: ChargedBuffer, limits: BodyLimits) -> Self {
        let buffer = Arc::new(Mutex::new(Some(buffer)));
        let mut state = memory.lock();
        let number = state.next;
        state.next += 1;
        state.arriving.insert(number, Arc::clone(&buffer));
        drop(state);
        Self { memory: Arc::clone(memory), number, buffer, limits }
    }

    fn append(&self, part: &[u8]) -> Result<(), Outcome> {
        let mut buffer = lock(&self.buffer);
        let buffer = buffer.as_mut().ok_or(Outcome::Overloaded)?;
        let announced = self.limits.announced.and_then(|bytes| usize::try_from(bytes).ok());
        let useful = announced.unwrap_or(usize::MAX).min(self.limits.max);
        let capacity = (2 * buffer.bytes.capacity()).max(FIRST_CAPACITY).min(useful);
        buffer.append(part, self.number, self.limits, capacity)
    }

    fn complete(self) -> Result<(Bytes, Charge), Outcome> {
        let buffer = lock(&self.buffer).take();
        buffer.map(ChargedBuffer::into_bytes).ok_or(Outcome::Overloaded)
    }
}

impl Drop for ArrivingBody {
    fn drop(&mut self) {
        self.memory.lock().arriving.remove(&self.number);
    }
}

/// Returns the next part of a body, or none at its end.
async fn next_part<B>(body: &mut B) -> Result<Option<Bytes>, Outcome>
where
    B: Body<Data = Bytes> + Unpin,
{
    while let Some(frame) = body.frame().await {
        // Trailers are not used.
        if let Ok(part) = frame.map_err(|_| Outcome::BrokenBody)?.into_data() {
            return Ok(Some(part));
        }
    }
    Ok(None)
}

/// A panic while a lock is held leaves the numbers right.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, pin::pin};

    use futures_util::{FutureExt, poll, stream};
    use http_body_util::{Full, StreamBody};
    use hyper::body::Frame;
    use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

    use super::*;

    const LIMITS: BodyLimits = BodyLimits { max: 1 << 20, announced: None };

    /// A body that arrives as the test sends it. It ends when the sender is dropped.
    fn in_parts() -> (UnboundedSender<Bytes>, impl Body<Data = Bytes, Error = Infallible> + Unpin) {
        let (sender, mut parts) = unbounded_channel();
        let frames = stream::poll_fn(move |context| {
            parts.poll_recv(context).map(|part| part.map(|part| Ok(Frame::data(part))))
        });
        (sender, StreamBody::new(frames))
    }

    fn part(bytes: usize) -> Bytes {
        Bytes::from(vec![b'x'; bytes])
    }

    fn at_once(memory: &Arc<BodyMemory>, bytes: usize) -> Result<(Bytes, Charge), Outcome> {
        memory.read(Full::new(part(bytes)), LIMITS).now_or_never().expect("at once")
    }

    #[tokio::test]
    async fn charges_what_buffers_hold() {
        let memory = BodyMemory::new(64 << 10);
        let whole = at_once(&memory, 700).unwrap();
        assert_eq!((whole.0.len(), memory.used()), (700, 700));
        drop(whole);
        let (sender, body) = in_parts();
        let mut reading = pin!(memory.read(body, LIMITS));
        assert!(poll!(&mut reading).is_pending());
        assert_eq!(memory.used(), 0, "nothing has arrived");
        for (bytes, used) in [(1, 512), (511, 512), (1, 1024), (3000, 3513), (1, 7026)] {
            sender.send(part(bytes)).unwrap();
            assert!(poll!(&mut reading).is_pending());
            assert_eq!(memory.used(), used, "after {bytes} more");
        }
        drop(sender);
        let (bytes, charge) = reading.await.unwrap();
        assert_eq!((bytes.len(), charge.bytes, memory.used()), (3514, 7026, 7026));
        drop(charge);
        assert_eq!(memory.used(), 0);
    }

    #[tokio::test]
    async fn a_buffer_is_not_larger_than_announced() {
        let memory = BodyMemory::new(64 << 10);
        for (announced, max, used) in [(600, 1 << 20, 600), (3, 1 << 20, 3), (u64::MAX, 700, 700)] {
            let (sender, body) = in_parts();
            let limits = BodyLimits { max, announced: Some(announced) };
            let mut reading = pin!(memory.read(body, limits));
            for bytes in [1, used - 1] {
                sender.send(part(bytes)).unwrap();
            }
            assert!(poll!(&mut reading).is_pending());
            assert_eq!(memory.used(), used);
        }
        assert_eq!(memory.used(), 0, "of abandoned bodies nothing is kept");
    }

    #[tokio::test]
    async fn many_slow_bodies_leave_room() {
        let memory = BodyMemory::new(1 << 20);
        let mut slow: Vec<_> = (0..1000)
            .map(|_| {
                let (sender, body) = in_parts();
                sender.send(part(1)).unwrap();
                (Box::pin(memory.read(body, LIMITS)), sender)
            })
            .collect();
        for (reading, _) in &mut slow {
            assert!(poll!(reading).is_pending());
            // Otherwise tokio lets the channels rest.
            tokio::task::yield_now().await;
        }
        assert_eq!(memory.used(), 512_000);
        at_once(&memory, 100_000).unwrap();
    }

    #[tokio::test]
    async fn a_newer_body_takes_the_memory_of_the_oldest() {
        let memory = BodyMemory::new(4096);
        let mut slow: Vec<_> = (0..4)
            .map(|_| {
                let (sender, body) = in_parts();
                sender.send(part(1024)).unwrap();
                (Box::pin(memory.read(body, LIMITS)), sender)
            })
            .collect();
        for (reading, _) in &mut slow {
            assert!(poll!(reading).is_pending());
        }
        assert_eq!(memory.used(), 4096);
        let first = at_once(&memory, 1025).unwrap();
        assert_eq!(memory.used(), 2048 + 1025, "two gave up their memory at once");
        let second = at_once(&memory, 1000).unwrap();
        assert_eq!(memory.used(), 4096 - 23, "there was room");

        // An older body cannot grow at the cost of a newer one.
        for (at, outcome) in [(0, "Overloaded"), (1, "Overloaded"), (2, "Overloaded")] {
            let (reading, sender) = &mut slow[at];
            sender.send(part(1)).unwrap();
            let result = reading.now_or_never().expect("an answer");
            assert_eq!(format!("{:?}", result.unwrap_err()), outcome, "{at}");
        }
        let (reading, sender) = slow.pop().unwrap();
        drop(sender);
        assert_eq!(reading.await.unwrap().0.len(), 1024);
        drop((first, second));
        drop(slow);
        assert_eq!(memory.used(), 0);
    }

    #[tokio::test]
    async fn complete_bodies_keep_their_memory() {
        let memory = BodyMemory::new(4096);
        let first = at_once(&memory, 3000).unwrap();
        assert!(matches!(at_once(&memory, 1097), Err(Outcome::Overloaded)));
        let second = at_once(&memory, 1096).unwrap();
        assert!(matches!(at_once(&memory, 1), Err(Outcome::Overloaded)));
        assert_eq!(at_once(&memory, 0).unwrap().0.len(), 0);
        drop((first, second));
        assert_eq!(at_once(&memory, 4096).unwrap().0.len(), 4096);
    }

    #[tokio::test]
    async fn rejects_a_body_over_the_limit() {
        let memory = BodyMemory::new(1 << 20);
        let limits = BodyLimits { max: 10, announced: None };
        assert!(memory.read(Full::new(part(10)), limits).await.is_ok());
        assert!(matches!(memory.read(Full::new(part(11)), limits).await, Err(Outcome::TooLarge)));
        let (sender, body) = in_parts();
        for bytes in [5, 5, 1] {
            sender.send(part(bytes)).unwrap();
        }
        assert!(matches!(memory.read(body, limits).await, Err(Outcome::TooLarge)));
        assert_eq!(memory.used(), 0);
    }
}
