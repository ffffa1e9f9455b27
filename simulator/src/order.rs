//! The accidents of delivery: events that come twice, and events that overtake each other.

use futures_util::{Stream, StreamExt, stream};

use super::{Purpose, delivery::Delivery, rng, sender::SenderOptions};

/// Doubles and shuffles `deliveries` by the options; the flag marks a copy.
pub(crate) fn disorder<S>(
    deliveries: S,
    options: &SenderOptions,
) -> impl Stream<Item = (Delivery, bool)> + Send
where
    S: Stream<Item = Delivery> + Send,
{
    let (duplicates, window, seed) = (options.duplicates, options.reorder.max(1), options.seed);
    let mut dice = rng(seed, 0, Purpose::Duplicates);
    let doubled = deliveries
        .map(move |delivery| {
            let copy = (dice.f64() < duplicates).then(|| (delivery.clone(), true));
            stream::iter(std::iter::once((delivery, false)).chain(copy))
        })
        .flatten();
    let held =
        Held { from: Box::pin(doubled), waiting: Vec::new(), window, dice: rng(seed, 0, Purpose::Order) };
    stream::unfold(held, Held::next)
}

/// Holds a window of what is to come and gives away any of it.
struct Held<S> {
    from: std::pin::Pin<Box<S>>,
    waiting: Vec<(Delivery, bool)>,
    window: usize,
    dice: fastrand::Rng,
}

impl<S: Stream<Item = (Delivery, bool)>> Held<S> {
    async fn next(mut self) -> Option<((Delivery, bool), Self)> {
        while self.waiting.len() < self.window {
            match self.from.next().await {
                Some(next) => self.waiting.push(next),
                None => self.window = 0,
            }
        }
        if self.waiting.is_empty() {
            return None;
        }
        let at = self.dice.usize(..self.waiting.len());
        let next = self.waiting.remove(at);
        Some((next, self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn ids(options: SenderOptions) -> Vec<(String, bool)> {
        let deliveries = (0..200).map(|n| Delivery::new(format!("{n:03}"), "test", "{}"));
        disorder(stream::iter(deliveries), &options)
            .map(|(delivery, copy)| (delivery.event_id, copy))
            .collect()
            .await
    }

    #[tokio::test]
    async fn keeps_the_order_unless_told_otherwise() {
        let plain = ids(SenderOptions::default()).await;
        assert_eq!(plain.len(), 200);
        assert!(plain.is_sorted() && plain.iter().all(|(_, copy)| !copy));
    }

    #[tokio::test]
    async fn doubles_and_shuffles_but_loses_nothing() {
        let options = SenderOptions { duplicates: 0.25, reorder: 8, ..SenderOptions::default() };
        let some = ids(options.clone()).await;
        assert_eq!(some, ids(options).await, "seeded");
        let copies = some.iter().filter(|(_, copy)| *copy).count();
        assert!((25..80).contains(&copies), "{copies}");
        assert!(!some.is_sorted());
        let mut originals: Vec<_> = some.iter().filter(|(_, copy)| !copy).collect();
        originals.sort();
        originals.dedup();
        assert_eq!(originals.len(), 200);
    }
}
