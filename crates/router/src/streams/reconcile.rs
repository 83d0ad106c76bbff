//! The streams that the configuration declares, held against those that are kept.

use std::sync::Arc;

use setgate_store::{Done, Durability, Rule, Space, StoreError, StreamNo, Unit, Version};
use setgate_stream::{Delivery, Owner, Reason, Roster, Status, Stream};

use crate::{ChangeError, Declared, DeclaredStatus, Inner, Router};

/// What a reconciliation did; nothing is ever deleted by it (hardening H15).
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Reconciled {
    /// Streams that were new in the configuration.
    pub created: Vec<String>,
    /// Streams whose configuration changed.
    pub changed: Vec<String>,
    /// Streams that are declared no more: disabled, their cursors kept.
    pub absent: Vec<String>,
    /// Streams as they were.
    pub unchanged: usize,
}

/// Why a configuration was not applied; then nothing of it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReconcileError {
    /// A stream's configuration is not acceptable.
    #[error("stream `{stream}`: {why}")]
    Stream {
        /// Its id.
        stream: String,
        /// Why, and what to do.
        why: String,
    },
    /// More than a tenth of the streams would go.
    #[error("{absent} of {all} streams are declared no more, {first} among them: refused without --force")]
    TooManyAbsent {
        /// Streams that would be disabled.
        absent: usize,
        /// Streams that the operator declared before.
        all: usize,
        /// One of them.
        first: String,
    },
    /// The store did not take it.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Inner {
    /// What the configuration asks for, as a stream; `before` keeps what the configuration does not say.
    fn wanted(&self, declared: &Declared, before: Option<&Stream>, no: StreamNo) -> Result<Stream, String> {
        let issuer = self.issuer(&declared.issuer).ok_or_else(|| {
            let known: Vec<_> = self.issuers.iter().map(|issuer| &*issuer.url).collect();
            format!("`issuer` {} is not among [[issuers]] ({})", declared.issuer, known.join(", "))
        })?;
        let algorithm = declared.algorithm.clone().unwrap_or_else(|| issuer.algorithm.to_string());
        let parsed: setgate_jose::Algorithm =
            algorithm.parse().map_err(|error: setgate_jose::UnknownAlgorithm| error.to_string())?;
        if issuer.keyring.signer(parsed).is_none() {
            return Err(format!(
                "`algorithm` {algorithm}: the issuer has no such key; list it under `algorithms` of [[issuers]]"
            ));
        }
        let mut roster = Roster::default();
        for subject in &declared.add_subjects {
            roster.add(subject);
        }
        for subject in &declared.remove_subjects {
            roster.remove(subject);
        }
        let at = self.now();
        let kept_status = before.map(|before| &before.status);
        let status = match (declared.status, kept_status) {
            // A stream paused by fault, or by hand, is resumed by hand, never by a reload.
            (
                DeclaredStatus::Enabled,
                Some(
                    status @ Status::Paused {
                        why: Reason::Fault(_) | Reason::Receiver(_) | Reason::Inactive(_), ..
                    },
                ),
            ) => status.clone(),
            (DeclaredStatus::Enabled, Some(status @ Status::Paused { why: Reason::Operator(text), .. }))
                if text != DECLARED =>
            {
                status.clone()
            }
            (DeclaredStatus::Enabled, _) => Status::Enabled,
            (DeclaredStatus::Paused, Some(status @ Status::Paused { .. })) => status.clone(),
            (DeclaredStatus::Paused, _) => Status::Paused { at, why: Reason::Operator(DECLARED.into()) },
            (DeclaredStatus::Disabled, Some(status @ Status::Disabled { why: Reason::Operator(_), .. })) => {
                status.clone()
            }
            (DeclaredStatus::Disabled, _) => Status::Disabled { at, why: Reason::Operator(DECLARED.into()) },
        };
        Ok(Stream {
            no: no.0,
            id: declared.id.clone(),
            issuer: issuer.url.clone(),
            audience: declared.audience.clone(),
            delivery: Delivery {
                method: declared.delivery.method.clone(),
                terms: declared.delivery.terms.clone(),
                grant: declared.grant.clone(),
            },
            events: declared.events.clone(),
            default_subjects: declared.default_subjects,
            roster,
            algorithm,
            status,
            owner: Owner::Operator,
            description: declared.description.clone(),
            retention: declared.retention.or_default(),
            on_refusal: declared.on_refusal,
            match_by_the_letter: declared.match_by_the_letter,
            batch: declared.batch,
            inactivity_timeout_seconds: declared.inactivity_timeout_seconds,
            created: before.map_or(at, |before| before.created),
        })
    }
}

