//! The state of the sources for the operator, and the records of them that are not acceptable events.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};
use setgate_clock::Runtime;
use setgate_set::ErrorCode;
use setgate_store::{Durability, Key, Put, Store, StoreError, Unit};
use setgate_telemetry::{
    Registry,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
};

use crate::keys::time;

/// The most parked records of one source that are kept; the oldest make room.
const MOST: usize = 1000;
/// The most bytes of parked records of one source, as the store holds them; the oldest make room.
const MOST_BYTES: usize = 16 << 20;
/// The most bytes of one record that are kept.
const LONGEST: usize = 64 << 10;
/// The most bytes of a key that are kept.
const LONGEST_KEY: usize = 1024;
/// The most bytes of a text that are kept.
const LONGEST_TEXT: usize = 512;

/// The fixed properties of a source.
#[derive(Clone, Debug)]
pub struct About {
    /// The source's name.
    pub name: Box<str>,
    /// The method that collects its events.
    pub kind: Box<str>,
    /// The issuer under which its events are accepted.
    pub issuer: Box<str>,
}

/// A record that is not an acceptable event.
#[derive(Clone, Debug)]
pub struct Bad {
    /// The place of the record at the source: words joined by `/`.
    pub at: String,
    /// The key that the source filed it under.
    pub key: Option<Bytes>,
    /// The record's bytes.
    pub body: Bytes,
    /// The reason why it is not acceptable.
    pub code: ErrorCode,
    /// The reason in words.
    pub text: String,
}

