//! Attachments that are kept as a Binary of the server: references, or inlined (SEC-24, BD-054, BD-096, BD-097).

use offtake::config::{Attachments, Size};
use sample_upstream::{Lies, SampleUpstream, Settings, Stamp};
use serde_json::{Value, json};

use super::{PEOPLE, export, string};
use crate::smart::{Client, Rig};
use crate::support::App;

/// A document of somebody, whose attachments lead here.
fn document(id: &str, patient: &str, urls: &[&str]) -> String {
    let content: Vec<_> = urls.iter().map(|url| json!({ "attachment": { "title": id, "url": url } })).collect();
    json!({
        "resourceType": "DocumentReference", "id": id, "status": "current",
        "subject": { "reference": format!("Patient/{patient}") }, "content": content,
    })
    .to_string()
}

fn binary(id: &str, more: Value) -> String {
    let mut binary = json!({ "resourceType": "Binary", "id": id, "contentType": "text/plain", "data": "aGk=" });
    let own = binary.as_object_mut().expect("an object");
    own.extend(more.as_object().expect("an object").clone());
    binary.to_string()
}

fn context(reference: &str) -> Value {
    json!({ "securityContext": { "reference": reference } })
}

/// What each attachment of a document says.
fn said(line: &str) -> Vec<(String, Option<String>)> {
    let document: Value = serde_json::from_str(line).expect("JSON");
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let contents = document["content"].as_array().expect("a list").iter().map(|content| &content["attachment"]);
    contents.map(|attachment| (text(&attachment["url"]).expect("a URL"), text(&attachment["data"]))).collect()
}

/// The ids of Binaries that the server was asked for.
fn asked(upstream: &SampleUpstream) -> Vec<String> {
    let of = |path: &str| path.strip_prefix("/fhir/Binary/").filter(|id| !id.starts_with('_')).map(str::to_owned);
    let mut asked: Vec<_> = upstream.requests().iter().filter_map(|seen| of(&seen.path)).collect();
    asked.sort_unstable();
    asked.dedup();
    asked
}

fn upstream(settings: Settings) -> SampleUpstream {
    let upstream = SampleUpstream::new(settings);
    let large = "QUFB".repeat(400);
    for json in PEOPLE.iter().map(|json| (*json).to_owned()).chain([
        document("plain", "anna", &["Binary/b", "Binary/of-anna", "Binary/of-document"]),
        document("left", "anna", &["Binary/gone", "Binary/large", "Binary/b/_history/1", "Binary/raw"]),
        document("elsewhere", "anna", &["http://other.example/fhir/Binary/b", "https://cdn.example/x.pdf"]),
        document("of-others", "anna", &["Binary/of-cleo", "Binary/of-other-document", "Binary/of-somebody"]),
        document("cleos", "cleo", &["Binary/of-cleo-alone"]),
        binary("b", json!({})),
        binary("of-anna", context("Patient/anna")),
        binary("of-document", context("DocumentReference/plain")),
        binary("large", json!({ "data": large, "securityContext": { "reference": "Patient/anna" } })),
        binary("raw", json!({ "data": "<no base64>", "securityContext": { "reference": "Patient/anna" } })),
        binary("of-cleo", context("Patient/cleo")),
        binary("of-other-document", context("DocumentReference/cleos")),
        binary("of-somebody", json!({ "securityContext": { "display": "somebody" } })),
        binary("of-cleo-alone", json!({})),
    ]) {
        upstream.create(&json).unwrap_or_else(|error| panic!("{json}: {error}"));
    }
    upstream
}

fn inline(config: &mut offtake::Config) {
    config.export.attachments = Attachments::Inline;
    config.export.attachments_max = Size::kibibytes(1);
}

const DOCUMENTS: &str = "DocumentReference";

