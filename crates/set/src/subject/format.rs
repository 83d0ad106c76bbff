//! The formats of simple subjects and the rules for their members.

use std::net::IpAddr;

use serde_json::{Map, Value};

use super::{Subject, SubjectError};

/// The format of a simple subject.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Format {
    /// `account` (RFC 9493 §3.2.1).
    Account,
    /// `email` (RFC 9493 §3.2.2).
    Email,
    /// `iss_sub` (RFC 9493 §3.2.3).
    IssSub,
    /// `opaque` (RFC 9493 §3.2.4).
    Opaque,
    /// `phone_number` (RFC 9493 §3.2.5).
    PhoneNumber,
    /// `did` (RFC 9493 §3.2.6).
    Did,
    /// `uri` (RFC 9493 §3.2.7).
    Uri,
    /// `aliases` (RFC 9493 §3.2.8).
    Aliases,
    /// `jwt_id` (SSF 1.0 §3.5.1).
    JwtId,
    /// `saml_assertion_id` (SSF 1.0 §3.5.2).
    SamlAssertionId,
    /// `ip-addresses` (SSF 1.0 §3.5.3).
    IpAddresses,
    /// `scim` (RFC 9967 §2.1).
    Scim,
    /// A proprietary format (SSF 1.0 §3.4).
    Other(Box<str>),
}

/// A rule for the text of a member; the error says what was expected.
type Rule = fn(&str) -> Result<(), &'static str>;

impl Format {
    /// Returns the name on the wire.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Account => "account",
            Self::Email => "email",
            Self::IssSub => "iss_sub",
            Self::Opaque => "opaque",
            Self::PhoneNumber => "phone_number",
            Self::Did => "did",
            Self::Uri => "uri",
            Self::Aliases => "aliases",
            Self::JwtId => "jwt_id",
            Self::SamlAssertionId => "saml_assertion_id",
            Self::IpAddresses => "ip-addresses",
            Self::Scim => "scim",
            Self::Other(name) => name,
        }
    }

    /// Reads the format that an object names.
    pub(super) fn of(members: &Map<String, Value>) -> Result<Self, SubjectError> {
        let name = match members.get("format") {
            Some(Value::String(name)) => name.as_str(),
            Some(_) => return Err(SubjectError::new("/format", "a string is expected")),
            None if members.contains_key("subject_type") => {
                let message = "this is the spelling of older drafts: write `format` (RFC 9493 §3)";
                return Err(SubjectError::new("/subject_type", message));
            }
            None if !members.is_empty() && members.values().all(Value::is_object) => {
                let message = "`format` is missing; a complex subject says `\"format\": \"complex\"` (SSF 1.0 §3.3)";
                return Err(SubjectError::new("", message));
            }
            None => return Err(SubjectError::new("", "`format` is missing (RFC 9493 §3)")),
        };
        let format = match name {
            "account" => Self::Account,
            "email" => Self::Email,
            "iss_sub" => Self::IssSub,
            "opaque" => Self::Opaque,
            "phone_number" => Self::PhoneNumber,
            "did" => Self::Did,
            "uri" => Self::Uri,
            "aliases" => Self::Aliases,
            "jwt_id" => Self::JwtId,
            "saml_assertion_id" => Self::SamlAssertionId,
            "ip-addresses" => Self::IpAddresses,
            "scim" => Self::Scim,
            "complex" => {
                return Err(SubjectError::new("/format", "a complex subject cannot stand inside another subject"));
            }
            other => return Self::other(other).map_err(|message| SubjectError::new("/format", message)),
        };
        Ok(format)
    }

    fn other(name: &str) -> Result<Self, String> {
        let today = match name {
            "iss-sub" => "iss_sub",
            "phone" | "phone-number" => "phone_number",
            "jwt-id" => "jwt_id",
            "saml-assertion-id" => "saml_assertion_id",
            "ip_addresses" => "ip-addresses",
            "id-token-claims" | "id_token_claims" => "aliases",
            _ if name.is_empty()
                || name.len() > Subject::LONGEST_NAME
                || !name.bytes().all(|b| b.is_ascii_graphic()) =>
            {
                return Err(format!("a format's name has 1 to {} visible ASCII characters", Subject::LONGEST_NAME));
            }
            _ => return Ok(Self::Other(name.into())),
        };
        Err(format!("`{name}` is the name of older drafts: write `{today}`"))
    }

    /// Checks that an object has the members of this format, and no other unless the format is `scim` or proprietary,
    /// and that their values are well-formed.
    ///
    /// The entries of `aliases` are not checked.
    pub(super) fn check(&self, members: &Map<String, Value>) -> Result<(), SubjectError> {
        match self {
            Self::Account => texts(members, &[("uri", account)], false),
            Self::Email => texts(members, &[("email", email)], false),
            Self::IssSub => texts(members, &[("iss", issuer), ("sub", any)], false),
            Self::Opaque => texts(members, &[("id", any)], false),
            Self::PhoneNumber => texts(members, &[("phone_number", phone_number)], false),
            Self::Did => texts(members, &[("url", did)], false),
            Self::Uri => texts(members, &[("uri", uri)], false),
            Self::JwtId => texts(members, &[("iss", issuer), ("jti", any)], false),
            Self::SamlAssertionId => texts(members, &[("issuer", issuer), ("assertion_id", any)], false),
            Self::Scim => {
                texts(members, &[("uri", reference)], true)?;
                ["id", "externalId"]
                    .iter()
                    .filter(|name| members.contains_key(**name))
                    .try_for_each(|name| text(members, name).map(|_| ()))
            }
            Self::Aliases => {
                only(members, &["identifiers"])?;
                list(members, "identifiers", Subject::MOST_ALIASES).map(|_| ())
            }
            Self::IpAddresses => {
                only(members, &["ip-addresses"])?;
                let items = list(members, "ip-addresses", Subject::MOST_ALIASES)?;
                let wrong =
                    items.iter().position(|item| item.as_str().is_none_or(|text| text.parse::<IpAddr>().is_err()));
                wrong.map_or(Ok(()), |index| {
                    Err(SubjectError::new(format!("/ip-addresses/{index}"), "the text of an IP address is expected"))
                })
            }
            Self::Other(_) if members.len() < 2 => Err(SubjectError::new("", "a member beside `format` is expected")),
            Self::Other(_) => Ok(()),
        }
    }
}

