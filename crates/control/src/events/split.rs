//! Cuts a body into its events without keeping it: lines (NDJSON), or the elements of an array.

use bytes::{Buf, Bytes, BytesMut};

/// What the splitter found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// The text of one event.
    Item(Bytes),
    /// One event is longer than the limit; its text is gone.
    TooLong,
    /// More of the body is needed.
    More,
    /// The body has ended where it may.
    End,
    /// The body is not what it says it is, or ends inside; what follows cannot be read.
    Broken(&'static str),
}

/// Cuts one body. Memory is bounded by the longest item and the chunk at hand.
#[derive(Debug)]
pub(super) struct Splitter {
    form: Form,
    chunk: Bytes,
    /// The beginning of an item whose end is in a later chunk.
    carry: BytesMut,
    longest: usize,
    /// The current item is too long and is thrown away.
    skipping: bool,
    finished: bool,
}

#[derive(Debug)]
enum Form {
    Lines,
    Array(ArrayState),
}

/// Where in an array the next byte stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ArrayState {
    /// Before `[`.
    Start,
    /// Before the first element, or `]`.
    First,
    /// Before an element: after a comma.
    Next,
    /// Inside an element.
    Inside { depth: u32, string: bool, escape: bool },
    /// After an element that was closed by a bracket, quotation mark or white space.
    After,
    /// After `]`.
    Done,
}

impl Splitter {
    /// A splitter of lines.
    pub(super) fn lines(longest: usize) -> Self {
        Self::of(Form::Lines, longest)
    }

    /// A splitter of an array's elements.
    pub(super) fn array(longest: usize) -> Self {
        Self::of(Form::Array(ArrayState::Start), longest)
    }

    fn of(form: Form, longest: usize) -> Self {
        Self { form, chunk: Bytes::new(), carry: BytesMut::new(), longest, skipping: false, finished: false }
    }

    /// Gives it the next chunk; only after [`Piece::More`].
    pub(super) fn push(&mut self, chunk: Bytes) {
        debug_assert!(self.chunk.is_empty());
        self.chunk = chunk;
    }

    /// Tells it that the body has ended.
    pub(super) fn finish(&mut self) {
        self.finished = true;
    }

    /// Whether it stands inside an item: an end here would lose something.
    pub(super) fn is_inside(&self) -> bool {
        !self.carry.is_empty() || self.skipping
    }

    /// The next piece.
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

    /// The item that ends before `end` in the chunk.
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

    /// Keeps what the chunk has of an item whose end is not there yet.
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

/// What one byte inside an element does.
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
