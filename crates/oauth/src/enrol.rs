//! The numbers of producers, which stay the same for a name forever.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use setgate_store::{Done, Durability, Key, ProducerNo, Put, Space, Store, StoreError, Unit};

use crate::{Producer, ProducerSection, SectionError, SourceSection, producer};

/// The store's record of a producer, under `producer/NAME`. The number is part of idempotency keys and records, so it
/// outlives the section.
#[derive(Serialize, Deserialize)]
struct Enrolled {
    no: ProducerNo,
}

/// The reason why the producers of the configuration could not be enrolled.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EnrolError {
    /// A section is not acceptable.
    #[error(transparent)]
    Section(#[from] SectionError),
    /// The store failed to read or write the numbers.
    #[error("could not number the producers: {0}")]
    Store(#[from] StoreError),
    /// A record of the store cannot be read.
    #[error("the store's record `{0}` cannot be read")]
    Record(String),
}

/// Enrols the producers of the configuration: each keeps the number that the store gave its name; a new name gets a new
/// number.
///
/// # Errors
/// [`EnrolError`], which names the section or record.
pub async fn enrol(
    store: &dyn Store,
    sections: &[ProducerSection],
    issuers: &[&str],
) -> Result<Vec<Arc<Producer>>, EnrolError> {
    producer::check_all(sections, issuers)?;
    let numbers = numbers(store, sections.iter().map(|section| section.name.as_str())).await?;
    let all = sections.iter().zip(numbers);
    Ok(all.map(|(section, no)| Producer::new(no, section, issuers).map(Arc::new)).collect::<Result<_, _>>()?)
}

/// Enrols the sources, with numbers from the same space as those of producers.
///
/// # Errors
/// [`EnrolError`], which names the section or record.
pub async fn enrol_sources(
    store: &dyn Store,
    sections: &[SourceSection],
    producers: &[ProducerSection],
    issuers: &[&str],
) -> Result<Vec<Arc<Producer>>, EnrolError> {
    producer::check_sources(sections, producers, issuers)?;
    let numbers = numbers(store, sections.iter().map(|section| section.name.as_str())).await?;
    let all = sections.iter().zip(numbers);
    Ok(all.map(|(section, no)| Producer::of_source(no, section, issuers).map(Arc::new)).collect::<Result<_, _>>()?)
}

/// Returns the number of each name, and allocates one for a name that has none.
async fn numbers(store: &dyn Store, names: impl Iterator<Item = &str>) -> Result<Vec<ProducerNo>, EnrolError> {
    let keys: Vec<Key> = names.map(|name| Key(format!("producer/{name}"))).collect();
    let records = store.get(keys.clone()).await?;
    let mut numbers = Vec::with_capacity(keys.len());
    for (key, record) in keys.into_iter().zip(records) {
        numbers.push(match record {
            Some(record) => read(&key, &record.value)?,
            None => number(store, key).await?,
        });
    }
    Ok(numbers)
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

#[cfg(test)]
mod tests {
    use setgate_clock::manual::{ManualClock, runtime};
    use setgate_store::MemoryStore;

    use super::*;
    use crate::{EventsSection, SubjectsSection, TokenHash};

    const ISSUER: &str = "https://issuer.example";

    fn section(name: &str) -> ProducerSection {
        ProducerSection {
            name: name.into(),
            token_hashes: vec![TokenHash::of(name).into()],
            issuers: vec![ISSUER.into()],
            events: EventsSection::All,
            subjects: SubjectsSection::Any,
        }
    }

    #[tokio::test]
    async fn a_producer_keeps_its_number_also_when_it_was_away() {
        let store = MemoryStore::new(runtime(ManualClock::at(1), 1), &[7; 32]);
        let numbers = async |names: &[&str]| {
            let sections: Vec<_> = names.iter().map(|name| section(name)).collect();
            let producers = enrol(&*store, &sections, &[ISSUER]).await.unwrap();
            producers.iter().map(|producer| producer.no).collect::<Vec<_>>()
        };
        let first = numbers(&["a", "b"]).await;
        assert_ne!(first[0], first[1]);
        assert!(!first.contains(&ProducerNo(0)), "0 is the gateway itself");
        let second = numbers(&["c"]).await;
        assert!(!first.contains(&second[0]), "a number is not given twice");
        assert_eq!(numbers(&["b", "c", "a"]).await, [first[1], second[0], first[0]]);
    }

    #[tokio::test]
    async fn nothing_is_numbered_when_a_section_is_wrong() {
        let store = MemoryStore::new(runtime(ManualClock::at(1), 1), &[7; 32]);
        let error = enrol(&*store, &[section("a"), section("a")], &[ISSUER]).await.unwrap_err();
        assert!(matches!(error, EnrolError::Section(SectionError::Twice(..))), "{error}");
        assert!(store.range("producer/".into()).await.unwrap().is_empty());
    }
}
