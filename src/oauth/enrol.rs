//! The numbers of producers: the same for the same name, for ever.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use store::{Done, Durability, Key, ProducerNo, Put, Space, Store, StoreError, Unit};

use crate::{Producer, ProducerError, ProducerSection, producer};

/// What the store keeps of a producer, under `producer/NAME`. The number is part of idempotency keys and records, so it outlives the section.
#[derive(Serialize, Deserialize)]
struct Enrolled {
    no: ProducerNo,
}

/// Why the producers of the configuration could not be taken up.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EnrolError {
    /// A section is not acceptable.
    #[error(transparent)]
    Section(#[from] ProducerError),
    /// The store did not do it.
    #[error("could not number the producers: {0}")]
    Store(#[from] StoreError),
    /// A record of the store cannot be read.
    #[error("the store's record `{0}` cannot be read")]
    Record(String),
}

/// Takes up the producers of the configuration: each keeps the number that the store gave its name, a new name gets a new number.
///
/// # Errors
/// [`EnrolError`] says which section or record.
pub async fn enrol(
    store: &dyn Store,
    sections: &[ProducerSection],
    issuers: &[&str],
) -> Result<Vec<Arc<Producer>>, EnrolError> {
    producer::check_all(sections, issuers)?;
    let keys: Vec<Key> = sections.iter().map(|section| Key(format!("producer/{}", section.name))).collect();
    let records = store.get(keys.clone()).await?;
    let mut producers = Vec::with_capacity(sections.len());
    for ((section, key), record) in sections.iter().zip(keys).zip(records) {
        let no = match record {
            Some(record) => read(&key, &record.value)?,
            None => number(store, key).await?,
        };
        producers.push(Arc::new(Producer::new(no, section, issuers)?));
    }
    Ok(producers)
}

fn read(key: &Key, value: &[u8]) -> Result<ProducerNo, EnrolError> {
    let enrolled: Enrolled = serde_json::from_slice(value).map_err(|_| EnrolError::Record(key.0.clone()))?;
    Ok(enrolled.no)
}

async fn number(store: &dyn Store, key: Key) -> Result<ProducerNo, EnrolError> {
    let done = store.commit(vec![Unit::Allocate { space: Space::Producer }], Durability::Sync).await?;
    let no = match done.first() {
        Some(Done::Allocated(no)) => ProducerNo(*no),
        _ => return Err(EnrolError::Record(key.0)),
    };
    let value = serde_json::to_vec(&Enrolled { no }).map_err(|_| EnrolError::Record(key.0.clone()))?;
    let change = vec![Put { key, value: Some(Bytes::from(value)) }];
    let unit =
        Unit::Configure { change, expect: None, membership: false, drop_through: Vec::new(), notice: Vec::new() };
    store.commit(vec![unit], Durability::Sync).await?;
    Ok(no)
}
