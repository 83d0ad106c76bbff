//! A parser that reads foreign JSON as I-JSON (RFC 7493) in one pass.

use std::borrow::Cow;

use serde_json::{Map, Number, Value, map::Entry};

/// The limits of one JSON text.
#[derive(Clone, Copy, Debug)]
pub struct JsonLimits {
    /// The nesting of arrays and objects; the outermost counts as one.
    pub depth: usize,
    /// The most members of one object.
    pub members: usize,
}

impl Default for JsonLimits {
    fn default() -> Self {
        Self { depth: 32, members: 1000 }
    }
}

/// The reason why a text is not acceptable JSON.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message} at byte {at}{}", self.place())]
pub struct JsonError {
    /// The fault, in words for people. It never quotes a value.
    pub message: String,
    /// The place, in bytes from the start.
    pub at: usize,
    /// The value or member that was being read, as a JSON pointer (RFC 6901); empty for the whole text.
    pub pointer: String,
}

impl JsonError {
    fn place(&self) -> String {
        if self.pointer.is_empty() { String::new() } else { format!(" in {}", self.pointer) }
    }
}

/// Reads one JSON text as I-JSON (RFC 7493), strictly, at every level.
///
/// The parser refuses duplicate member names, invalid UTF-8, surrogates and noncharacters, U+0000, a byte order mark,
/// numbers beyond a double, integers that neither `i64` nor `u64` holds, and whatever exceeds the limits (hardening
/// H30). Accepted values keep their meaning: integers stay exact, other numbers are the nearest double.
///
/// # Errors
/// Returns [`JsonError`] with the fault and its place.
pub fn parse(text: &[u8], limits: &JsonLimits) -> Result<Value, JsonError> {
    let text = match std::str::from_utf8(text) {
        Ok(text) => text,
        Err(error) => {
            return Err(JsonError {
                message: "the text is not UTF-8".into(),
                at: error.valid_up_to(),
                pointer: String::new(),
            });
        }
    };
    let mut reader = Reader { text, bytes: text.as_bytes(), at: 0, limits };
    reader.document().map_err(|error| *error)
}

/// Returns a name as a reference token of a JSON pointer (RFC 6901 §3).
pub(crate) fn token(name: &str) -> Cow<'_, str> {
    if name.contains(['~', '/']) { name.replace('~', "~0").replace('/', "~1").into() } else { name.into() }
}

/// Returns a value as compact JSON text, members in the order of their names.
pub(crate) fn compact(value: &impl serde::Serialize) -> String {
    // The names of all values are strings, and writing to a `String` does not fail.
    serde_json::to_string(value).unwrap_or_default()
}

type Parsed<T> = Result<T, Box<JsonError>>;

struct Reader<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
    limits: &'a JsonLimits,
}

impl<'a> Reader<'a> {
    fn document(&mut self) -> Parsed<Value> {
        let value = self.value(0)?;
        match self.next_token() {
            None => Ok(value),
            Some(_) => self.fail("characters after the end of the value"),
        }
    }

