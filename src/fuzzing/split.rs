//! Pages: what is cut out of a bundle is what a whole reading of the JSON finds in it.

use serde_json::Value;
use serde_json::value::RawValue;

use crate::fhir::bundle::{Page, PageError, Scope};
use crate::fhir::resource_type::ResourceType;

/// What a tree cannot hold and a copy of bytes can.
const BEYOND_TREES: [&str; 4] = ["number out of range", "recursion limit", "surrogate", "hex escape"];

pub(super) fn run(data: &[u8]) {
    let observation = ResourceType::parse("Observation").expect("a type");
    let scope = Scope::of(observation).with_references();
    if serde_json::from_slice::<&RawValue>(data).is_ok() {
        let elsewhere = Page::parse([br#"{"x":"#, data, b"}"].concat(), scope);
        let is_read = matches!(elsewhere, Err(PageError::NotASearchset | PageError::Deep));
        assert!(is_read, "JSON, and not taken for it");
    }
    let pages = [Page::parse(data.to_vec(), scope), Page::parse(data.to_vec(), scope.among_others())];
    let bundle: Value = match serde_json::from_slice(data) {
        Ok(bundle) => bundle,
        Err(error) => {
            let is_beyond = BEYOND_TREES.iter().any(|reason| error.to_string().contains(reason));
            assert!(is_beyond || pages.iter().all(Result::is_err), "no JSON, and taken for a page: {error}");
            return;
        }
    };
    let entries: Vec<Value> = bundle["entry"].as_array().cloned().unwrap_or_default();
    for (page, takes_included) in pages.into_iter().zip([false, true]) {
        let Ok(page) = page else { continue };
        let wanted = entries.iter().filter(|entry| {
            let mode = entry["search"]["mode"].as_str();
            let is_match = mode != Some("outcome") && (takes_included || mode != Some("include"));
            is_match && entry["resource"]["resourceType"] == "Observation"
        });
        let wanted: Vec<&Value> = wanted.map(|entry| &entry["resource"]).collect();
        assert_eq!(page.entries.len(), wanted.len(), "as many resources as there are");
        for (entry, wanted) in page.entries.iter().zip(wanted) {
            let (end, line) = entry.line.split_last().expect("a newline at least");
            assert!(*end == b'\n' && !line.contains(&b'\n') && !line.contains(&b'\r'), "one line");
            let line: Value = serde_json::from_slice(line).expect("a line is JSON");
            assert_eq!(line, *wanted, "a line is the resource");
            assert_eq!(wanted["id"].as_str(), Some(entry.id.as_str()), "its id is its id");
            assert_eq!(wanted["meta"]["versionId"].as_str(), entry.version_id.as_deref(), "its version is its version");
            // Of a member that is there twice a tree has one: both are noted.
            let mut named = Vec::new();
            references(wanted, &mut named);
            let is_noted = |target: &&str| entry.references.iter().any(|reference| *reference.target == **target);
            assert!(named.iter().all(is_noted), "a reference is overlooked");
        }
        let link = |relation: &str| {
            let links = bundle["link"].as_array().into_iter().flatten();
            links.filter(|link| link["relation"] == relation).find_map(|link| link["url"].as_str().map(str::to_owned))
        };
        assert!(page.next.is_none() || page.next == link("next"), "the next link is the next link");
    }
}

/// What a resource refers to outside of what it contains.
fn references<'a>(resource: &'a Value, found: &mut Vec<&'a str>) {
    let members = resource.as_object().into_iter().flatten();
    members.filter(|(name, _)| *name != "contained").for_each(|(_, value)| below(value, found));
}

fn below<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
    match value {
        Value::Array(values) => values.iter().for_each(|value| below(value, found)),
        Value::Object(members) => {
            found.extend(members.get("reference").and_then(Value::as_str));
            members.values().for_each(|value| below(value, found));
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