fn texts(members: &Map<String, Value>, rules: &[(&str, Rule)], open: bool) -> Result<(), SubjectError> {
    if !open {
        let names: Vec<&str> = rules.iter().map(|(name, _)| *name).collect();
        only(members, &names)?;
    }
    for (name, rule) in rules {
        rule(text(members, name)?).map_err(|message| SubjectError::new(format!("/{name}"), message))?;
    }
    Ok(())
}

fn only(members: &Map<String, Value>, names: &[&str]) -> Result<(), SubjectError> {
    match members.keys().find(|name| *name != "format" && !names.contains(&name.as_str())) {
        None => Ok(()),
        Some(name) => {
            let message = "the format does not define this member (RFC 9493 §3)";
            Err(SubjectError::new(format!("/{}", crate::json::token(name)), message))
        }
    }
}

fn text<'a>(members: &'a Map<String, Value>, name: &str) -> Result<&'a str, SubjectError> {
    match members.get(name) {
        Some(Value::String(text)) if !text.is_empty() => Ok(text),
        Some(_) => Err(SubjectError::new(format!("/{name}"), "a string that is not empty is expected")),
        None => Err(SubjectError::new("", format!("`{name}` is missing"))),
    }
}

fn list<'a>(members: &'a Map<String, Value>, name: &str, most: usize) -> Result<&'a [Value], SubjectError> {
    match members.get(name) {
        Some(Value::Array(items)) if (1..=most).contains(&items.len()) => Ok(items),
        Some(_) => Err(SubjectError::new(format!("/{name}"), format!("an array of 1 to {most} items is expected"))),
        None => Err(SubjectError::new("", format!("`{name}` is missing"))),
    }
}

fn any(_: &str) -> Result<(), &'static str> {
    Ok(())
}

/// Checks an `acct` URI: `acct:` userpart `@` host (RFC 7565).
fn account(text: &str) -> Result<(), &'static str> {
    let wrong = "an `acct:` URI is expected (RFC 7565)";
    uri(text).map_err(|_| wrong)?;
    let (scheme, rest) = text.split_once(':').ok_or(wrong)?;
    match rest.rsplit_once('@') {
        Some((user, host)) if scheme.eq_ignore_ascii_case("acct") && !user.is_empty() && !host.is_empty() => Ok(()),
        _ => Err(wrong),
    }
}

