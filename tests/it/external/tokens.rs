//! What a token of the issuer opens.

use std::collections::BTreeSet;

use jsonwebtoken::Algorithm;
use offtake::config::Level;
use serde_json::json;

use super::{External, signed};
use crate::smart::{FORM, Key};

const ALL: &str = "system/*.rs";

/// SEC-11, SEC-15
#[tokio::test]
async fn an_export_holds_what_both_the_token_and_the_registration_permit() {
    let external = External::with(&[("a", "system/Patient.rs system/Observation.rs system/Group.r"), ("b", ALL)]).await;
    let rig = &external.rig;
    for (client, scope, expected) in [
        ("a", ALL, &["Observation", "Patient"][..]),
        ("b", "system/Patient.read system/Condition.rs", &["Condition", "Patient"]),
        ("b", "openid profile system/Patient.rs", &["Patient"]),
    ] {
        let token = external.token(client, scope);
        let status = rig.exported("/$export", &token).await;
        let (manifest, links) = rig.listed(&status, &token).await;
        let files = manifest["output"].as_array().expect("a list").iter();
        let types: BTreeSet<_> = files.map(|file| file["type"].as_str().expect("a type")).collect();
        assert_eq!(types, expected.iter().copied().collect(), "{client}: {scope}");
        assert_eq!(manifest["requiresAccessToken"], json!(false));
        assert_eq!(rig.ask("GET", &links["Patient"], &[], b"").await.status, 200);
        let other = external.token(if client == "a" { "b" } else { "a" }, ALL);
        assert_eq!(rig.with_token("GET", &status, &other).await.status, 404, "it is not theirs");
        assert_eq!(rig.with_token("DELETE", &status, &other).await.status, 404);
        assert_eq!(
            rig.with_token("DELETE", &status, &external.token(client, scope)).await.status,
            202,
            "by any of theirs"
        );
    }
    external.rig.stop().await;
}

/// What an operator says of a client cuts what its token and its registration permit.
#[tokio::test]
async fn a_clients_policy_is_above_its_tokens() {
    let external = External::configured(&[("a", ALL), ("b", ALL)], |config| {
        config.smart.clients[0].policy.types = Some(vec!["Patient".to_owned()]);
        config.smart.clients[1].policy.levels = Some(vec![Level::Group]);
        config.smart.clients[1].policy.groups = Some(vec!["other".to_owned()]);
    })
    .await;
    let rig = &external.rig;
    let token = external.token("a", ALL);
    let status = rig.exported("/$export", &token).await;
    let (_, links) = rig.listed(&status, &token).await;
    let types: Vec<_> = links.keys().filter(|name| *name != "OperationOutcome").collect();
    assert_eq!(types, ["Patient"]);
    let other = rig.with_token("GET", "/Group/all/$export", &external.token("b", ALL)).await;
    assert_eq!(other.status, 404, "a Group that is not its own");
    external.rig.stop().await;
}

/// SM-035, SM-037: no right is no right, also where the token is good.
#[tokio::test]
async fn a_token_without_a_scope_for_us_opens_nothing() {
    let external = External::with(&[("a", "system/Patient.rs")]).await;
    for scope in [
        "",
        "openid",
        "system/Observation.rs",
        "system/*.cud",
        "Patient.All",
        // Queries that cannot be enforced.
        "system/Patient.rs?gender:not=male",
        "system/Patient.rs?_count=5",
        "system/*.rs?_security=x",
    ] {
        let token = external.token("a", scope);
        for (method, below) in [("GET", "/$export"), ("GET", "/$bulk-status/00000000000000000000000000000000")] {
            let answer = external.rig.with_token(method, below, &token).await;
            answer.assert_refused(scope, 403, "forbidden", None);
            assert!(answer.header("www-authenticate").contains("error=\"insufficient_scope\""), "{scope}");
        }
    }
    let mut claims = external.claims("a", "");
    claims.as_object_mut().expect("an object").remove("scope");
    let answer = external.rig.with_token("GET", "/$export", &signed(&external.key, &claims)).await;
    answer.assert_refused("no scope at all", 403, "forbidden", None);
    external.rig.stop().await;
}

