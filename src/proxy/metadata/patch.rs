//! Our operations, spliced into a capability statement's text. Pure.
//!
//! The text is never read into a tree and written anew: what we do not change keeps every byte, numbers and
//! white space included.

use serde_json::json;
use serde_json::value::RawValue;

use super::offer::{Offer, OwnGroups};
use super::text::{Edits, Object, PatchError, find};
use crate::bulk::cohort::PROFILE;

const GUIDE: &str = "http://hl7.org/fhir/uv/bulkdata";
/// What a type cannot be exported by: the narrative's address, which the guide's artifact does not have (spec 1.4.2).
const NOT_SUPPORTED: &str = "http://hl7.org/fhir/uv/bulkdata/Extension/operation-not-supported";
/// Which extension tells where tokens are had.
pub(crate) const OAUTH_URIS: &str = "http://fhir-registry.smarthealthit.org/StructureDefinition/oauth-uris";
const SECURITY_SERVICE: &str = "http://terminology.hl7.org/CodeSystem/restful-security-service";
const SMART: &str = "SMART-on-FHIR";

/// The operation and the names it is looked for under: the guide's `export`, and what some clients want
/// instead.
struct Operation {
    definition: &'static str,
    names: &'static [&'static str],
}

const SYSTEM: Operation = Operation { definition: "export", names: &["export"] };
const PATIENT: Operation = Operation { definition: "patient-export", names: &["export", "patient-export"] };
const GROUP: Operation = Operation { definition: "group-export", names: &["export", "group-export"] };

/// The operation of the guide's next release, at each level, and which release that is.
const FOURTH: (&str, &str) = ("export-v4", "4.0.0");

impl Operation {
    fn canonical(&self) -> String {
        format!("{GUIDE}/OperationDefinition/{}", self.definition)
    }

    /// What is said of it: each of its names, and its definition.
    fn claims(&self) -> impl Iterator<Item = (&'static str, String)> {
        let definition = self.canonical();
        let fourth = (FOURTH.0, format!("{definition}|{}", FOURTH.1));
        self.names.iter().map(move |name| (*name, definition.clone())).chain([fourth])
    }
}

/// The statement with what is [offered](Offer): the Bulk Data guide under `instantiates`, the operation `export` for the
/// server, and for Patient and Group where it has them; how tokens are had; and which types cannot be exported. Export
/// operations that the upstream advertises itself go: calls of them never reach it. So do all of them while nothing is offered.
///
/// Source: Bulk Data 3.0.0, "Bulk Data Export Operation `CapabilityStatement`"
pub(crate) fn with_operations(text: &[u8], offer: &Offer<'_>) -> Result<Vec<u8>, PatchError> {
    let text = std::str::from_utf8(text).map_err(|_| PatchError::NotUtf8)?;
    let root: &RawValue = serde_json::from_str(text)?;
    let statement = Object::parse(root)?;
    if statement.text("resourceType")?.as_deref() != Some("CapabilityStatement") {
        return Err(PatchError::OtherResource);
    }
    let mut edits = Edits::of(text);
    instantiate(&statement, offer, &mut edits)?;

    let rest = statement.member("rest")?.ok_or(PatchError::NoServer)?;
    let server = find(rest, "mode", "server")?.ok_or(PatchError::NoServer)?;
    list(&server, offer.is_open.then_some(&SYSTEM), &mut edits)?;
    if offer.is_open && offer.has_smart {
        secure(&server, offer, &mut edits)?;
    }
    if let Some(list_of_types) = server.member("resource")? {
        let resources = serde_json::from_str::<Vec<&RawValue>>(list_of_types.get())?;
        let count = resources.len();
        let mut has_group = false;
        for resource in resources {
            let resource = Object::parse(resource)?;
            let name = resource.text("type")?.unwrap_or_default();
            has_group |= name == "Group";
            let operation = match name.as_str() {
                "Patient" => Some(&PATIENT),
                "Group" => Some(&GROUP),
                _ => None,
            };
            if operation.is_some() {
                list(&resource, operation.filter(|_| offer.is_open && offer.has_patients()), &mut edits)?;
            }
            if offer.is_open {
                except(&resource, &name, offer, &mut edits)?;
            }
            if name == "Group" && offer.is_open && offer.has_patients() && offer.own_groups == OwnGroups::Made {
                support_cohorts(&resource, &mut edits)?;
            }
        }
        // Those of ours can be read and exported where the upstream knows of no Groups.
        if !has_group && offer.own_groups > OwnGroups::None && offer.is_open && offer.has_patients() {
            let claim = |(name, definition)| json!({ "name": name, "definition": definition });
            let operations: Vec<_> = GROUP.claims().map(claim).collect();
            let are_made = offer.own_groups == OwnGroups::Made;
            let codes = if are_made { &["read", "search-type", "create", "delete"][..] } else { &["read"] };
            let interactions: Vec<_> = codes.iter().map(|code| json!({ "code": code })).collect();
            let mut group = json!({ "type": "Group", "interaction": interactions, "operation": operations });
            if are_made {
                group["supportedProfile"] = json!([PROFILE]);
            }
            edits.append(list_of_types, count, &group.to_string());
        }
    }
    Ok(edits.apply())
}

