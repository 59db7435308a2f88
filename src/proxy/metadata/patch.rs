//! Our operations, spliced into a capability statement's text. Pure.
//!
//! The text is never read into a tree and written anew: what we do not change keeps every byte, numbers and
//! white space included.

use std::fmt;
use std::ops::Range;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

const GUIDE: &str = "http://hl7.org/fhir/uv/bulkdata";

/// The operation and the names it is looked for under: the guide's `export`, and what some clients want
/// instead.
struct Operation {
    definition: &'static str,
    names: &'static [&'static str],
}

const SYSTEM: Operation = Operation { definition: "export", names: &["export"] };
const PATIENT: Operation = Operation { definition: "patient-export", names: &["export", "patient-export"] };
const GROUP: Operation = Operation { definition: "group-export", names: &["export", "group-export"] };

/// Why a text was not edited.
#[derive(Debug, thiserror::Error)]
pub(super) enum PatchError {
    #[error("the text is not UTF-8")]
    NotUtf8,
    /// Only the place is kept: the parser's own words may quote the text.
    #[error("the text is not the JSON that we expect (line {line}, column {column})")]
    NotJson { line: usize, column: usize },
    #[error("the resource is not a CapabilityStatement")]
    OtherResource,
    #[error("the statement describes no server")]
    NoServer,
    #[error("the statement has the member `{0}` twice")]
    Twice(&'static str),
}

impl From<serde_json::Error> for PatchError {
    fn from(error: serde_json::Error) -> Self {
        Self::NotJson { line: error.line(), column: error.column() }
    }
}

/// The statement with the Bulk Data guide under `instantiates`, the operation `export` for the server, and
/// for Patient and Group where the upstream has them. Export operations that the upstream advertises itself
/// are replaced: calls of them never reach it.
///
/// Source: Bulk Data 3.0.0, "Bulk Data Export Operation `CapabilityStatement`"
pub(super) fn with_operations(text: &[u8]) -> Result<Vec<u8>, PatchError> {
    let text = std::str::from_utf8(text).map_err(|_| PatchError::NotUtf8)?;
    let root: &RawValue = serde_json::from_str(text)?;
    let statement = Object::parse(root)?;
    if statement.text("resourceType")?.as_deref() != Some("CapabilityStatement") {
        return Err(PatchError::OtherResource);
    }
    let mut edits = Edits { text, list: Vec::new() };
    instantiate(&statement, &mut edits)?;

    let rest = statement.member("rest")?.ok_or(PatchError::NoServer)?;
    let server = find(rest, "mode", "server")?.ok_or(PatchError::NoServer)?;
    offer(&server, &SYSTEM, &mut edits)?;
    if let Some(resources) = server.member("resource")? {
        for (name, operation) in [("Patient", PATIENT), ("Group", GROUP)] {
            if let Some(resource) = find(resources, "type", name)? {
                offer(&resource, &operation, &mut edits)?;
            }
        }
    }
    Ok(edits.apply())
}

fn instantiate(statement: &Object<'_>, edits: &mut Edits<'_>) -> Result<(), PatchError> {
    let guide = format!("{GUIDE}/CapabilityStatement/bulk-data");
    let Some(list) = statement.member("instantiates")? else {
        edits.append(statement.raw, statement.members.len(), &format!("\"instantiates\":[\"{guide}\"]"));
        return Ok(());
    };
    let items: Vec<String> = serde_json::from_str(list.get())?;
    // A canonical may be followed by `|` and a version.
    if !items.iter().any(|item| item.split('|').next() == Some(guide.as_str())) {
        edits.append(list, items.len(), &format!("\"{guide}\""));
    }
    Ok(())
}

/// Puts our operation among those that `holder` lists, in the place of any export it has.
fn offer(holder: &Object<'_>, operation: &Operation, edits: &mut Edits<'_>) -> Result<(), PatchError> {
    let ours = operation.names.iter().map(|name| {
        let definition = operation.definition;
        let definition = format!("{GUIDE}/OperationDefinition/{definition}");
        format!("{{\"name\":\"{name}\",\"definition\":\"{definition}\"}}")
    });
    let Some(list) = holder.member("operation")? else {
        let ours: Vec<String> = ours.collect();
        let member = format!("\"operation\":[{}]", ours.join(","));
        edits.append(holder.raw, holder.members.len(), &member);
        return Ok(());
    };
    let mut items = Vec::new();
    for item in serde_json::from_str::<Vec<&RawValue>>(list.get())? {
        if !is_export(&Object::parse(item)?)? {
            items.push(item.get().to_owned());
        }
    }
    items.extend(ours);
    edits.replace(list, format!("[{}]", items.join(",")));
    Ok(())
}

/// An operation that begins with `$export`, or that is one of the guide's under another name.
fn is_export(operation: &Object<'_>) -> Result<bool, PatchError> {
    let named = operation.text("name")?.is_some_and(|name| {
        let name = name.trim_start_matches('$').to_ascii_lowercase();
        name.starts_with("export") || [PATIENT.definition, GROUP.definition].contains(&&*name)
    });
    let defined = operation.text("definition")?.is_some_and(|canonical| {
        let canonical = canonical.split('|').next().unwrap_or_default();
        canonical
            .strip_prefix(GUIDE)
            .and_then(|rest| rest.strip_prefix("/OperationDefinition/"))
            .is_some_and(|name| [SYSTEM, PATIENT, GROUP].iter().any(|ours| ours.definition == name))
    });
    Ok(named || defined)
}

/// The first object of `list` whose member `name` is the string `value`.
fn find<'a>(list: &'a RawValue, name: &'static str, value: &str) -> Result<Option<Object<'a>>, PatchError> {
    for item in serde_json::from_str::<Vec<&RawValue>>(list.get())? {
        let item = Object::parse(item)?;
        if item.text(name)?.as_deref() == Some(value) {
            return Ok(Some(item));
        }
    }
    Ok(None)
}

/// A JSON object, one level read.
struct Object<'a> {
    raw: &'a RawValue,
    members: Vec<(String, &'a RawValue)>,
}

impl<'a> Object<'a> {
    fn parse(raw: &'a RawValue) -> Result<Self, PatchError> {
        let Members(members) = serde_json::from_str(raw.get())?;
        Ok(Self { raw, members })
    }