/// SM-032: what an issuer narrows a token by is enforced, and what of it cannot be is no right.
#[tokio::test]
async fn a_scope_with_a_query_opens_what_passes_it() {
    let external = External::with(&[("a", "system/Patient.rs system/Condition.rs")]).await;
    let rig = &external.rig;
    for scope in [
        "system/Patient.rs?gender=male",
        "system/Patient.rs?gender=male system/Patient.rs?gender:not=male system/*.rs?_security=x",
    ] {
        let exported = crate::policy::export(rig, &external.token("a", scope), "/$export").await;
        let patients = rig.upstream.resources(Some("Patient"));
        let men = patients.iter().filter(|stored| stored.body.contains(r#""gender":"male""#));
        assert_eq!(exported.ids("Patient"), men.map(|stored| stored.id.clone()).collect(), "{scope}");
        assert_eq!(exported.output.lines().count(), exported.ids("Patient").len(), "{scope}: nothing else");
    }
    external.rig.stop().await;
}

/// Each kind of signature that can be allowed, and none that is not.
#[tokio::test]
async fn tokens_are_signed_by_what_is_allowed() {
    let names = ["ES256", "ES384", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512"];
    let keys = [
        Key::es256("ES256"),
        Key::es384("ES384"),
        Key::rsa(Algorithm::RS256, "RS256"),
        Key::rsa(Algorithm::RS384, "RS384"),
        Key::rsa(Algorithm::RS512, "RS512"),
        Key::rsa(Algorithm::PS256, "PS256"),
        Key::rsa(Algorithm::PS384, "PS384"),
        Key::rsa(Algorithm::PS512, "PS512"),
    ];
    for allowed in [&names[..], &names[1..2], &names[2..3], &[names[0], names[5]]] {
        let external = External::configured(&[("a", ALL)], |config| {
            config.smart.issuer.algorithms = allowed.iter().map(|name| (*name).to_owned()).collect();
        })
        .await;
        external.issuer.publish(&keys.iter().collect::<Vec<_>>(), "");
        for (name, key) in names.iter().zip(&keys) {
            let token = signed(key, &external.claims("a", ALL));
            let expected = if allowed.contains(name) { 202 } else { 401 };
            let answer = external.rig.with_token("GET", "/$export?_type=Patient", &token).await;
            assert_eq!(answer.status, expected, "{name} where {allowed:?} are allowed");
        }
        external.rig.stop().await;
    }
}

/// Entra ID: `roles` in words of its own, `azp` or `appid`, an audience of its own, RS256 and no `alg` in its keys.
#[tokio::test]
async fn the_claims_of_other_products_can_be_named() {
    let external = External::configured(&[("0f1e", "system/Patient.rs")], |config| {
        let issuer = &mut config.smart.issuer;
        issuer.algorithms = vec!["RS256".to_owned()];
        issuer.audience = Some("api://offtake".to_owned());
        issuer.claims.client = vec!["azp".to_owned(), "appid".to_owned()];
        issuer.claims.scope = vec!["roles".to_owned()];
        issuer.claims.required.insert("idtyp".to_owned(), "app".to_owned());
        issuer.scope_map.insert("Bulk.All".to_owned(), ALL.to_owned());
    })
    .await;
    let key = Key::rsa(Algorithm::RS256, "e1");
    let mut published = key.clone();
    published.jwk.as_object_mut().expect("an object").remove("alg");
    external.issuer.publish(&[&published], "");
    let now = external.rig.now();
    let good = json!({
        "iss": external.issuer.base, "aud": "api://offtake", "appid": "0f1e", "roles": ["Bulk.All"], "idtyp": "app",
        "exp": now + 3_600, "nbf": now, "iat": now, "sub": "5f1c", "oid": "5f1c", "ver": "1.0",
    });
    for (name, value, expected) in [
        ("ver", json!("2.0"), 202),
        ("roles", json!(["Bulk.None"]), 403),
        ("roles", json!("Bulk.All"), 202),
        ("idtyp", json!("user"), 401),
        ("aud", json!(external.rig.base), 401),
        ("appid", json!("other"), 401),
        ("azp", json!("other"), 401),
        ("client_id", json!("other"), 202),
    ] {
        let mut claims = good.clone();
        claims[name] = value.clone();
        let answer = external.rig.with_token("GET", "/$export?_type=Patient", &signed(&key, &claims)).await;
        assert_eq!(answer.status, expected, "{name}: {value}");
    }
    external.rig.stop().await;
}

/// SEC-05: with an issuer of the hospital's own, every token passes through as it came; bulk requests go nowhere.
#[tokio::test]
async fn ordinary_requests_keep_their_tokens() {
    let external = External::with(&[("a", ALL)]).await;
    let rig = &external.rig;
    let mut user = external.claims("portal", "patient/*.read launch/patient");
    user["patient"] = "p1".into();
    let expired = {
        let mut claims = external.claims("a", ALL);
        claims["exp"] = (rig.now() - 60).into();
        claims
    };
    for token in
        [signed(&external.key, &user), external.token("a", ALL), signed(&external.key, &expired), "opaque".to_owned()]
    {
        let value = format!("Bearer {token}");
        let answer = rig.ask("GET", "/Patient?_count=1", &[("Authorization", &value)], b"").await;
        assert_eq!(answer.status, 200);
        let seen = rig.upstream.requests().pop().expect("it came through");
        assert_eq!(seen.headers["authorization"], value.as_str());
    }
    let before = rig.upstream.requests().len();
    assert_eq!(rig.with_token("GET", "/$export", &signed(&external.key, &user)).await.status, 401);
    assert_eq!(rig.upstream.requests().len(), before);
    let token = external.token("a", ALL);
    rig.exported("/$export?_type=Patient", &token).await;
    let leaked =
        rig.upstream.requests().into_iter().skip(before).filter(|seen| seen.headers.contains_key("authorization"));
    assert_eq!(leaked.count(), 0, "nor does the token of an export");
    external.rig.stop().await;
}

/// What issues tokens here in another mode is not there.
#[tokio::test]
async fn there_are_no_endpoints_of_ours() {
    let external = External::with(&[("a", ALL)]).await;
    for (method, path) in
        [("POST", "/$bulk-token"), ("POST", "/$bulk-introspect"), ("GET", "/$bulk-jwks"), ("GET", "/$bulk-token")]
    {
        let answer = external.rig.ask(method, path, &[FORM], b"grant_type=client_credentials").await;
        answer.assert_refused(path, 404, "not-found", None);
    }
    assert!(external.rig.upstream.requests().is_empty());
    external.rig.stop().await;
}
