//! The reconciliation of the streams that the configuration declares with those that are kept.

use std::{collections::BTreeSet, sync::Arc};

use setgate_set::Timestamp;
use setgate_store::{Done, Durability, Rule, Space, StoreError, StreamNo, Unit, Version};
use setgate_stream::{Delivery, Owner, Reason, Roster, Status, Stream};

use super::{StreamError, StreamTable};
use crate::{ChangeError, Declared, DeclaredStatus, Inner, Router};

/// The report of a reconciliation, which never deletes anything (hardening H15).
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Reconciled {
    /// Streams that were new in the configuration.
    pub created: Vec<String>,
    /// Streams whose configuration changed.
    pub changed: Vec<String>,
    /// Streams that are no longer declared: disabled, their cursors kept.
    pub absent: Vec<String>,
    /// The number of streams that stayed as they were.
    pub unchanged: usize,
}

/// The reason why a configuration was not applied, in which case none of it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReconcileError {
    /// A stream's configuration is not acceptable.
    #[error("stream `{stream}`: {source}")]
    Stream {
        /// The stream's id.
        stream: String,
        /// The reason, and what to do.
        source: StreamError,
    },
    /// More than a tenth of the streams would go.
    #[error("{absent} of {all} streams are declared no more, {first} among them: refused without --force")]
    TooManyAbsent {
        /// The number of streams that would be disabled.
        absent: usize,
        /// The number of streams that the operator declared before.
        all: usize,
        /// The name of one of them.
        first: String,
    },
    /// The streams cannot be written as the configuration asks for.
    #[error(transparent)]
    Change(ChangeError),
    /// The store did not accept the change.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<ChangeError> for ReconcileError {
    fn from(error: ChangeError) -> Self {
        match error {
            ChangeError::Store(error) => Self::Store(error),
            other => Self::Change(other),
        }
    }
}

/// The changes that a reconciliation is about to write.
#[derive(Default)]
struct Plan {
    report: Reconciled,
    changed: Vec<Arc<Stream>>,
    /// Streams whose SETs are given up.
    drop_through: Vec<(StreamNo, Rule)>,
    /// Streams that have no number yet.
    fresh: Vec<Stream>,
}

impl Inner {
    /// Makes the stream that the configuration asks for; `before` supplies what the configuration leaves open.
    fn wanted(&self, declared: &Declared, before: Option<&Stream>, no: StreamNo) -> Result<Stream, StreamError> {
        let issuer = self.issuer_of(&declared.issuer)?;
        let algorithm = declared.algorithm.clone().unwrap_or_else(|| issuer.algorithm.to_string());
        if issuer.keyring.signer(algorithm.parse()?).is_none() {
            return Err(StreamError::NoKey(algorithm));
        }
        let mut roster = Roster::default();
        for subject in &declared.add_subjects {
            roster.add(subject);
        }
        for subject in &declared.remove_subjects {
            roster.remove(subject);
        }
        let at = self.now();
        let status = wanted_status(declared.status, before.map(|before| &before.status), at);
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
            inactivity_timeout_seconds: declared.inactivity_timeout,
            created: before.map_or(at, |before| before.created),
        })
    }

    /// Plans the change of one declared stream.
    fn plan(&self, plan: &mut Plan, kept: &StreamTable, declared: &Declared) -> Result<(), StreamError> {
        let id = declared.id.as_str();
        let before = kept.by_id(id);
        if before.is_some_and(|before| before.owner != Owner::Operator) {
            return Err(StreamError::OfReceiver);
        }
        let no = before.map_or(StreamNo(0), |before| StreamNo(before.no));
        let wanted = self.wanted(declared, before.map(Arc::as_ref), no)?;
        self.served(&Arc::new(wanted.clone()), Version::default())?;
        let Some(before) = before else {
            plan.fresh.push(wanted);
            return Ok(());
        };
        if **before == wanted {
            plan.report.unchanged += 1;
            return Ok(());
        }
        let moved = before.audience != wanted.audience || before.issuer != wanted.issuer;
        let waiting = self.shared.store.waiting(no);
        if moved && waiting > 0 {
            return Err(StreamError::Moved { waiting });
        }
        let was_disabled = matches!(before.status, Status::Disabled { .. });
        if matches!(wanted.status, Status::Disabled { .. }) && !was_disabled {
            plan.drop_through.push((no, Rule::Disabled));
        }
        plan.report.changed.push(id.to_owned());
        plan.changed.push(Arc::new(wanted));
        Ok(())
    }

    /// Plans to disable the streams that are no longer declared.
    fn plan_absent(
        &self,
        plan: &mut Plan,
        kept: &StreamTable,
        declared: &BTreeSet<&str>,
        force: bool,
    ) -> Result<(), ReconcileError> {
        // Streams that were absent before are not counted: a large number of them must not hide that all others would
        // go.
        let own: Vec<_> = kept
            .streams
            .values()
            .map(|(stream, _)| stream)
            .filter(|stream| stream.owner == Owner::Operator)
            .filter(|stream| !matches!(stream.status, Status::Disabled { why: Reason::AbsentFromConfiguration, .. }))
            .collect();
        let absent: Vec<_> = own.iter().filter(|stream| !declared.contains(stream.id.as_str())).collect();
        // With fewer than ten streams each of them is more than a tenth.
        if let Some(first) = absent.first().filter(|_| !force && absent.len() * 10 > own.len()) {
            let first = format!("`{}`", first.id);
            return Err(ReconcileError::TooManyAbsent { absent: absent.len(), all: own.len(), first });
        }
        for stream in absent {
            let mut stream = Stream::clone(stream);
            stream.status = Status::Disabled { at: self.now(), why: Reason::AbsentFromConfiguration };
            plan.report.absent.push(stream.id.to_string());
            // Its cursor is kept, and so is what it is owed: a mistake in the file must not cost a backlog.
            plan.changed.push(Arc::new(stream));
        }
        Ok(())
    }
}