/// BD-115: the profile of what clients make.
fn support_cohorts(group: &Object<'_>, edits: &mut Edits<'_>) -> Result<(), PatchError> {
    let Some(list) = group.member("supportedProfile")? else {
        edits.append(group.raw, group.members.len(), &format!("\"supportedProfile\":[\"{PROFILE}\"]"));
        return Ok(());
    };
    let items: Vec<String> = serde_json::from_str(list.get())?;
    if !items.iter().any(|item| item.split('|').next() == Some(PROFILE)) {
        edits.append(list, items.len(), &format!("\"{PROFILE}\""));
    }
    Ok(())
}

fn statement_of_guide() -> String {
    format!("{GUIDE}/CapabilityStatement/bulk-data")
}

/// BD-102
fn instantiate(statement: &Object<'_>, offer: &Offer<'_>, edits: &mut Edits<'_>) -> Result<(), PatchError> {
    let guide = statement_of_guide();
    let Some(list) = statement.member("instantiates")? else {
        if offer.is_open {
            edits.append(statement.raw, statement.members.len(), &format!("\"instantiates\":[\"{guide}\"]"));
        }
        return Ok(());
    };
    let items: Vec<String> = serde_json::from_str(list.get())?;
    // A canonical may be followed by `|` and a version.
    let is_guide = |item: &String| item.split('|').next() == Some(guide.as_str());
    match (offer.is_open, items.iter().any(is_guide)) {
        (true, false) => edits.append(list, items.len(), &format!("\"{guide}\"")),
        (false, true) if items.iter().all(is_guide) => edits.remove("instantiates", list),
        (false, true) => {
            let others: Vec<_> = items.iter().filter(|item| !is_guide(item)).collect();
            edits.replace(list, json!(others).to_string());
        }
        (true, true) | (false, false) => {}
    }
    Ok(())
}

/// Puts our operation, if it is offered, among those that `holder` lists, in the place of any export it has.
fn list(holder: &Object<'_>, offered: Option<&Operation>, edits: &mut Edits<'_>) -> Result<(), PatchError> {
    let text = |(name, definition)| format!("{{\"name\":\"{name}\",\"definition\":\"{definition}\"}}");
    let ours = offered.into_iter().flat_map(Operation::claims).map(text);
    let Some(list) = holder.member("operation")? else {
        let ours: Vec<String> = ours.collect();
        if !ours.is_empty() {
            let member = format!("\"operation\":[{}]", ours.join(","));
            edits.append(holder.raw, holder.members.len(), &member);
        }
        return Ok(());
    };
    let mut items = Vec::new();
    let mut is_changed = offered.is_some();
    for item in serde_json::from_str::<Vec<&RawValue>>(list.get())? {
        if is_export(&Object::parse(item)?)? {
            is_changed = true;
        } else {
            items.push(item.get().to_owned());
        }
    }
    items.extend(ours);
    match (is_changed, items.is_empty()) {
        (false, _) => {}
        (true, true) => edits.remove("operation", list),
        (true, false) => edits.replace(list, format!("[{}]", items.join(","))),
    }
    Ok(())
}

