//! Resolution of relative paths and of references to secrets.

use std::path::{Path, PathBuf};

use serde_json::Value as Json;

use super::{Config, ConfigError, error::Place};

/// Makes relative paths relative to the folder of the configuration file instead of the working directory.
pub(super) fn absolute(config: &mut Config, base: &Path) {
    let whole = |path: &mut PathBuf| {
        if path.is_relative() {
            *path = base.join(&*path);
        }
    };
    whole(&mut config.store.path);
    whole(&mut config.secrets.folder);
    for files in [&mut config.listen.public_tls, &mut config.listen.admin_tls] {
        files.certificate.iter_mut().for_each(whole);
        files.key.iter_mut().for_each(whole);
    }
    config.net.ca_files.iter_mut().for_each(whole);
    if let setgate_net::SecretRef::File(path) = &mut config.net.egress_proxy_credentials {
        whole(path);
    }
    if let Some(path) = config.secrets.kek.strip_prefix("file:") {
        let mut path = PathBuf::from(path);
        whole(&mut path);
        config.secrets.kek = format!("file:{}", path.display());
    }
    config.methods.values_mut().for_each(|section| references(section, &whole));
    for source in &mut config.sources {
        references(&mut source.from, &whole);
    }
    for stream in &mut config.streams {
        references(&mut stream.delivery.terms, &whole);
        references(&mut stream.grant, &whole);
    }
}

/// Applies `whole` to the paths of `file:` references.
fn references(value: &mut Json, whole: &impl Fn(&mut PathBuf)) {
    match value {
        Json::String(text) => {
            if let Some(path) = text.strip_prefix("file:") {
                let mut path = PathBuf::from(path);
                whole(&mut path);
                *text = format!("file:{}", path.display());
            }
        }
        Json::Array(all) => all.iter_mut().for_each(|one| references(one, whole)),
        Json::Object(all) => all.values_mut().for_each(|one| references(one, whole)),
        _ => {}
    }
}

/// Replaces references (`file:`, `env:`) in an operator's terms for a method by the secrets that they name.
///
/// Only the operator's configuration is resolved; values that a receiver writes through an API are literal (hardening
/// H26).
///
/// # Errors
/// Returns [`ConfigError`] when a file or a variable cannot be read.
pub(crate) fn resolve(value: &mut Json, key: &str) -> Result<(), ConfigError> {
    match value {
        Json::String(text) if text.starts_with("file:") || text.starts_with("env:") => {
            let secret = setgate_net::SecretRef::from(text.clone()).load().map_err(|error| {
                ConfigError::new(Place::BuiltIn, key, error.to_string())
                    .remedy("write the secret there, readable by the gateway alone")
            })?;
            secret.expose().clone_into(text);
        }
        Json::Array(all) => {
            for (at, one) in all.iter_mut().enumerate() {
                resolve(one, &format!("{key}.{at}"))?;
            }
        }
        Json::Object(all) => {
            for (name, one) in all {
                resolve(one, &format!("{key}.{name}"))?;
            }
        }
        _ => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_resolved_at_any_depth() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("header");
        std::fs::write(&path, "Bearer canary\n").unwrap();
        let mut value =
            serde_json::json!({"authorization_header": format!("file:{}", path.display()), "list": [{"x": "plain"}]});
        resolve(&mut value, "streams.0.delivery").unwrap();
        assert_eq!(value, serde_json::json!({"authorization_header": "Bearer canary", "list": [{"x": "plain"}]}));
    }

    #[test]
    fn a_missing_secret_names_its_key() {
        let mut value = serde_json::json!({"list": ["env:SETGATE_TEST_NO_SUCH_VARIABLE"]});
        let error = resolve(&mut value, "methods.kafka").unwrap_err();
        assert_eq!(error.key, "methods.kafka.list.0");
        assert!(error.to_string().contains("SETGATE_TEST_NO_SUCH_VARIABLE"), "{error}");
    }

    #[test]
    fn relative_paths_lie_beside_the_configuration() {
        let mut config = Config::default();
        config.secrets.kek = "file:kek".into();
        config.streams = Vec::new();
        config.methods.insert("push".into(), serde_json::json!({"ca": "file:ca.pem", "key": "file:/abs.pem"}));
        absolute(&mut config, Path::new("/etc/setgate"));
        assert_eq!(config.store.path, Path::new("/etc/setgate/store"));
        assert_eq!(config.secrets.kek, "file:/etc/setgate/kek");
        assert_eq!(
            config.methods.get("push"),
            Some(&serde_json::json!({"ca": "file:/etc/setgate/ca.pem", "key": "file:/abs.pem"}))
        );
    }
}
