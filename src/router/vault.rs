//! Receivers' secrets at rest: sealed with their place, so that a ciphertext moved to another stream opens nowhere (hardening H36).

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use jose::Kek;
use serde_json::{Value as Json, json};
use stream::Delivery;

const SEALED: &str = "$sealed";

/// Where secrets of a stream's delivery lie.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Secrets {
    /// JSON pointers into the terms.
    pub(crate) terms: &'static [&'static str],
    /// JSON pointers into the grant.
    pub(crate) grant: &'static [&'static str],
}

/// Seals the secrets of a stream's delivery.
///
/// # Errors
/// The text says what cannot be sealed.
pub(crate) fn seal(kek: &Kek, stream: &str, delivery: &mut Delivery, secrets: Secrets) -> Result<(), String> {
    each(stream, delivery, secrets, |place, value| {
        if !value.is_null() {
            let sealed = kek.seal_secret(place, value.to_string().as_bytes()).map_err(|error| error.to_string())?;
            *value = json!({ SEALED: STANDARD_NO_PAD.encode(sealed) });
        }
        Ok(())
    })
}

/// Opens what [`seal`] sealed.
///
/// # Errors
/// The text says which value cannot be opened and why.
pub(crate) fn open(kek: &Kek, stream: &str, delivery: &mut Delivery, secrets: Secrets) -> Result<(), String> {
    each(stream, delivery, secrets, |place, value| {
        let Some(text) = value.get(SEALED).and_then(Json::as_str) else { return Ok(()) };
        let wrong = |why: String| format!("`{place}` cannot be opened: {why}");
        let sealed = STANDARD_NO_PAD.decode(text).map_err(|error| wrong(error.to_string()))?;
        let plain = kek.open_secret(place, &sealed).map_err(|error| wrong(error.to_string()))?;
        *value = serde_json::from_slice(&plain).map_err(|error| wrong(error.to_string()))?;
        Ok(())
    })
}

fn each(
    stream: &str,
    delivery: &mut Delivery,
    secrets: Secrets,
    mut visit: impl FnMut(&str, &mut Json) -> Result<(), String>,
) -> Result<(), String> {
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
        assert!(open(&kek, "b", &mut moved, secrets).is_err(), "to another stream");
        let mut swapped = sealed.clone();
        swapped.grant["client_key_pem"] = swapped.terms["authorization_header"].clone();
        assert!(open(&kek, "a", &mut swapped, secrets).is_err(), "to another member");
        open(&kek, "a", &mut sealed, secrets).unwrap();
        assert_eq!(sealed, clear);
    }
}
