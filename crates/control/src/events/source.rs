//! A request's body, decompressed, within limits, and not slower than it may be (hardening H28).

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

/// How a body is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Coding {
    Identity,
    Gzip,
    Zstd,
}

/// Decompressed bytes asked for at once.
const CHUNK: usize = 32 * 1024;
/// The ratio is not looked at before so many bytes: small bodies of equal events compress well.
const RATIO_FROM: u64 = 1 << 20;

/// Why the body cannot be read on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The connection ended before the body did.
    Early,
    /// Nothing, or too little, came for too long.
    Slow,
    /// The limit that was reached, as the option is called, and for people.
    Limit(&'static str, String),
    /// The body is not compressed as it says.
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

/// The body as the splitter draws it.
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

    /// What there is without waiting; nothing when there is nothing yet.
    pub(super) fn ready(&mut self) -> Option<Result<Option<Bytes>, Fault>> {
        let read = self.read().now_or_never()?;
        self.pace.end();
        Some(read)
    }

    /// The next chunk, or the end. Dropping the future loses nothing.
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

/// The body is larger than allowed; also said before it is read when its length is known.
pub(super) fn too_large(config: &IntakeConfig) -> Fault {
    Fault::Limit("body_bytes", format!("a body has at most {} bytes after decompression", config.body_bytes))
}

/// After the compressed text nothing may follow: one frame is enough, and many empty ones would cost without giving.
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

/// The body's data, counted as it arrives.
struct Counted {
    body: Body,
    arrived: Arc<AtomicU64>,
    /// Its first bytes.
    head: Vec<u8>,
}

impl Counted {
    /// The window that a zstd body needs, as far as it tells.
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
            // Trailers say nothing here, and an empty chunk is no end.
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

/// How long the caller kept us waiting; our own work does not count.
struct Pace {
    runtime: Runtime,
    waited: Duration,
    since: Option<Duration>,
}

impl Pace {
    /// How long the wait that goes on may still last.
    fn allowed(&mut self, config: &IntakeConfig, arrived: u64) -> Duration {
        let now = self.runtime.clock.monotonic();
        let since = *self.since.get_or_insert(now);
        let waiting = now.saturating_sub(since);
        let idle = config.idle_timeout.saturating_sub(waiting);
        let Some(earned) = arrived.checked_div(config.minimum_bytes_per_second) else { return idle };
        let in_all = config.grace_period.saturating_add(Duration::from_secs(earned));
        idle.min(in_all.saturating_sub(self.waited + waiting))
    }

    /// Something came: the wait is over.
    fn end(&mut self) {
        if let Some(since) = self.since.take() {
            self.waited += self.runtime.clock.monotonic().saturating_sub(since);
        }
    }
}
