//! The settler, which writes the ends of deliveries in batches, lazily.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use setgate_clock::{Backoff, Jitter};
use setgate_store::{Durability, Fence, Settlement, Store, StoreError, Unit};
use tokio::sync::Notify;

/// Collects settlements and writes them in batches, lazily: a crash repeats the SETs whose ends it had not written, and
/// does no other harm.
#[derive(Debug)]
pub(crate) struct Settler {
    queue: Mutex<Queue>,
    came: Notify,
    written: tokio::sync::watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: Vec<Settlement>,
    /// The number of settlements queued so far.
    queued: u64,
    urgent: bool,
}

const BATCH: usize = 512;
/// The back-off after the store did not accept a batch.
const RETRY: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_millis(3200));

impl Settler {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { queue: Mutex::default(), came: Notify::new(), written: tokio::sync::watch::channel(0).0 })
    }

    /// Queues settlements; callable from any thread.
    pub(crate) fn note(&self, settlements: impl IntoIterator<Item = Settlement>) {
        let mut queue = self.queue.lock();
        let before = queue.waiting.len();
        queue.waiting.extend(settlements);
        queue.queued += (queue.waiting.len() - before) as u64;
        if before == 0 || (before < BATCH && queue.waiting.len() >= BATCH) {
            self.came.notify_one();
        }
    }

    /// Waits until everything queued so far is visible in the store.
    pub(crate) async fn flush(&self) {
        let upto = {
            let mut queue = self.queue.lock();
            queue.urgent = true;
            queue.queued
        };
        self.came.notify_one();
        let mut written = self.written.subscribe();
        // The sender lives as long as `self`.
        let _ = written.wait_for(|written| *written >= upto).await;
    }

    /// Writes until the process ends. `trouble` is called with the error when the store does not accept a batch, and
    /// with `None` when it recovers.
    pub(crate) async fn run(
        self: Arc<Self>,
        store: Arc<dyn Store>,
        clock: Arc<dyn setgate_clock::Clock>,
        every: Duration,
        trouble: impl Fn(Option<&StoreError>),
    ) {
        let mut failures = 0u32;
        loop {
            let (empty, retry_now) = {
                let queue = self.queue.lock();
                (queue.waiting.is_empty(), queue.urgent || queue.waiting.len() >= BATCH)
            };
            if empty {
                let upto = {
                    let mut queue = self.queue.lock();
                    queue.urgent = false;
                    queue.queued
                };
                self.written.send_if_modified(|written| std::mem::replace(written, upto) != upto);
                self.came.notified().await;
                continue;
            }
            if !retry_now {
                // A batch grows until its time is over or it is full.
                tokio::select! {
                    biased;
                    () = clock.sleep(every) => {}
                    () = self.came.notified() => {}
                }
            }
            let (batch, upto) = {
                let mut queue = self.queue.lock();
                (std::mem::take(&mut queue.waiting), queue.queued)
            };
            let fence: Fence = store.fence();
            match store.commit(vec![Unit::Settle { fence, what: batch.clone() }], Durability::Lazy).await {
                Ok(_) => {
                    if std::mem::take(&mut failures) > 0 {
                        trouble(None);
                    }
                    self.written.send_replace(upto);
                }
                Err(error) => {
                    trouble(Some(&error));
                    failures += 1;
                    {
                        let mut queue = self.queue.lock();
                        let newer = std::mem::replace(&mut queue.waiting, batch);
                        queue.waiting.extend(newer);
                    }
                    clock.sleep(RETRY.wait(failures, Jitter::None)).await;
                }
            }
        }
    }
}
