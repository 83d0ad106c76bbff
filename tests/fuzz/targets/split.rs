//! The fuzz target of the splitter of intake bodies: however the chunks fall, the pieces are the same, and their memory
//! is bounded.
#![no_main]

use bytes::Bytes;

#[path = "../../../crates/control/src/events/split.rs"]
#[expect(dead_code, reason = "the listener uses more of it")]
mod split;

use split::{Piece, Splitter};

const LONGEST: usize = 64;

fn pieces(mut splitter: Splitter, chunks: impl Iterator<Item = Bytes>) -> Vec<Piece> {
    let mut chunks = chunks;
    let mut found = Vec::new();
    loop {
        match splitter.next() {
            Piece::More => match chunks.next() {
                Some(chunk) => splitter.push(chunk),
                None => splitter.finish(),
            },
            piece => {
                if let Piece::Item(item) = &piece {
                    assert!(item.len() <= LONGEST, "an item of {} bytes", item.len());
                }
                let last = matches!(piece, Piece::End | Piece::Broken(_));
                found.push(piece);
                if last {
                    return found;
                }
            }
        }
    }
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((first, data)) = data.split_first() else { return };
    let make = || if first & 1 == 0 { Splitter::lines(LONGEST) } else { Splitter::array(LONGEST) };
    let size = usize::from(first >> 1) + 1;
    let whole = pieces(make(), std::iter::once(Bytes::copy_from_slice(data)));
    let parts = pieces(make(), data.chunks(size).map(Bytes::copy_from_slice));
    assert_eq!(whole, parts, "chunks of {size} bytes make another cut");
});