/// Returns the status that the configuration asks for, given the one that is kept.
fn wanted_status(declared: DeclaredStatus, kept: Option<&Status>, at: Timestamp) -> Status {
    match (declared, kept) {
        // A stream that was paused by a fault, by its receiver, for inactivity or by hand is never resumed by a reload.
        (
            DeclaredStatus::Enabled,
            Some(status @ Status::Paused { why: Reason::Fault(_) | Reason::Receiver(_) | Reason::Inactive(_), .. }),
        ) => status.clone(),
        (DeclaredStatus::Enabled, Some(status @ Status::Paused { why: Reason::Operator(text), .. }))
            if text != DECLARED =>
        {
            status.clone()
        }
        (DeclaredStatus::Enabled, _) => Status::Enabled,
        (DeclaredStatus::Paused, Some(status @ Status::Paused { .. })) => status.clone(),
        (DeclaredStatus::Paused, _) => Status::Paused { at, why: Reason::Operator(DECLARED.into()) },
        (DeclaredStatus::Disabled, Some(status @ Status::Disabled { why: Reason::Operator(_), .. })) => status.clone(),
        (DeclaredStatus::Disabled, _) => Status::Disabled { at, why: Reason::Operator(DECLARED.into()) },
    }
}

const DECLARED: &str = "declared so in the configuration";

impl Router {
    /// Brings the operator's streams in line with the configuration: validated whole, applied whole or not at all.
    ///
    /// A stream that is no longer declared is disabled and keeps its cursor; `streams delete` removes it (hardening
    /// H15).
    ///
    /// # Errors
    /// [`ReconcileError`] names the stream and what to do; nothing was changed then.
    pub async fn reconcile(&self, declared: Vec<Declared>, force: bool) -> Result<Reconciled, ReconcileError> {
        let inner = &self.0;
        let mut kept = inner.kept.lock().await;
        let mut plan = Plan::default();
        let mut seen = BTreeSet::new();
        for one in &declared {
            let id = one.id.as_str();
            let planned = if seen.insert(id) { inner.plan(&mut plan, &kept, one) } else { Err(StreamError::Twice) };
            planned.map_err(|source| ReconcileError::Stream { stream: id.to_owned(), source })?;
        }
        inner.plan_absent(&mut plan, &kept, &seen, force)?;
        let Plan { mut report, mut changed, drop_through, fresh } = plan;
        // One commit allocates all numbers: thousands of streams must not wait for thousands of syncs.
        let units = fresh.iter().map(|_| Unit::Allocate { space: Space::Stream }).collect();
        let mut numbers = inner.shared.store.commit(units, Durability::Sync).await?.into_iter();
        for mut stream in fresh {
            let Some(Done::Allocated(no)) = numbers.next() else {
                let stream = stream.id.to_string();
                return Err(ReconcileError::Stream { stream, source: StreamError::NoNumber });
            };
            stream.no = no;
            report.created.push(stream.id.to_string());
            changed.push(Arc::new(stream));
        }
        if !changed.is_empty() {
            inner.write(&mut kept, changed, drop_through, vec![]).await?;
        }
        Ok(report)
    }
}
