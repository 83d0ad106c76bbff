//! Events as producers send them, each with a mark by which the sink knows its place.

use std::{fmt::Write as _, str::FromStr};

use bytes::{BufMut as _, Bytes, BytesMut};
use setgate_jose::Algorithm;
use setgate_set::{Event, EventLimits, JsonLimits, Jti, Timestamp};

use crate::{BenchError, child::AUDIENCE, measure::Dice};

/// The event type of events that name no other.
pub(crate) const TYPE: &str = "https://schemas.openid.net/secevent/caep/event-type/session-revoked";
/// The bytes of one event with the end of its line.
pub(crate) const SIZE: usize = 1024;
/// The number of order keys of one stream.
pub(crate) const KEYS: usize = 10_000;
/// The number of events of one request.
pub(crate) const LINES: usize = 100;
/// The text in front of the mark.
const BEFORE: &[u8] = b"\"bench\":\"";

/// The place of an event: its lane (one order key of one stream), its place in the lane, and its number in the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) lane: u32,
    pub(crate) seq: u32,
    pub(crate) number: u32,
}

impl Mark {
    /// Finds the mark in a payload without parsing the rest of it: the sink must not be what is measured.
    pub(crate) fn find(payload: &[u8]) -> Option<Self> {
        let at = memchr::memmem::find(payload, BEFORE)? + BEFORE.len();
        let text = std::str::from_utf8(payload.get(at..at + 26)?).ok()?;
        let mut parts = text.split('.').map(u32::from_str);
        let (Some(Ok(lane)), Some(Ok(seq)), Some(Ok(number))) = (parts.next(), parts.next(), parts.next()) else {
            return None;
        };
        Some(Self { lane, seq, number })
    }
}

/// A maker of the events of one run.
pub(crate) struct Maker {
    run: &'static str,
    dice: Dice,
    next: Vec<u32>,
    number: u32,
}

impl Maker {
    /// Creates a maker for `lanes` lanes; `run` keeps the subjects and ids of one run from those of another.
    pub(crate) fn new(run: &'static str, lanes: usize) -> Self {
        Self { run, dice: Dice::new(0x5e76_a7e5), next: vec![0; lanes], number: 0 }
    }

    /// Begins the lanes anew for a sink that begins anew; numbers go on, so that ids differ from those before.
    pub(crate) fn next_run(mut self) -> Self {
        self.next.fill(0);
        self
    }

    /// Sets the number of the next event; marks have eight digits for it.
    pub(crate) fn numbered_from(mut self, number: u32) -> Self {
        self.number = number;
        self
    }

    /// Sets the number of events that a lane has had already.
    pub(crate) fn later(mut self, lane: usize, events: u32) -> Self {
        if let Some(next) = self.next.get_mut(lane) {
            *next = events;
        }
        self
    }

    /// Returns the next event, as one line, in a lane chosen at random.
    pub(crate) fn line(&mut self, types: &[&str]) -> Bytes {
        let lanes = u64::try_from(self.next.len()).unwrap_or(u64::MAX);
        let lane = usize::try_from(self.dice.below(lanes)).unwrap_or_default();
        self.line_in(lane, types)
    }

    /// Returns the next event of a lane, as one line.
    pub(crate) fn line_in(&mut self, lane: usize, types: &[&str]) -> Bytes {
        let number = self.number;
        self.number += 1;
        let seq = self.next.get_mut(lane).map(|next| std::mem::replace(next, *next + 1)).unwrap_or_default();
        let run = self.run;
        let mut text = String::with_capacity(SIZE + 256);
        text.push_str("{\"events\":{");
        for (at, uri) in types.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            // Writing to a string does not fail.
            let _ = write!(text, "{comma}\"{uri}\":{{");
            if at == 0 {
                let _ = write!(
                    text,
                    "\"bench\":\"{lane:08}.{seq:08}.{number:08}\",\"event_timestamp\":1700000000,\"initiating_entity\":\"policy\",\
                     \"reason_admin\":{{\"en\":\"Landspeed policy violation in session {number:08}\"}},\
                     \"reason_user\":{{\"en\":\"You signed in from two places at once\"}},\
                     \"ip_addresses\":[\"192.0.2.{}\",\"2001:db8::{number:x}\"],\"fill\":\"@\"",
                    number % 250
                );
            }
            text.push('}');
        }
        let _ = writeln!(
            text,
            "}},\"sub_id\":{{\"format\":\"iss_sub\",\"iss\":\"https://idp.example.com/\",\"sub\":\"{run}-{lane:08}\"}},\
             \"txn\":\"{run}-{number:08}\",\"id\":\"{run}-{number:08}\"}}"
        );
        let fill: String = "the quick brown fox jumps over the lazy dog "
            .chars()
            .cycle()
            .take(SIZE.saturating_sub(text.len() - 1))
            .collect();
        Bytes::from(text.replacen('@', &fill, 1))
    }

    /// Returns `count` events in lanes chosen at random.
    pub(crate) fn lines(&mut self, count: usize) -> Vec<Bytes> {
        (0..count).map(|_| self.line(&[TYPE])).collect()
    }
}

