//! The object `{"sets":{…},"ack":[…]}` by hand: read without a parser, since the client must not be what is measured.

/// An iterator over the SETs of an object: the `jti` and the compact token of each.
pub(crate) struct Sets<'a>(&'a [u8]);

/// Returns the SETs of an object that a gateway or a bare loop wrote; ids and tokens have no escapes.
pub(crate) fn sets(text: &[u8]) -> Sets<'_> {
    const MEMBER: &[u8] = b"\"sets\":{";
    let rest = memchr::memmem::find(text, MEMBER).and_then(|at| text.get(at + MEMBER.len()..));
    Sets(rest.unwrap_or_default())
}

impl<'a> Iterator for Sets<'a> {
    type Item = (&'a [u8], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (id, rest) = quoted(self.0)?;
        let (token, rest) = quoted(rest.strip_prefix(b":")?)?;
        self.0 = rest.strip_prefix(b",").unwrap_or_default();
        Some((id, token))
    }
}

fn quoted(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let text = text.strip_prefix(b"\"")?;
    let end = memchr::memchr(b'"', text)?;
    Some((text.get(..end)?, text.get(end + 1..)?))
}

#[cfg(test)]
/// Returns whether there is more than the answer could hold.
pub(crate) fn more(text: &[u8]) -> bool {
    memchr::memmem::rfind(text, b"\"moreAvailable\":true").is_some()
}

/// Returns an object that acknowledges ids and says how many SETs may come; `None` leaves that out.
pub(crate) fn ack<'a>(ids: impl IntoIterator<Item = &'a [u8]>, max_events: Option<usize>) -> Vec<u8> {
    let mut text = Vec::with_capacity(128);
    text.extend_from_slice(b"{\"ack\":[");
    for (at, id) in ids.into_iter().enumerate() {
        if at > 0 {
            text.push(b',');
        }
        text.push(b'"');
        text.extend_from_slice(id);
        text.push(b'"');
    }
    text.push(b']');
    if let Some(most) = max_events {
        text.extend_from_slice(b",\"maxEvents\":");
        text.extend_from_slice(most.to_string().as_bytes());
    }
    text.push(b'}');
    text
}

/// Returns the number of ids that an object acknowledges.
pub(crate) fn acknowledged(text: &[u8]) -> usize {
    const MEMBER: &[u8] = b"\"ack\":[";
    let Some(rest) = memchr::memmem::find(text, MEMBER).and_then(|at| text.get(at + MEMBER.len()..)) else { return 0 };
    let end = memchr::memchr(b']', rest).unwrap_or(rest.len());
    memchr::memchr_iter(b'"', rest.get(..end).unwrap_or_default()).count() / 2
}

/// Returns an object with SETs, as the gateway writes it.
pub(crate) fn speech<'a>(sets: impl IntoIterator<Item = (&'a str, &'a [u8])>, more_available: Option<bool>) -> Vec<u8> {
    let mut text = Vec::with_capacity(2048);
    text.extend_from_slice(b"{\"sets\":{");
    for (at, (id, token)) in sets.into_iter().enumerate() {
        if at > 0 {
            text.push(b',');
        }
        text.push(b'"');
        text.extend_from_slice(id.as_bytes());
        text.extend_from_slice(b"\":\"");
        text.extend_from_slice(token);
        text.push(b'"');
    }
    text.push(b'}');
    if let Some(more) = more_available {
        text.extend_from_slice(b",\"moreAvailable\":");
        text.extend_from_slice(if more { b"true" } else { b"false" });
    }
    text.push(b'}');
    text
}

#[cfg(test)]
mod tests {
    use setgate_delivery::exchange::{Bounds, Exchange};

    use super::*;

    #[test]
    fn sets_are_found_wherever_the_object_has_them() {
        let read = |text: &'static [u8]| sets(text).collect::<Vec<_>>();
        assert_eq!(read(br#"{"sets":{}}"#), []);
        assert_eq!(read(br#"{"ack":["x"]}"#), []);
        let two: [(&[u8], &[u8]); 2] = [(b"a", b"h.p.s"), (b"b", b"i.q.t")];
        assert_eq!(read(br#"{"sets":{"a":"h.p.s","b":"i.q.t"},"moreAvailable":true}"#), two);
        assert_eq!(read(br#"{"moreAvailable":false,"sets":{"a":"h.p.s","b":"i.q.t"}}"#), two);
        assert!(more(br#"{"sets":{},"moreAvailable":true}"#) && !more(br#"{"sets":{},"moreAvailable":false}"#));
    }

    #[test]
    fn the_crate_reads_what_is_written_by_hand() {
        let ids = ["A0000000000000000000000000", "A1111111111111111111111111"];
        let text = ack(ids.iter().map(|id| id.as_bytes()), Some(100));
        let read = Exchange::parse(&text, Bounds::OF_RECEIVER, None).unwrap();
        assert_eq!((read.ack.len() + read.unknown, read.max_events), (2, Some(100)));
        assert_eq!(acknowledged(&text), 2);
        assert_eq!((acknowledged(&ack([], None)), acknowledged(b"{}")), (0, 0));
        let text = speech([("a", b"h.p.s".as_slice()), ("b", b"i.q.t")], Some(true));
        let read = Exchange::parse(&text, Bounds::OF_RECEIVER, None).unwrap();
        assert_eq!((read.sets.unwrap().len(), read.more_available), (2, true));
        assert_eq!(sets(&text).count(), 2);
    }
}
