//! WebSocket frames written by hand (RFC 6455 §5.2), since the clients of the measurements must cost little.

/// The first byte of a final text frame.
const TEXT: u8 = 0x81;
const FINAL: u8 = 0x80;
const MASKED: u8 = 0x80;
/// The longest frame of a measurement, in bytes.
const LONGEST: usize = 16 << 20;

/// A frame that a server sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Frame<'a> {
    /// A whole text message.
    Text(&'a [u8]),
    /// A ping, which is answered with the same payload.
    Ping(&'a [u8]),
    /// An answer to a ping.
    Pong,
    /// The end, with its code.
    Close(Option<u16>),
}

/// Returns the first frame of `bytes` and its length, or `None` if it is not complete yet.
///
/// # Errors
/// The fault of the frame.
pub(crate) fn read(bytes: &[u8]) -> Result<Option<(Frame<'_>, usize)>, String> {
    let (Some(first), Some(second)) = (bytes.first(), bytes.get(1)) else { return Ok(None) };
    // RFC 6455 §5.1: a server does not mask.
    if second & MASKED != 0 {
        return Err("the server masks its frames".to_owned());
    }
    let (start, length) = match second {
        126 => match bytes.get(2..4).and_then(|part| part.try_into().ok()) {
            Some(part) => (4, u64::from(u16::from_be_bytes(part))),
            None => return Ok(None),
        },
        127 => match bytes.get(2..10).and_then(|part| part.try_into().ok()) {
            Some(part) => (10, u64::from_be_bytes(part)),
            None => return Ok(None),
        },
        short => (2, u64::from(*short)),
    };
    let length = usize::try_from(length).ok().filter(|length| *length <= LONGEST).ok_or("a frame is too long")?;
    let Some(payload) = bytes.get(start..start + length) else { return Ok(None) };
    let frame = match (first & FINAL != 0, first & 0x0f) {
        (true, 1) => Frame::Text(payload),
        (true, 9) => Frame::Ping(payload),
        (true, 10) => Frame::Pong,
        (true, 8) => Frame::Close(payload.get(..2).and_then(|code| code.try_into().ok()).map(u16::from_be_bytes)),
        (last, kind) => return Err(format!("a frame of kind {kind}, final: {last}")),
    };
    Ok(Some((frame, start + length)))
}

/// Returns a text frame as a client sends it.
pub(crate) fn text(payload: &[u8]) -> Vec<u8> {
    masked(TEXT, payload)
}

/// Returns the answer to a ping.
pub(crate) fn pong(payload: &[u8]) -> Vec<u8> {
    masked(FINAL | 10, payload)
}

/// Returns a masked frame, since a client must mask (RFC 6455 §5.3). One mask serves for all, as there is nothing
/// between the two ends of a measurement.
fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    const MASK: [u8; 4] = [0x5e, 0x17, 0xa7, 0xe9];
    let mut frame = Vec::with_capacity(payload.len() + 14);
    frame.push(first);
    match (u8::try_from(payload.len()), u16::try_from(payload.len())) {
        (Ok(short), _) if short < 126 => frame.push(MASKED | short),
        (_, Ok(middle)) => {
            frame.push(MASKED | 126);
            frame.extend_from_slice(&middle.to_be_bytes());
        }
        _ => {
            frame.push(MASKED | 127);
            frame.extend_from_slice(&u64::try_from(payload.len()).unwrap_or(u64::MAX).to_be_bytes());
        }
    }
    frame.extend_from_slice(&MASK);
    frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_of_every_length_are_read_once_they_are_whole() {
        for length in [0usize, 1, 125, 126, 65_535, 65_536, 70_000] {
            let payload = vec![b'x'; length];
            let mut bytes = vec![TEXT];
            match length {
                0..126 => bytes.push(u8::try_from(length).unwrap()),
                126..65_536 => {
                    bytes.push(126);
                    bytes.extend_from_slice(&u16::try_from(length).unwrap().to_be_bytes());
                }
                _ => {
                    bytes.push(127);
                    bytes.extend_from_slice(&u64::try_from(length).unwrap().to_be_bytes());
                }
            }
            bytes.extend_from_slice(&payload);
            for part in [0, 1, bytes.len() - 1] {
                assert_eq!(read(&bytes[..part]), Ok(None), "{part} of {length}");
            }
            let whole = bytes.len();
            bytes.push(0xff);
            assert_eq!(read(&bytes), Ok(Some((Frame::Text(&payload), whole))));
        }
    }

    #[test]
    fn what_a_client_sends_is_masked_and_has_its_length() {
        for length in [3usize, 125, 126, 65_535, 65_536] {
            let payload: Vec<u8> = (0..=255).cycle().take(length).collect();
            let frame = text(&payload);
            assert_eq!((frame[0], frame[1] & 0x80), (0x81, 0x80));
            let (mask, data) = frame[frame.len() - length - 4..].split_at(4);
            let plain: Vec<u8> = data.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect();
            assert_eq!(plain, payload);
            assert!(read(&frame).is_err(), "a server's frame is not masked");
        }
    }

    #[test]
    fn control_frames_are_told_apart() {
        assert_eq!(read(&[0x89, 1, b'p']), Ok(Some((Frame::Ping(b"p"), 3))));
        assert_eq!(read(&[0x8a, 0]), Ok(Some((Frame::Pong, 2))));
        assert_eq!(read(&[0x88, 2, 0x03, 0xf0]), Ok(Some((Frame::Close(Some(1008)), 4))));
        assert_eq!(read(&[0x88, 0]), Ok(Some((Frame::Close(None), 2))));
        assert!(read(&[0x01, 0]).is_err(), "fragments are none of ours");
        assert_eq!(pong(b"p").len(), 7);
    }
}
