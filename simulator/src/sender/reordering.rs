//! Deliberate duplicates and changes of order.

use std::pin::Pin;

use futures_util::{Stream, StreamExt, stream};

use super::options::SenderOptions;
use crate::{
    delivery::Delivery,
    random::{Purpose, rng},
};

/// Duplicates and shuffles `deliveries` as the options say. The flag marks a duplicate.
pub(super) fn duplicate_and_reorder<S>(
    deliveries: S,
    options: &SenderOptions,
) -> impl Stream<Item = (Delivery, bool)> + Send
where
    S: Stream<Item = Delivery> + Send,
{
    let (share, size, seed) = (options.duplicates, options.reorder.max(1), options.seed);
    let mut duplicates_rng = rng(seed, 0, Purpose::Duplicates);
    let with_duplicates = deliveries
        .map(move |delivery| {
            let duplicate = (duplicates_rng.f64() < share).then(|| (delivery.clone(), true));
            stream::iter(std::iter::once((delivery, false)).chain(duplicate))
        })
        .flatten();
    let window = ReorderWindow {
        source: Box::pin(with_duplicates),
        waiting: Vec::new(),
        size,
        rng: rng(seed, 0, Purpose::Order),
    };
    stream::unfold(window, ReorderWindow::next)
}

/// The next deliveries of a stream, from which one is taken at random.
struct ReorderWindow<S> {
    source: Pin<Box<S>>,
    waiting: Vec<(Delivery, bool)>,
    size: usize,
    rng: fastrand::Rng,
}

impl<S: Stream<Item = (Delivery, bool)>> ReorderWindow<S> {
    async fn next(mut self) -> Option<((Delivery, bool), Self)> {
        while self.waiting.len() < self.size {
            match self.source.next().await {
                Some(next) => self.waiting.push(next),
                None => self.size = 0,
            }
        }
        if self.waiting.is_empty() {
            return None;
        }
        let at = self.rng.usize(..self.waiting.len());
        let next = self.waiting.remove(at);
        Some((next, self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn ids(options: SenderOptions) -> Vec<(String, bool)> {
        let deliveries = (0..200).map(|n| Delivery::new(format!("{n:03}"), "test", "{}"));
        duplicate_and_reorder(stream::iter(deliveries), &options)
            .map(|(delivery, duplicate)| (delivery.event_id, duplicate))
            .collect()
            .await
    }

    #[tokio::test]
    async fn keeps_the_order_by_default() {
        let plain = ids(SenderOptions::default()).await;
        assert_eq!(plain.len(), 200);
        assert!(plain.is_sorted() && plain.iter().all(|(_, duplicate)| !duplicate));
    }

    #[tokio::test]
    async fn duplicates_and_shuffles_without_loss() {
        let options = SenderOptions { duplicates: 0.25, reorder: 8, ..SenderOptions::default() };
        let shuffled = ids(options.clone()).await;
        assert_eq!(shuffled, ids(options).await, "seeded");
        let duplicates = shuffled.iter().filter(|(_, duplicate)| *duplicate).count();
        assert!((25..80).contains(&duplicates), "{duplicates}");
        assert!(!shuffled.is_sorted());
        let mut originals: Vec<_> = shuffled.iter().filter(|(_, duplicate)| !duplicate).collect();
        originals.sort();
        originals.dedup();
        assert_eq!(originals.len(), 200);
    }
}
