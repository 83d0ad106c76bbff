//! Several events of one request: read in batches, committed, and answered line by line in constant memory (hardening
//! H28, H29).

use std::sync::Arc;

use bytes::{BufMut as _, Bytes, BytesMut};
use futures_util::future::BoxFuture;
use serde::Serialize;
use setgate_oauth::Producer;
use setgate_router::Accepted;
use setgate_set::Event;

use super::{
    Held, IntakeEndpoint,
    source::{BodySource, Fault},
    split::{Piece, Splitter},
};
use crate::{
    error::{Problem, seconds},
    validator::NAMES_STREAM,
};

/// A request with several events.
///
/// While one batch is committed the next one is read, and no more: when the caller does not read its answers, the body
/// is not read on.
pub(super) struct Session {
    endpoint: Arc<IntakeEndpoint>,
    producer: Arc<Producer>,
    source: BodySource,
    splitter: Splitter,
    batch: Batch,
    commit: Option<Commit>,
    /// The number of events read, whatever their outcome.
    items: usize,
    refused: usize,
    /// The number of lines written.
    answered: usize,
    /// The number of events that were neither accepted nor refused, and that the caller is to send again.
    put_off: usize,
    end: Option<End>,
    _held: Held,
}

/// The way in which the reading ended.
enum End {
    /// The whole body was read.
    Complete,
    /// The rest of the body was not read.
    Stopped(Problem),
}

/// The events that are read and not committed yet, with the answers of those that never will be.
#[derive(Default)]
struct Batch {
    slots: Vec<Slot>,
    events: Vec<Event>,
    bytes: usize,
}

/// The place of one event's answer.
struct Slot {
    id: Option<Box<str>>,
    /// The reason why the event was refused before the commit.
    problem: Option<Problem>,
}

struct Commit {
    answers: BoxFuture<'static, Vec<Accepted>>,
    slots: Vec<Slot>,
}

impl Session {
    pub(super) fn new(
        endpoint: Arc<IntakeEndpoint>,
        producer: Arc<Producer>,
        source: BodySource,
        splitter: Splitter,
        held: Held,
    ) -> Self {
        Self {
            endpoint,
            producer,
            source,
            splitter,
            batch: Batch::default(),
            commit: None,
            items: 0,
            refused: 0,
            answered: 0,
            put_off: 0,
            end: None,
            _held: held,
        }
    }

    /// Returns the lines of the next committed batch, or `None` when all batches are answered.
    pub(super) async fn lines(&mut self) -> Option<Bytes> {
        if self.commit.is_none() {
            self.fill(false).await;
            self.begin();
        }
        let Commit { mut answers, slots } = self.commit.take()?;
        let answers = tokio::select! {
            biased;
            answers = &mut answers => answers,
            () = self.fill(true) => answers.await,
        };
        let lines = self.render(slots, answers);
        if self.batch.is_full(&self.endpoint) || self.end.is_some() {
            self.begin();
        }
        Some(lines)
    }

    /// Returns the same as [`Session::lines`], and at the end the line that says why the rest of the body was not read,
    /// if it was not.
    pub(super) async fn lines_to_the_last(&mut self) -> Option<Bytes> {
        match self.lines().await {
            Some(lines) => Some(lines),
            None => self.last_line(),
        }
    }

    /// Returns whether the body was read to its end and no batch waits.
    pub(super) fn is_over(&self) -> bool {
        matches!(self.end, Some(End::Complete)) && self.commit.is_none()
    }

    /// Returns the reason for which the whole request is refused: the reading stopped, and no event was accepted or
    /// refused on its own.
    pub(super) fn refusal(&self) -> Option<&Problem> {
        match &self.end {
            Some(End::Stopped(problem)) if self.answered == self.put_off && self.commit.is_none() => Some(problem),
            _ => None,
        }
    }

    /// Reads events until the batch is full or the body has ended; if not `patient`, also until no more is there at the
    /// moment.
    ///
    /// The future can be dropped without loss: it waits in one place only, [`BodySource::next`].
    async fn fill(&mut self, patient: bool) {
        while self.end.is_none() && !self.batch.is_full(&self.endpoint) {
            match self.splitter.next() {
                Piece::Item(text) => self.check_item(&text),
                Piece::TooLong => {
                    let most = self.endpoint.validator.config.item_bytes;
                    self.seen(None, Err(Problem::limit("item_bytes", format!("an event has at most {most} bytes"))));
                }
                Piece::More => {
                    let chunk = match self.source.ready() {
                        Some(chunk) => chunk,
                        None if !patient && !self.batch.slots.is_empty() => return,
                        None => self.source.next().await,
                    };
                    match chunk {
                        Ok(Some(chunk)) => {
                            self.endpoint.validator.observed.read(chunk.len());
                            self.splitter.push(chunk);
                        }
                        Ok(None) => self.splitter.finish(),
                        Err(fault) => self.end = Some(End::Stopped(self.cut(fault))),
                    }
                }
                Piece::End => self.end = Some(End::Complete),
                Piece::Broken(what) => self.end = Some(End::Stopped(Problem::bad(what))),
            }
        }
    }

