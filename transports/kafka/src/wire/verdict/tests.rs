use std::collections::BTreeSet;

use super::*;

fn verdict(code: Code, alone: bool, why: Why, makes_topics: bool) -> Verdict {
    of(code, &Circumstances { topic: "sets.acme", alone, why: &|| why.clone(), makes_topics })
}

fn shown(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Return => "returned".to_owned(),
        Verdict::Refuse(refusal) => format!("refused {}", refusal.code),
        Verdict::Halt { scope, cause } => format!("halts {scope:?} {}", cause.code).to_lowercase(),
        Verdict::Retry { scope, cause, .. } => format!("retries {scope:?} {}", cause.code).to_lowercase(),
        other => format!("{other:?}"),
    }
}

/// Returns every error code that the library's bindings define.
fn all_codes() -> impl Iterator<Item = Code> {
    let responses = (-200..200).filter_map(|number| rdkafka::types::RDKafkaRespErr::try_from(number).ok());
    responses.map(Code::from).filter(|code| *code != Code::NoError)
}

#[test]
fn errors_mean_what_the_readme_says() {
    let table = include_str!("../../../README.md");
    let rows = table.lines().filter_map(|line| {
        let mut cells = line.strip_prefix("| `")?.split('|').map(str::trim);
        let code = cells.next()?.strip_suffix('`')?;
        let circumstances = cells.next()?;
        let verdict = cells.next()?.strip_prefix('`')?.strip_suffix('`')?;
        let known: Vec<_> = all_codes().filter(|known| format!("{known:?}") == code).collect();
        Some((*known.first()?, code, circumstances, verdict))
    });
    let refused = Why::Refused(Cause::new("credentials", "said"));
    let lost = Why::Lost(Cause::new("unreachable", "said"));
    let mut rows_seen = 0;
    let mut told = BTreeSet::new();
    for (code, name, circumstances, expected) in rows {
        let seen = match circumstances {
            "" | "alone" => verdict(code, true, Why::Unknown, false),
            "in company" => verdict(code, false, Why::Unknown, false),
            "`create_topics`" => verdict(code, true, Why::Unknown, true),
            "credentials refused" => verdict(code, true, refused.clone(), false),
            "connections lost" => verdict(code, true, lost.clone(), false),
            "others get through" => verdict(code, true, Why::OnlyHere, false),
            other => panic!("the table has circumstances that nothing stands for: {other}"),
        };
        assert_eq!(shown(&seen), expected, "{name}, {circumstances}");
        rows_seen += 1;
        told.insert(name.to_owned());
    }
    assert!(rows_seen > 40, "the table has only {rows_seen} rows");
    // A code that is not in the table has the verdict of all others.
    for code in all_codes().filter(|code| !told.contains(&format!("{code:?}"))) {
        assert_eq!(
            shown(&verdict(code, true, Why::Unknown, false)),
            "retries channel kafka",
            "{code:?} is not in the table"
        );
    }
}

#[test]
fn texts_name_the_topic_and_what_to_do() {
    for (code, word) in [
        (Code::TopicAuthorizationFailed, "Write"),
        (Code::UnknownTopicOrPartition, "create_topics"),
        (Code::MessageSizeTooLarge, "max.message.bytes"),
        (Code::InvalidTimestamp, "hand-over"),
        (Code::InvalidRecord, "key"),
    ] {
        let text = match verdict(code, true, Why::Unknown, false) {
            Verdict::Halt { cause, .. } => cause.text,
            Verdict::Refuse(refusal) => refusal.description.unwrap(),
            other => panic!("{other:?}"),
        };
        assert!(text.contains("`sets.acme`") && text.contains(word), "{text}");
    }
}
