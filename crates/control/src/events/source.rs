//! The body of a request, decompressed, within limits of size and pace (hardening H28).

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use async_compression::{
    tokio::bufread::{GzipDecoder, ZstdDecoder},
    zstd::DParameter,
};
use axum::body::Body;
use bytes::{Bytes, BytesMut};
use futures_util::{FutureExt as _, Stream};
use http_body::Body as _;
use setgate_clock::Runtime;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _};
use tokio_util::io::StreamReader;

use super::frame;
use crate::{IntakeConfig, error::Problem};

/// The compression of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Coding {
    Identity,
    Gzip,
    Zstd,
}

/// The decompressed bytes that are asked for at once.
const CHUNK: usize = 32 * 1024;
/// The decompressed bytes below which the ratio is not checked: small bodies of equal events compress very well.
const RATIO_FROM: u64 = 1 << 20;

/// The reasons why the body cannot be read on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The connection ended before the body did.
    Early,
    /// The body brought no byte, or too few, for too long.
    Slow,
    /// A limit was reached: the name of the option, and a text for the caller.
    Limit(&'static str, String),
    /// The body is not compressed as `Content-Encoding` says.
    Coding(&'static str),
}

impl From<Fault> for Problem {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Early => Self::bad("the body ends early"),
            Fault::Slow => Self::new(http::StatusCode::REQUEST_TIMEOUT, "the body comes too slowly")
                .ruled("minimum_bytes_per_second"),
            Fault::Limit(option, detail) => Self::limit(option, detail),
            Fault::Coding(detail) => Self::bad(detail),
        }
    }
}

/// The decompressed body, from which the splitter is fed.
pub(super) struct BodySource {
    bytes: Reader,
    arrived: Arc<AtomicU64>,
    produced: u64,
    pace: Pace,
    config: Arc<IntakeConfig>,
}

enum Reader {
    Plain(Counted),
    Gzip(Box<GzipDecoder<StreamReader<Counted, Bytes>>>),
    Zstd(Box<ZstdDecoder<StreamReader<Counted, Bytes>>>),
}

impl BodySource {
    pub(super) fn new(body: Body, coding: Coding, config: Arc<IntakeConfig>, runtime: Runtime) -> Self {
        let arrived = Arc::new(AtomicU64::new(0));
        let counted = Counted { body, arrived: arrived.clone(), head: Vec::new() };
        let bytes = match coding {
            Coding::Identity => Reader::Plain(counted),
            Coding::Gzip => Reader::Gzip(Box::new(GzipDecoder::new(StreamReader::new(counted)))),
            Coding::Zstd => {
                let window = DParameter::window_log_max(config.zstd_window_log);
                Reader::Zstd(Box::new(ZstdDecoder::with_params(StreamReader::new(counted), &[window])))
            }
        };
        Self { bytes, arrived, produced: 0, pace: Pace { runtime, waited: Duration::ZERO, since: None }, config }
    }

    /// Returns the next chunk, the end or the fault when that can be had without waiting, or `None` when there is
    /// nothing yet.
    pub(super) fn ready(&mut self) -> Option<Result<Option<Bytes>, Fault>> {
        let read = self.read().now_or_never()?;
        self.pace.end();
        Some(read)
    }