    fn cut(&self, fault: Fault) -> Problem {
        match fault {
            Fault::Early if self.splitter.is_inside() => Problem::bad("the body ends early, inside an event"),
            fault => fault.into(),
        }
    }

    /// Checks one event and adds it to the batch.
    fn check_item(&mut self, text: &[u8]) {
        let read = self.endpoint.validator.read(&self.producer, text);
        self.batch.bytes += text.len();
        match read {
            Ok(event) => self.seen(event.id.clone(), Ok(event)),
            Err(problem) => self.seen(None, Err(problem)),
        }
    }

    fn seen(&mut self, id: Option<Box<str>>, event: Result<Event, Problem>) {
        if self.items >= self.endpoint.validator.config.items {
            let detail =
                format!("a request has at most {} events; the rest is not read", self.endpoint.validator.config.items);
            self.end = Some(End::Stopped(Problem::limit("items", detail)));
            return;
        }
        self.items += 1;
        match event {
            Ok(event) => {
                self.batch.slots.push(Slot { id, problem: None });
                self.batch.events.push(event);
            }
            Err(problem) => {
                self.endpoint.validator.count(&problem, &self.producer);
                self.batch.slots.push(Slot { id, problem: Some(problem) });
                self.refuse();
            }
        }
    }

    fn refuse(&mut self) {
        self.refused += 1;
        if self.refused >= self.endpoint.validator.config.refused_items && self.end.is_none() {
            let detail = format!("{} events were refused; the rest is not read", self.refused);
            self.end = Some(End::Stopped(Problem::bad(detail).ruled("refused_items")));
        }
    }

    /// Begins the commit of the batch.
    fn begin(&mut self) {
        if self.batch.slots.is_empty() {
            return;
        }
        let Batch { slots, events, .. } = std::mem::take(&mut self.batch);
        let answers = if events.is_empty() {
            Box::pin(std::future::ready(Vec::new()))
        } else {
            self.endpoint.validator.accept.accept(self.producer.no, events)
        };
        self.commit = Some(Commit { answers, slots });
    }

    /// Writes the lines of one batch, in the order of its events.
    fn render(&mut self, slots: Vec<Slot>, answers: Vec<Accepted>) -> Bytes {
        let mut out = BytesMut::with_capacity(slots.len() * 96);
        let mut answers = answers.into_iter();
        for slot in slots {
            let mut line = Line { index: self.answered, id: slot.id.as_deref(), ..Line::default() };
            let (txn, problem);
            match slot.problem.map_or_else(|| self.endpoint.validator.settle(answers.next()), Err) {
                Ok(done) => {
                    line.status = 202;
                    line.repeated = done.repeated;
                    txn = done.txn;
                    line.txn = Some(&txn);
                }
                Err(found) => {
                    problem = found;
                    line.status = problem.status.as_u16();
                    line.error = Some(&problem.detail);
                    line.pointer = problem.pointer.as_deref();
                    line.rule = problem.rule;
                    line.retry_after = problem.retry_after.map(seconds);
                    if problem.status == http::StatusCode::CONFLICT || problem.rule == Some(NAMES_STREAM) {
                        self.refuse();
                    }
                    if problem.retry_after.is_some() {
                        self.put_off += 1;
                        self.close(&problem);
                    }
                }
            }
            write(&mut out, &line);
            self.answered += 1;
        }
        out.freeze()
    }

    /// Stops the reading, since no more is accepted now; the events that were read ahead count as not read.
    fn close(&mut self, problem: &Problem) {
        self.batch = Batch::default();
        if !matches!(self.end, Some(End::Stopped(_))) {
            self.end = Some(End::Stopped(problem.clone()));
        }
    }

    /// Returns the line after the last event, which says why the body was not read to its end.
    fn last_line(&mut self) -> Option<Bytes> {
        let Some(End::Stopped(problem)) = self.end.replace(End::Complete) else { return None };
        self.endpoint.validator.count(&problem, &self.producer);
        let mut out = BytesMut::with_capacity(128);
        let last = Last {
            status: problem.status.as_u16(),
            error: &problem.detail,
            rule: problem.rule,
            retry_after: problem.retry_after.map(seconds),
            answered: self.answered,
        };
        write(&mut out, &last);
        Some(out.freeze())
    }
}

impl Batch {
    fn is_full(&self, endpoint: &IntakeEndpoint) -> bool {
        self.slots.len() >= endpoint.validator.config.commit_items
            || self.bytes >= endpoint.validator.config.commit_bytes
    }
}

/// A line of the answer: the outcome of one event.
#[derive(Default, Serialize)]
struct Line<'a> {
    index: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    status: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    txn: Option<&'a str>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    repeated: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pointer: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after: Option<u64>,
}

/// The line after the last event, when the rest of the body was not read.
#[derive(Serialize)]
struct Last<'a> {
    status: u16,
    error: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after: Option<u64>,
    /// The number of lines before this one, one for each event.
    answered: usize,
}

fn write(out: &mut BytesMut, line: &impl Serialize) {
    // A write to memory does not fail.
    let _ = serde_json::to_writer(out.writer(), line);
    out.put_u8(b'\n');
}
