//! `docs/api.md`: the reference of both listeners, generated from their OpenAPI documents.

use std::fs;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::process::{root, say};

/// The path of the page.
const PAGE: &str = "docs/api.md";

const HEAD: &str = "\
# API reference

Made by `cargo xtask api-docs` from the OpenAPI 3.1 documents that the program carries, which each listener serves at `/openapi.json`; the test command
fails where this page is not what they say. How to use the API is told in [putting events in](intake.md), [polling](polling.md),
[WebSocket and push-pull](websocket.md) and [operating](operating.md). The addresses of SSF that need no credential, the metadata and the key set, are
in the [table of the listeners](operating.md#listeners).
";

/// A listener: its name in anchors, its heading, its OpenAPI document.
struct Listener {
    id: &'static str,
    title: &'static str,
    file: &'static str,
}

const LISTENERS: [Listener; 2] = [
    Listener { id: "public", title: "Public listener", file: "crates/control/src/openapi/intake.json" },
    Listener { id: "admin", title: "Admin listener", file: "crates/control/src/openapi/operator.json" },
];

/// Writes the page.
///
/// # Errors
/// Returns an error when a document cannot be read or the page cannot be written.
pub(crate) fn write() -> Result<()> {
    fs::write(root().join(PAGE), page()?).with_context(|| format!("could not write {PAGE}"))?;
    say(&format!("{PAGE} is written"));
    Ok(())
}

/// Compares the page with the documents.
///
/// # Errors
/// Returns an error when they differ.
pub(crate) fn check() -> Result<()> {
    let there = fs::read_to_string(root().join(PAGE)).with_context(|| format!("could not read {PAGE}"))?;
    let page = page()?;
    let Some((no, (is, was))) = (1..).zip(page.lines().zip(there.lines())).find(|(_, (is, was))| is != was) else {
        if page.lines().count() == there.lines().count() {
            return Ok(());
        }
        bail!("{PAGE} is longer or shorter than the OpenAPI documents make it: run `cargo xtask api-docs`");
    };
    bail!("{PAGE}:{no} says `{was}`, the OpenAPI documents `{is}`: run `cargo xtask api-docs`")
}

fn page() -> Result<String> {
    let mut lines = vec![HEAD.to_owned()];
    for listener in LISTENERS {
        let text = fs::read_to_string(root().join(listener.file)).with_context(|| listener.file)?;
        let document: Value = serde_json::from_str(&text).with_context(|| listener.file)?;
        Part { id: listener.id, document: &document }.write(listener.title, &mut lines);
    }
    while lines.last().is_some_and(String::is_empty) {
        lines.pop();
    }
    Ok(lines.join("\n") + "\n")
}

/// The part of the page for one document.
struct Part<'a> {
    id: &'a str,
    document: &'a Value,
}

/// An operation of a document.
struct Operation<'a> {
    method: String,
    path: &'a str,
    value: &'a Value,
}

