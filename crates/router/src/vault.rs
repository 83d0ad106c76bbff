//! Receivers' secrets at rest, sealed with their place, so that a ciphertext moved to another stream cannot be opened
//! (hardening H36).

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use serde_json::{Value as Json, json};
use setgate_jose::{Kek, SealError};
use setgate_store::Key;
use setgate_stream::{Delivery, Stream};

use crate::record::PREFIX;

const SEALED: &str = "$sealed";

/// The places of the secrets in a stream's delivery.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Secrets {
    /// JSON pointers into the terms.
    pub(crate) terms: &'static [&'static str],
    /// JSON pointers into the grant.
    pub(crate) grant: &'static [&'static str],
}

/// The reason why a stream's record cannot be written or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VaultError {
    /// The record is not the JSON of a stream.
    #[error(transparent)]
    Record(#[from] serde_json::Error),
    /// A secret cannot be sealed.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// A sealed value cannot be opened.
    #[error("`{place}` cannot be opened: {source}")]
    Open {
        /// The place of the value.
        place: String,
        /// The reason: the seal, its base64, or the JSON in it.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl VaultError {
    fn open(place: &str, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Open { place: place.to_owned(), source: source.into() }
    }
}

/// Seals the secrets of a stream's delivery.
///
/// # Errors
/// [`VaultError`] when a secret cannot be sealed.
pub(crate) fn seal(kek: &Kek, stream: &str, delivery: &mut Delivery, secrets: Secrets) -> Result<(), VaultError> {
    each(stream, delivery, secrets, |place, value| {
        if !value.is_null() {
            let sealed = kek.seal_secret(place, value.to_string().as_bytes())?;
            *value = json!({ SEALED: STANDARD_NO_PAD.encode(sealed) });
        }
        Ok(())
    })
}

/// Opens the secrets that [`seal`] sealed.
///
/// # Errors
/// [`VaultError`] names the value that cannot be opened and the reason.
pub(crate) fn open(kek: &Kek, stream: &str, delivery: &mut Delivery, secrets: Secrets) -> Result<(), VaultError> {
    each(stream, delivery, secrets, |place, value| {
        let Some(text) = value.get(SEALED).and_then(Json::as_str) else { return Ok(()) };
        let sealed = STANDARD_NO_PAD.decode(text).map_err(|error| VaultError::open(place, error))?;
        let plain = kek.open_secret(place, &sealed).map_err(|error| VaultError::open(place, error))?;
        *value = serde_json::from_slice(&plain).map_err(|error| VaultError::open(place, error))?;
        Ok(())
    })
}

/// Seals with `next` what `kek` sealed in the record of a stream; returns `None` for any other record, or when it holds
/// nothing of that key.
///
/// # Errors
/// [`VaultError`] when a value cannot be opened or sealed.
pub fn reseal(key: &Key, value: &[u8], kek: &Kek, next: &Kek) -> Result<Option<Vec<u8>>, VaultError> {
    if !key.0.starts_with(PREFIX) {
        return Ok(None);
    }
    let mut stream: Stream = serde_json::from_slice(value)?;
    let id = stream.id.as_str().to_owned();
    let delivery = &mut stream.delivery;
    let mut changed = false;
    // The function looks for the marks of sealed values, since the method that knows its secrets may not be linked now.
    for (part, json) in [("delivery", &mut delivery.terms), ("grant", &mut delivery.grant)] {
        walk(&mut format!("stream/{id}/{part}"), json, &mut |place, text| {
            let Ok(sealed) = STANDARD_NO_PAD.decode(&*text) else { return Ok(()) };
            if Kek::id_of(&sealed).is_none_or(|id| id != kek.id()) {
                return Ok(());
            }
            let sealed = kek.reseal_secret(next, place, &sealed).map_err(|error| VaultError::open(place, error))?;
            *text = STANDARD_NO_PAD.encode(sealed);
            changed = true;
            Ok(())
        })?;
    }
    if !changed {
        return Ok(None);
    }
    Ok(Some(serde_json::to_vec(&stream)?))
}

/// Visits every sealed value below a place, with its own place.
fn walk(
    place: &mut String,
    json: &mut Json,
    visit: &mut impl FnMut(&str, &mut String) -> Result<(), VaultError>,
) -> Result<(), VaultError> {
    let at = place.len();
    match json {
        Json::Object(members) => {
            if let Some(Json::String(text)) = members.get_mut(SEALED) {
                return visit(place, text);
            }
            for (name, value) in members {
                // Names are escaped as in JSON pointers (RFC 6901 §3).
                place.push('/');
                place.push_str(&name.replace('~', "~0").replace('/', "~1"));
                walk(place, value, visit)?;
                place.truncate(at);
            }
        }
        Json::Array(all) => {
            for (index, value) in all.iter_mut().enumerate() {
                place.push_str(&format!("/{index}"));
                walk(place, value, visit)?;
                place.truncate(at);
            }
        }
        _ => {}
    }
    Ok(())
}

fn each(
    stream: &str,
    delivery: &mut Delivery,
    secrets: Secrets,
    mut visit: impl FnMut(&str, &mut Json) -> Result<(), VaultError>,
) -> Result<(), VaultError> {
    for (part, json, pointers) in
        [("delivery", &mut delivery.terms, secrets.terms), ("grant", &mut delivery.grant, secrets.grant)]
    {
        for pointer in pointers {
            if let Some(value) = json.pointer_mut(pointer) {
                visit(&format!("stream/{stream}/{part}{pointer}"), value)?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_opens_only_in_its_place() {
        let kek = Kek::generate().unwrap();
        let clear = Delivery {
            method: "push".into(),
            terms: json!({ "endpoint_url": "https://r.example", "authorization_header": "Bearer canary" }),
            grant: json!({ "client_key_pem": "canary" }),
        };
        let secrets = Secrets { terms: &["/authorization_header"], grant: &["/client_key_pem"] };
        let mut sealed = clear.clone();
        seal(&kek, "a", &mut sealed, secrets).unwrap();
        assert!(!serde_json::to_string(&sealed).unwrap().contains("canary"));
        let mut moved = sealed.clone();
        let error = open(&kek, "b", &mut moved, secrets).unwrap_err();
        assert_eq!(
            setgate_telemetry::chain(&error),
            "`stream/b/delivery/authorization_header` cannot be opened: the sealed value was changed, or does not belong here",
            "to another stream"
        );
        let source = std::error::Error::source(&error).and_then(|source| source.downcast_ref::<SealError>());
        assert_eq!(source, Some(&SealError::Tampered));
        let mut swapped = sealed.clone();
        swapped.grant["client_key_pem"] = swapped.terms["authorization_header"].clone();
        assert!(open(&kek, "a", &mut swapped, secrets).is_err(), "to another member");
        open(&kek, "a", &mut sealed, secrets).unwrap();
        assert_eq!(sealed, clear);
    }
}