/// The sources of the gateway.
pub struct Sources {
    store: Arc<dyn Store>,
    runtime: Runtime,
    all: BTreeMap<Box<str>, Arc<Collected>>,
    parked: Family<Vec<(&'static str, String)>, Gauge>,
    forgotten: Family<Vec<(&'static str, String)>, Counter>,
}

/// A source and its state.
pub struct Collected {
    about: About,
    state: Mutex<State>,
    /// The parked records, the oldest first. The lock is held while the store is written, so that the count matches the
    /// store.
    parked: tokio::sync::Mutex<VecDeque<Slot>>,
}

#[derive(Default)]
struct State {
    up: Option<bool>,
    figures: BTreeMap<&'static str, f64>,
    last_error: Option<(u64, String)>,
}

struct Slot {
    at: String,
    parked_at: u64,
    bytes: usize,
}

/// A parked record as the store keeps it.
#[derive(Serialize, Deserialize)]
struct ParkedRecord {
    parked_at: u64,
    code: ErrorCode,
    text: String,
    /// The length of the whole record in bytes.
    bytes: usize,
    /// The beginning of the record, when it is text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    /// The beginning of the record in hexadecimal digits, when it is not text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    value_hex: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key_hex: Option<String>,
}

impl Sources {
    /// Creates the sources of the configuration, with their parked records.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be read.
    pub async fn open(
        store: Arc<dyn Store>,
        runtime: Runtime,
        all: Vec<About>,
        registry: &Registry,
    ) -> Result<Arc<Self>, StoreError> {
        let mut sources = BTreeMap::new();
        let (parked, forgotten) = (Family::default(), Family::default());
        for about in all {
            let prefix = prefix(&about.name);
            let mut slots = Vec::new();
            for record in store.range(Key(prefix.clone())).await? {
                let parked_at = read(&record.value).map_or(0, |kept| kept.parked_at);
                let at = record.key.0.strip_prefix(&prefix).unwrap_or_default().to_owned();
                slots.push(Slot { at, parked_at, bytes: record.value.len() });
            }
            slots.sort_by(|one, other| (one.parked_at, &one.at).cmp(&(other.parked_at, &other.at)));
            let one = Collected { state: Mutex::default(), parked: tokio::sync::Mutex::new(slots.into()), about };
            sources.insert(one.about.name.clone(), Arc::new(one));
        }
        registry.register(
            "source_records_parked",
            "Records of a source that are no acceptable events and are kept to be looked at",
            parked.clone(),
        );
        let help = "Parked records of a source that made room for newer ones";
        registry.register("source_records_parked_forgotten", help, forgotten.clone());
        let this = Self { store, runtime, all: sources, parked, forgotten };
        for one in this.all.values() {
            this.count(one, one.parked.lock().await.len());
        }
        Ok(Arc::new(this))
    }

    /// Returns the source with this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Arc<Collected>> {
        self.all.get(name)
    }

    /// Keeps records that are not acceptable events. The records are durable when this returns.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be written.
    pub async fn park(&self, source: &Collected, bad: Vec<Bad>) -> Result<(), StoreError> {
        let prefix = prefix(&source.about.name);
        let parked_at = self.runtime.clock.wall_millis();
        let mut slots = source.parked.lock().await;
        let (mut change, mut new) = (Vec::new(), Vec::new());
        // When there are more, only the last `MOST` would stay.
        let skip = bad.len().saturating_sub(MOST);
        for one in bad.into_iter().skip(skip) {
            let at = one.at.clone();
            let value = kept(one, parked_at);
            new.push(Slot { at: at.clone(), parked_at, bytes: value.len() });
            change.push(Put { key: Key(format!("{prefix}{at}")), value: Some(value) });
        }
        let repeated = |slot: &Slot| new.iter().any(|new| new.at == slot.at);
        let stay: Vec<bool> = slots.iter().map(|slot| !repeated(slot)).collect();
        let mut count = new.len() + stay.iter().filter(|stay| **stay).count();
        let new_bytes: usize = new.iter().map(|slot| slot.bytes).sum();
        let mut bytes: usize =
            new_bytes + slots.iter().zip(&stay).filter(|(_, s)| **s).map(|(slot, _)| slot.bytes).sum::<usize>();
        let mut forgotten = 0;
        for (slot, _) in slots.iter().zip(&stay).filter(|(_, stay)| **stay) {
            if count <= MOST && bytes <= MOST_BYTES {
                break;
            }
            change.push(Put { key: Key(format!("{prefix}{}", slot.at)), value: None });
            (count, bytes, forgotten) = (count - 1, bytes - slot.bytes, forgotten + 1);
        }
        self.write(change).await?;
        let mut stay = stay.into_iter();
        let mut room = forgotten;
        slots.retain(|_| {
            let stays = stay.next().unwrap_or(true);
            if stays && room > 0 {
                room -= 1;
                return false;
            }
            stays
        });
        slots.extend(new);
        if forgotten > 0 {
            let name = &*source.about.name;
            tracing::warn!(source = name, forgotten, "parked records of the source made room for newer ones");
            self.forgotten.get_or_create(&labels(source)).inc_by(forgotten);
        }
        self.count(source, slots.len());
        Ok(())
    }

    /// Drops parked records for good, those of `which` or all, and returns how many there were.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be written.
    pub async fn discard(&self, source: &Collected, which: Option<&[String]>) -> Result<usize, StoreError> {
        let prefix = prefix(&source.about.name);
        let mut slots = source.parked.lock().await;
        let meant = |slot: &Slot| which.is_none_or(|which| which.contains(&slot.at));
        let gone = |slot: &Slot| Put { key: Key(format!("{prefix}{}", slot.at)), value: None };
        let change: Vec<Put> = slots.iter().filter(|slot| meant(slot)).map(gone).collect();
        let dropped = change.len();
        if dropped > 0 {
            self.write(change).await?;
            slots.retain(|slot| !meant(slot));
            self.count(source, slots.len());
        }
        Ok(dropped)
    }

    /// Returns at most `most` parked records, the oldest first, after the one at `after`.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be read.
    pub(crate) async fn parked(
        &self,
        source: &Collected,
        after: Option<&str>,
        most: usize,
    ) -> Result<Vec<Json>, StoreError> {
        let prefix = prefix(&source.about.name);
        let at: Vec<String> = {
            let slots = source.parked.lock().await;
            let from = after.and_then(|after| slots.iter().position(|slot| slot.at == after)).map_or(0, |at| at + 1);
            slots.iter().skip(from).take(most).map(|slot| slot.at.clone()).collect()
        };
        let records = self.store.get(at.iter().map(|at| Key(format!("{prefix}{at}"))).collect()).await?;
        let shown = |(at, record): (&String, Option<setgate_store::Record>)| {
            let kept = read(&record?.value)?;
            Some(json!({
                "at": at,
                "parked_at": time(kept.parked_at),
                "code": kept.code,
                "text": kept.text,
                "bytes": kept.bytes,
                "value": kept.value,
                "value_hex": kept.value_hex,
                "key_hex": kept.key_hex,
            }))
        };
        Ok(at.iter().zip(records).filter_map(shown).collect())
    }

    /// Returns the current state of each source.
    pub(crate) async fn list(&self) -> Vec<Json> {
        let mut all = Vec::new();
        for source in self.all.values() {
            let parked = source.parked.lock().await.len();
            let now = self.runtime.clock.wall_millis();
            let state = source.state.lock();
            let name = match state.up {
                None => "starting",
                Some(true) => "collecting",
                Some(false) => "failing",
            };
            all.push(json!({
                "name": source.about.name,
                "kind": source.about.kind,
                "issuer": source.about.issuer,
                "state": name,
                "lag": state.figures.get("lag_records"),
                "figures": state.figures,
                "parked": parked,
                "last_error": state.last_error.as_ref().map(|(_, text)| text),
                "last_error_seconds_ago": state.last_error.as_ref().map(|(at, _)| now.saturating_sub(*at) / 1000),
            }));
        }
        all
    }

    fn count(&self, source: &Collected, parked: usize) {
        self.parked.get_or_create(&labels(source)).set(i64::try_from(parked).unwrap_or(i64::MAX));
    }

    async fn write(&self, change: Vec<Put>) -> Result<(), StoreError> {
        let unit =
            Unit::Configure { change, expect: None, membership: false, drop_through: Vec::new(), notice: Vec::new() };
        self.store.commit(vec![unit], Durability::Sync).await.map(|_| ())
    }

    /// Returns the wall time since the Unix epoch, for [`Collected::failed`].
    #[must_use]
    pub fn now(&self) -> Duration {
        Duration::from_millis(self.runtime.clock.wall_millis())
    }
}

impl Collected {
    /// Returns the source's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.about.name
    }

