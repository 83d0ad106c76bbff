//! Escaping of foreign text before it is shown (hardening H50).

use std::fmt::Write;

use url::Url;

/// Returns `text` with everything escaped that could control a terminal or a page or deceive a reader, cut to at most
/// `max` bytes.
///
/// Control characters, line separators, marks of writing direction and invisible characters become `\u{..}`; a
/// backslash is doubled, so that the escapes cannot be forged. Neither a character nor an escape is ever cut in the
/// middle.
#[must_use]
pub fn clean(text: &str, max: usize) -> String {
    let mut out = String::with_capacity(text.len().min(max));
    for character in text.chars() {
        let before = out.len();
        if character == '\\' {
            out.push_str("\\\\");
        } else if is_harmful(character) {
            // Writing to a string does not fail.
            let _ = write!(out, "\\u{{{:x}}}", u32::from(character));
        } else {
            out.push(character);
        }
        if out.len() > max {
            out.truncate(before);
            break;
        }
    }
    out
}

/// Returns JSON in which every harmful character is written as JSON's own escape: a parser reads the same values, and
/// the text cannot control a terminal.
#[must_use]
pub fn clean_json(json: String) -> String {
    if !json.contains(is_harmful) {
        return json;
    }
    let mut out = String::with_capacity(json.len() + 64);
    for character in json.chars() {
        // Line breaks and tabs occur only between the tokens of JSON, never unescaped in its strings.
        if is_harmful(character) && !matches!(character, '\n' | '\r' | '\t') {
            for unit in character.encode_utf16(&mut [0; 2]) {
                let _ = write!(out, "\\u{unit:04x}");
            }
        } else {
            out.push(character);
        }
    }
    out
}

fn is_harmful(character: char) -> bool {
    character.is_control()
        || matches!(character,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// Returns the form of an endpoint's URL for logs, metrics and pages: scheme, host, port and a short hash of the whole
/// URL.
///
/// Path and query often carry secrets; the hash tells two endpoints of one host apart and is too short to confirm a
/// guess.
#[must_use]
pub fn endpoint_label(url: &str) -> String {
    let hash = blake3::hash(url.as_bytes()).to_hex();
    let hash = hash.get(..8).unwrap_or_default();
    match Url::parse(url) {
        Ok(url) => {
            let host = clean(url.host_str().unwrap_or_default(), 255);
            let port = url.port_or_known_default().map(|port| format!(":{port}")).unwrap_or_default();
            format!("{}://{host}{port}#{hash}", url.scheme())
        }
        Err(_) => format!("#{hash}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_steers_no_terminal_and_means_the_same() {
        let shown = clean_json("{\n\t\"a\u{9b}31m\": \"\u{7f}\u{202e}\u{e0041} \\u001bä\\\\\"}".to_owned());
        // RFC 8259 §7: four digits each, two of them beyond the basic plane.
        assert_eq!(shown, "{\n\t\"a\\u009b31m\": \"\\u007f\\u202e\\udb40\\udc41 \\u001bä\\\\\"}");
    }

    #[test]
    fn escapes_what_steers_terminals_and_eyes() {
        assert_eq!(clean("a\x1b[31mb\r\n\u{202e}c\\", 100), r"a\u{1b}[31mb\u{d}\u{a}\u{202e}c\\");
    }

    #[test]
    fn cuts_neither_characters_nor_escapes() {
        assert_eq!(clean("ää", 3), "ä");
        assert_eq!(clean("a\u{1b}", 5), "a");
        assert_eq!(clean("abc", 2), "ab");
        for max in 0..40 {
            assert!(clean("\u{1b}ä\u{202e}x\\y\0", max).len() <= max);
        }
    }

    #[test]
    fn an_endpoints_label_has_no_path_query_or_user() {
        let label = endpoint_label("https://user:canary@example.com/canary?canary=canary#canary");
        assert!(label.starts_with("https://example.com:443#"), "{label}");
        assert!(!label.contains("canary"), "{label}");
        assert_ne!(label, endpoint_label("https://example.com/other"));
        assert!(!endpoint_label("no url canary").contains("canary"));
    }
}
