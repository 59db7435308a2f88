//! The built program: SIGHUP has policies and the list of excluded patients read anew (SEC-14).

use sample_upstream::{SampleUpstream, Settings};
use serde_json::json;

use super::ALL;
use crate::process::{Options, Process, until};
use crate::smart::Client;
use crate::smart::process::{exported, token, with_token};
use crate::support::listener;

#[tokio::test]
async fn sighup_has_policies_and_the_list_heeded() {
    let upstream = SampleUpstream::new(Settings::default());
    upstream.generate(3);
    let server = upstream.serve(listener().await).await;
    let folder = tempfile::tempdir().expect("a folder");
    let list = folder.path().join("withdrawn");
    std::fs::write(&list, "").expect("the disk takes it");
    let client = Client::new("a", ALL);
    let clients = json!([{ "client_id": client.id, "scope": client.scope, "jwks": client.key.jwks(), "policy": { "types": ["Patient"] } }]);
    // Behind the section of clients comes another one.
    let smart = format!(
        "mode: authorization_server, clients: {clients} }}\npolicy: {{ exclude_patients_file: '{}'",
        list.display()
    );
    let process = Process::start_for(&server.base_url, Options::default(), &smart).await.expect("it starts");
    let token = token(&process, &client).await;
    let gone = async |status: &str, why: &str| {
        until(why, async || Ok((with_token(&process, "GET", status, &token).await.status == 404).then_some(())))
            .await
            .unwrap_or_else(|error| panic!("{error:?}\n{}", process.log()));
    };
    let (status, _) = exported(&process, &token).await;
    // What else is wrong holds nothing up that is said of those who withdrew consent.
    let somebody = upstream.resources(Some("Patient"))[0].id.clone();
    std::fs::write(&list, &somebody).expect("the disk takes it");
    process.reload(|yaml| yaml.replace("mode: authorization_server", "mode: nonsense")).expect("it is told");
    gone(&status, "the list is heeded").await;
    let (status, _) = exported(&process, &token).await;
    let narrowed = |yaml: String| {
        yaml.replace("mode: nonsense", "mode: authorization_server")
            .replace(r#""types":["Patient"]"#, r#""types":["Patient"],"withheld_labels":["s|c"]"#)
    };
    process.reload(narrowed).expect("it is told");
    gone(&status, "the policy is heeded").await;
    assert!(process.log().contains("an export was revoked"), "{}", process.log());
    assert!(!process.log().contains(&somebody), "SEC-41: nobody's id is logged");
    server.stop().await;
}
