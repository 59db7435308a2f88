//! What a kick-off may say, and what it is told when it may not.

use super::*;
use crate::bulk::shape::FileSizes;
use crate::fhir::capability::Capability;
use crate::fhir::filter::{FilterError, MOST_FILTERS};

const BASE: &str = "https://fhir.example/fhir";

fn headers(accept: &str, prefer: &str) -> Headers {
    Headers {
        accept: (!accept.is_empty()).then(|| accept.to_owned()),
        prefer: vec![prefer.to_owned()],
        content_type: Some("application/fhir+json; charset=utf-8".to_owned()),
        is_encoded: false,
    }
}

fn get_with(query: &str, prefer: &str) -> Result<Kickoff, KickoffError> {
    let now = Instant::parse("2026-06-01T00:00:00Z").expect("an instant");
    let headers = headers("application/fhir+json", prefer);
    let parsed = Kickoff::parse(ExportLevel::System, &Method::GET, Some(query), &headers, b"", BASE, now);
    parsed.map(|(kickoff, _)| kickoff)
}

fn get(query: &str) -> Result<Kickoff, KickoffError> {
    get_with(query, "respond-async")
}

fn post(body: &str) -> Result<Kickoff, KickoffError> {
    let now = Instant::parse("2026-06-01T00:00:00Z").expect("an instant");
    let headers = headers("*/*", "respond-async");
    let parsed = Kickoff::parse(ExportLevel::Patient, &Method::POST, None, &headers, body.as_bytes(), BASE, now);
    parsed.map(|(kickoff, _)| kickoff)
}

fn types(names: &[&str]) -> BTreeSet<ResourceType> {
    names.iter().filter_map(|name| ResourceType::parse(name)).collect()
}

/// Interop 1
#[test]
fn both_headers_are_wanted_in_any_form_that_allows_what_we_do() {
    let now = Instant::parse("2026-06-01T00:00:00Z").expect("an instant");
    for (accept, prefer, expected) in [
        ("application/fhir+json", "respond-async", None),
        ("application/fhir+json, */*; q=0.1", "Respond-Async, handling=strict", None),
        ("application/json", "wait=10, respond-async;foo=bar", None),
        ("", "respond-async", Some(KickoffError::NoAccept)),
        ("text/html", "respond-async", Some(KickoffError::NotAcceptable)),
        ("*/*;q=0", "respond-async", Some(KickoffError::NotAcceptable)),
        ("*/*", "", Some(KickoffError::NotAsync)),
        ("*/*", "respond-asynchronously", Some(KickoffError::NotAsync)),
    ] {
        let parsed = Kickoff::parse(ExportLevel::System, &Method::GET, None, &headers(accept, prefer), b"", BASE, now);
        assert_eq!(parsed.err(), expected, "{accept} | {prefer}");
    }
}

#[test]
fn lists_and_repeats_of_types_are_the_same() {
    for query in ["_type=Patient,Observation", "_type=Patient&_type=Observation", "_type=Patient%2CObservation"] {
        assert_eq!(get(query).expect("a kick-off").types, Some(types(&["Patient", "Observation"])), "{query}");
    }
    assert_eq!(get("").expect("a kick-off").types, None);
}

#[test]
fn bad_values_are_told_by_their_place_and_never_exported_without() {
    let at = |name: &str| format!("http.{name}");
    for (query, expected) in [
        ("_type=Dragon", KickoffError::UnknownType { location: at("_type"), name: "Dragon".to_owned() }),
        ("_type=patient", KickoffError::UnknownType { location: at("_type"), name: "patient".to_owned() }),
        ("_type=", KickoffError::UnknownType { location: at("_type"), name: String::new() }),
        ("_since=2026-01-01", KickoffError::Instant { location: at("_since") }),
        ("_since=2026-01-01T00:00:00", KickoffError::Instant { location: at("_since") }),
        ("_until=x", KickoffError::Instant { location: at("_until") }),
        ("_since=2027-01-01T00:00:00Z", KickoffError::Future { location: at("_since") }),
        ("_since=2026-01-01T00:00:00Z&_until=2026-01-01T00:00:00Z", KickoffError::Order { location: at("_until") }),
        (
            "_since=2026-01-01T00:00:00Z&_since=2025-01-01T00:00:00Z",
            KickoffError::Twice { location: at("_since"), name: "_since" },
        ),
        ("_outputFormat=text/csv", KickoffError::Format { location: at("_outputFormat") }),
        (
            "_typeFilter=Patient%3Fgender:not%3Dmale",
            KickoffError::Filter { location: at("_typeFilter"), error: FilterError::Modifier("gender:not".to_owned()) },
        ),
        ("patient=Patient/1", KickoffError::PatientInQuery { location: at("patient") }),
        ("_format=json", KickoffError::Unsupported { location: at("_format"), name: "_format".to_owned() }),
        ("_type=Patient&%zz=1", KickoffError::Query),
    ] {
        assert_eq!(get(query), Err(expected), "{query}");
    }
}