/// Checks an addr-spec of RFC 5322 §3.4.1, without comments and folding; characters beyond ASCII are allowed (RFC 6532
/// §3.2).
fn email(text: &str) -> Result<(), &'static str> {
    let wrong = "an e-mail address without a display name is expected (RFC 5322 §3.4.1)";
    let (local, domain) = text.rsplit_once('@').ok_or(wrong)?;
    let quoted = local.len() > 2 && local.starts_with('"') && local.ends_with('"');
    let atom = |c: char| !c.is_control() && !c.is_whitespace() && !"()<>[]:;@\\,\"".contains(c);
    let local_fits = if quoted { !local.contains(char::is_control) } else { dotted(local, atom) };
    let literal = domain.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let domain_fits = match literal {
        Some(inner) => !inner.is_empty() && inner.chars().all(|c| c.is_ascii_graphic() && !"[]\\".contains(c)),
        None => dotted(domain, atom),
    };
    if local_fits && domain_fits && text.len() <= 320 { Ok(()) } else { Err(wrong) }
}

fn dotted(text: &str, atom: impl Fn(char) -> bool) -> bool {
    text.split('.').all(|part| !part.is_empty() && part.chars().all(&atom))
}

/// Checks an E.164 number with an international prefix; the separators that SSF 1.0 §5 prints are accepted.
fn phone_number(text: &str) -> Result<(), &'static str> {
    let wrong = "a telephone number with `+` and the country code is expected (E.164)";
    let rest = text.strip_prefix('+').ok_or(wrong)?;
    let digits = rest.bytes().filter(u8::is_ascii_digit).count();
    let fits = rest.bytes().all(|b| b.is_ascii_digit() || b" -.()".contains(&b));
    if fits && (3..=15).contains(&digits) && text.len() <= 32 { Ok(()) } else { Err(wrong) }
}

/// Checks a DID or a DID URL (DID Core 3.1, 3.2).
fn did(text: &str) -> Result<(), &'static str> {
    let wrong = "a DID or a DID URL is expected";
    uri(text).map_err(|_| wrong)?;
    let (method, id) = text.strip_prefix("did:").and_then(|rest| rest.split_once(':')).ok_or(wrong)?;
    let method_fits = !method.is_empty() && method.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    if method_fits && !id.is_empty() && !id.starts_with(['/', '?', '#']) { Ok(()) } else { Err(wrong) }
}

/// Checks a StringOrURI (RFC 7519 §2): a text with a colon is a URI.
fn issuer(text: &str) -> Result<(), &'static str> {
    if text.len() > Subject::LONGEST_URI {
        return Err("at most 512 bytes are expected");
    }
    if text.contains(':') && uri(text).is_err() {
        return Err("a text with a colon is a URI here (RFC 7519 §2)");
    }
    Ok(())
}

/// Checks a reference of SCIM, relative to the service provider's base (RFC 9967 §2.1).
fn reference(text: &str) -> Result<(), &'static str> {
    if text.len() <= Subject::LONGEST_URI && uri_characters(text) {
        Ok(())
    } else {
        Err("a URI or a path of at most 512 bytes is expected")
    }
}

/// Checks a URI with a scheme (RFC 3986 §3), of at most 512 bytes.
pub(crate) fn uri(text: &str) -> Result<(), &'static str> {
    let wrong = "an absolute URI of at most 512 bytes is expected (RFC 3986)";
    let (scheme, rest) = text.split_once(':').ok_or(wrong)?;
    let scheme_fits = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
    if scheme_fits && !rest.is_empty() && text.len() <= Subject::LONGEST_URI && uri_characters(rest) {
        Ok(())
    } else {
        Err(wrong)
    }
}

/// Returns whether a text has only the characters of RFC 3986 §2, with two hexadecimal digits after each `%`.
fn uri_characters(text: &str) -> bool {
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        let fits = match byte {
            b'%' => {
                let mut hex = || bytes.next().is_some_and(|b| b.is_ascii_hexdigit());
                hex() && hex()
            }
            _ => byte.is_ascii_alphanumeric() || b"-._~:/?#[]@!$&'()*+,;=".contains(&byte),
        };
        if !fits {
            return false;
        }
    }
    true
}