/// Says that tokens of SMART Backend Services are wanted, and where they are had, beside what the upstream says of itself.
fn secure(server: &Object<'_>, offer: &Offer<'_>, edits: &mut Edits<'_>) -> Result<(), PatchError> {
    let service = json!({ "coding": [{ "system": SECURITY_SERVICE, "code": SMART }] });
    let uris = offer
        .token_endpoint
        .map(|endpoint| json!({ "url": OAUTH_URIS, "extension": [{ "url": "token", "valueUri": endpoint }] }));
    let Some(security) = server.member("security")? else {
        let mut security = json!({ "service": [service] });
        if let Some(uris) = uris {
            security["extension"] = json!([uris]);
        }
        edits.append(server.raw, server.members.len(), &format!("\"security\":{security}"));
        return Ok(());
    };
    let security = Object::parse(security)?;
    let mut added = 0;
    let mut add = |name: &'static str, is_there: &dyn Fn(&str) -> bool, item: String| -> Result<(), PatchError> {
        match security.member(name)? {
            None => {
                edits.append(security.raw, security.members.len() + added, &format!("\"{name}\":[{item}]"));
                added += 1;
            }
            Some(list) if !is_there(list.get()) => {
                let items: Vec<&RawValue> = serde_json::from_str(list.get())?;
                edits.append(list, items.len(), &item);
            }
            Some(_) => {}
        }
        Ok(())
    };
    add("service", &|list| list.contains(&format!("\"{SMART}\"")), service.to_string())?;
    if let Some(uris) = uris {
        add("extension", &|list| list.contains(&format!("\"{OAUTH_URIS}\"")), uris.to_string())?;
    }
    Ok(())
}