#[tokio::test]
async fn what_attachments_hold_comes_where_it_is_wanted_and_may_leave() {
    let hi = || Some("aGk=".to_owned());
    let one_stamp = Settings { stamp: Stamp::Single, max_count: Some(2), ..Settings::default() };
    // Many with one stamp and little memory: what cannot be cut is written as it comes.
    for (settings, page) in [(Settings::default(), Size::mebibytes(2)), (one_stamp, Size::kibibytes(1))] {
        for level in ["", "/Patient", "/Group/g"] {
            let app = App::before(upstream(settings.clone()), |config| {
                inline(config);
                config.upstream.page_target = page;
            })
            .await;
            let export = export(&app.base, level, &[string("_type", DOCUMENTS)], None).await;
            let of = |id: &str| said(export.line(&format!("{DOCUMENTS}/{id}")));
            let url = |id: &str| format!("Binary/{id}");
            // SEC-24: of which nobody says whose it is does not leave where that matters.
            let is_anybodys = |id: &str| id == "b" && level == "/Group/g";
            let plain = ["b", "of-anna", "of-document"].map(|id| (url(id), hi().filter(|_| !is_anybodys(id))));
            assert_eq!(of("plain"), plain, "{level}");
            let typed: Value = serde_json::from_str(export.line("DocumentReference/plain")).expect("JSON");
            assert_eq!(typed["content"][1]["attachment"]["contentType"], "text/plain", "{level}");
            let left = ["gone", "large", "b/_history/1", "raw"].map(|id| (url(id), None));
            assert_eq!(of("left"), left, "{level}");
            assert!(of("elsewhere").iter().all(|(_, data)| data.is_none()), "{level}");
            assert_eq!(
                export.says("3 attachments are references and hold no data, as the server does not"),
                1,
                "{}",
                export.error
            );
            assert_eq!(
                export.says("1 attachments are references and hold no data, as they are larger"),
                1,
                "{}",
                export.error
            );
            let asked = asked(&app.upstream);
            let of_others = ["of-cleo", "of-other-document", "of-somebody"];
            // At System level there are no others; of all patients everybody is one.
            let withheld = match level {
                "" => 0,
                "/Patient" => 2,
                _ => 3,
            };
            let kept = of("of-others").iter().filter(|(_, data)| data.is_none()).count();
            assert_eq!(kept, withheld, "{level}: {:?}", of("of-others"));
            let withheld = withheld + usize::from(is_anybodys("b"));
            let told =
                export.says(&format!("{withheld} attachments are references and hold no data, as they are not shown"));
            assert_eq!(told, usize::from(withheld > 0), "{level}: {}", export.error);
            assert!(of_others.iter().all(|id| asked.contains(&(*id).to_owned())), "{asked:?}");
            // Nothing is fetched for what does not leave.
            assert_eq!(asked.contains(&"of-cleo-alone".to_owned()), level != "/Group/g", "{level}: {asked:?}");
            app.stop().await;
        }
    }
}

#[tokio::test]
async fn nothing_is_fetched_unless_an_operator_wants_it() {
    let app = App::before(upstream(Settings::default()), |_| {}).await;
    let export = export(&app.base, "", &[string("_type", DOCUMENTS)], None).await;
    assert!(said(export.line("DocumentReference/plain")).iter().all(|(_, data)| data.is_none()));
    assert_eq!((export.says("hold no data"), asked(&app.upstream)), (0, Vec::new()));
    app.stop().await;
}

/// SEC-24: nobody goes where the server sends us for a Binary, and one that it fails to give ends nothing.
#[tokio::test]
async fn a_binary_is_had_from_the_server_or_not_at_all() {
    let elsewhere = SampleUpstream::new(Settings::default());
    elsewhere.create(&binary("b", json!({}))).expect("a resource");
    let other = elsewhere.serve(crate::support::listener().await).await;
    for lies in [
        Lies { binaries_at: Some(other.base_url.clone()), ..Lies::default() },
        Lies { poisoned: ["Binary/b".to_owned()].into(), ..Lies::default() },
    ] {
        let app = App::before(upstream(Settings { lies: lies.clone(), ..Settings::default() }), inline).await;
        let export = export(&app.base, "/Patient", &[string("_type", DOCUMENTS)], None).await;
        let first = said(export.line("DocumentReference/plain")).remove(0);
        assert_eq!(first, ("Binary/b".to_owned(), None), "{lies:?}");
        assert_eq!(export.says("as the server does not give them as a FHIR Binary"), 1, "{}", export.error);
        app.stop().await;
    }
    assert!(elsewhere.requests().is_empty(), "{:?}", elsewhere.requests());
    other.stop().await;
}

