use super::*;

const HASH: &str = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

fn read(text: &str) -> Result<ProducerSection, String> {
    toml::from_str(text).map_err(|error| error.to_string())
}

fn with(lines: &str) -> Result<ProducerSection, String> {
    read(&format!("name = \"idp\"\ntoken_hashes = [\"{HASH}\"]\nissuers = [\"https://issuer.example\"]\n{lines}"))
}

#[test]
fn reads_a_full_section() {
    let section = read(&format!(
        "name = \"idp\"\n\
         token_hashes = [\"{HASH}\", {{ hash = \"{HASH}\", expires = \"2027-01-31T00:00:00Z\" }}]\n\
         issuers = [\"https://issuer.example\"]\n\
         events = [\"https://schemas.openid.net/secevent/caep/event-type/session-revoked\"]\n\
         subjects = {{ iss = [\"https://idp.example\"], email_domains = [\"example.com\"], tenants = [\"acme\"] }}\n"
    ))
    .unwrap();
    assert_eq!(section.token_hashes[0].expires, None);
    assert_eq!(section.token_hashes[1].expires.unwrap().as_second(), 1_801_353_600);
    assert!(matches!(section.events, EventsSection::Exact(uris) if uris.len() == 1));
    assert!(matches!(section.subjects, SubjectsSection::Rules { tenants, .. } if tenants == ["acme"]));
}

#[test]
fn what_it_writes_it_reads() {
    for lines in
        ["events = \"all\"\nsubjects = \"any\"", "events = [\"urn:a\"]\nsubjects = { iss = [\"https://idp.example\"] }"]
    {
        let section = with(lines).unwrap();
        let text = toml::to_string(&section).unwrap();
        assert_eq!(read(&text), Ok(section), "{text}");
    }
}

#[test]
fn has_no_silent_default() {
    for (lines, missing) in [("subjects = \"any\"", "events"), ("events = \"all\"", "subjects")] {
        let error = with(lines).unwrap_err();
        assert!(error.contains(missing), "{error}");
    }
}

#[test]
fn names_what_it_does_not_know() {
    for (lines, word) in [
        ("events = \"all\"\nsubjects = \"any\"\nscope = \"x\"", "scope"),
        ("events = \"some\"\nsubjects = \"any\"", "\"all\", or an array"),
        ("events = \"all\"\nsubjects = \"none\"", "\"any\", or a table"),
        ("events = \"all\"\nsubjects = { domain = [\"a\"] }", "domain"),
        ("events = \"all\"\nsubjects = { iss = [] }", "`iss` is empty"),
        ("events = \"all\"\nsubjects = {}", "at least one of"),
    ] {
        let error = with(lines).unwrap_err();
        assert!(error.contains(word), "{lines}: {error}");
    }
    let error = read("name = \"a\"\ntoken_hashes = [\"secret\"]\nissuers = []\nevents = \"all\"\nsubjects = \"any\"")
        .unwrap_err();
    assert!(error.contains("sha256"), "{error}");
}

#[test]
fn a_receiver_has_no_silent_default_either() {
    let read = |streams: &str| {
        let text =
            format!("name = \"crm\"\ntoken_hashes = [\"{HASH}\"]\nissuers = [\"https://issuer.example\"]\n{streams}");
        toml::from_str::<ReceiverSection>(&text).map_err(|error| error.to_string())
    };
    for streams in ["streams = \"all\"", "streams = [\"crm\", \"hr\"]"] {
        let section = read(streams).unwrap();
        let text = toml::to_string(&section).unwrap();
        assert_eq!(toml::from_str::<ReceiverSection>(&text).unwrap(), section, "{text}");
    }
    for (streams, word) in [
        ("", "streams"),
        ("streams = \"crm\"", "\"all\", or an array of stream ids"),
        ("streams = \"all\"\nscope = 1", "scope"),
    ] {
        let error = read(streams).unwrap_err();
        assert!(error.contains(word), "{streams}: {error}");
    }
}
