//! Changes of the key-encryption key that cannot be finished or begun.

use std::os::unix::fs::PermissionsExt as _;

use super::*;
use crate::config::{Source, load};

fn config(folder: &Path) -> Config {
    let file = folder.join("setgate.toml");
    let text = "[store]\nreserve_bytes = 1048576\n[[issuers]]\nurl = \"https://a.example\"\nalgorithms = [\"ES256\"]\n";
    fs::write(&file, text).unwrap();
    load(Source::File(file), false, Vec::new()).unwrap().config
}

#[tokio::test]
async fn a_value_that_does_not_open_keeps_the_old_key_in_force() {
    let folder = tempfile::tempdir().unwrap();
    let (runtime, config) = (setgate_clock::system(), config(folder.path()));
    super::super::init(&runtime, &config).await.unwrap();
    let kept = super::super::open(&runtime, &config, false).await.unwrap();
    let (engine, old) = (kept.engine.clone().unwrap(), kept.kek.clone());
    // The value is sealed by the present key, for a place that this version does not know.
    let strange = old.seal_secret("elsewhere", b"canary").unwrap();
    let change = vec![Put { key: Key::from("future/1"), value: Some(strange.into()) }];
    commit(&engine, change).await.unwrap();
    let next = prepare(&config, &old, None).unwrap();
    let refused = finish(&config, &engine, &old, &next, false).await.unwrap_err();
    assert!(refused.message.contains("future/1"), "{refused}");
    kept.store.close().await.unwrap();
    drop((kept, engine));
    let refused = super::super::open(&runtime, &config, false).await.err().unwrap();
    assert!(refused.message.contains("future/1"), "it starts although something would be lost: {refused}");
    // Without the key that was begun, the gateway is as it was before.
    fs::remove_file(suffixed(&kek_file(&config).unwrap(), "next")).unwrap();
    let kept = super::super::open(&runtime, &config, false).await.unwrap();
    assert_eq!(kept.kek.id(), old.id());
    kept.store.close().await.unwrap();
}

#[tokio::test]
async fn a_new_key_that_cannot_be_read_or_is_the_old_one_begins_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (runtime, config) = (setgate_clock::system(), config(folder.path()));
    super::super::init(&runtime, &config).await.unwrap();
    let present = super::super::read_kek(&config).unwrap();
    let same = format!("file:{}", kek_file(&config).unwrap().display());
    let open = folder.path().join("open.kek");
    fs::write(&open, [1u8; 32]).unwrap();
    fs::set_permissions(&open, fs::Permissions::from_mode(0o644)).unwrap();
    let readable_by_all = format!("file:{}", open.display());
    for (reference, says) in [
        (same.as_str(), "in use"),
        (readable_by_all.as_str(), "chmod 600"),
        ("env:NO_SUCH_VARIABLE_", "NO_SUCH_VARIABLE_"),
        ("AAAA", "never written on a command line"),
    ] {
        let refused = prepare(&config, &present, Some(reference.to_owned())).err().unwrap();
        assert!(refused.to_string().contains(says), "{reference}: {refused}");
        assert!(begun(&config).unwrap().is_none(), "{reference} began a change");
    }
}
