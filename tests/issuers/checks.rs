//! What real issuers' tokens open, and which of them open nothing.

use anyhow::ensure;

use crate::issuer::{ELSEWHERE, ES384, Issuer, RS384, STRANGER};
use crate::rig::{Rig, Way};

const ALL: &str = "system/*.rs";

/// Whole exports, compared line by line, by clients of either algorithm; what is somebody else's is not there.
async fn export(issuer: &Issuer, way: Way) -> anyhow::Result<()> {
    let rig = Rig::before(issuer, way).await?;
    let tokens = [issuer.token(ES384, ALL).await?, issuer.token(RS384, ALL).await?];
    for (own, other) in [(0, 1), (1, 0)] {
        for path in ["/$export", "/Patient/$export", "/Group/all/$export"] {
            let status = rig.export(path, &tokens[own]).await?;
            for method in ["GET", "DELETE"] {
                let answer = rig.ask(method, &status, Some(&tokens[other])).await;
                ensure!(answer.status == 404, "{method} by another client: {}", answer.status);
            }
            // Another token of the same client is as good.
            let client = if own == 0 { ES384 } else { RS384 };
            let again = issuer.token(client, "system/Patient.rs").await?;
            let answer = rig.ask("DELETE", &status, Some(&again)).await;
            ensure!(answer.status == 202, "DELETE: {}", answer.status);
        }
    }
    let narrow = issuer.token(ES384, "system/Patient.rs").await?;
    let wide = rig.ask("GET", "/$export?_type=Patient,Observation", Some(&narrow)).await;
    ensure!(wide.status == 403, "beyond its scope: {}", wide.status);
    rig.export("/$export?_type=Patient", &narrow).await?;
    rig.end().await
}

pub(crate) async fn export_by_keys(issuer: &Issuer) -> anyhow::Result<()> {
    export(issuer, Way::Keys).await
}

pub(crate) async fn export_by_asking(issuer: &Issuer) -> anyhow::Result<()> {
    export(issuer, Way::Asking).await
}

/// SMART has them expire within five minutes (SM-016); that is the issuer's to say. We judge its token alone.
pub(crate) async fn long_assertion(issuer: &Issuer) -> anyhow::Result<()> {
    let rig = Rig::before(issuer, Way::Keys).await?;
    let token = issuer.token_by(ES384, 3_600).await?;
    let answer = rig.ask("GET", "/$export?_type=Patient", Some(&token)).await;
    ensure!(answer.status == 202, "{}", answer.status);
    rig.end().await
}

/// One issuer refuses them, the other gives a token without any, which is no right.
pub(crate) async fn unknown_scope(issuer: &Issuer) -> anyhow::Result<()> {
    let rig = Rig::before(issuer, Way::Keys).await?;
    let answer = issuer.answer(ES384, "system/Dragon.rs", &[]).await?;
    if issuer.is_keycloak() {
        ensure!(answer.status == 400 && answer.json()["error"] == "invalid_scope", "{:?}", answer.json());
    } else {
        ensure!(answer.status == 200 && answer.json()["scope"].is_null(), "{:?}", answer.json());
        let token = answer.json()["access_token"].as_str().unwrap_or_default().to_owned();
        rig.refuses("an empty scope", &token, 403, "insufficient_scope").await?;
    }
    rig.end().await
}

pub(crate) async fn foreign_audience(issuer: &Issuer) -> anyhow::Result<()> {
    let rig = Rig::before(issuer, Rig::way(issuer)).await?;
    let (client, more): (_, &[(&str, &str)]) =
        if issuer.is_keycloak() { (ELSEWHERE, &[]) } else { (ES384, &[("resource", "https://other.example/fhir")]) };
    let answer = issuer.answer(client, ALL, more).await?;
    ensure!(answer.status == 200, "{}", String::from_utf8_lossy(&answer.body));
    let token = answer.json()["access_token"].as_str().unwrap_or_default().to_owned();
    rig.refuses("a token for another server", &token, 401, "invalid_token").await?;
    rig.end().await
}

pub(crate) async fn unlisted_client(issuer: &Issuer) -> anyhow::Result<()> {
    let rig = Rig::before(issuer, Rig::way(issuer)).await?;
    rig.refuses("a client that is not listed", &issuer.token(STRANGER, ALL).await?, 401, "invalid_token").await?;
    rig.end().await
}

/// A user's app is listed here by mistake: neither its access tokens nor its ID tokens open anything.
pub(crate) async fn tokens_of_a_user(issuer: &Issuer) -> anyhow::Result<()> {
    let rig = Rig::before(issuer, Rig::way(issuer)).await?;
    let mut scopes =
        vec!["openid user/Patient.rs", "openid launch/patient", "openid system/Patient.rs user/Patient.rs"];
    if issuer.is_keycloak() {
        // It says in its tokens that somebody has logged in; the other one does not, and must not give such scopes to users.
        scopes.push("openid system/Patient.rs");
    }
    for scope in scopes {
        let answer = issuer.login(scope)?;
        let access = answer["access_token"].as_str().unwrap_or_default();
        ensure!(!access.is_empty(), "{scope}: {answer}");
        rig.refuses(scope, access, 401, "invalid_token").await?;
        let id_token = answer["id_token"].as_str().unwrap_or_default();
        ensure!(!id_token.is_empty(), "{scope}: {answer}");
        rig.refuses("its ID token", id_token, 401, "invalid_token").await?;
    }
    rig.end().await
}

/// For a kick-off the issuer is asked each time.
pub(crate) async fn revoked(issuer: &Issuer) -> anyhow::Result<()> {
    let rig = Rig::before(issuer, Way::Asking).await?;
    let token = issuer.token(ES384, ALL).await?;
    let status = rig.export("/$export?_type=Patient", &token).await?;
    issuer.revoke(ES384, &token).await?;
    rig.refuses("a token that is revoked", &token, 401, "invalid_token").await?;
    let answer = rig.ask("GET", &status, Some(&token)).await;
    ensure!(answer.status == 401, "known from then on: {}", answer.status);
    let again = issuer.token(ES384, ALL).await?;
    ensure!(rig.ask("GET", &status, Some(&again)).await.status == 200, "its export is there");
    rig.end().await
}

/// SM-001
pub(crate) async fn discovery(issuer: &Issuer) -> anyhow::Result<()> {
    let rig = Rig::before(issuer, Rig::way(issuer)).await?;
    let answer = rig.ask("GET", "/.well-known/smart-configuration", None).await;
    let (told, own) = (answer.json(), issuer.metadata().await);
    ensure!(answer.status == 200 && told["token_endpoint"] == own["token_endpoint"], "{told}");
    let methods = told["token_endpoint_auth_methods_supported"].as_array().cloned().unwrap_or_default();
    ensure!(methods.iter().any(|method| method == "private_key_jwt"), "{told}");
    rig.end().await
}
