//! Receivers' secrets at rest: sealed with their place, so that a ciphertext moved to another stream opens nowhere (hardening H36).

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use jose::Kek;
use serde_json::{Value as Json, json};

const SEALED: &str = "$sealed";

/// Seals the values at these pointers.
///
/// # Errors
/// The text says what cannot be sealed.
pub(crate) fn seal(kek: &Kek, stream: &str, terms: &mut Json, secrets: &[&str]) -> Result<(), String> {
    for pointer in secrets {
        if let Some(value) = terms.pointer_mut(pointer).filter(|value| !value.is_null()) {
            let sealed = kek
                .seal_secret(&place(stream, pointer), value.to_string().as_bytes())
                .map_err(|error| error.to_string())?;
            *value = json!({ SEALED: STANDARD_NO_PAD.encode(sealed) });
        }
    }
    Ok(())
}

/// Opens what [`seal`] sealed.
///
/// # Errors
/// The text says which value cannot be opened and why.
pub(crate) fn open(kek: &Kek, stream: &str, terms: &mut Json, secrets: &[&str]) -> Result<(), String> {
    for pointer in secrets {
        let Some(value) = terms.pointer_mut(pointer) else { continue };
        let Some(text) = value.get(SEALED).and_then(Json::as_str) else { continue };
        let place = place(stream, pointer);
        let wrong = |why: String| format!("`delivery{pointer}` cannot be opened: {why}");
        let sealed = STANDARD_NO_PAD.decode(text).map_err(|error| wrong(error.to_string()))?;
        let plain = kek.open_secret(&place, &sealed).map_err(|error| wrong(error.to_string()))?;
        *value = serde_json::from_slice(&plain).map_err(|error| wrong(error.to_string()))?;
    }
    Ok(())
}

fn place(stream: &str, pointer: &str) -> String {
    format!("stream/{stream}{pointer}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_opens_only_in_its_place() {
        let kek = Kek::generate().unwrap();
        let clear = json!({ "endpoint_url": "https://r.example", "authorization_header": "Bearer canary" });
        let mut terms = clear.clone();
        seal(&kek, "a", &mut terms, &["/authorization_header"]).unwrap();
        assert!(!terms.to_string().contains("canary"));
        let mut moved = terms.clone();
        assert!(open(&kek, "b", &mut moved, &["/authorization_header"]).is_err());
        open(&kek, "a", &mut terms, &["/authorization_header"]).unwrap();
        assert_eq!(terms, clear);
    }
}
