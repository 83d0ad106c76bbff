//! The loops that most senders want.

use std::future::Future;

use futures_util::stream::{FuturesUnordered, StreamExt};

use crate::{Closed, Consumer, Outcome, SealedSet, Subscription, Want};

/// Hands over SETs one by one, as many at once as the channel's windows allow, each with an outcome of its own.
///
/// One task drives all of them: a hand-over is a future in it, not a task. Returns the reason for which the consumer
/// ended.
pub async fn each<F: Future<Output = Outcome> + Send>(
    subscription: &Subscription,
    mut consumer: Consumer,
    hand_over: impl Fn(SealedSet) -> F,
) -> Closed {
    let mut busy = FuturesUnordered::new();
    let report = |set: SealedSet| {
        let (jti, attempt) = (set.jti, set.attempt);
        let work = hand_over(set);
        async move { (jti, Some(attempt), work.await) }
    };
    let end = loop {
        tokio::select! {
            biased;
            Some(done) = busy.next(), if !busy.is_empty() => {
                let mut all = vec![done];
                // Every other outcome that is ready now is settled under the same lock.
                while let Some(Some(more)) = futures_util::FutureExt::now_or_never(busy.next()) {
                    all.push(more);
                }
                subscription.settle_all(all);
            }
            next = consumer.next_batch(Want::ALL) => match next {
                Ok(batch) => busy.extend(batch.hand_over().into_iter().map(&report)),
                Err(closed) => break closed,
            },
        }
    };
    while let Some((jti, attempt, outcome)) = busy.next().await {
        subscription.settle(jti, attempt, outcome);
    }
    end
}

/// Hands over SETs batch by batch, one batch at a time; `hand_over` returns one outcome for each SET, in their order.
///
/// Returns the reason for which the consumer ended.
pub async fn batches<F: Future<Output = Vec<Outcome>> + Send>(
    subscription: &Subscription,
    mut consumer: Consumer,
    hand_over: impl Fn(Vec<SealedSet>) -> F,
) -> Closed {
    loop {
        match consumer.next_batch(Want::ALL).await {
            Ok(batch) => {
                let sets = batch.hand_over();
                let ids: Vec<_> = sets.iter().map(|set| (set.jti, Some(set.attempt))).collect();
                let outcomes = hand_over(sets).await;
                subscription.settle_all(
                    ids.into_iter().zip(outcomes).map(|((jti, attempt), outcome)| (jti, attempt, outcome)).collect(),
                );
            }
            Err(closed) => return closed,
        }
    }
}