impl Part<'_> {
    fn write(&self, title: &str, lines: &mut Vec<String>) {
        lines.push(format!("## {title}\n"));
        lines.push(format!("{}\n", text(self.at("/info"), "description")));
        lines.push("| credential | what it is |\n|---|---|".to_owned());
        for (name, scheme) in sorted(self.at("/components/securitySchemes")) {
            lines.push(format!("| {name} | {} |", cell(text(scheme, "description"))));
        }
        lines.push("\n| request | what it does | credential |\n|---|---|---|".to_owned());
        let operations = self.operations();
        for operation in &operations {
            let Operation { method, path, value } = operation;
            let summary = cell(text(value, "summary"));
            let anchor = self.anchor_of(operation);
            lines.push(format!("| [`{method} {path}`](#{anchor}) | {summary} | {} |", self.credential(value)));
        }
        lines.push(String::new());
        for operation in &operations {
            self.operation(operation, lines);
        }
        for (name, schema) in sorted(self.at("/components/schemas")) {
            self.schema(name, schema, lines);
        }
    }

    fn at(&self, pointer: &str) -> &Value {
        self.document.pointer(pointer).unwrap_or(&Value::Null)
    }

    fn operations(&self) -> Vec<Operation<'_>> {
        let mut all = Vec::new();
        for (path, methods) in sorted(self.at("/paths")) {
            for (method, value) in sorted(methods) {
                all.push(Operation { method: method.to_ascii_uppercase(), path, value });
            }
        }
        all
    }

    fn anchor_of(&self, operation: &Operation<'_>) -> String {
        format!("{}-{}", self.id, text(operation.value, "operationId"))
    }

    /// Returns the names of the security schemes of the operation, else of the document.
    fn credential(&self, operation: &Value) -> String {
        let schemes = operation.get("security").unwrap_or_else(|| self.at("/security"));
        let names: Vec<&str> =
            schemes.as_array().into_iter().flatten().flat_map(sorted).map(|(name, _)| name).collect();
        if names.is_empty() { "none".to_owned() } else { names.join(" or ") }
    }

    /// Returns the target of a `$ref`, or the value itself.
    fn target<'a>(&'a self, value: &'a Value) -> &'a Value {
        let pointer = text(value, "$ref");
        pointer.strip_prefix('#').map_or(value, |pointer| self.at(pointer))
    }

    fn operation(&self, operation: &Operation<'_>, lines: &mut Vec<String>) {
        let Operation { method, path, value } = operation;
        lines.push(format!("<a id=\"{}\"></a>\n\n### `{method} {path}`\n", self.anchor_of(operation)));
        lines.push(format!("{}. Credential: {}.\n", text(value, "summary"), self.credential(value)));
        let description = text(value, "description");
        if !description.is_empty() {
            lines.push(format!("{description}\n"));
        }
        let parameters: Vec<&Value> = list(value, "parameters").map(|one| self.target(one)).collect();
        if !parameters.is_empty() {
            lines.push("| parameter | in | | what it is |\n|---|---|---|---|".to_owned());
        }
        for one in &parameters {
            let needed = if one.get("required").and_then(Value::as_bool) == Some(true) { "required" } else { "" };
            let (name, place, what) = (text(one, "name"), text(one, "in"), cell(text(one, "description")));
            let kind = one.get("schema").map(|schema| self.kind(schema)).unwrap_or_default();
            lines.push(format!("| `{name}` | {place} | {needed} | {kind}: {what} |"));
        }
        if !parameters.is_empty() {
            lines.push(String::new());
        }
        if let Some(body) = value.get("requestBody") {
            let description = text(body, "description");
            let description = if description.is_empty() { String::new() } else { format!(" {description}") };
            lines.push(format!("Body: {}.{description}\n", self.content(body)));
            self.members_in_place("member of the body", body, lines);
            for (_, media) in body.get("content").into_iter().flat_map(sorted) {
                if let Some(example) = media.get("example") {
                    let shown = serde_json::to_string_pretty(example).unwrap_or_default();
                    lines.push(format!("```json\n{shown}\n```\n"));
                }
            }
        }
        lines.push("| answer | body | what it means |\n|---|---|---|".to_owned());
        for (status, answer) in value.get("responses").into_iter().flat_map(sorted) {
            let target = self.target(answer);
            let own = text(answer, "description");
            let what = cell(if own.is_empty() { text(target, "description") } else { own });
            let fields: Vec<String> =
                target.get("headers").into_iter().flat_map(sorted).map(|(name, _)| format!("`{name}`")).collect();
            let fields = if fields.is_empty() { String::new() } else { format!(" Header: {}.", fields.join(", ")) };
            lines.push(format!("| {status} | {} | {what}{fields} |", self.content(target)));
        }
        lines.push(String::new());
        for (status, answer) in value.get("responses").into_iter().flat_map(sorted) {
            self.members_in_place(&format!("member of the {status}"), self.target(answer), lines);
        }
    }

    /// A table of the members of bodies whose schema has no name.
    fn members_in_place(&self, head: &str, body: &Value, lines: &mut Vec<String>) {
        for (_, media) in body.get("content").into_iter().flat_map(sorted) {
            let Some(schema) = media.get("schema").filter(|schema| schema.get("properties").is_some()) else {
                continue;
            };
            lines.push(format!("| {head} | type | | what it is |\n|---|---|---|---|"));
            self.members("", schema, lines);
            lines.push(String::new());
        }
    }

    /// Returns the media types of a body, each with its schema.
    fn content(&self, body: &Value) -> String {
        let kinds: Vec<String> = body
            .get("content")
            .into_iter()
            .flat_map(sorted)
            .map(|(media, content)| {
                let kind = content.get("schema").map(|schema| self.kind(schema)).unwrap_or_default();
                if kind.is_empty() { format!("`{media}`") } else { format!("`{media}` {kind}") }
            })
            .collect();
        kinds.join("; ")
    }

    /// Describes a type in words.
    fn kind(&self, schema: &Value) -> String {
        if let Some(name) = text(schema, "$ref").rsplit('/').next().filter(|name| !name.is_empty()) {
            return format!("[{name}](#{}-{name})", self.id);
        }
        let several: Vec<String> = list(schema, "oneOf").map(|one| self.kind(one)).collect();
        if !several.is_empty() {
            return several.join(" or ");
        }
        let values: Vec<String> = list(schema, "enum").map(|one| format!("`{}`", plain(one))).collect();
        if !values.is_empty() {
            return values.join(", ");
        }
        let named = text(schema, "type");
        let kinds: Vec<&str> = list(schema, "type").filter_map(Value::as_str).collect();
        let kind = if named.is_empty() { kinds.join(" or ") } else { named.to_owned() };
        match (kind.as_str(), schema.get("items"), schema.get("additionalProperties")) {
            ("array", Some(items), _) => format!("array of {}", self.kind(items)),
            ("object", _, Some(inner)) if inner.is_object() => format!("object of {} by name", self.kind(inner)),
            _ => kind,
        }
    }

    fn schema(&self, name: &str, schema: &Value, lines: &mut Vec<String>) {
        lines.push(format!("<a id=\"{}-{name}\"></a>\n\n### {name}\n", self.id));
        let description = text(schema, "description");
        if schema.get("properties").is_none() {
            lines.push(format!("{}. {description}\n", self.kind(schema)));
            return;
        }
        if !description.is_empty() {
            lines.push(format!("{description}\n"));
        }
        lines.push("| member | type | | what it is |\n|---|---|---|---|".to_owned());
        self.members("", schema, lines);
        lines.push(String::new());
    }

    /// Adds a row for each member, and for the members of objects and arrays that are described in place.
    fn members(&self, before: &str, schema: &Value, lines: &mut Vec<String>) {
        let required: Vec<&str> = list(schema, "required").filter_map(Value::as_str).collect();
        for (name, member) in schema.get("properties").into_iter().flat_map(sorted) {
            let needed = if required.contains(&name) { "required" } else { "" };
            let what = cell(text(member, "description"));
            lines.push(format!("| `{before}{name}` | {} | {needed} | {what} |", self.kind(member)));
            self.members(&format!("{before}{name}."), member, lines);
            if let Some(items) = member.get("items") {
                self.members(&format!("{before}{name}[]."), items, lines);
            }
        }
    }
}