#[test]
fn all_spellings_of_the_format_and_an_unescaped_plus_are_taken() {
    for format in ["application/fhir%2Bndjson", "application/fhir+ndjson", "application/ndjson", "ndjson"] {
        assert!(get(&format!("_outputFormat={format}")).is_ok(), "{format}");
    }
    assert!(get("_since=2026-01-01T00:00:00+02:00").is_ok(), "an offset whose plus was not escaped");
}

/// SEC-22
#[test]
fn lenient_leaves_out_only_what_cannot_narrow() {
    let lenient = "respond-async, handling=lenient";
    for by in ["Encounter", "Group", "patient", "Dragon", ""] {
        let query = format!("organizeOutputBy={by}");
        assert_eq!(get_with(&query, lenient).expect("a kick-off").ignored, ["organizeOutputBy"], "{by}");
        assert!(get(&query).is_err(), "strict is the default: {by}");
    }
    for query in [
        "_typeFilter=Patient%3F_count%3D1",
        "patient=Patient/1",
        "_elements=a.b",
        "_since=x",
        "_type=Dragon",
        "foo=bar",
    ] {
        assert!(get_with(query, lenient).is_err(), "{query}");
    }
}

/// BD-024, BD-040: by `Patient`, and by nothing else.
#[test]
fn files_are_organized_by_patient_or_not_at_all() {
    assert_eq!(get("_type=Patient").expect("a kick-off").shape.organized_by, None);
    for prefer in ["respond-async", "respond-async, handling=lenient"] {
        let kickoff = get_with("organizeOutputBy=Patient", prefer).expect("a kick-off");
        assert_eq!((kickoff.shape.organized_by, kickoff.ignored.len()), (Some(ResourceType::PATIENT), 0));
    }
    let location = "http.organizeOutputBy".to_owned();
    let refused = get("organizeOutputBy=Encounter").expect_err("it cannot be had");
    assert_eq!(refused, KickoffError::OrganizedBy { location: location.clone(), value: "Encounter".to_owned() });
    let twice = get("organizeOutputBy=Patient&organizeOutputBy=Patient").expect_err("there is one");
    assert_eq!(twice, KickoffError::Twice { location, name: "organizeOutputBy" });
    let of =
        |value: &str| format!(r#"{{"resourceType":"Parameters","parameter":[{{"name":"organizeOutputBy",{value}}}]}}"#);
    let kickoff = post(&of(r#""valueString":"Patient""#)).expect("a kick-off");
    assert_eq!(kickoff.shape.organized_by, Some(ResourceType::PATIENT));
    assert!(post(&of(r#""valueBoolean":true"#)).is_err());
}

#[test]
fn a_parameters_body_says_the_same_as_a_query() {
    let body = r#"{"resourceType":"Parameters","parameter":[{"name":"_type","valueString":"Patient,Observation"},
        {"name":"_type","valueString":"Condition"},{"name":"_since","valueInstant":"2026-01-01T00:00:00Z"}]}"#;
    let kickoff = post(body).expect("a kick-off");
    assert_eq!(kickoff.types, Some(types(&["Patient", "Observation", "Condition"])));
    assert!(kickoff.since.is_some());
    assert!(post("").is_ok(), "interop 2: an empty body");
    for (body, expected) in [
        ("{", "the body is not JSON (line 1, column 1)"),
        (r#"{"resourceType":"Patient"}"#, "the body is not a `Parameters` resource"),
        ("[]", "the body is not"),
        (
            r#"{"resourceType":"Parameters","parameter":[{"name":"_since","valueString":"2026-01-01T00:00:00Z"}]}"#,
            "Parameters.parameter[0]: _since has no value of the right kind",
        ),
        (
            r#"{"resourceType":"Parameters","parameter":[{"valueString":"x"}]}"#,
            "Parameters.parameter[0]: not a parameter with a name",
        ),
        (r#"["Parameters"]"#, "the body is not a `Parameters` resource"),
        (r#"{"resourceType":"Parameters","resourceType":"Parameters"}"#, "the body is not a `Parameters`"),
        (r#"{"resourceType":"Parameters","parameter":{}}"#, "Parameters.parameter: not a parameter"),
        (r#"{"resourceType":"Parameters","parameter":[["_type"]]}"#, "Parameters.parameter[0]: not a parameter"),
        (
            r#"{"resourceType":"Parameters","parameter":[{"name":"_type","valueString":"Patient","modifierExtension":[{}]}]}"#,
            "Parameters.parameter[0]: not a parameter",
        ),
        (
            r#"{"resourceType":"Parameters","parameter":[{"name":"_since","valueInstant":"2026-01-01T00:00:00 02:00"}]}"#,
            "Parameters.parameter[0]: not a FHIR instant",
        ),
        (
            r#"{"resourceType":"Parameters","parameter":[{"name":"_type"}]}"#,
            "Parameters.parameter[0]: _type has no value",
        ),
    ] {
        let error = post(body).expect_err("no kick-off").to_string();
        assert!(error.starts_with(expected), "{error}");
    }
}

/// BD-029, BD-031: patients are named by literal references in a body, each once, and never at System level.
#[test]
fn patients_are_named_in_a_body_and_nowhere_else() {
    let named = |value: &str| {
        let body = format!(r#"{{"resourceType":"Parameters","parameter":[{{"name":"patient",{value}}}]}}"#);
        post(&body).map(|kickoff| match kickoff.patients {
            Some(NamedPatients::Clear(ids)) => ids.into_iter().map(String::from).collect::<Vec<_>>(),
            other => panic!("{other:?}"),
        })
    };
    let location = "Parameters.parameter[0]".to_owned();
    let reference = |text: &str| format!(r#""valueReference":{{"reference":"{text}"}}"#);
    for text in ["Patient/p-1", "https://fhir.example/fhir/Patient/p-1"] {
        assert_eq!(named(&reference(text)), Ok(vec!["p-1".to_owned()]), "{text}");
    }
    let both = r#""valueReference":{"reference":"Patient/a","type":"Patient","display":"A"}},
        {"name":"patient","valueReference":{"reference":"Patient/b"}},{"name":"patient","valueReference":{"reference":"Patient/a"}"#;
    assert_eq!(named(both), Ok(vec!["a".to_owned(), "b".to_owned()]));
    for text in [
        "p-1",
        "",
        "Patient/",
        "Patient/a/b",
        "Patient/a/_history/1",
        "Patient/a,Patient/b",
        "Patient/a b",
        "Group/a",
        "Patient?identifier=a|b",
        "#a",
        "urn:uuid:1",
        "https://other.example/fhir/Patient/a",
        "patient/a",
    ] {
        assert_eq!(named(&reference(text)), Err(KickoffError::NotAPatient { location: location.clone() }), "{text}");
    }
    for value in [
        r#""valueString":"Patient/a""#,
        r#""valueReference":"Patient/a""#,
        r#""valueReference":{"identifier":{"value":"a"}}"#,
        r#""valueReference":["Patient/a"]"#,
        r#""valueReference":{"reference":"Patient/a"},"valueString":"Patient/a""#,
    ] {
        let kind = KickoffError::Kind { location: location.clone(), name: "patient" };
        assert_eq!(named(value), Err(kind), "{value}");
    }
    let body =
        format!(r#"{{"resourceType":"Parameters","parameter":[{{"name":"patient",{}}}]}}"#, reference("Patient/a"));
    let now = Instant::parse("2026-06-01T00:00:00Z").expect("an instant");
    let headers = headers("*/*", "respond-async, handling=lenient");
    let system = Kickoff::parse(ExportLevel::System, &Method::POST, None, &headers, body.as_bytes(), BASE, now);
    assert_eq!(system.err(), Some(KickoffError::PatientAtSystem { location }));
}

/// A record from before there were such parameters names nobody.
#[test]
fn an_older_record_can_be_read() {
    let older = r#"{"level":"patient","types":null,"since":null,"until":null,"ignored":[]}"#;
    let kickoff: Kickoff = serde_json::from_str(older).expect("a kick-off");
    assert_eq!(kickoff, Kickoff::of(ExportLevel::Patient));
}

/// Spec 2.2: what stands in the query counts only if the body has nothing to say.
#[test]
fn a_body_and_a_query_do_not_mix() {
    let now = Instant::parse("2026-06-01T00:00:00Z").expect("an instant");
    let headers = headers("*/*", "respond-async");
    let parse = |method, body: &str| {
        Kickoff::parse(ExportLevel::System, &method, Some("_type=Patient"), &headers, body.as_bytes(), BASE, now)
    };
    let full = r#"{"resourceType":"Parameters","parameter":[{"name":"_type","valueString":"Patient"}]}"#;
    let location = "http._type".to_owned();
    assert!(parse(Method::POST, r#"{"resourceType":"Parameters"}"#).is_ok());
    assert_eq!(parse(Method::POST, full).err(), Some(KickoffError::BothPlaces { location }));
    assert_eq!(parse(Method::GET, full).err(), Some(KickoffError::BodyOfGet));
}

#[test]
fn no_more_parameters_are_held_than_one_request_may_have() {
    let body = |many| format!(r#"{{"resourceType":"Parameters","parameter":[{}0]}}"#, "{},".repeat(many));
    assert_eq!(post(&body(999)).err(), Some(KickoffError::Shape { location: "Parameters.parameter[0]".to_owned() }));
    assert_eq!(post(&body(300_000)).err(), Some(KickoffError::TooMany));
    assert_eq!(get(&"_type=Patient&".repeat(1_001)).err(), Some(KickoffError::TooMany));
    let deep = "[".repeat(200_000) + &"]".repeat(200_000);
    assert_eq!(post(&deep).err(), Some(KickoffError::NotParameters));
}

/// BD-005, BD-027
#[test]
fn elements_are_lists_or_repeats_and_known_to_some_type() {
    let kickoff = get("_elements=id,Patient.name&_elements=status,id").expect("a kick-off");
    assert_eq!(kickoff.elements.as_ref().map(Wanted::len), Some(3));
    assert_eq!(get("").expect("a kick-off").elements, None);
    let many: Vec<_> = (0..=elements::MOST_ELEMENTS).map(|number| format!("a{number}")).collect();
    let location = || "http._elements".to_owned();
    let too_many = KickoffError::TooManyElements { location: location() };
    assert_eq!(get(&format!("_elements={}", many.join(","))), Err(too_many));
    let searchable = types(&["Patient", "Media"]);
    let resolve = |query, version| {
        let now = Instant::parse("2026-06-01T00:00:00Z").expect("an instant");
        let headers = headers("*/*", "respond-async");
        let parsed = Kickoff::parse(ExportLevel::System, &Method::GET, Some(query), &headers, b"", BASE, now);
        let (kickoff, places) = parsed.expect("a kick-off");
        kickoff.resolve(&places, &searchable, version, &|_| false)
    };
    assert!(resolve("_elements=id,content", Compartments::R4).is_ok());
    let unknown = KickoffError::NotAnElement { location: location(), name: "stauts".to_owned() };
    assert_eq!(resolve("_elements=id,stauts", Compartments::R4), Err(unknown));
    let name = ResourceType::parse("Media").expect("a type");
    let without = KickoffError::ElementsOf { location: "http._type".to_owned(), name };
    assert_eq!(resolve("_elements=id", Compartments::R5), Err(without));
    assert!(resolve("_elements=id&_type=Patient", Compartments::R5).is_ok());
}

#[test]
fn types_are_held_against_the_level_and_the_server() {
    let searchable = types(&["Patient", "Observation", "Organization", "Group"]);
    let resolve = |level, names: Option<&[&str]>| {
        let types = names.map(types);
        let kickoff = Kickoff { types, ..Kickoff::of(level) };
        let names = kickoff.resolve(&Places::default(), &searchable, Compartments::R4, &|_| false);
        names.map(|names| names.iter().map(|name| name.as_str()).collect::<Vec<_>>())
    };
    assert_eq!(resolve(ExportLevel::System, None), Ok(vec!["Group", "Observation", "Organization", "Patient"]));
    assert_eq!(resolve(ExportLevel::Patient, None), Ok(vec!["Observation", "Patient"]));
    assert_eq!(resolve(ExportLevel::Patient, Some(&["Observation", "Organization"])), Ok(vec!["Observation"]));
    assert_eq!(
        resolve(ExportLevel::Patient, Some(&["Organization"])),
        Err(KickoffError::OutsideCompartment { location: "http._type".to_owned() })
    );
    let name = ResourceType::parse("Device").expect("a type");
    let refused = KickoffError::NotExportable { location: "http._type".to_owned(), name };
    assert_eq!(resolve(ExportLevel::System, Some(&["Device"])), Err(refused));
}

/// BD-035 to BD-038, SEC-21
#[test]
fn filters_are_read_from_queries_and_bodies_and_repeats_are_alternatives() {
    let filters = |kickoff: Kickoff| kickoff.filters.iter().map(ToString::to_string).collect::<Vec<_>>();
    let expected = ["Patient?gender=male", "Patient?gender=female", "Observation?code=a,b"];
    for query in [
        "_typeFilter=Patient%3Fgender%3Dmale&_typeFilter=Patient%3Fgender%3Dfemale&_typeFilter=Observation%3Fcode%3Da%252Cb",
        "_typeFilter=Patient?gender=male,Patient?gender=female,Observation?code=a,b",
        "_typeFilter=Patient?gender=male%2CPatient?gender=female&_typeFilter=Patient?gender=male,Observation?code=a%2Cb",
        "_type=Patient,Observation&_typeFilter=Patient?gender=male,Patient?gender=female,Observation?code=a,b",
    ] {
        assert_eq!(get(query).map(filters), Ok(expected.map(str::to_owned).to_vec()), "{query}");
    }
    let body = |value: &str| {
        format!(
            r#"{{"resourceType":"Parameters","parameter":[{{"name":"_typeFilter",{value}}},{{"name":"_typeFilter","valueString":"Patient?gender=female"}}]}}"#
        )
    };
    let posted = post(&body(r#""valueString":"Patient?gender=male,Observation?code=a%7Cb""#)).map(filters);
    let expected = ["Patient?gender=male", "Observation?code=a|b", "Patient?gender=female"];
    assert_eq!(posted, Ok(expected.map(str::to_owned).to_vec()));
    let location = "Parameters.parameter[0]".to_owned();
    let kind = KickoffError::Kind { location: location.clone(), name: "_typeFilter" };
    assert_eq!(post(&body(r#""valueInstant":"2026-01-01T00:00:00Z""#)).err(), Some(kind));
    let error = FilterError::NotAFilter("_count".to_owned());
    assert_eq!(
        post(&body(r#""valueString":"Patient?_count=1""#)).err(),
        Some(KickoffError::Filter { location, error })
    );
}

#[test]
fn filters_are_held_against_the_types_and_bounded() {
    let location = || "http._typeFilter".to_owned();
    let name = ResourceType::PATIENT;
    let refused = KickoffError::FilteredNotAsked { location: location(), name };
    for query in
        ["_type=Observation&_typeFilter=Patient?gender=male", "_typeFilter=Patient?gender=male&_type=Observation"]
    {
        assert_eq!(get_with(query, "respond-async, handling=lenient").err(), Some(refused.clone()), "{query}");
    }
    let many = |count| {
        let filters: Vec<_> = (0..count).map(|number| format!("_typeFilter=Patient?gender=g{number}")).collect();
        get(&filters.join("&"))
    };
    assert!(many(filter::MOST_OF_A_TYPE).is_ok());
    let refused = Some(KickoffError::TooManyFilters { location: location() });
    assert_eq!(many(filter::MOST_OF_A_TYPE + 1).err(), refused);
    let of_types = |count: usize| {
        let types = ["Patient", "Observation", "Condition", "Encounter", "Procedure"].into_iter().cycle();
        let filters: Vec<_> =
            types.take(count).enumerate().map(|(n, name)| format!("_typeFilter={name}?code=c{n}")).collect();
        get(&filters.join("&"))
    };
    assert!(of_types(MOST_FILTERS).is_ok());
    assert_eq!(of_types(MOST_FILTERS + 1).err(), refused);
}

/// BD-039, SEC-21: listed for the very type, and nothing by which the export itself asks.
#[test]
fn filters_are_held_against_what_the_server_lists() {
    let statement = br#"{"resourceType":"CapabilityStatement","fhirVersion":"4.0.1","rest":[{"resource":[
        {"type":"Patient","interaction":[{"code":"search-type"}],"searchParam":[{"name":"gender","type":"token"}]},
        {"type":"Observation","interaction":[{"code":"search-type"}],"searchParam":[{"name":"code","type":"token"},
          {"name":"performer","type":"reference"},{"name":"subject","type":"reference"},{"name":"near","type":"special"}]}]}]}"#;
    let capability = Capability::parse(statement).expect("a statement");
    let now = Instant::parse("2026-06-01T00:00:00Z").expect("an instant");
    let check = |level, filter: &str| {
        let (headers, query) = (headers("*/*", "respond-async"), format!("_typeFilter={}", filter.replace('&', "%26")));
        let (kickoff, places) = Kickoff::parse(level, &Method::GET, Some(&query), &headers, b"", BASE, now)?;
        kickoff.check_filters(&places, &capability, Compartments::R4)
    };
    let location = || "http._typeFilter".to_owned();
    let name = |name: &str| ResourceType::parse(name).expect("a type");
    let unlisted = |of: &str, parameter: &str| {
        Err(KickoffError::FilterUnlisted { location: location(), name: name(of), parameter: parameter.to_owned() })
    };
    let used = |parameter: &str| {
        let parameter = parameter.to_owned();
        Err(KickoffError::FilterIsUsed { location: location(), name: name("Observation"), parameter })
    };
    for (level, filter, expected) in [
        (ExportLevel::System, "Patient?gender=male", Ok(())),
        (ExportLevel::System, "Observation?code=a&subject=Patient/1", Ok(())),
        (ExportLevel::Patient, "Observation?code=a", Ok(())),
        (ExportLevel::Patient, "Observation?code=a&subject=Patient/1", used("subject")),
        (ExportLevel::Patient, "Observation?performer=Practitioner/1", used("performer")),
        (ExportLevel::System, "Patient?code=a", unlisted("Patient", "code")),
        (ExportLevel::System, "Observation?code=a&near=b", unlisted("Observation", "near")),
        (ExportLevel::System, "Observation?_tag=b", unlisted("Observation", "_tag")),
        (
            ExportLevel::System,
            "Device?type=a",
            Err(KickoffError::NotExportable { location: location(), name: name("Device") }),
        ),
    ] {
        assert_eq!(check(level, filter), expected, "{filter}");
    }
}

fn posted(body: &str, release: Release) -> Result<Kickoff, KickoffError> {
    let now = Instant::parse("2026-06-01T00:00:00Z").expect("an instant");
    let operation = Operation { level: ExportLevel::Patient, release };
    let headers = headers("*/*", "respond-async, separate-export-status");
    Kickoff::parse(operation, &Method::POST, None, &headers, body.as_bytes(), BASE, now).map(|(kickoff, _)| kickoff)
}

/// Spec 1.1, 2.2: in 4.0 each value stands alone.
#[test]
fn the_fourth_release_knows_no_lists() {
    let body = |values: &[&str]| {
        let sent: Vec<_> =
            values.iter().map(|value| format!(r#"{{"name":"_type","valueString":"{value}"}}"#)).collect();
        format!(r#"{{"resourceType":"Parameters","parameter":[{}]}}"#, sent.join(","))
    };
    let kickoff = posted(&body(&["Patient", "Observation"]), Release::Four).expect("a kick-off");
    assert_eq!(kickoff.types, Some(types(&["Patient", "Observation"])));
    assert_eq!(kickoff.shape, Shape { release: Release::Four, status: StatusForm::Separate, ..Shape::default() });
    for list in ["Patient,Observation", "Patient,", ",", "Patient, Observation"] {
        let location = "Parameters.parameter[1]".to_owned();
        let refused = Err(KickoffError::List { location, name: "_type" });
        assert_eq!(posted(&body(&["Condition", list]), Release::Four), refused, "{list}");
    }
    assert!(posted(&body(&["Patient,Observation"]), Release::Three).is_ok(), "as in 3.0");
    // A comma within a filter is its own.
    let filters = |text: &str| {
        let sent = format!(r#"{{"name":"_typeFilter","valueString":"{text}"}}"#);
        format!(r#"{{"resourceType":"Parameters","parameter":[{sent}]}}"#)
    };
    assert!(posted(&filters("Observation?code=a,b"), Release::Four).is_ok());
    let (two, location) = ("Observation?code=a,Patient?gender=male", "Parameters.parameter[0]".to_owned());
    let refused = Err(KickoffError::List { location, name: "_typeFilter" });
    assert_eq!(posted(&filters(two), Release::Four), refused);
    assert!(posted(&filters(two), Release::Three).is_ok(), "as in 3.0");
}

#[test]
fn a_record_from_before_there_were_shapes_is_of_the_first_of_each() {
    let kickoff = get("_type=Patient").expect("a kick-off");
    let mut record = serde_json::to_value(&kickoff).expect("plain values");
    record.as_object_mut().expect("an object").remove("shape");
    assert_eq!(serde_json::from_value::<Kickoff>(record).expect("an older record"), kickoff);
}

/// BD-045
#[test]
fn partial_manifests_are_allowed_by_a_truth_value_alone() {
    let sent = |value: &str| {
        format!(r#"{{"resourceType":"Parameters","parameter":[{{"name":"allowPartialManifests",{value}}}]}}"#)
    };
    for (kickoff, expected) in [
        (get(""), false),
        (get("allowPartialManifests=true"), true),
        (get("allowPartialManifests=false"), false),
        (post(&sent(r#""valueBoolean":true"#)), true),
        (post(&sent(r#""valueBoolean":false"#)), false),
    ] {
        assert_eq!(kickoff.expect("a kick-off").shape.allows_partial, expected);
    }
    let lenient = "respond-async, handling=lenient";
    for text in ["", "1", "TRUE", "yes", "true,false"] {
        let location = "http.allowPartialManifests".to_owned();
        let refused = Err(KickoffError::Kind { location, name: "allowPartialManifests" });
        assert_eq!(get_with(&format!("allowPartialManifests={text}"), lenient), refused, "{text}");
    }
    for value in
        [r#""valueBoolean":"true""#, r#""valueString":"true""#, r#""valueBoolean":1"#, r#""valueBoolean":null"#]
    {
        let location = "Parameters.parameter[0]".to_owned();
        let refused = Err(KickoffError::Kind { location, name: "allowPartialManifests" });
        assert_eq!(post(&sent(value)), refused, "{value}");
    }
    assert!(get("allowPartialManifests=true&allowPartialManifests=true").is_err(), "it stands there once");
}

/// BD-046
#[test]
fn sizes_of_files_are_positive_and_in_their_order() {
    let sizes = |query: &str| get(query).map(|kickoff| kickoff.shape.file_sizes);
    let largest_at = "http._maximumFileSize".to_owned();
    let both = FileSizes { smallest: Some(1), largest: Some(2) };
    assert_eq!(sizes("_minimumFileSize=1&_maximumFileSize=2"), Ok(both));
    assert_eq!(sizes("_maximumFileSize=2&_minimumFileSize=1"), Ok(both));
    for query in ["_minimumFileSize=2&_maximumFileSize=2", "_maximumFileSize=1&_minimumFileSize=2"] {
        assert_eq!(sizes(query), Err(KickoffError::Sizes { location: largest_at.clone() }), "{query}");
    }
    for text in ["", "0", "-1", "+1", "1.0", "1e6", "1 MiB", "99999999999999999999", "1,2"] {
        let refused = Err(KickoffError::Kind { location: largest_at.clone(), name: "_maximumFileSize" });
        assert_eq!(sizes(&format!("_maximumFileSize={text}")), refused, "{text}");
    }
    let sent = |value: &str| {
        let body = format!(r#"{{"resourceType":"Parameters","parameter":[{{"name":"_maximumFileSize",{value}}}]}}"#);
        post(&body).map(|kickoff| kickoff.shape.file_sizes.largest)
    };
    for value in [r#""valuePositiveInt":7"#, r#""valueInteger":7"#] {
        assert_eq!(sent(value), Ok(Some(7)), "{value}");
    }
    for value in [
        r#""valuePositiveInt":0"#,
        r#""valueInteger":-7"#,
        r#""valueString":"7""#,
        r#""valueInteger":7.5"#,
        r#""valuePositiveInt":7,"valueInteger":7"#,
        r#""valueInteger":7,"valueString":"7""#,
    ] {
        assert!(matches!(sent(value), Err(KickoffError::Kind { .. })), "{value}");
    }
    let now = Instant::parse("2026-06-01T00:00:00Z").expect("an instant");
    let headers = headers("*/*", "respond-async");
    let (kickoff, places) =
        Kickoff::parse(ExportLevel::System, &Method::GET, Some("_maximumFileSize=9"), &headers, b"", BASE, now)
            .expect("good");
    assert_eq!(kickoff.check_sizes(&places, 9), Ok(()));
    assert_eq!(kickoff.check_sizes(&places, 10), Err(KickoffError::SmallFiles { location: largest_at, least: 10 }));
}
