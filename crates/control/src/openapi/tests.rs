use http::Method;

use super::*;

/// Fails when the document does not describe an answer that a test received.
pub(crate) fn assert_described(which: Document, method: &Method, path: &str, status: u16) {
    let document = document(which);
    let template = template(&document, path).unwrap_or_else(|| panic!("{path} is not described"));
    let operation = &document["paths"][&template][method.as_str().to_ascii_lowercase()];
    assert!(operation.is_object(), "{method} {template} is not described");
    let responses = &operation["responses"];
    assert!(responses[status.to_string()].is_object(), "{method} {template}: {status} is not described");
}

/// Returns whether the document describes the path.
pub(crate) fn is_described(which: Document, path: &str) -> bool {
    template(&document(which), path).is_some()
}

fn document(which: Document) -> Json {
    let text = match which {
        Document::Intake => INTAKE,
        Document::Operator => OPERATOR,
    };
    serde_json::from_str(text).expect("the description is JSON")
}

/// Returns the template that a path fits; intake paths lie below the servers' URLs.
fn template(document: &Json, path: &str) -> Option<String> {
    let path = path.strip_suffix("/events").map_or(path, |_| "/events");
    let paths = document["paths"].as_object()?;
    let fits = |template: &str| {
        let (mut left, mut right) = (template.split('/'), path.split('/'));
        loop {
            match (left.next(), right.next()) {
                (None, None) => return true,
                (Some(one), Some(two)) if one == two || (one.starts_with('{') && !two.is_empty()) => {}
                _ => return false,
            }
        }
    };
    paths.keys().find(|template| *template == path).or_else(|| paths.keys().find(|template| fits(template))).cloned()
}

#[test]
fn the_descriptions_hold_together() {
    for which in [Document::Intake, Document::Operator] {
        let document = document(which);
        assert_eq!(document["openapi"], "3.1.0", "{which:?}");
        let mut references = Vec::new();
        collect(&document, &mut references);
        assert!(!references.is_empty(), "{which:?}: no references were found");
        for reference in references {
            let pointer = reference.strip_prefix('#').expect("references stay inside");
            assert!(document.pointer(pointer).is_some(), "{which:?}: {reference} leads nowhere");
        }
        for (path, operations) in document["paths"].as_object().unwrap() {
            for (method, operation) in operations.as_object().unwrap() {
                assert!(operation["operationId"].is_string(), "{method} {path}");
                assert!(operation["responses"].as_object().is_some_and(|all| !all.is_empty()), "{method} {path}");
            }
        }
    }
}

fn collect(value: &Json, references: &mut Vec<String>) {
    match value {
        Json::Object(members) => {
            for (name, value) in members {
                match value {
                    Json::String(text) if name == "$ref" => references.push(text.clone()),
                    value => collect(value, references),
                }
            }
        }
        Json::Array(items) => items.iter().for_each(|item| collect(item, references)),
        _ => {}
    }
}

#[test]
fn the_issuers_are_the_servers() {
    let served: Json =
        serde_json::from_slice(&intake(["https://a.example/x/", "https://b.example"].into_iter())).unwrap();
    assert_eq!(served["servers"], json!([{ "url": "https://a.example/x" }, { "url": "https://b.example" }]));
    assert!(served["paths"]["/events"]["post"].is_object());
}