    fn member(&self, name: &'static str) -> Result<Option<&'a RawValue>, PatchError> {
        let mut found = self.members.iter().filter(|(key, _)| key == name).map(|(_, raw)| *raw);
        let first = found.next();
        // Readers do not agree on which of two counts.
        if found.next().is_some() { Err(PatchError::Twice(name)) } else { Ok(first) }
    }

    /// A member's value if it is a string.
    fn text(&self, name: &'static str) -> Result<Option<String>, PatchError> {
        Ok(self.member(name)?.and_then(|raw| serde_json::from_str(raw.get()).ok()))
    }
}

struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;

        impl<'de> Visitor<'de> for Read {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }

        deserializer.deserialize_map(Read)
    }
}

/// Changes to a text, none of which overlap.
struct Edits<'a> {
    text: &'a str,
    list: Vec<(Range<usize>, String)>,
}

impl Edits<'_> {
    /// Where a part, borrowed from the text, lies in it.
    fn span(&self, part: &RawValue) -> Range<usize> {
        let start = part.get().as_ptr().addr() - self.text.as_ptr().addr();
        start..start + part.get().len()
    }

    fn replace(&mut self, part: &RawValue, with: String) {
        self.list.push((self.span(part), with));
    }

    /// Adds an item to the end of an object or array that has `length` of them.
    fn append(&mut self, container: &RawValue, length: usize, item: &str) {
        let end = self.span(container).end - 1;
        let comma = if length == 0 { "" } else { "," };
        self.list.push((end..end, format!("{comma}{item}")));
    }

    fn apply(mut self) -> Vec<u8> {
        self.list.sort_unstable_by_key(|(range, _)| range.start);
        let added: usize = self.list.iter().map(|(_, text)| text.len()).sum();
        let mut edited = Vec::with_capacity(self.text.len() + added);
        let mut done = 0;
        for (range, with) in &self.list {
            edited.extend_from_slice(&self.text.as_bytes()[done..range.start]);
            edited.extend_from_slice(with.as_bytes());
            done = range.end;
        }
        edited.extend_from_slice(&self.text.as_bytes()[done..]);
        edited
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn patched(text: &str) -> String {
        let edited = with_operations(text.as_bytes()).expect("the test's statement can be edited");
        String::from_utf8(edited).expect("text in, text out")
    }

    fn operation(name: &str, definition: &str) -> Value {
        let definition = format!("{GUIDE}/OperationDefinition/{definition}");
        json!({ "name": name, "definition": definition })
    }

    #[test]
    fn a_statement_offers_the_levels_that_the_upstream_has_resources_for() {
        let statement = json!({
            "resourceType": "CapabilityStatement",
            "rest": [
                { "mode": "client" },
                { "mode": "server", "resource": [{ "type": "Patient" }, { "type": "Device" }] },
            ],
        });
        let edited: Value = serde_json::from_str(&patched(&statement.to_string())).expect("JSON");
        assert_eq!(edited["instantiates"], json!([format!("{GUIDE}/CapabilityStatement/bulk-data")]));
        assert_eq!(edited["rest"][0], json!({ "mode": "client" }));
        let server = &edited["rest"][1];
        assert_eq!(server["operation"], json!([operation("export", "export")]));
        let patient = json!([operation("export", "patient-export"), operation("patient-export", "patient-export"),]);
        assert_eq!(server["resource"][0]["operation"], patient);
        assert_eq!(server["resource"][1], json!({ "type": "Device" }));

        let with_group = statement.to_string().replace("Device", "Group");
        let edited: Value = serde_json::from_str(&patched(&with_group)).expect("JSON");
        let group = json!([operation("export", "group-export"), operation("group-export", "group-export")]);
        assert_eq!(edited["rest"][1]["resource"][1]["operation"], group);
    }

    #[test]
    fn exports_of_the_upstream_are_replaced_and_its_other_operations_kept() {
        let statement = r#"{"resourceType":"CapabilityStatement","rest":[{"mode":"server",
            "operation":[
                {"name":"export","definition":"http://up/OperationDefinition/-s-export"},
                {"name":"reindex", "definition":"http://up/OperationDefinition/-s-reindex"},
                {"name":"$export-poll-status","definition":"x"},
                {"name":"bulk","definition":"http://hl7.org/fhir/uv/bulkdata/OperationDefinition/export|2.0.0"}
            ],
            "resource":[{"type":"Group","operation":[
                {"name":"group-export","definition":{"reference":"OperationDefinition/x"}}]}]}]}"#;
        let edited: Value = serde_json::from_str(&patched(statement)).expect("JSON");
        let server = &edited["rest"][0];
        let names = |list: &Value| -> Vec<String> {
            let items = list.as_array().expect("a list of operations");
            items.iter().map(|item| item["name"].to_string()).collect()
        };
        assert_eq!(names(&server["operation"]), ["\"reindex\"", "\"export\""]);
        assert_eq!(names(&server["resource"][0]["operation"]), ["\"export\"", "\"group-export\""]);
    }

    #[test]
    fn every_byte_that_is_not_ours_is_kept() {
        let statement = "\n{ \"resourceType\" : \"CapabilityStatement\",\n\t\"x\" : [1.00, 1e-7, \
            \"\\u00e9\", 123456789012345678901234567890], \"instantiates\" : [ \"a\" ],\r\n \"rest\" : \
            [ { \"mode\" : \"server\" , \"operation\" : [ { \"name\":\"x\", \"q\":2.50 } ] } ]\n }\n\n";
        let guide = format!("{GUIDE}/CapabilityStatement/bulk-data");
        let export = operation("export", "export");
        let (name, definition) = (&export["name"], &export["definition"]);
        let expected = statement.replace("[ \"a\" ]", &format!("[ \"a\" ,\"{guide}\"]")).replace(
            "[ { \"name\":\"x\", \"q\":2.50 } ]",
            &format!("[{{ \"name\":\"x\", \"q\":2.50 }},{{\"name\":{name},\"definition\":{definition}}}]"),
        );
        assert_eq!(patched(statement), expected);
    }

    #[test]
    fn editing_an_edited_statement_changes_nothing() {
        let once = patched(
            r#"{"resourceType":"CapabilityStatement","rest":[{"mode":"server","resource":[{"type":"Patient"},{"type":"Group"}]}]}"#,
        );
        assert_eq!(patched(&once), once);
        let empty =
            r#"{"resourceType":"CapabilityStatement","instantiates":[],"rest":[{"mode":"server","operation":[]}]}"#;
        let edited: Value = serde_json::from_str(&patched(empty)).expect("JSON");
        assert_eq!(edited["instantiates"].as_array().map(Vec::len), Some(1));
    }

    #[test]
    fn what_is_not_understood_is_not_edited() {
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        for (text, expected) in [
            (&b"\xff"[..], "the text is not UTF-8"),
            (b"", "the text is not the JSON that we expect (line 1, column 0)"),
            (b"[]", "the text is not the JSON that we expect (line 1, column 0)"),
            (b"{\"resourceType\":\"OperationOutcome\"}", "the resource is not a CapabilityStatement"),
            (b"{\"resourceType\":7}", "the resource is not a CapabilityStatement"),
            (b"{\"resourceType\":\"CapabilityStatement\"}", "the statement describes no server"),
            (
                b"{\"resourceType\":\"CapabilityStatement\",\"rest\":[{\"mode\":\"client\"}]}",
                "the statement describes no server",
            ),
            (
                b"{\"resourceType\":\"CapabilityStatement\",\"rest\":[],\"rest\":[]}",
                "the statement has the member `rest` twice",
            ),
        ] {
            let error = with_operations(text).expect_err("nothing that can be edited");
            assert_eq!(error.to_string(), expected, "{}", String::from_utf8_lossy(text));
        }
        for text in [
            deep.as_str(),
            r#"{"resourceType":"CapabilityStatement","rest":7}"#,
            r#"{"resourceType":"CapabilityStatement","instantiates":"x","rest":[{"mode":"server"}]}"#,
            r#"{"resourceType":"CapabilityStatement","rest":[{"mode":"server","operation":[1]}]}"#,
            r#"{"resourceType":"CapabilityStatement","rest":[{"mode":"server"}]"#,
        ] {
            let error = with_operations(text.as_bytes()).expect_err("nothing that can be edited");
            assert!(matches!(error, PatchError::NotJson { .. }), "{error}");
        }
    }
}