    fn value(&mut self, depth: usize) -> Parsed<Value> {
        match self.next_token() {
            Some(b'"') => Ok(Value::String(self.string()?.into_owned())),
            Some(b'{') => self.object(depth + 1),
            Some(b'[') => self.array(depth + 1),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b't') => self.word("true", Value::Bool(true)),
            Some(b'f') => self.word("false", Value::Bool(false)),
            Some(b'n') => self.word("null", Value::Null),
            Some(_) => self.fail("a JSON value was expected"),
            None => self.fail("the text ends where a value was expected"),
        }
    }

    fn object(&mut self, depth: usize) -> Parsed<Value> {
        self.enter(depth)?;
        let mut map = Map::new();
        if self.next_token() == Some(b'}') {
            self.at += 1;
            return Ok(Value::Object(map));
        }
        loop {
            let start = match self.next_token() {
                Some(b'"') => self.at,
                _ => return self.fail("a member name was expected"),
            };
            let name = self.string()?;
            if map.len() >= self.limits.members {
                return self.fail_at(start, format!("an object has more than {} members", self.limits.members));
            }
            let slot = match map.entry(name) {
                Entry::Vacant(slot) => slot,
                Entry::Occupied(slot) => {
                    let pointer = format!("/{}", token(slot.key()));
                    return self.fail_at(start, "a member name occurs twice").map_err(|error| below(error, &pointer));
                }
            };
            if self.next_token() != Some(b':') {
                return self.fail("`:` was expected after a member name");
            }
            self.at += 1;
            match self.value(depth) {
                Ok(value) => slot.insert(value),
                Err(error) => return Err(below(error, &format!("/{}", token(slot.key())))),
            };
            match self.next_token() {
                Some(b',') => self.at += 1,
                Some(b'}') => {
                    self.at += 1;
                    return Ok(Value::Object(map));
                }
                _ => return self.fail("`,` or `}` was expected after a member"),
            }
        }
    }

    fn array(&mut self, depth: usize) -> Parsed<Value> {
        self.enter(depth)?;
        let mut items = Vec::new();
        if self.next_token() == Some(b']') {
            self.at += 1;
            return Ok(Value::Array(items));
        }
        loop {
            items.push(self.value(depth).map_err(|error| below(error, &format!("/{}", items.len())))?);
            match self.next_token() {
                Some(b',') => self.at += 1,
                Some(b']') => {
                    self.at += 1;
                    return Ok(Value::Array(items));
                }
                _ => return self.fail("`,` or `]` was expected after an item"),
            }
        }
    }

    fn enter(&mut self, depth: usize) -> Parsed<()> {
        if depth > self.limits.depth {
            return self.fail(format!("nesting is deeper than {}", self.limits.depth));
        }
        self.at += 1;
        Ok(())
    }

    /// Reads a string; the cursor is at its opening quote.
    fn string(&mut self) -> Parsed<Cow<'a, str>> {
        let start = self.at + 1;
        self.at = start;
        let mut seen = 0u8;
        let mut built: Option<String> = None;
        let mut from = start;
        loop {
            let rest = self.bytes.get(self.at..).unwrap_or_default();
            let plain = rest.iter().position(|&byte| {
                seen |= byte;
                byte == b'"' || byte == b'\\' || byte < 0x20
            });
            let Some(plain) = plain else {
                self.at = self.bytes.len();
                return self.fail("the text ends inside a string");
            };
            self.at += plain;
            let run = self.text.get(from..self.at).unwrap_or_default();
            match self.peek() {
                Some(b'"') => {
                    let whole = match built {
                        None => Cow::Borrowed(run),
                        Some(mut built) => {
                            built.push_str(run);
                            Cow::Owned(built)
                        }
                    };
                    if seen >= 0x80 && whole.chars().any(is_noncharacter) {
                        return self.fail_at(start, "a string has a noncharacter, which I-JSON forbids");
                    }
                    self.at += 1;
                    return Ok(whole);
                }
                Some(b'\\') => {
                    let built = built.get_or_insert_with(String::new);
                    built.push_str(run);
                    let unescaped = self.escape()?;
                    if !unescaped.is_ascii() {
                        seen |= 0x80;
                    }
                    built.push(unescaped);
                    from = self.at;
                }
                _ => return self.fail("a string has a control character that is not escaped"),
            }
        }
    }

    /// Reads an escape; the cursor is at its backslash.
    fn escape(&mut self) -> Parsed<char> {
        let start = self.at;
        self.at += 2;
        let unescaped = match self.bytes.get(start + 1) {
            Some(b'"') => '"',
            Some(b'\\') => '\\',
            Some(b'/') => '/',
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => {
                let first = self.hex(start)?;
                let code = match first {
                    0xd800..=0xdbff => {
                        let second = if self.bytes.get(self.at..self.at + 2) == Some(b"\\u".as_slice()) {
                            self.at += 2;
                            self.hex(start)?
                        } else {
                            0
                        };
                        if !(0xdc00..=0xdfff).contains(&second) {
                            return self.fail_at(start, "an escape is half of a surrogate pair");
                        }
                        0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00)
                    }
                    0 => return self.fail_at(start, "a string has U+0000"),
                    code => code,
                };
                match char::from_u32(code) {
                    Some(unescaped) => unescaped,
                    None => return self.fail_at(start, "an escape is half of a surrogate pair"),
                }
            }
            _ => return self.fail_at(start, "a string has an unknown escape"),
        };
        Ok(unescaped)
    }

    fn hex(&mut self, start: usize) -> Parsed<u32> {
        let digits = self.bytes.get(self.at..self.at + 4).unwrap_or_default();
        let code = digits.iter().try_fold(0, |code, &digit| Some(code * 16 + char::from(digit).to_digit(16)?));
        match code {
            Some(code) if digits.len() == 4 => {
                self.at += 4;
                Ok(code)
            }
            _ => self.fail_at(start, "`\\u` needs four hexadecimal digits"),
        }
    }

    fn number(&mut self) -> Parsed<Value> {
        let start = self.at;
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        match self.peek() {
            Some(b'0') => self.at += 1,
            Some(b'1'..=b'9') => self.digits(),
            _ => return self.fail_at(start, "a number needs a digit after its sign"),
        }
        if matches!(self.peek(), Some(b'0'..=b'9')) {
            return self.fail_at(start, "a number has a leading zero");
        }
        let mut whole = true;
        if self.peek() == Some(b'.') {
            whole = false;
            self.at += 1;
            if !matches!(self.peek(), Some(b'0'..=b'9')) {
                return self.fail_at(start, "a number needs a digit after its point");
            }
            self.digits();
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            whole = false;
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            if !matches!(self.peek(), Some(b'0'..=b'9')) {
                return self.fail_at(start, "a number needs a digit in its exponent");
            }
            self.digits();
        }
        let text = self.text.get(start..self.at).unwrap_or_default();
        if whole && text != "-0" {
            if let Ok(number) = text.parse::<u64>() {
                return Ok(Value::Number(number.into()));
            }
            if let Ok(number) = text.parse::<i64>() {
                return Ok(Value::Number(number.into()));
            }
            // A double would change the value, and readers that keep big integers would see another number.
            return self.fail_at(start, "an integer needs more than 64 bits; send it as a string");
        }
        match text.parse::<f64>().ok().filter(|number| number.is_finite()).and_then(Number::from_f64) {
            Some(number) => Ok(Value::Number(number)),
            None => self.fail_at(start, "a number is beyond the range of a double"),
        }
    }

    fn digits(&mut self) {
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
    }

    fn word(&mut self, word: &str, value: Value) -> Parsed<Value> {
        if self.bytes.get(self.at..).is_some_and(|rest| rest.starts_with(word.as_bytes())) {
            self.at += word.len();
            Ok(value)
        } else {
            self.fail("a JSON value was expected")
        }
    }

    /// Skips white space and returns the next byte without consuming it.
    fn next_token(&mut self) -> Option<u8> {
        loop {
            match self.peek() {
                Some(b' ' | b'\n' | b'\r' | b'\t') => self.at += 1,
                other => return other,
            }
        }
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn fail<T>(&self, message: impl Into<String>) -> Parsed<T> {
        self.fail_at(self.at, message)
    }

    #[cold]
    fn fail_at<T>(&self, at: usize, message: impl Into<String>) -> Parsed<T> {
        Err(Box::new(JsonError { message: message.into(), at, pointer: String::new() }))
    }
}

#[cold]
fn below(mut error: Box<JsonError>, place: &str) -> Box<JsonError> {
    error.pointer.insert_str(0, place);
    error
}

/// Returns whether a character is a noncharacter (Unicode 23.7): U+FDD0 to U+FDEF, and the last two code points of each
/// plane.
fn is_noncharacter(character: char) -> bool {
    let code = u32::from(character);
    (0xfdd0..=0xfdef).contains(&code) || code & 0xfffe == 0xfffe
}

#[cfg(test)]
mod tests;