/// BD-105: names the operations that a type is no part of.
fn except(resource: &Object<'_>, name: &str, offer: &Offer<'_>, edits: &mut Edits<'_>) -> Result<(), PatchError> {
    let lacks = if !offer.exports(name) {
        // None of the guide's.
        vec![statement_of_guide()]
    } else if offer.has_patients() && !offer.exports_with_patients(name) {
        let of_groups = (!offer.exports_with_groups(name)).then(|| GROUP.canonical());
        std::iter::once(PATIENT.canonical()).chain(of_groups).collect()
    } else {
        return Ok(());
    };
    let item = |canonical: &String| json!({ "url": NOT_SUPPORTED, "valueCanonical": canonical }).to_string();
    match resource.member("extension")? {
        None => {
            let items: Vec<_> = lacks.iter().map(item).collect();
            let member = format!("\"extension\":[{}]", items.join(","));
            edits.append(resource.raw, resource.members.len(), &member);
        }
        // Whatever the upstream says of exports of its own.
        Some(list) => {
            let mut items = Vec::new();
            for known in serde_json::from_str::<Vec<&RawValue>>(list.get())? {
                if Object::parse(known)?.text("url")?.as_deref() != Some(NOT_SUPPORTED) {
                    items.push(known.get().to_owned());
                }
            }
            items.extend(lacks.iter().map(item));
            edits.replace(list, format!("[{}]", items.join(",")));
        }
    }
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::{Value, json};

    use super::*;
    use crate::fhir::compartment::Compartments;
    use crate::fhir::resource_type::ResourceType;

    /// All that is named in the tests can be exported.
    fn offer() -> Offer<'static> {
        let searchable = BTreeSet::from(["Patient", "Device", "Group", "Slot"].map(named));
        Offer {
            is_open: true,
            searchable,
            compartments: Some(Compartments::R4),
            context: &[],
            own_groups: OwnGroups::None,
            has_smart: false,
            token_endpoint: None,
        }
    }

    fn named(name: &str) -> ResourceType {
        ResourceType::parse(name).expect("a type")
    }

    fn patched(text: &str) -> String {
        patched_by(text, &offer())
    }

    fn patched_by(text: &str, offer: &Offer<'_>) -> String {
        let edited = with_operations(text.as_bytes(), offer).expect("the test's statement can be edited");
        String::from_utf8(edited).expect("text in, text out")
    }

    fn operation(name: &str, definition: &str) -> Value {
        let definition = format!("{GUIDE}/OperationDefinition/{definition}");
        json!({ "name": name, "definition": definition })
    }

    fn fourth(definition: &str) -> Value {
        operation("export-v4", &format!("{definition}|4.0.0"))
    }

    /// BD-115
    #[test]
    fn the_profile_of_cohorts_is_claimed_where_clients_make_them() {
        let other = "http://x.example/profile";
        for (groups, expected) in [
            (json!([{ "type": "Group" }]), json!([PROFILE])),
            (json!([{ "type": "Group", "supportedProfile": [other] }]), json!([other, PROFILE])),
            (
                json!([{ "type": "Group", "supportedProfile": [format!("{PROFILE}|3.0.0")] }]),
                json!([format!("{PROFILE}|3.0.0")]),
            ),
            (json!([{ "type": "Patient" }]), json!([PROFILE])),
        ] {
            let statement =
                json!({ "resourceType": "CapabilityStatement", "rest": [{ "mode": "server", "resource": groups }] });
            let told = |offer: Offer<'_>| {
                let edited: Value = serde_json::from_str(&patched_by(&statement.to_string(), &offer)).expect("JSON");
                let resources = edited["rest"][0]["resource"].as_array().expect("a list").clone();
                resources.into_iter().find(|resource| resource["type"] == "Group")
            };
            let group = told(Offer { own_groups: OwnGroups::Made, ..offer() }).expect("there are Groups");
            assert_eq!(group["supportedProfile"], expected, "{statement}");
            let claims = group["operation"].as_array().expect("a list");
            assert!(claims.contains(&fourth("group-export")), "{statement}");
            let off = told(Offer { own_groups: OwnGroups::Read, ..offer() }).expect("there are Groups");
            assert_eq!(off["supportedProfile"], groups[0]["supportedProfile"], "{statement}");
        }
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
        assert_eq!(server["operation"], json!([operation("export", "export"), fourth("export")]));
        let patient = json!([
            operation("export", "patient-export"),
            operation("patient-export", "patient-export"),
            fourth("patient-export"),
        ]);
        assert_eq!(server["resource"][0]["operation"], patient);
        assert!(server["resource"][1]["operation"].is_null());

        let with_group = statement.to_string().replace("Device", "Group");
        let edited: Value = serde_json::from_str(&patched(&with_group)).expect("JSON");
        let group = json!([
            operation("export", "group-export"),
            operation("group-export", "group-export"),
            fourth("group-export"),
        ]);
        assert_eq!(edited["rest"][1]["resource"][1]["operation"], group);
    }

    /// BD-105
    #[test]
    fn types_that_are_no_part_of_an_export_are_named() {
        let statement = json!({
            "resourceType": "CapabilityStatement",
            "rest": [{ "mode": "server", "resource": [
                { "type": "Patient" }, { "type": "Device" }, { "type": "Slot" }, { "type": "Observation" },
                { "type": "Dragon", "extension": [{ "url": "x" }, { "url": NOT_SUPPORTED, "valueCanonical": "y" }] },
            ] }],
        });
        let context = [named("Device")];
        let lacks = |offer: &Offer<'_>| -> Vec<Vec<String>> {
            let edited: Value = serde_json::from_str(&patched_by(&statement.to_string(), offer)).expect("JSON");
            let resources = edited["rest"][0]["resource"].as_array().expect("a list").clone();
            let of = |resource: &Value| -> Vec<String> {
                let extensions = resource["extension"].as_array().cloned().unwrap_or_default();
                let values = extensions.iter().filter(|extension| extension["url"] == NOT_SUPPORTED);
                values.map(|extension| extension["valueCanonical"].as_str().expect("text").to_owned()).collect()
            };
            resources.iter().map(of).collect()
        };
        let none = vec![statement_of_guide()];
        let patients = vec![PATIENT.canonical(), GROUP.canonical()];
        let offered = Offer { context: &context, ..offer() };
        assert_eq!(lacks(&offered), [vec![], vec![], patients, none.clone(), none.clone()]);
        // Where there are no exports of patients, nothing is no part of them.
        let system = Offer { compartments: None, ..offer() };
        assert_eq!(lacks(&system), [vec![], vec![], vec![], none.clone(), none]);
    }

    /// BD-103: Patient and Group level are not claimed for a version of FHIR whose compartments are unknown.
    #[test]
    fn levels_that_are_not_offered_are_not_claimed() {
        let statement = r#"{"resourceType":"CapabilityStatement","rest":[{"mode":"server","resource":[
            {"type":"Patient","operation":[{"name":"export"},{"name":"everything"}]},{"type":"Group"}]}]}"#;
        let offered = Offer { compartments: None, ..offer() };
        let edited: Value = serde_json::from_str(&patched_by(statement, &offered)).expect("JSON");
        let server = &edited["rest"][0];
        assert_eq!(server["operation"], json!([operation("export", "export"), fourth("export")]));
        assert_eq!(server["resource"][0]["operation"], json!([{ "name": "everything" }]));
        assert!(server["resource"][1]["operation"].is_null());
    }

    #[test]
    fn what_is_closed_is_taken_out_with_its_comma_and_nothing_else() {
        let guide = statement_of_guide();
        for (before, after) in [
            (format!(r#", "instantiates" : [ "{guide}|2.0.0" ]"#), String::new()),
            (format!(r#", "instantiates" : [ "a","{guide}" ]"#), r#", "instantiates" : ["a"]"#.to_owned()),
            (r#", "instantiates":["a"] "#.to_owned(), r#", "instantiates":["a"] "#.to_owned()),
        ] {
            for rest in [
                r#""rest":[{"operation":[{"name":"export"}],"mode":"server"}]"#,
                r#""rest":[{"mode":"server" , "operation" : [{"name":"export"}]}]"#,
            ] {
                let gone = rest.replace(r#""operation":[{"name":"export"}],"#, "");
                let gone = gone.replace(r#", "operation" : [{"name":"export"}]"#, "");
                let closed = Offer { is_open: false, ..offer() };
                for last in [false, true] {
                    let text = |middle: &str, rest: &str| {
                        let kind = r#""resourceType":"CapabilityStatement""#;
                        if last { format!("{{{rest},{kind}{middle}}}") } else { format!("{{{kind}{middle},{rest}}}") }
                    };
                    assert_eq!(patched_by(&text(&before, rest), &closed), text(&after, &gone));
                }
            }
        }
    }

    /// Interop: where tokens are had is said beside what the upstream says of its own.
    #[test]
    fn security_is_said_beside_that_of_the_upstream() {
        let offered = Offer { has_smart: true, token_endpoint: Some("https://h/$bulk-token"), ..offer() };
        for (before, services, uris) in [
            ("", 1, "https://h/$bulk-token"),
            (r#""security":{},"#, 1, "https://h/$bulk-token"),
            (r#""security":{"cors":true,"service":[{"text":"x"}]},"#, 2, "https://h/$bulk-token"),
            (r#""security":{"service":[{"coding":[{"code":"SMART-on-FHIR"}]}]},"#, 1, "https://h/$bulk-token"),
        ] {
            let text = format!(r#"{{"resourceType":"CapabilityStatement","rest":[{{{before}"mode":"server"}}]}}"#);
            let once = patched_by(&text, &offered);
            assert_eq!(patched_by(&once, &offered), once);
            let edited: Value = serde_json::from_str(&once).expect("JSON");
            let security = &edited["rest"][0]["security"];
            assert_eq!(security["service"].as_array().map(Vec::len), Some(services), "{security}");
            assert_eq!(security["extension"][0]["extension"][0]["valueUri"], uris);
        }
        let open: Value =
            serde_json::from_str(&patched(r#"{"resourceType":"CapabilityStatement","rest":[{"mode":"server"}]}"#))
                .expect("JSON");
        assert!(open["rest"][0]["security"].is_null());
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
        assert_eq!(names(&server["operation"]), ["\"reindex\"", "\"export\"", "\"export-v4\""]);
        assert_eq!(names(&server["resource"][0]["operation"]), ["\"export\"", "\"group-export\"", "\"export-v4\""]);
    }

    #[test]
    fn every_byte_that_is_not_ours_is_kept() {
        let statement = "\n{ \"resourceType\" : \"CapabilityStatement\",\n\t\"x\" : [1.00, 1e-7, \
            \"\\u00e9\", 123456789012345678901234567890], \"instantiates\" : [ \"a\" ],\r\n \"rest\" : \
            [ { \"mode\" : \"server\" , \"operation\" : [ { \"name\":\"x\", \"q\":2.50 } ] } ]\n }\n\n";
        let guide = format!("{GUIDE}/CapabilityStatement/bulk-data");
        let export = operation("export", "export");
        let (name, definition, fourth) = (&export["name"], &export["definition"], &fourth("export")["definition"]);
        let expected = statement.replace("[ \"a\" ]", &format!("[ \"a\" ,\"{guide}\"]")).replace(
            "[ { \"name\":\"x\", \"q\":2.50 } ]",
            &format!(
                "[{{ \"name\":\"x\", \"q\":2.50 }},{{\"name\":{name},\"definition\":{definition}}},\
                 {{\"name\":\"export-v4\",\"definition\":{fourth}}}]"
            ),
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
            let error = with_operations(text, &offer()).expect_err("nothing that can be edited");
            assert_eq!(error.to_string(), expected, "{}", String::from_utf8_lossy(text));
        }
        for text in [
            deep.as_str(),
            r#"{"resourceType":"CapabilityStatement","rest":7}"#,
            r#"{"resourceType":"CapabilityStatement","instantiates":"x","rest":[{"mode":"server"}]}"#,
            r#"{"resourceType":"CapabilityStatement","rest":[{"mode":"server","operation":[1]}]}"#,
            r#"{"resourceType":"CapabilityStatement","rest":[{"mode":"server"}]"#,
        ] {
            let error = with_operations(text.as_bytes(), &offer()).expect_err("nothing that can be edited");
            assert!(matches!(error, PatchError::NotJson { .. }), "{error}");
        }
    }
}
