//! Reading the body of a request within limits.

use std::{pin::Pin, time::Duration};

use axum::body::{Body, HttpBody};
use bytes::Bytes;
use setgate_clock::Runtime;

/// The time limit for a body to arrive.
const WITHIN: Duration = Duration::from_secs(30);

/// The reason why a body was not read to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyFault {
    /// The body has more bytes than are allowed: 413.
    #[error("the body has more bytes than are allowed")]
    TooLarge,
    /// The body took longer than 30 s to arrive: 408.
    #[error("the body did not arrive within 30 s")]
    TooSlow,
    /// The connection ended before the body did: 400, if the peer still reads.
    #[error("the body broke off")]
    BrokeOff,
}

/// Reads a body of at most `most` bytes within 30 s.
///
/// # Errors
/// [`BodyFault`]; a declared length beyond `most` is refused before anything is read.
pub async fn read_body(body: Body, most: usize, runtime: &Runtime) -> Result<Bytes, BodyFault> {
    if body.size_hint().lower() > most as u64 {
        return Err(BodyFault::TooLarge);
    }
    tokio::select! {
        biased;
        read = read(body, most) => read,
        () = runtime.clock.sleep(WITHIN) => Err(BodyFault::TooSlow),
    }
}

async fn read(mut body: Body, most: usize) -> Result<Bytes, BodyFault> {
    let mut first: Option<Bytes> = None;
    let mut all = Vec::new();
    while let Some(frame) = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        let frame = frame.map_err(|_| BodyFault::BrokeOff)?;
        let Ok(data) = frame.into_data() else { continue };
        if all.len() + first.as_ref().map_or(0, Bytes::len) + data.len() > most {
            return Err(BodyFault::TooLarge);
        }
        // Most bodies arrive in one piece, which need not be copied.
        match (first.take(), all.is_empty()) {
            (None, true) => first = Some(data),
            (before, _) => {
                all.extend_from_slice(&before.unwrap_or_default());
                all.extend_from_slice(&data);
            }
        }
    }
    Ok(first.unwrap_or_else(|| all.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_body_is_read_whole_in_one_piece_or_many() {
        let runtime = setgate_clock::system();
        let pieces = |all: &[&'static str]| {
            let all: Vec<Result<Bytes, std::io::Error>> =
                all.iter().map(|piece| Ok(Bytes::from_static(piece.as_bytes()))).collect();
            Body::from_stream(futures_util::stream::iter(all))
        };
        assert_eq!(read_body(Body::empty(), 3, &runtime).await.unwrap(), "");
        assert_eq!(read_body(Body::from("abc"), 3, &runtime).await.unwrap(), "abc");
        assert_eq!(read_body(pieces(&["a", "b", "cd", "e"]), 5, &runtime).await.unwrap(), "abcde");
        assert_eq!(read_body(Body::from("abcd"), 3, &runtime).await, Err(BodyFault::TooLarge));
        assert_eq!(read_body(pieces(&["ab", "cd"]), 3, &runtime).await, Err(BodyFault::TooLarge));
        let broken = Body::from_stream(futures_util::stream::iter([
            Ok(Bytes::from_static(b"a")),
            Err(std::io::Error::other("x")),
        ]));
        assert_eq!(read_body(broken, 9, &runtime).await, Err(BodyFault::BrokeOff));
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_drips_is_given_up() {
        let never = Body::from_stream(futures_util::stream::pending::<Result<Bytes, std::io::Error>>());
        assert_eq!(read_body(never, 9, &setgate_clock::system()).await, Err(BodyFault::TooSlow));
    }
}