    /// Marks the source as collecting.
    pub fn on_success(&self) {
        self.state.lock().up = Some(true);
    }

    /// Marks the source as failing, in whole or in part; `now` is the time of the failure, as [`Sources::now`] returns
    /// it.
    pub fn failed(&self, now: Duration, why: &str) {
        let mut state = self.state.lock();
        state.up = Some(false);
        let now = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        state.last_error = Some((now, setgate_telemetry::clean(why, LONGEST_TEXT)));
    }

    /// Stores figures that the source reports; each replaces the earlier one of the same name.
    pub fn figures(&self, figures: &[(&'static str, f64)]) {
        self.state.lock().figures.extend(figures.iter().copied());
    }
}

fn labels(source: &Collected) -> Vec<(&'static str, String)> {
    vec![("source", source.about.name.to_string())]
}

/// Returns the prefix that the keys of a source's parked records have.
fn prefix(name: &str) -> String {
    format!("source/{name}/parked/")
}

fn kept(bad: Bad, parked_at: u64) -> Bytes {
    let cut = bad.body.get(..LONGEST.min(bad.body.len())).unwrap_or_default();
    // A text that was cut inside a character still counts as text.
    let text = match std::str::from_utf8(cut) {
        Ok(text) => Some(text),
        Err(error) if error.error_len().is_none() && cut.len() < bad.body.len() => {
            cut.get(..error.valid_up_to()).and_then(|some| std::str::from_utf8(some).ok())
        }
        Err(_) => None,
    };
    let kept = ParkedRecord {
        parked_at,
        code: bad.code,
        text: setgate_telemetry::clean(&bad.text, LONGEST_TEXT),
        bytes: bad.body.len(),
        value: text.map(str::to_owned),
        value_hex: text.is_none().then(|| hex(cut)),
        key_hex: bad.key.map(|key| hex(key.get(..LONGEST_KEY.min(key.len())).unwrap_or_default())),
    };
    serde_json::to_vec(&kept).unwrap_or_default().into()
}

fn read(value: &[u8]) -> Option<ParkedRecord> {
    serde_json::from_slice(value).ok()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        for nibble in [byte >> 4, byte & 15] {
            text.push(char::from_digit(u32::from(nibble), 16).unwrap_or('0'));
        }
        text
    })
}

#[cfg(test)]
mod tests;
