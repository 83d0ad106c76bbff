//! The channel in front of mock brokers, and a reader that hands what it reads to the suite's peer.

use std::{
    sync::{Arc, mpsc},
    time::Duration,
};

use rdkafka::{
    ClientConfig, Message, Offset, TopicPartitionList,
    consumer::{Consumer, StreamConsumer},
};
use serde_json::json;
use setgate_delivery::{
    Answer, BoxFuture, Bytes, Incoming, Ingest,
    testkit::{Fixture, Opened},
};

use super::mock::{Mock, start};

/// A fixture with mock brokers for each channel; `value` is that of the channel's terms.
pub(crate) struct Carried {
    pub(crate) value: &'static str,
}

impl Fixture for Carried {
    fn open(&self, ingest: Arc<dyn Ingest>) -> BoxFuture<'_, Opened> {
        Box::pin(async move {
            // Mock brokers stay on the thread that created them.
            let (tell, told) = mpsc::channel();
            let (stop, stopped) = mpsc::channel::<()>();
            std::thread::spawn(move || {
                let mock = Mock::with("sets", 2);
                tell.send(mock.bootstrap.clone()).unwrap();
                // The thread ends when the sender is dropped.
                let _ = stopped.recv();
            });
            let bootstrap = told.recv_timeout(Duration::from_secs(10)).unwrap();
            let started = start(&bootstrap, json!({ "in_flight": 40, "in_flight_bytes": 1 << 20 })).await;
            let channel = started.channel(json!({ "topic": "sets", "value": self.value }));
            let reader = tokio::spawn(read(bootstrap, ingest, stop.clone()));
            Opened {
                channel,
                cut: Arc::new(|| ()),
                cut_after: None,
                parallel: true,
                most: None,
                sessions: None,
                keep: Box::new((stop, started, AbortOnDrop(reader))),
            }
        })
    }
}

struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Reads the topic for the suite's peer. A consumer leaves its group when it is dropped and waits for an answer, so the
/// brokers outlive it.
async fn read(bootstrap: String, ingest: Arc<dyn Ingest>, _brokers: mpsc::Sender<()>) {
    let consumer: StreamConsumer =
        ClientConfig::new().set("bootstrap.servers", &bootstrap).set("group.id", "reader").create().unwrap();
    let mut all = TopicPartitionList::new();
    for partition in 0..2 {
        all.add_partition_offset("sets", partition, Offset::Beginning).unwrap();
    }
    consumer.assign(&all).unwrap();
    loop {
        let token = match consumer.recv().await {
            Ok(message) => Bytes::copy_from_slice(message.payload().unwrap_or_default()),
            // The brokers are gone, or not there yet.
            Err(_) => continue,
        };
        // A reader that is not ready stays where it is.
        while let Some(Answer::Busy { .. }) =
            ingest.accept("reader", vec![Incoming::Set { named: None, token: token.clone() }]).await.pop()
        {}
    }
}