/// SEC-24, SEC-26: whoever may not have Binary has references, and of what a label keeps back nobody is told.
#[tokio::test]
async fn scopes_and_labels_keep_what_attachments_hold_back() {
    let all = "system/DocumentReference.rs system/Patient.rs system/Binary.rs";
    let few = "system/DocumentReference.rs system/Patient.rs";
    let some = "system/DocumentReference.rs system/Patient.rs system/Binary.rs?_tag=public";
    let client = Client::new("a", all);
    let mut configured = client.config();
    configured.policy =
        serde_json::from_value(json!({ "withheld_labels": ["http://l|secret"], "filter_parameters": ["Binary?_tag"] }))
            .expect("a policy");
    let rig = Rig::configured(&[], |config| {
        config.smart.clients = vec![configured];
        inline(config);
    })
    .await;
    let label = json!({ "meta": { "security": [{ "system": "http://l", "code": "secret" }] } });
    for json in [
        r#"{"resourceType":"Patient","id":"anna"}"#.to_owned(),
        document("d", "anna", &["Binary/open", "Binary/secret"]),
        binary("open", json!({})),
        binary("secret", label),
    ] {
        rig.upstream.create(&json).expect("a resource");
    }
    let with_binaries = "DocumentReference,Binary";
    for (scopes, types, expected, refused) in [
        (all, DOCUMENTS, [Some("aGk="), None], 0),
        (few, DOCUMENTS, [None, None], 1),
        // Whoever may have those alone that pass a filter has none of them this way, which passes none.
        (some, DOCUMENTS, [None, None], 1),
        (some, with_binaries, [None, None], 1),
    ] {
        let before = asked(&rig.upstream).len();
        let token = rig.token(&client, scopes).await;
        let export = export(&rig.base, "", &[string("_type", types)], Some(&token)).await;
        let data: Vec<_> = said(export.line("DocumentReference/d")).into_iter().map(|(_, data)| data).collect();
        assert_eq!(data.iter().map(Option::as_deref).collect::<Vec<_>>(), expected, "{scopes}");
        assert_eq!(export.says("as Binary is not permitted"), refused, "{scopes}: {}", export.error);
        assert_eq!(export.says("attachments are references"), refused, "{scopes}: {}", export.error);
        assert_eq!(asked(&rig.upstream).len() > before, refused == 0, "{scopes}");
    }
    rig.stop().await;
}

/// SEC-20: what is always taken out of a Binary leaves in nothing else.
#[tokio::test]
async fn what_is_taken_out_of_a_binary_is_inlined_nowhere() {
    let client = Client::new("a", "system/*.rs");
    for (removed, expected) in [("Binary.securityContext", Some("aGk=")), ("Binary.data", None)] {
        let mut configured = client.config();
        configured.policy = serde_json::from_value(json!({ "removed_elements": [removed] })).expect("a policy");
        let rig = Rig::configured(&[], |config| {
            config.smart.clients = vec![configured];
            inline(config);
        })
        .await;
        for json in [
            r#"{"resourceType":"Patient","id":"anna"}"#.to_owned(),
            document("d", "anna", &["Binary/open"]),
            binary("open", json!({})),
        ] {
            rig.upstream.create(&json).expect("a resource");
        }
        let token = rig.token(&client, "system/*.rs").await;
        let export = export(&rig.base, "", &[string("_type", "DocumentReference,Binary")], Some(&token)).await;
        let (_, data) = said(export.line("DocumentReference/d")).remove(0);
        assert_eq!(data.as_deref(), expected, "{removed}");
        let binary: Value = serde_json::from_str(export.line("Binary/open")).expect("JSON");
        assert_eq!(binary["data"].as_str(), expected, "{removed}");
        rig.stop().await;
    }
}

/// What does not fit into memory together is read in parts, and all of it comes.
#[tokio::test]
async fn attachments_that_do_not_fit_into_memory_together_come_one_after_another() {
    let upstream = SampleUpstream::new(Settings::default());
    upstream.create(PEOPLE[0]).expect("a resource");
    let data = "QUFB".repeat(64 * 1024);
    for number in 0..24 {
        let id = format!("b{number}");
        upstream.create(&binary(&id, json!({ "data": data }))).expect("a resource");
        upstream.create(&document(&id, "anna", &[&format!("Binary/{id}")])).expect("a resource");
    }
    let app = App::before(upstream, |config| {
        inline(config);
        config.export.attachments_max = Size::mebibytes(1);
        config.upstream.page_target = Size::kibibytes(256);
        config.upstream.memory_budget = Size::mebibytes(4);
    })
    .await;
    let export = export(&app.base, "/Patient", &[string("_type", DOCUMENTS)], None).await;
    for number in 0..24 {
        let line = export.line(&format!("{DOCUMENTS}/b{number}"));
        assert_eq!(said(line), [(format!("Binary/b{number}"), Some(data.clone()))], "{number}");
    }
    assert_eq!(export.says("hold no data"), 0, "{}", export.error);
    app.stop().await;
}