    /// Returns the next chunk, or `None` at the end. The future can be dropped without loss.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Fault> {
        if let Some(read) = self.ready() {
            return read;
        }
        let allowed = self.pace.allowed(&self.config, self.arrived.load(Ordering::Relaxed));
        let patience = self.pace.runtime.clock.sleep(allowed);
        let read = tokio::select! {
            biased;
            read = self.read() => read,
            () = patience => Err(Fault::Slow),
        };
        self.pace.end();
        read
    }

    async fn read(&mut self) -> Result<Option<Bytes>, Fault> {
        let chunk = match &mut self.bytes {
            Reader::Plain(body) => match std::future::poll_fn(|cx| Pin::new(&mut *body).poll_next(cx)).await {
                Some(Ok(chunk)) => Some(chunk),
                Some(Err(_)) => return Err(Fault::Early),
                None => None,
            },
            Reader::Gzip(decoder) => {
                let mut chunk = BytesMut::with_capacity(CHUNK);
                match decoder.read_buf(&mut chunk).await {
                    Ok(0) => no_more(decoder.get_mut()).await?,
                    Ok(_) => Some(chunk.freeze()),
                    Err(error) => return Err(fault(&error, "the body is not gzip, though Content-Encoding says so")),
                }
            }
            Reader::Zstd(decoder) => {
                let mut chunk = BytesMut::with_capacity(CHUNK);
                match decoder.read_buf(&mut chunk).await {
                    Ok(0) => no_more(decoder.get_mut()).await?,
                    Ok(_) => Some(chunk.freeze()),
                    Err(_) if decoder.get_ref().get_ref().window() > largest_window(&self.config) => {
                        let detail = format!("the zstd window has more than 2^{} bytes", self.config.zstd_window_log);
                        return Err(Fault::Limit("zstd_window_log", detail));
                    }
                    Err(error) => return Err(fault(&error, "the body is not zstd, though Content-Encoding says so")),
                }
            }
        };
        let Some(chunk) = chunk else { return Ok(None) };
        self.produced += u64::try_from(chunk.len()).unwrap_or(u64::MAX);
        self.within()?;
        Ok(Some(chunk))
    }

    fn within(&self) -> Result<(), Fault> {
        if self.produced > self.config.body_bytes {
            return Err(too_large(&self.config));
        }
        let most = self.arrived.load(Ordering::Relaxed).saturating_mul(self.config.ratio);
        if !matches!(self.bytes, Reader::Plain(_)) && self.produced > most.max(RATIO_FROM) {
            return Err(Fault::Limit(
                "ratio",
                format!("the body grows to more than {} times its size", self.config.ratio),
            ));
        }
        Ok(())
    }
}

fn largest_window(config: &IntakeConfig) -> u64 {
    1u64.checked_shl(config.zstd_window_log).unwrap_or(u64::MAX)
}

/// Creates the fault of a body over the limit, which is also reported before the body is read when its length is known.
pub(super) fn too_large(config: &IntakeConfig) -> Fault {
    Fault::Limit("body_bytes", format!("a body has at most {} bytes after decompression", config.body_bytes))
}

/// Checks that nothing follows the compressed text: one frame is enough, and many empty ones would cost work and bring
/// no data.
async fn no_more(rest: &mut StreamReader<Counted, Bytes>) -> Result<Option<Bytes>, Fault> {
    match rest.fill_buf().await {
        Ok([]) => Ok(None),
        Ok(_) => Err(Fault::Coding("the body has more than one compressed frame")),
        Err(_) => Err(Fault::Early),
    }
}

fn fault(error: &io::Error, otherwise: &'static str) -> Fault {
    match error.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionAborted => Fault::Early,
        _ => Fault::Coding(otherwise),
    }
}

/// The data of the body, counted as they arrive.
struct Counted {
    body: Body,
    arrived: Arc<AtomicU64>,
    /// The first bytes of the body, at most [`frame::HEADER`].
    head: Vec<u8>,
}

impl Counted {
    /// Returns the window that a zstd body needs, or 0 when its header does not tell.
    fn window(&self) -> u64 {
        frame::window(&self.head).unwrap_or_default()
    }
}

impl Stream for Counted {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        loop {
            let frame = match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Ready(Some(Err(error))) => {
                    return Poll::Ready(Some(Err(io::Error::new(io::ErrorKind::ConnectionAborted, error))));
                }
                Poll::Ready(Some(Ok(frame))) => frame,
            };
            // Trailers are ignored here, and an empty chunk is not the end.
            if let Ok(data) = frame.into_data()
                && !data.is_empty()
            {
                let missing = frame::HEADER.saturating_sub(self.head.len());
                self.head.extend(data.iter().take(missing));
                self.arrived.fetch_add(u64::try_from(data.len()).unwrap_or_default(), Ordering::Relaxed);
                return Poll::Ready(Some(Ok(data)));
            }
        }
    }
}

/// The time for which the gateway waited for the caller; its own work does not count.
struct Pace {
    runtime: Runtime,
    waited: Duration,
    since: Option<Duration>,
}

impl Pace {
    /// Returns how long the current wait may still last.
    fn allowed(&mut self, config: &IntakeConfig, arrived: u64) -> Duration {
        let now = self.runtime.clock.monotonic();
        let since = *self.since.get_or_insert(now);
        let waiting = now.saturating_sub(since);
        let idle = config.idle_timeout.saturating_sub(waiting);
        let Some(earned) = arrived.checked_div(config.minimum_bytes_per_second) else { return idle };
        let in_all = config.grace_period.saturating_add(Duration::from_secs(earned));
        idle.min(in_all.saturating_sub(self.waited + waiting))
    }

    /// Ends the current wait, since the caller sent something.
    fn end(&mut self) {
        if let Some(since) = self.since.take() {
            self.waited += self.runtime.clock.monotonic().saturating_sub(since);
        }
    }
}
