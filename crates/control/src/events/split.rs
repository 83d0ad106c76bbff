//! The splitter of a body into its events, which keeps no more than one of them: lines (NDJSON), or the elements of an
//! array.

use bytes::{Buf, Bytes, BytesMut};

/// The result of one step of the splitter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// The text of one event.
    Item(Bytes),
    /// The event is longer than the limit, and its text was discarded.
    TooLong,
    /// The splitter needs more of the body.
    More,
    /// The body has ended at a place where it may end.
    End,
    /// The body is not in the announced form, or ends inside an item; the rest cannot be read.
    Broken(&'static str),
}

/// The splitter of one body. Its memory is bounded by the longest item and the current chunk.
#[derive(Debug)]
pub(super) struct Splitter {
    form: Form,
    chunk: Bytes,
    /// The beginning of an item whose end is in a later chunk.
    carry: BytesMut,
    longest: usize,
    /// Whether the current item is too long and is being discarded.
    skipping: bool,
    finished: bool,
}

#[derive(Debug)]
enum Form {
    Lines,
    Array(ArrayState),
}

/// The place of the next byte in an array.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ArrayState {
    /// The place before `[`.
    Start,
    /// The place before the first element, or `]`.
    First,
    /// The place after a comma, before an element.
    Next,
    /// The place inside an element.
    Inside { depth: u32, string: bool, escape: bool },
    /// The place after an element that was closed by a bracket, quotation mark or white space.
    After,
    /// The place after `]`.
    Done,
}

impl Splitter {
    /// Creates a splitter of lines.
    pub(super) fn lines(longest: usize) -> Self {
        Self::of(Form::Lines, longest)
    }

    /// Creates a splitter of an array's elements.
    pub(super) fn array(longest: usize) -> Self {
        Self::of(Form::Array(ArrayState::Start), longest)
    }

    fn of(form: Form, longest: usize) -> Self {
        Self { form, chunk: Bytes::new(), carry: BytesMut::new(), longest, skipping: false, finished: false }
    }

    /// Adds the next chunk; allowed only after [`Piece::More`].
    pub(super) fn push(&mut self, chunk: Bytes) {
        debug_assert!(self.chunk.is_empty());
        self.chunk = chunk;
    }

    /// Marks the end of the body.
    pub(super) fn finish(&mut self) {
        self.finished = true;
    }

    /// Returns whether the splitter stands inside an item, so that an end here would lose data.
    pub(super) fn is_inside(&self) -> bool {
        !self.carry.is_empty() || self.skipping
    }

    /// Returns the next piece.
    pub(super) fn next(&mut self) -> Piece {
        match self.form {
            Form::Lines => self.line(),
            Form::Array(_) => self.element(),
        }
    }

    fn line(&mut self) -> Piece {
        loop {
            match memchr::memchr(b'\n', &self.chunk) {
                Some(end) => {
                    let piece = self.cut_item(end);
                    self.chunk.advance(1);
                    match piece {
                        Piece::Item(line) if is_blank(&line) => {}
                        piece => return piece,
                    }
                }
                None if self.finished => {
                    let piece = self.cut_item(self.chunk.len());
                    return match piece {
                        Piece::Item(line) if is_blank(&line) => Piece::End,
                        piece => piece,
                    };
                }
                None => {
                    self.keep(self.chunk.len());
                    return Piece::More;
                }
            }
        }
    }

    fn element(&mut self) -> Piece {
        let Form::Array(mut place) = self.form else { return Piece::End };
        let mut at = 0;
        let piece = loop {
            let Some(byte) = self.chunk.get(at).copied() else {
                if matches!(place, ArrayState::Inside { .. }) {
                    self.keep(at);
                } else {
                    self.chunk.clear();
                }
                break match (self.finished, place) {
                    (false, _) => Piece::More,
                    (true, ArrayState::Done) => Piece::End,
                    (true, _) => Piece::Broken("the array does not end"),
                };
            };
            let white = matches!(byte, b' ' | b'\t' | b'\n' | b'\r');
            match place {
                ArrayState::Inside { depth, string, escape } => match inside(byte, depth, string, escape) {
                    Step::Goes(next) => {
                        place = next;
                        at += 1;
                    }
                    Step::Ends { with_it } => {
                        place = ArrayState::After;
                        break self.cut_item(at + usize::from(with_it));
                    }
                },
                _ if white => at += 1,
                ArrayState::Start if byte == b'[' => {
                    place = ArrayState::First;
                    at += 1;
                }
                ArrayState::First | ArrayState::After if byte == b']' => {
                    place = ArrayState::Done;
                    at += 1;
                }
                ArrayState::After if byte == b',' => {
                    place = ArrayState::Next;
                    at += 1;
                }
                ArrayState::First | ArrayState::Next if !matches!(byte, b',' | b']' | b'}' | b':') => {
                    self.chunk.advance(at);
                    at = 0;
                    place = ArrayState::Inside { depth: 0, string: false, escape: false };
                }
                ArrayState::Start => break Piece::Broken("an array begins with `[`"),
                ArrayState::First | ArrayState::Next => break Piece::Broken("an element of the array is missing"),
                ArrayState::After => break Piece::Broken("`,` or `]` is missing after an element of the array"),
                ArrayState::Done => break Piece::Broken("something follows the array"),
            }
        };
        self.form = Form::Array(place);
        piece
    }

    /// Cuts off the item that ends before `end` in the chunk.
    fn cut_item(&mut self, end: usize) -> Piece {
        let too_long = self.skipping || self.carry.len() + end > self.longest;
        let rest = self.chunk.split_to(end);
        if too_long {
            self.carry.clear();
            self.skipping = false;
            return Piece::TooLong;
        }
        if self.carry.is_empty() {
            return Piece::Item(rest);
        }
        self.carry.extend_from_slice(&rest);
        Piece::Item(self.carry.split().freeze())
    }

    /// Keeps the part of an item that is in the chunk, while its end has not arrived.
    fn keep(&mut self, end: usize) {
        if self.skipping || self.carry.len() + end > self.longest {
            self.skipping = true;
            self.carry.clear();
        } else {
            self.carry.extend_from_slice(self.chunk.get(..end).unwrap_or_default());
        }
        self.chunk.clear();
    }
}

/// The effect of one byte inside an element.
enum Step {
    Goes(ArrayState),
    /// The element has ended, with or before this byte.
    Ends {
        with_it: bool,
    },
}

fn inside(byte: u8, depth: u32, string: bool, escape: bool) -> Step {
    let goes = |depth, string, escape| Step::Goes(ArrayState::Inside { depth, string, escape });
    if string {
        return match byte {
            _ if escape => goes(depth, true, false),
            b'\\' => goes(depth, true, true),
            b'"' if depth == 0 => Step::Ends { with_it: true },
            b'"' => goes(depth, false, false),
            _ => goes(depth, true, false),
        };
    }
    match byte {
        b'"' => goes(depth, true, false),
        b'{' | b'[' => goes(depth.saturating_add(1), false, false),
        b'}' | b']' if depth == 1 => Step::Ends { with_it: true },
        b'}' | b']' if depth > 1 => goes(depth - 1, false, false),
        b',' | b']' | b'}' | b' ' | b'\t' | b'\n' | b'\r' if depth == 0 => Step::Ends { with_it: false },
        _ => goes(depth, false, false),
    }
}

fn is_blank(line: &[u8]) -> bool {
    line.iter().all(|byte| matches!(byte, b' ' | b'\t' | b'\r'))
}

#[cfg(test)]
mod tests;