const DECLARED: &str = "declared so in the configuration";

impl Router {
    /// Brings the operator's streams in line with the configuration: validated whole, applied whole or not at all.
    ///
    /// A stream that is declared no more is disabled and keeps its cursor; `streams delete` removes it (hardening H15).
    ///
    /// # Errors
    /// [`ReconcileError`] names the stream and what to do; then nothing was changed.
    pub async fn reconcile(&self, declared: Vec<Declared>, force: bool) -> Result<Reconciled, ReconcileError> {
        let inner = &self.0;
        let mut kept = inner.kept.lock().await;
        let mut report = Reconciled::default();
        let of = |stream: &str, why: String| ReconcileError::Stream { stream: stream.to_owned(), why };
        let mut seen = std::collections::BTreeSet::new();
        let mut changed = Vec::new();
        let mut drop_through = Vec::new();
        let mut fresh = Vec::new();
        for one in &declared {
            let id = one.id.as_str();
            if !seen.insert(id) {
                return Err(of(id, "it is declared twice".into()));
            }
            let before =
                kept.streams.values().find(|(stream, _)| stream.id == one.id).map(|(stream, _)| stream.clone());
            if before.as_ref().is_some_and(|before| before.owner != Owner::Operator) {
                return Err(of(id, "a receiver's stream has this id: choose another".into()));
            }
            let no = before.as_ref().map_or(StreamNo(0), |before| StreamNo(before.no));
            let wanted = inner.wanted(one, before.as_deref(), no).map_err(|why| of(id, why))?;
            inner.served(&Arc::new(wanted.clone()), Version::default()).map_err(|why| of(id, why))?;
            match before {
                None => fresh.push(wanted),
                Some(before) if *before == wanted => report.unchanged += 1,
                Some(before) => {
                    let moved = before.audience != wanted.audience || before.issuer != wanted.issuer;
                    let waiting = inner.shared.store.waiting(no);
                    if moved && waiting > 0 {
                        let why = format!(
                            "`audience` or `issuer` changed while {waiting} SETs wait: pause intake and let them drain, or delete the stream and declare it under a new id"
                        );
                        return Err(of(id, why));
                    }
                    if matches!(wanted.status, Status::Disabled { .. })
                        && !matches!(before.status, Status::Disabled { .. })
                    {
                        drop_through.push((no, Rule::Disabled));
                    }
                    report.changed.push(id.to_owned());
                    changed.push(Arc::new(wanted));
                }
            }
        }
        // Those that were absent before are no streams that could go: a heap of them must not hide that all others do.
        let own: Vec<_> = kept
            .streams
            .values()
            .map(|(stream, _)| stream.clone())
            .filter(|stream| stream.owner == Owner::Operator)
            .filter(|stream| !matches!(stream.status, Status::Disabled { why: Reason::AbsentFromConfiguration, .. }))
            .collect();
        let absent: Vec<_> = own.iter().filter(|stream| !seen.contains(stream.id.as_str())).collect();
        // With few streams each of them is more than a tenth.
        if let Some(first) = absent.first().filter(|_| !force && absent.len() * 10 > own.len()) {
            let first = format!("`{}`", first.id);
            return Err(ReconcileError::TooManyAbsent { absent: absent.len(), all: own.len(), first });
        }
        for stream in absent {
            let mut stream = Stream::clone(stream);
            stream.status = Status::Disabled { at: inner.now(), why: Reason::AbsentFromConfiguration };
            report.absent.push(stream.id.to_string());
            // Its cursor is kept, and so is what it is owed: an accident in the file must not cost a backlog.
            changed.push(Arc::new(stream));
        }
        // One commit for all numbers: thousands of streams must not wait for thousands of syncs.
        let units = fresh.iter().map(|_| Unit::Allocate { space: Space::Stream }).collect();
        let mut numbers = inner.shared.store.commit(units, Durability::Sync).await?.into_iter();
        for mut stream in fresh {
            let Some(Done::Allocated(no)) = numbers.next() else {
                return Err(of(stream.id.as_str(), "the store gave no number".into()));
            };
            stream.no = no;
            report.created.push(stream.id.to_string());
            changed.push(Arc::new(stream));
        }
        if !changed.is_empty() {
            inner.write(&mut kept, changed, drop_through, vec![]).await.map_err(|error| match error {
                ChangeError::Store(error) => ReconcileError::Store(error),
                other => of("", other.to_string()),
            })?;
        }
        Ok(report)
    }
}
