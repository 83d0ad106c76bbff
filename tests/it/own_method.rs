//! A delivery method of another author, in a program of its own.

use std::path::{Path, PathBuf};
use std::process::Command;

use setgate_jose::{AllowedAlgorithms, Jwks, verify};

use crate::boxed::{Plan, event};
use crate::http::{self, request};

/// Builds the example, with the libraries that the tests were built with, and returns its path.
fn example() -> PathBuf {
    let mut build = Command::new(env!("CARGO"));
    let example = ["build", "--quiet", "--workspace", "--example", "own_method"];
    build.current_dir(env!("CARGO_MANIFEST_DIR")).args(example);
    assert!(build.status().unwrap().success(), "the example does not build");
    Path::new(env!("CARGO_BIN_EXE_setgate")).with_file_name("examples").join("own_method")
}

#[test]
fn a_method_of_ones_own_needs_one_file_and_gets_what_every_method_gets() {
    let mut gateway = Plan::new()
        .program(example())
        .stream_by("archive", "{ method = \"spool\" }")
        .options("[methods.spool]\nfolder = \"SPOOL\"\n")
        .prepare();
    let spool = gateway.path("spool");
    let text = std::fs::read_to_string(gateway.config()).unwrap();
    std::fs::write(gateway.config(), text.replace("SPOOL", spool.to_str().unwrap())).unwrap();
    gateway.start();
    gateway.accept_all((0..20).map(|number| event(number, "one subject")));
    gateway.kill();
    gateway.start();
    gateway.accept_all((20..40).map(|number| event(number, "one subject")));
    let view = gateway.until_stream("archive", "all acknowledged", |view| view["acknowledged"] == 40);
    assert_eq!(view["owed"], 40, "{view}");
    let keys = Jwks::parse(&http::send(gateway.world, &request("GET", "/jwks.json", &[], b"")).body).unwrap();
    let (mut numbers, mut jtis) = (Vec::new(), std::collections::BTreeSet::new());
    for token in std::fs::read_to_string(spool.join("archive")).unwrap().lines() {
        let verified = verify(token.as_bytes(), &keys, AllowedAlgorithms::default());
        assert!(verified.is_ok(), "a SET in the spool does not verify");
        let claims: serde_json::Value =
            serde_json::from_slice(setgate_jose::Token::parse(token.as_bytes()).unwrap().unverified_payload()).unwrap();
        assert_eq!(claims["aud"], "https://archive.example");
        // A SET that was under way at the kill may be in the file twice, with the same `jti`.
        if jtis.insert(claims["jti"].as_str().unwrap().to_owned()) {
            numbers.push(claims["events"][crate::boxed::TYPE]["number"].as_u64().unwrap());
        }
    }
    assert_eq!(numbers, (0..40).collect::<Vec<_>>());
}
