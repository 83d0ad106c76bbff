//! Store and secrets: made, lost, swapped and interrupted.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use setgate_cli::{Exit, Failure};
use setgate_jose::Kek;

use super::*;
use crate::config::{Config, Source, load};

fn config(folder: &Path, extra: &str) -> Config {
    let file = folder.join("setgate.toml");
    let text = format!(
        "{extra}\n[store]\nreserve_bytes = 1048576\n[[issuers]]\nurl = \"https://a.example\"\nalgorithms = [\"ES256\"]\n"
    );
    fs::write(&file, text).unwrap();
    load(Source::File(file), false, Vec::new()).unwrap().config
}

async fn closed(kept: Result<OpenState, Failure>) {
    kept.unwrap().store.close().await.unwrap();
}

#[tokio::test]
async fn what_is_made_opens_and_is_for_its_owner_alone() {
    let folder = tempfile::tempdir().unwrap();
    let (runtime, config) = (setgate_clock::system(), config(folder.path(), ""));
    let made = init(&runtime, &config).await.unwrap();
    assert_eq!(made.issuers.len(), 1);
    closed(open(&runtime, &config, false).await).await;
    for path in [&config.secrets.folder, &config.store.path] {
        assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o700, "{}", path.display());
    }
    for entry in fs::read_dir(&config.secrets.folder).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{}", entry.path().display());
    }
    let again = init(&runtime, &config).await.unwrap_err();
    assert_eq!(again.exit, Exit::Usage, "{again}");
}

#[tokio::test]
async fn a_gateway_that_was_never_made_is_made_only_when_asked() {
    let folder = tempfile::tempdir().unwrap();
    let (runtime, config) = (setgate_clock::system(), config(folder.path(), ""));
    let refused = open(&runtime, &config, false).await.err().unwrap();
    assert_eq!(refused.exit, Exit::Store);
    assert!(!config.store.path.exists(), "a refusal makes nothing");
    closed(open(&runtime, &config, true).await).await;
    closed(open(&runtime, &config, true).await).await;
}

#[tokio::test]
async fn an_unmounted_volume_does_not_look_like_a_first_start() {
    let folder = tempfile::tempdir().unwrap();
    let (runtime, config) = (setgate_clock::system(), config(folder.path(), ""));
    init(&runtime, &config).await.unwrap();
    let away = folder.path().join("away");
    let kek = config.secrets.folder.join("kek");
    for part in [&config.store.path, &kek, &config.secrets.folder] {
        fs::rename(part, &away).unwrap();
        let refused = open(&runtime, &config, true).await.err().unwrap();
        assert_eq!(refused.exit, Exit::Store, "{refused}");
        assert!(refused.message.contains("is missing"), "{refused}");
        fs::rename(&away, part).unwrap();
    }
    closed(open(&runtime, &config, true).await).await;
}

#[tokio::test]
async fn an_interrupted_making_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let (runtime, config) = (setgate_clock::system(), config(folder.path(), ""));
    init(&runtime, &config).await.unwrap();
    // The files are as after a power loss before the last step, and before the store was made.
    fs::write(config.secrets.folder.join("init-unfinished"), "").unwrap();
    fs::remove_dir_all(&config.store.path).unwrap();
    let kek = fs::read(config.secrets.folder.join("kek")).unwrap();
    assert!(open(&runtime, &config, false).await.is_err());
    closed(open(&runtime, &config, true).await).await;
    assert_eq!(fs::read(config.secrets.folder.join("kek")).unwrap(), kek, "nothing that was made is made anew");
    fs::write(config.secrets.folder.join("init-unfinished"), "").unwrap();
    closed(open(&runtime, &config, true).await).await;
}

#[tokio::test]
async fn another_key_names_itself() {
    let folder = tempfile::tempdir().unwrap();
    let (runtime, config) = (setgate_clock::system(), config(folder.path(), ""));
    let made = init(&runtime, &config).await.unwrap();
    let kek = config.secrets.folder.join("kek");
    fs::remove_file(&kek).unwrap();
    let other = Kek::generate().unwrap();
    other.save_new(&kek).unwrap();
    let refused = open(&runtime, &config, false).await.err().unwrap();
    assert_eq!(refused.exit, Exit::Store);
    assert!(refused.message.contains(&other.id()) || refused.message.contains(&made.kek_id), "{refused}");
}

#[tokio::test]
async fn raw_bytes_of_the_store_hold_no_secret() {
    let folder = tempfile::tempdir().unwrap();
    let (runtime, config) = (setgate_clock::system(), config(folder.path(), ""));
    init(&runtime, &config).await.unwrap();
    let kek = read_kek(&config).unwrap();
    let names = read_names(&config, &[&kek]).unwrap();
    let admin = fs::read_to_string(config.secrets.admin_token()).unwrap();
    let planted =
        [names.to_vec(), admin.trim().as_bytes().to_vec(), fs::read(config.secrets.folder.join("kek")).unwrap()];
    let mut seen = 0;
    let mut folders = vec![config.store.path.clone()];
    while let Some(at) = folders.pop() {
        for entry in fs::read_dir(at).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_dir() {
                folders.push(entry.path());
                continue;
            }
            let bytes = fs::read(entry.path()).unwrap();
            seen += bytes.len();
            for secret in &planted {
                assert!(!bytes.windows(secret.len()).any(|window| window == secret), "{}", entry.path().display());
            }
        }
    }
    assert!(seen > 1000, "only {seen} bytes were looked at");
}