/// The requests of one producer, in order: each body with the number of its events.
pub(crate) type Requests = Vec<(Bytes, usize)>;

/// Puts lines into requests of `of` events, for `producers` producers.
///
/// All events of a lane belong to one producer, which sends the next request after the answer to the last, so the order
/// in which they are accepted is the order of their marks.
pub(crate) fn requests(lines: &[Bytes], of: usize, producers: usize) -> Vec<Requests> {
    let mut shares: Vec<Vec<Bytes>> = vec![Vec::new(); producers];
    for line in lines {
        let lane = Mark::find(line).map_or(0, |mark| mark.lane);
        let producer = usize::try_from(lane).unwrap_or_default() % producers.max(1);
        if let Some(share) = shares.get_mut(producer) {
            share.push(line.clone());
        }
    }
    shares.iter().map(|share| bodies(share, of)).collect()
}

fn bodies(lines: &[Bytes], of: usize) -> Requests {
    let join = |part: &[Bytes]| {
        let mut body = BytesMut::with_capacity(part.iter().map(Bytes::len).sum());
        part.iter().for_each(|line| body.put_slice(line));
        (body.freeze(), part.len())
    };
    lines.chunks(of.max(1)).map(join).collect()
}

/// Returns the claims that the gateway would make of these lines, for a bare loop to sign.
pub(crate) fn claims(lines: &[Bytes], issuer: &str) -> Result<Vec<Vec<u8>>, BenchError> {
    let made = |(number, line): (usize, &Bytes)| claim(line, issuer, AUDIENCE, number).map(|(_, claims)| claims);
    lines.iter().enumerate().map(made).collect()
}

/// Returns the claims that the gateway would make of one line for this audience, and their `jti`.
pub(crate) fn claim(line: &[u8], issuer: &str, audience: &str, number: usize) -> Result<(Jti, Vec<u8>), BenchError> {
    let json = |text: &str| serde_json::Value::from(text).to_string();
    let wrong = |why: String| BenchError::Failed(format!("an event of the bench is not acceptable: {why}"));
    let value = setgate_set::parse_json(line, &JsonLimits::default()).map_err(|error| wrong(error.to_string()))?;
    let event = Event::parse(value, &EventLimits::default()).map_err(|error| wrong(error.to_string()))?;
    let number = u128::try_from(number).unwrap_or_default();
    let jti = Jti::from_block(b'A', number.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835).to_be_bytes());
    let at = Timestamp::from_millis(1_700_000_000_000);
    Ok((jti, setgate_set::payload(&json(issuer), &jti, at, &json(audience), &event.body())))
}

/// Returns whether a signature takes so long that rates are counted in thousands.
pub(crate) const fn is_slow(algorithm: Algorithm) -> bool {
    algorithm.is_rsa()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_has_its_size_and_its_mark() {
        let mut maker = Maker::new("test", 3);
        let lines = maker.lines(300);
        let mut next = [0; 3];
        for (number, line) in lines.iter().enumerate() {
            assert_eq!(line.len(), SIZE);
            let mark = Mark::find(line).unwrap();
            let lane = usize::try_from(mark.lane).unwrap();
            assert_eq!((mark.seq, mark.number), (next[lane], u32::try_from(number).unwrap()));
            next[lane] += 1;
        }
        assert!(next.iter().all(|count| *count > 50), "{next:?}");
    }

    #[test]
    fn the_gateway_would_take_the_events_and_keep_the_mark() {
        let lines = Maker::new("test", 5).lines(4);
        for (line, claims) in lines.iter().zip(claims(&lines, "https://idp.example").unwrap()) {
            assert_eq!(Mark::find(line), Mark::find(&claims));
            assert!(claims.len() > SIZE);
        }
    }

    #[test]
    fn requests_hold_all_lines_once_and_a_lane_has_one_producer() {
        let lines = Maker::new("test", 5).lines(70);
        let requests = requests(&lines, 3, 2);
        let all = || requests.iter().flatten();
        assert_eq!(all().map(|(_, count)| count).sum::<usize>(), 70);
        assert_eq!(all().map(|(body, _)| body.len()).sum::<usize>(), 70 * SIZE);
        for (producer, share) in requests.iter().enumerate() {
            for (body, count) in share {
                assert!(*count <= 3);
                for line in body.chunks(SIZE) {
                    assert_eq!(usize::try_from(Mark::find(line).unwrap().lane).unwrap() % 2, producer);
                }
            }
        }
    }
}
