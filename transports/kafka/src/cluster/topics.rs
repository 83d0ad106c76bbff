//! Topics that the producer must look at again, or that are created.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use rdkafka::{
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    config::FromClientConfigAndContext,
    error::KafkaError,
    types::RDKafkaErrorCode,
};
use setgate_delivery::{Cause, clean};
use tokio::{
    sync::{Semaphore, oneshot},
    task::spawn_blocking,
};

use super::{Cluster, Shared, engine::Engine};
use crate::client::{Role, client_config};

/// The longest time to wait for a broker's answer about a topic.
const PATIENCE: Duration = Duration::from_secs(5);
/// The most topics that are doubted at once; the producer finds out about further ones itself.
const MOST: usize = 10_000;
/// The most looks at once, each on a thread of its own: thousands of streams may be resumed together.
const LOOKS: usize = 8;

/// Topics that a broker refused: what the producer knows of them is out of date until it has asked again.
pub(super) struct Doubts {
    /// The doubted topics, each with whether it was looked at by now: all senders to one topic wait for the same look.
    all: Mutex<HashMap<Arc<str>, Arc<tokio::sync::Mutex<bool>>>>,
    /// True while a topic is doubted.
    some: AtomicBool,
    looks: Semaphore,
}

impl Default for Doubts {
    fn default() -> Self {
        Self { all: Mutex::default(), some: AtomicBool::new(false), looks: Semaphore::new(LOOKS) }
    }
}

impl Doubts {
    fn of(&self, topic: &str) -> Option<Arc<tokio::sync::Mutex<bool>>> {
        if !self.some.load(Ordering::Acquire) {
            return None;
        }
        self.all.lock().get(topic).cloned()
    }

    fn dispel(&self, topic: &str) {
        let mut all = self.all.lock();
        all.remove(topic);
        self.some.store(!all.is_empty(), Ordering::Release);
    }
}

impl Shared {
    /// Doubts a topic that a broker refused. Until its next look at the metadata, the producer refuses further records
    /// for the topic without asking, although the operator may have fixed it.
    pub(super) fn doubt(&self, topic: &Arc<str>) {
        let mut all = self.doubts.all.lock();
        if all.len() < MOST {
            // While the topic is being looked at, a refusal says nothing new.
            all.entry(topic.clone()).or_default();
            self.doubts.some.store(true, Ordering::Release);
        }
    }
}

impl Cluster {
    /// Returns whether a topic must be looked at before anything is sent to it.
    pub(crate) fn doubts(&self, topic: &str) -> bool {
        self.shared.doubts.of(topic).is_some()
    }

    /// Looks again at a topic that was refused, and creates it if the operator wants topics created.
    pub(crate) async fn trust(&self, topic: &str) {
        let Some(doubt) = self.shared.doubts.of(topic) else { return };
        let mut looked = doubt.lock().await;
        if *looked {
            return;
        }
        // The semaphore is never closed.
        let _turn = self.shared.doubts.looks.acquire().await;
        self.ask(topic).await;
        *looked = true;
        self.shared.doubts.dispel(topic);
    }

    async fn ask(&self, topic: &str) {
        if self.look(topic).await == Some(RDKafkaErrorCode::UnknownTopicOrPartition)
            && let Some(shape) = self.section.create_topics
        {
            match self.make_topic(topic, shape.partitions, shape.replication).await {
                Ok(()) => tracing::info!(cluster = self.name(), topic, "a topic is made"),
                Err(cause) => tracing::warn!(cluster = self.name(), topic, %cause, "a topic cannot be made"),
            }
            self.look(topic).await;
        }
    }

    /// Asks a broker about a topic; the producer learns the answer as well.
    async fn look(&self, topic: &str) -> Option<RDKafkaErrorCode> {
        let (answer, answered) = oneshot::channel();
        let (engine, asked): (Arc<Engine>, Box<str>) = (self.main.clone(), topic.into());
        // The library's call blocks. It happens when a stream is resumed, so a thread of its own is no burden.
        let look = move || {
            // The caller may be gone.
            let _ = answer.send(engine.look(&asked, PATIENCE));
        };
        std::thread::Builder::new().name("setgate-kafka-look".to_owned()).spawn(look).ok()?;
        answered.await.ok()?
    }

    async fn make_topic(&self, topic: &str, partitions: i32, replication: i32) -> Result<(), Cause> {
        let cannot = |error: &KafkaError| Cause::new("topic", clean(&format!("{:?}", error.rdkafka_error_code()), 200));
        let config = client_config(self.name(), &self.section, Role::Look)
            .map_err(|fault| Cause::configuration("configuration", clean(&fault.to_string(), 200)))?;
        let gone = |_| Cause::new("resources", "no thread could be started to make a topic");
        let context = self.context();
        // Creating the client reads certificate authorities, which must not block the runtime's threads.
        let made = spawn_blocking(move || AdminClient::from_config_and_context(&config, context)).await;
        let admin = made.map_err(gone)?.map_err(|error| cannot(&error))?;
        let new = NewTopic::new(topic, partitions, TopicReplication::Fixed(replication));
        let options = AdminOptions::new().request_timeout(Some(PATIENCE)).operation_timeout(Some(PATIENCE));
        let results = admin.create_topics([&new], &options).await;
        // Dropping the client waits for its thread and for name servers, and no one waits for that.
        drop(spawn_blocking(move || drop(admin)));
        match results.map_err(|error| cannot(&error))?.into_iter().next() {
            Some(Err((_, code))) if code != RDKafkaErrorCode::TopicAlreadyExists => {
                Err(Cause::new("topic", clean(&code.to_string(), 200)))
            }
            _ => Ok(()),
        }
    }
}
