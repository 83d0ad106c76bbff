//! What producers and operators ask for.

use std::future::Future;

use serde_json::{Value, json};
use setgate_router::{Accepted, EventOrigin, Router};
use setgate_set::{Event, EventLimits};
use setgate_store::ProducerNo;

use super::{Asked, Play};
use crate::{
    action::Action,
    book::Shared,
    compare::compare,
    declared::{declaration, issuer_url, name},
    model::said,
};

impl Play<'_> {
    /// Begins one action.
    pub(super) fn act(&mut self, action: Action) {
        match action {
            Action::Emit { subject, kind, issuer, count, id } => self.emit(subject, kind, issuer, count, id),
            Action::Pass { millis } => self.pass(millis),
            Action::Mood { stream, mood } => self.book.lock().moods.extend([(name(stream), mood)]),
            Action::Declare { stream, way, wishes } => {
                let known = self.declared.insert(name(stream), declaration(stream, way, wishes)).is_some();
                self.fired(if known { "a stream is changed" } else { "a stream is created" });
                self.reconcile();
            }
            Action::Absent { stream } => {
                if self.declared.remove(&name(stream)).is_some() {
                    self.fired("a stream is declared no more");
                    self.reconcile();
                }
            }
            Action::Disable { stream } => {
                if let Some(declared) = self.declared.get_mut(&name(stream)) {
                    declared["status"] = json!("disabled");
                    self.fired("a stream is disabled");
                    self.reconcile();
                }
            }
            Action::Pause { stream } => self.ask(async move |router, book| {
                let paused = router.pause(&name(stream), "maintenance".into()).await;
                note(&book, "a stream is paused", paused.map(drop))
            }),
            Action::Resume { stream, reissue } => self.ask(async move |router, book| {
                let what = if reissue { "a stream is resumed with its parked SETs" } else { "a stream is resumed" };
                let resumed = router.resume(&name(stream), reissue).await;
                note(&book, what, resumed.map(drop))
            }),
            Action::Delete { stream } => {
                self.declared.remove(&name(stream));
                self.known.remove(&name(stream));
                self.ask(async move |router, book| {
                    let deleted = router.delete(&name(stream)).await;
                    note(&book, "a stream is deleted", deleted)
                });
            }
            Action::Reissue { pick, out_of_order } => self.ask(async move |router, book| {
                let Some(jti) = picked(&router, pick).await else { return false };
                match router.reissue(vec![jti], out_of_order).await {
                    Ok(all) if all.iter().any(|one| one.error.is_some()) => {
                        book.lock().fired("a parked SET is not issued again for the sake of order");
                    }
                    Ok(_) => {}
                    Err(error) => book.lock().line(format_args!("  not issued again: {error}")),
                }
                false
            }),
            Action::Discard { pick } => self.ask(async move |router, book| {
                let Some(jti) = picked(&router, pick).await else { return false };
                note(&book, "a parked SET is dropped", router.discard(vec![jti]).await.map(drop));
                false
            }),
            Action::Confirm => self.confirm(),
            Action::Leap { millis } => {
                let far = millis.unsigned_abs() > 3_600_000;
                self.fired(match (millis > 0, far) {
                    (true, false) => "the clock leaps forward",
                    (true, true) => "the clock leaps far forward",
                    (false, false) => "the clock leaps back",
                    (false, true) => "the clock leaps far back",
                });
                self.time.leap(millis);
                self.book.lock().ahead += u64::try_from(millis).unwrap_or_default();
            }
            Action::Full { full } => self.fill(full),
            Action::RefuseWrite { full } => {
                self.fired(if full {
                    "the engine refuses a write for want of room"
                } else {
                    "the engine refuses a write"
                });
                if let Some(store) = self.store() {
                    store.refuse_write(full);
                }
            }
            Action::FailFlush => {
                if let Some(store) = self.store() {
                    store.fail_flush();
                }
            }
            Action::Housekeep => {
                self.fired("a round of housekeeping is asked for");
                self.ask(async move |router, _| {
                    let _ = router.store().housekeep().await;
                    false
                });
            }
            Action::Busy { rest, events, crash } => self.busy(rest, events, crash),
            Action::Cut { after } => {
                if let Some(store) = self.store() {
                    store.cut_after(after);
                }
            }
            Action::Kill { steps } => {
                self.steps(steps);
                self.fired("a crash in the midst of tasks");
                self.again();
            }
            Action::Close => self.close(),
            Action::Compare => {
                self.quiet();
                self.compare();
            }
        }
    }

    /// Lets segments be filled and settled while housekeeping has folded the cursors and not yet planned what it gives up.
    fn busy(&mut self, rest: u64, events: u64, crash: bool) {
        self.fired("a round of housekeeping rests while events come");
        // What is not delivered keeps its segment.
        self.good_moods();
        self.fill(false);
        self.bring_back();
        self.pass(32_000);
        if let Some(desk) = &self.desk {
            desk.rest_next(rest);
        }
        self.ask(async move |router, _| {
            let _ = router.store().housekeep().await;
            false
        });
        for at in 0..events {
            self.emit(at % 5, at % 3, 0, 1, None);
            self.pass(300);
        }
        self.pass(1_000 + rest);
        if crash {
            self.fired("a crash after a round of housekeeping");
            self.again();
        }
    }

    pub(super) fn fill(&mut self, full: bool) {
        if full {
            self.fired("the disk is full");
        }
        self.full = full;
        if let Some(store) = self.store() {
            store.set_free(self.free());
        }
    }

    pub(super) fn confirm(&mut self) {
        self.ask(async move |router, book| {
            if router.store().confirm_clock().await.is_ok() {
                book.lock().fired("a clock is confirmed");
            }
            false
        });
    }

    /// Compares the store with the model, where it is open and nothing is in doubt.
    pub(super) fn compare(&mut self) {
        let Some(store) = self.store() else { return };
        if self.doubt.is_some() || !super::is_open(&store) {
            return;
        }
        self.forget_parked();
        let mut book = self.book.lock();
        book.fired("everything is compared in between");
        let done = compare(&store, &book.model);
        book.check(done);
    }

    /// Asks the router for something, as a task. The answer says whether a change of the streams was told to the
    /// operator.
    pub(super) fn ask<F: Future<Output = bool> + Send + 'static>(
        &self,
        what: impl FnOnce(Router, Shared) -> F + Send + 'static,
    ) {
        let Some(router) = self.router.clone() else { return };
        let (book, asked) = (self.book.clone(), self.asked.clone());
        self.runtime().spawn("ask", async move {
            let asked = Asked::new(&asked);
            let told = what(router, book.clone()).await;
            if told && asked.is_alone() {
                book.lock().told();
            }
        });
    }

    pub(super) fn reconcile(&mut self) {
        self.known.extend(self.declared.clone());
        let declared: Vec<Value> = self.declared.values().cloned().collect();
        self.ask(async move |router, book| {
            let read = declared.into_iter().map(serde_json::from_value).collect::<Result<Vec<_>, _>>();
            match read {
                Ok(declared) => match router.reconcile(declared, true).await {
                    Ok(_) => true,
                    Err(error) => {
                        book.lock().line(format_args!("  not reconciled: {error}"));
                        false
                    }
                },
                Err(error) => {
                    book.lock().broken(format!("a declaration does not read: {error}"));
                    false
                }
            }
        });
    }

    fn emit(&mut self, subject: u64, kind: u64, issuer: usize, count: u64, id: Option<(u64, bool)>) {
        self.fired("events put in");
        let mut events = Vec::new();
        for at in 0..count {
            let id = id.filter(|_| at == 0);
            // What has the same `id` says the same, or is a conflict.
            let (n, subject, kind) = match id {
                Some((id, other)) => (1_000_000 + id * 2 + u64::from(other), id % 5, id % 3),
                None => {
                    self.events += 1;
                    (self.events, subject, kind)
                }
            };
            let mut event = json!({
                "events": { format!("https://e.example/{kind}"): { "n": n } },
                "sub_id": { "format": "opaque", "id": format!("subject-{subject}") },
            });
            if let Some((id, _)) = id {
                event["id"] = json!(format!("id-{id}"));
            }
            events.push((n, event));
        }
        // Many at once come from several producers.
        let apart = if events.len() > 3 { 1 } else { events.len() };
        let calls: Vec<Vec<_>> = events.chunks(apart).map(<[_]>::to_vec).collect();
        for call in calls {
            self.ask(async move |router, book| {
                accept(&router, &book, issuer, call).await;
                false
            });
        }
    }
}

