//! What is different for the files of one client: where they lie, and what its manifests list.

use std::path::{Path, PathBuf};
use std::time::Duration;

use offtake::config::LinkMode;
use serde_json::json;

use super::{Client, Rig};
use crate::exact::is_of_the_instance;
use crate::support::until;

/// How long a removal may take.
const PATIENCE: Duration = Duration::from_secs(20);

fn clients() -> [Client; 2] {
    [Client::new("plain", "system/*.rs"), Client::new("research", "system/*.rs")]
}

/// Two clients, the second one with wishes of its own.
async fn rig(clients: &[Client; 2], mode: LinkMode) -> Rig {
    Rig::configured(clients, |config| {
        let output = &mut config.smart.clients[1].output;
        output.folder = Some("research".parse().expect("a folder"));
        output.links = Some(mode);
    })
    .await
}

/// What lies in a folder, by name.
fn inside(folder: &Path) -> Vec<PathBuf> {
    let mut found: Vec<_> = std::fs::read_dir(folder)
        .expect("it is there")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| !is_of_the_instance(name(path)))
        .collect();
    found.sort();
    found
}

fn name(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

#[tokio::test]
async fn a_client_has_a_folder_and_links_of_its_own() {
    let [plain, research] = clients();
    let rig = rig(&[plain.clone(), research.clone()], LinkMode::Proxy).await;
    let tokens = [rig.token(&plain, "system/*.rs").await, rig.token(&research, "system/*.rs").await];
    let path = "/$export?_type=Patient";
    let statuses = [rig.exported(path, &tokens[0]).await, rig.exported(path, &tokens[1]).await];
    let (signed, of_plain) = rig.listed(&statuses[0], &tokens[0]).await;
    let (proxied, of_research) = rig.listed(&statuses[1], &tokens[1]).await;
    assert_eq!((&signed["requiresAccessToken"], &proxied["requiresAccessToken"]), (&json!(false), &json!(true)));

    let instance = inside(&rig.output()).pop().expect("an instance has its folder");
    let [job, folder] = &inside(&instance)[..] else { panic!("a job and a client: {:?}", inside(&instance)) };
    assert_eq!(name(job), statuses[0].rsplit('/').next().unwrap_or_default());
    assert_eq!(name(folder), "research");
    let [job] = &inside(folder)[..] else { panic!("one job: {:?}", inside(folder)) };
    assert_eq!(name(job), statuses[1].rsplit('/').next().unwrap_or_default());

    let (link, file) = (&of_plain["Patient"], &of_research["Patient"]);
    let (bare, query) = link.split_once('?').expect("it is signed");
    assert!(!file.contains('?'), "it stays the same: {file}");
    let with = |below: String, token: usize| {
        let (rig, token) = (&rig, &tokens[token]);
        async move { rig.with_token("GET", &below, token).await.status }
    };
    let without = |below: String| {
        let rig = &rig;
        async move { rig.ask("GET", &below, &[], b"").await.status }
    };
    assert_eq!(without(link.clone()).await, 200, "a link is enough");
    assert_eq!(with(file.clone(), 1).await, 200, "a token is needed");
    for (what, status, expected) in [
        ("a bare address", without(bare.to_owned()).await, 401),
        ("a token in place of a link", with(bare.to_owned(), 0).await, 403),
        ("nothing in place of a token", without(file.clone()).await, 401),
        ("a token of somebody else", with(file.clone(), 0).await, 404),
        ("the signature of another file", without(format!("{file}?{query}")).await, 403),
        ("the same, with a good token", with(format!("{file}?{query}"), 1).await, 200),
        ("a changed signature", without(format!("{link}0")).await, 403),
    ] {
        assert_eq!(status, expected, "{what}");
    }

    assert_eq!(rig.with_token("DELETE", &statuses[1], &tokens[1]).await.status, 202);
    until("its files are gone", PATIENCE, || !job.exists()).await;
    assert_eq!(without(link.clone()).await, 200, "and nobody else's");
    rig.stop().await;
}

/// A store that is lost is rebuilt from the folders of clients as well.
#[tokio::test]
async fn an_export_in_a_clients_folder_is_found_again() {
    let clients = clients();
    let mut rig = rig(&clients, LinkMode::Proxy).await;
    let [plain, research] = &clients;
    let tokens = [rig.token(plain, "system/*.rs").await, rig.token(research, "system/*.rs").await];
    let path = "/$export?_type=Patient";
    let statuses = [rig.exported(path, &tokens[0]).await, rig.exported(path, &tokens[1]).await];
    rig.store = rig.store.rebuilt(&rig.output()).await.expect("it can be rebuilt");
    rig.restart(|_| {}).await;
    // SEC-13: after that no assertion is accepted that may have been used before.
    rig.advance(331);
    for (client, status) in clients.iter().zip(&statuses) {
        let token = rig.token(client, "system/*.rs").await;
        let (_, links) = rig.listed(status, &token).await;
        assert_eq!(rig.with_token("GET", &links["Patient"], &token).await.status, 200, "{}", client.id);
    }
    rig.stop().await;
}