/// Returns the members of an object by name.
fn sorted(value: &Value) -> Vec<(&str, &Value)> {
    let mut all: Vec<_> = value.as_object().into_iter().flatten().map(|(name, value)| (name.as_str(), value)).collect();
    all.sort_by_key(|(name, _)| *name);
    all
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn list<'a>(value: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> {
    value.get(name).and_then(Value::as_array).into_iter().flatten()
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Escapes a text for a cell of a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_page_is_what_the_documents_say() {
        check().unwrap();
    }

    #[test]
    fn every_operation_and_schema_of_the_documents_is_on_the_page_once() {
        let page = page().unwrap();
        let mut seen = 0;
        for listener in LISTENERS {
            let document: Value =
                serde_json::from_str(&fs::read_to_string(root().join(listener.file)).unwrap()).unwrap();
            let part = Part { id: listener.id, document: &document };
            let mut anchors: Vec<String> =
                part.operations().iter().map(|operation| part.anchor_of(operation)).collect();
            anchors
                .extend(sorted(part.at("/components/schemas")).iter().map(|(name, _)| format!("{}-{name}", part.id)));
            for anchor in anchors {
                seen += 1;
                assert_eq!(page.matches(&format!("<a id=\"{anchor}\"></a>")).count(), 1, "{anchor}");
            }
        }
        assert!(seen > 40, "only {seen} operations and schemas seen");
        for link in page.split("](#").skip(1).map(|rest| rest.split(')').next().unwrap()) {
            assert!(page.contains(&format!("<a id=\"{link}\"></a>")), "nothing is called {link}");
        }
    }

    #[test]
    fn tells_types_in_words() {
        let document = json!({});
        let part = Part { id: "x", document: &document };
        for (schema, words) in [
            (json!({ "type": "string" }), "string"),
            (json!({ "type": ["string", "null"] }), "string or null"),
            (json!({ "enum": ["a", 3] }), "`a`, `3`"),
            (json!({ "type": "array", "items": { "$ref": "#/components/schemas/A" } }), "array of [A](#x-A)"),
            (json!({ "type": "object", "additionalProperties": { "type": "number" } }), "object of number by name"),
            (json!({ "type": "object", "additionalProperties": false }), "object"),
            (json!({ "oneOf": [{ "type": "string" }, { "$ref": "#/a/B" }] }), "string or [B](#x-B)"),
        ] {
            assert_eq!(part.kind(&schema), words, "{schema}");
        }
    }
}