/// Puts events in, and checks the answers.
async fn accept(router: &Router, book: &Shared, issuer: usize, events: Vec<(u64, Value)>) {
    let read = |(_, event): &(u64, Value)| Event::parse(event.clone(), &EventLimits::default());
    let Ok(parsed) = events.iter().map(read).collect::<Result<Vec<_>, _>>() else { return };
    let Some(issuer) = router.issuer(issuer_url(issuer)) else { return };
    let answers = router.accept(EventOrigin { issuer, producer: ProducerNo(issuer.no.0) }, parsed).await;
    let mut book = book.lock();
    for ((n, _), answer) in events.iter().zip(answers) {
        book.line(format_args!("  event {n} -> {}", brief(&answer)));
        match answer {
            Accepted::New { at, .. } => {
                book.fired("an event is accepted");
                let kept = book.model.records.get(&at.seq).and_then(|kept| said(&kept.body));
                if kept.is_none_or(|kept| kept.n != *n) {
                    book.broken(format!("P1: event {n} is accepted as record {at}, which is another one"));
                }
            }
            Accepted::Repeat { txn } => {
                book.fired("an event is a repeat");
                let txn = format!("\"txn\":\"{txn}\"");
                let is_it = |body: &[u8]| {
                    said(body).is_some_and(|said| said.n == *n) && String::from_utf8_lossy(body).contains(&txn)
                };
                if !book.model.records.values().any(|kept| is_it(&kept.body)) {
                    book.broken(format!("event {n} is answered as a repeat with the txn of no such event"));
                }
            }
            Accepted::Conflict => book.fired("an event is a conflict"),
            _ => book.fired("an event is refused"),
        }
    }
}

fn brief(answer: &Accepted) -> String {
    match answer {
        Accepted::New { at, .. } => format!("accepted as {at}"),
        Accepted::Unavailable(closed) => format!("unavailable: {}", closed.summary),
        other => format!("{other:?}"),
    }
}

fn note(book: &Shared, what: &'static str, done: Result<(), setgate_router::ChangeError>) -> bool {
    let mut book = book.lock();
    match done {
        Ok(()) => {
            book.fired(what);
            true
        }
        Err(error) => {
            book.line(format_args!("  not so that {what}: {error}"));
            false
        }
    }
}

/// Picks the `jti` of a parked SET.
async fn picked(router: &Router, pick: u64) -> Option<String> {
    let parked = router.parked(None, None, None, 100).await.ok()?;
    let at = usize::try_from(pick).unwrap_or_default().checked_rem(parked.len())?;
    parked.get(at).map(|parked| parked.jti.to_string())
}
