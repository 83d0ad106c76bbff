//! The window size in the header of a zstd frame.

/// The most bytes of a frame's header, with the magic number.
pub(super) const HEADER: usize = 18;

/// Returns the bytes of the window that a frame needs, read from its beginning (RFC 8878 §3.1.1.1); `None` when that is
/// not a frame, or is cut.
///
/// The decoder refuses a window beyond its limit, and reports it in an error text alone.
pub(super) fn window(head: &[u8]) -> Option<u64> {
    let (descriptor, rest) = head.strip_prefix(&[0x28, 0xB5, 0x2F, 0xFD])?.split_first()?;
    let is_single_segment = descriptor & 0b0010_0000 != 0;
    if !is_single_segment {
        let window = u64::from(*rest.first()?);
        let base = 1u64 << (10 + (window >> 3));
        return Some(base + base / 8 * (window & 7));
    }
    // The window is the whole content; its size follows the dictionary's number.
    let dictionary = [0, 1, 2, 4].get(usize::from(descriptor & 3)).copied()?;
    let bytes = 1usize << (descriptor >> 6);
    let size = rest.get(dictionary..dictionary + bytes)?;
    let size = size.iter().rev().fold(0u64, |size, byte| size << 8 | u64::from(*byte));
    Some(if bytes == 2 { size + 256 } else { size })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAGIC: [u8; 4] = [0x28, 0xB5, 0x2F, 0xFD];

    fn of(rest: &[u8]) -> Option<u64> {
        window(&[&MAGIC, rest].concat())
    }

    #[test]
    fn a_window_is_told_by_its_exponent_and_mantissa() {
        assert_eq!(of(&[0, 0]), Some(1 << 10));
        assert_eq!(of(&[0, 13 << 3]), Some(1 << 23));
        assert_eq!(of(&[0, 13 << 3 | 1]), Some((1 << 23) + (1 << 20)));
        assert_eq!(of(&[0, 0xFF]), Some((1 << 41) + (7 << 38)), "the largest there is");
    }

    #[test]
    fn a_single_segment_is_its_own_window() {
        assert_eq!(of(&[0x20, 200]), Some(200));
        assert_eq!(of(&[0x60, 0, 1]), Some(512), "two bytes begin at 256");
        assert_eq!(of(&[0xA1, 9, 0, 0, 0, 1]), Some(1 << 24), "behind the number of a dictionary");
        assert_eq!(of(&[0xE3, 9, 9, 9, 9, 1, 0, 0, 0, 0, 0, 0, 1]), Some((1 << 56) + 1));
    }

    #[test]
    fn what_is_no_frame_or_is_cut_tells_nothing() {
        for head in [&[][..], &[0x28, 0xB5], &[0x1F, 0x8B, 8, 0, 0, 0], &MAGIC] {
            assert_eq!(window(head), None, "{head:?}");
        }
        assert_eq!((of(&[0]), of(&[0x20]), of(&[0xE3, 9, 9, 9, 9, 1])), (None, None, None));
    }
}
