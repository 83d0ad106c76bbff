use std::os::unix::fs::PermissionsExt as _;

use super::*;

fn write(bytes: &[u8], mode: u32) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kek");
    std::fs::write(&path, bytes).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    (folder, path)
}

#[test]
fn opens_what_it_sealed_and_never_seals_the_same_twice() {
    let kek = Kek::generate().unwrap();
    for plain in [b"".as_slice(), b"Bearer abc", &[7; 5000]] {
        let sealed = kek.seal_secret("stream/1/authorization_header", plain).unwrap();
        assert_eq!(kek.open_secret("stream/1/authorization_header", &sealed).unwrap().as_slice(), plain);
        assert_ne!(sealed, kek.seal_secret("stream/1/authorization_header", plain).unwrap());
        assert_eq!(Kek::id_of(&sealed), Some(kek.id()));
    }
}

#[test]
fn refuses_a_sealed_value_that_was_moved_to_another_place() {
    let kek = Kek::generate().unwrap();
    let sealed = kek.seal_secret("stream/1/authorization_header", b"Bearer abc").unwrap();
    for place in ["stream/2/authorization_header", "stream/1/other", ""] {
        assert_eq!(kek.open_secret(place, &sealed).unwrap_err(), SealError::Tampered);
    }
    // A place of the same bytes in another division: parts carry their length.
    assert_eq!(kek.open(&["secretstream/1/authorization_header"], &sealed).unwrap_err(), SealError::Tampered);
}

#[test]
fn refuses_every_changed_byte_and_every_cut() {
    let kek = Kek::generate().unwrap();
    let sealed = kek.seal_secret("here", b"Bearer abc").unwrap();
    for at in 0..sealed.len() {
        let mut changed = sealed.clone();
        changed[at] ^= 1;
        assert!(kek.open_secret("here", &changed).is_err(), "byte {at}");
        assert!(kek.open_secret("here", &sealed[..at]).is_err(), "cut at {at}");
    }
    assert!(kek.open_secret("here", &[sealed.as_slice(), b"x"].concat()).is_err());
}

#[test]
fn a_wrong_key_names_itself_and_the_one_that_is_needed() {
    let [one, other] = [(); 2].map(|()| Kek::generate().unwrap());
    let sealed = one.seal_secret("here", b"Bearer abc").unwrap();
    let expected = SealError::WrongKek { needs: one.id(), given: other.id() };
    assert_eq!(other.open_secret("here", &sealed).unwrap_err(), expected);
}

#[test]
fn the_sealed_bytes_hold_nothing_of_the_secret() {
    let kek = Kek::generate().unwrap();
    let secret = b"canary-of-a-secret";
    let sealed = kek.seal_secret("here", secret).unwrap();
    assert!(!sealed.windows(4).any(|window| secret.windows(4).any(|part| part == window)));
}

#[test]
fn a_saved_key_comes_back_and_is_its_owners_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kek");
    let kek = Kek::generate().unwrap();
    kek.save_new(&path).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let loaded = Kek::load(&path).unwrap();
    assert_eq!(loaded.id(), kek.id());
    let sealed = kek.seal_secret("here", b"secret").unwrap();
    assert_eq!(loaded.open_secret("here", &sealed).unwrap().as_slice(), b"secret");
    assert!(matches!(Kek::generate().unwrap().save_new(&path), Err(KekError::Io(_))), "never overwritten");
    assert_eq!(Kek::load(&path).unwrap().id(), kek.id());
}

#[test]
fn loads_raw_bytes_and_base64_of_both_alphabets() {
    let bytes = [0xfb; 32];
    let texts = [STANDARD.encode(bytes), format!("{}\n", STANDARD_NO_PAD.encode(bytes)), URL_SAFE_NO_PAD.encode(bytes)];
    let (_folder, raw) = write(&bytes, 0o600);
    let id = Kek::load(&raw).unwrap().id();
    for text in texts {
        let (_folder, path) = write(text.as_bytes(), 0o400);
        assert_eq!(Kek::load(&path).unwrap().id(), id, "{text}");
        assert_eq!(Kek::from_text(&text).unwrap().id(), id, "{text}");
    }
}

#[test]
fn refuses_a_file_that_others_may_read() {
    for mode in [0o640, 0o604, 0o620, 0o644, 0o601] {
        let (_folder, path) = write(&[1; 32], mode);
        assert!(matches!(Kek::load(&path), Err(KekError::Exposed { mode: found }) if found == mode), "{mode:o}");
    }
}

#[test]
fn refuses_what_is_no_key() {
    for bytes in [b"".as_slice(), &[1; 31], &[1; 33], b"a passphrase", &[b'A'; 40], &[b'A'; 2000]] {
        let (_folder, path) = write(bytes, 0o600);
        assert!(matches!(Kek::load(&path), Err(KekError::Malformed)), "{bytes:?}");
    }
    // 32 characters in a variable are a passphrase, not a key.
    assert!(matches!(Kek::from_text(&"p".repeat(32)), Err(KekError::Malformed)));
    let folder = tempfile::tempdir().unwrap();
    assert!(matches!(Kek::load(folder.path()), Err(KekError::NotAFile)));
    assert!(matches!(Kek::load(&folder.path().join("absent")), Err(KekError::Io(_))));
}

#[test]
fn shows_its_check_value_alone() {
    let kek = Kek::from_text(&STANDARD.encode([1; 32])).unwrap();
    assert_eq!(format!("{kek:?}"), format!("Kek({})", kek.id()));
    assert_eq!(kek.id().len(), 16);
}

#[test]
fn an_interrupted_writing_never_touches_a_key_in_force() {
    let folder = tempfile::tempdir().unwrap();
    let (kek, next) = (folder.path().join("kek"), folder.path().join("next"));
    let one = Kek::generate().unwrap();
    one.save_new(&kek).unwrap();
    // The state after an interruption between the link and the removal of the other name, followed by a rename.
    std::fs::hard_link(&kek, folder.path().join("next.unfinished")).unwrap();
    let other = Kek::generate().unwrap();
    other.save_new(&next).unwrap();
    assert_eq!(Kek::load(&kek).unwrap().id(), one.id());
    assert_eq!(Kek::load(&next).unwrap().id(), other.id());
    assert!(matches!(one.save_new(&next), Err(KekError::Io(_))), "an existing file is never overwritten");
}

#[test]
fn finds_what_it_sealed_in_the_raw_and_in_base64_and_seals_it_with_another() {
    let [one, other] = [(); 2].map(|()| Kek::generate().unwrap());
    let sealed = one.seal_secret("here", b"Bearer abc").unwrap();
    let text = format!("{{\"$sealed\":\"{}\"}}", STANDARD_NO_PAD.encode(&sealed));
    for bytes in [sealed.as_slice(), &[b"xyz", sealed.as_slice()].concat(), text.as_bytes()] {
        assert!(one.sealed_any(bytes) && !other.sealed_any(bytes));
    }
    let moved = one.reseal_secret(&other, "here", &sealed).unwrap();
    assert_eq!(other.open_secret("here", &moved).unwrap().as_slice(), b"Bearer abc");
    assert!(!one.sealed_any(&moved) && one.reseal_secret(&other, "there", &sealed).is_err());
}
