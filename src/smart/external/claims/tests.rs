use serde_json::json;

use super::*;

const NOW: Millis = Millis(1_800_000_000_500);
const SECONDS: i64 = 1_800_000_000;
const ISSUER: &str = "https://login.example/realms/a";
const BASE: &str = "https://fhir.example/r4";

fn rules() -> Rules {
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    Rules {
        issuer: ISSUER.to_owned(),
        audience: BASE.to_owned(),
        client: names(&["client_id", "azp"]),
        scope: names(&["scope"]),
        scope_map: BTreeMap::new(),
        required: BTreeMap::new(),
    }
}

fn good() -> Value {
    json!({
        "iss": ISSUER, "aud": BASE, "exp": SECONDS + 300, "iat": SECONDS, "sub": "0b6c7a",
        "client_id": "a", "scope": "system/Patient.rs",
    })
}

/// The good ones with these in their place; `null` takes one away.
fn with(change: Value) -> Value {
    let mut claims = good();
    let own = claims.as_object_mut().expect("an object");
    for (name, value) in change.as_object().expect("an object") {
        own.remove(name);
        if !value.is_null() {
            own.insert(name.clone(), value.clone());
        }
    }
    claims
}

fn claims(json: &Value) -> Claims {
    serde_json::from_value(json.clone()).expect("claims")
}

fn check(change: Value) -> Result<Presented, Unfit> {
    claims(&with(change)).check(&rules(), Told::ByToken, NOW)
}

/// SEC-11
#[test]
fn each_claim_is_what_it_has_to_be() {
    for (change, expected) in [
        (json!({}), None),
        (json!({ "more": { "than": ["is", "known"] } }), None),
        (json!({ "iss": null }), Some(Unfit::Issuer)),
        (json!({ "iss": "https://login.example/realms/a/" }), Some(Unfit::Issuer)),
        (json!({ "iss": "https://LOGIN.example/realms/a" }), Some(Unfit::Issuer)),
        (json!({ "iss": [ISSUER] }), Some(Unfit::Issuer)),
        (json!({ "aud": null }), Some(Unfit::Audience)),
        (json!({ "aud": ["account", BASE] }), None),
        (json!({ "aud": [] }), Some(Unfit::Audience)),
        (json!({ "aud": "https://fhir.example/r4/" }), Some(Unfit::Audience)),
        (json!({ "aud": "https://fhir.example/r" }), Some(Unfit::Audience)),
        (json!({ "aud": "https://fhir.example/r4.evil" }), Some(Unfit::Audience)),
        (json!({ "aud": "https://fhir.example" }), Some(Unfit::Audience)),
        (json!({ "aud": "https://fhir.example/r4 account" }), Some(Unfit::Audience)),
        (json!({ "aud": { "0": BASE } }), Some(Unfit::Audience)),
        (json!({ "aud": [[BASE]] }), Some(Unfit::Audience)),
        (json!({ "exp": null }), Some(Unfit::Expired)),
        (json!({ "exp": SECONDS }), Some(Unfit::Expired)),
        (json!({ "exp": SECONDS + 1 }), None),
        (json!({ "exp": f64::from(1_800_000_000) + 1.9 }), None),
        (json!({ "exp": SECONDS + 3_600 }), None),
        (json!({ "exp": "1800000300" }), Some(Unfit::Expired)),
        (json!({ "exp": i64::MAX }), Some(Unfit::Expired)),
        (json!({ "exp": 1e300 }), Some(Unfit::Expired)),
        (json!({ "exp": -1 }), Some(Unfit::Expired)),
        (json!({ "iat": null }), None),
        (json!({ "iat": SECONDS + 60 }), None),
        (json!({ "iat": SECONDS + 61 }), Some(Unfit::NotYet)),
        (json!({ "iat": "now" }), Some(Unfit::NotYet)),
        (json!({ "nbf": SECONDS + 60 }), None),
        (json!({ "nbf": SECONDS + 61 }), Some(Unfit::NotYet)),
        (json!({ "nbf": 1e300 }), Some(Unfit::NotYet)),
    ] {
        assert_eq!(check(change.clone()).err(), expected, "{change}");
    }
}

/// SEC-11: an issuer's user and ID tokens are refused.
#[test]
fn what_is_none_of_a_backend_service_is_refused() {
    for name in FORBIDDEN {
        let mut json = good();
        for value in [json!("x"), json!(""), Value::Null, json!(false)] {
            json[name] = value;
            assert_eq!(claims(&json).check(&rules(), Told::ByToken, NOW), Err(Unfit::Forbidden(name)), "{json}");
        }
    }
    for (change, expected) in [
        (json!({ "typ": "Bearer" }), None),
        (json!({ "typ": "ID" }), Some(Unfit::Kind("typ"))),
        (json!({ "typ": "Refresh" }), Some(Unfit::Kind("typ"))),
        (json!({ "typ": 1 }), Some(Unfit::Kind("typ"))),
        (json!({ "token_type": "bearer" }), None),
        (json!({ "token_type": "DPoP" }), Some(Unfit::Kind("token_type"))),
        (json!({ "token_use": "access" }), None),
        (json!({ "token_use": "id" }), Some(Unfit::Kind("token_use"))),
        (json!({ "idtyp": "app" }), None),
        (json!({ "idtyp": "user" }), Some(Unfit::Kind("idtyp"))),
        (json!({ "scope": "openid system/Patient.rs profile" }), None),
        (json!({ "scope": "system/Patient.rs user/Patient.rs" }), Some(Unfit::User)),
        (json!({ "scope": "system/Patient.rs patient/Patient.read" }), Some(Unfit::User)),
        (json!({ "scope": "system/Patient.rs launch" }), Some(Unfit::User)),
        (json!({ "scope": "system/Patient.rs launch/patient" }), Some(Unfit::User)),
        (json!({ "scope": ["system/Patient.rs", "fhirUser"] }), Some(Unfit::User)),
    ] {
        assert_eq!(check(change.clone()).err(), expected, "{change}");
    }
    let rules = Rules { required: BTreeMap::from([("gty".to_owned(), "client-credentials".to_owned())]), ..rules() };
    for (change, expected) in [
        (json!({ "gty": "client-credentials" }), None),
        (json!({ "gty": "password" }), Some(Unfit::Required)),
        (json!({ "gty": ["client-credentials"] }), Some(Unfit::Required)),
        (json!({}), Some(Unfit::Required)),
    ] {
        assert_eq!(claims(&with(change.clone())).check(&rules, Told::ByToken, NOW).err(), expected, "{change}");
    }
}

/// SEC-11: the client is `client_id`, then `azp`, never `sub`.
#[test]
fn the_client_is_whom_all_claims_that_name_one_agree_on() {
    for (change, expected) in [
        (json!({}), Ok("a")),
        (json!({ "client_id": null, "azp": "b" }), Ok("b")),
        (json!({ "azp": "a" }), Ok("a")),
        (json!({ "azp": "b" }), Err(Unfit::Client)),
        (json!({ "azp": ["a"] }), Err(Unfit::Client)),
        (json!({ "client_id": null, "sub": "a" }), Err(Unfit::Client)),
        (json!({ "client_id": null, "cid": "a", "appid": "a" }), Err(Unfit::Client)),
        (json!({ "client_id": "" }), Err(Unfit::Client)),
        (json!({ "client_id": "a\u{0}" }), Err(Unfit::Client)),
        (json!({ "client_id": ["a"] }), Err(Unfit::Client)),
        (json!({ "client_id": 1, "azp": "a" }), Err(Unfit::Client)),
    ] {
        let client = check(change.clone()).map(|presented| presented.client.to_string());
        assert_eq!(client.as_deref(), expected.as_ref().map(|text| *text), "{change}");
    }
    let rules = Rules { client: vec!["appid".to_owned()], ..rules() };
    let presented = claims(&with(json!({ "appid": "b" }))).check(&rules, Told::ByToken, NOW).expect("a client");
    assert_eq!(presented.client.as_str(), "b", "what is not configured is not looked at");
}

#[test]
fn scopes_are_texts_or_lists_and_an_issuers_own_words_are_replaced() {
    let map = [("Patient.All", "system/Patient.rs"), ("all", "system/Patient.rs system/Group.rs")];
    let scope_map = map.iter().map(|(word, scope)| ((*word).to_owned(), (*scope).to_owned())).collect();
    let rules = Rules { scope: vec!["scp".to_owned(), "roles".to_owned()], scope_map, ..rules() };
    for (change, expected) in [
        (json!({}), Ok("")),
        (json!({ "scp": "system/*.rs" }), Ok("system/*.rs")),
        (json!({ "scp": "a  b " }), Ok("a b")),
        (json!({ "scp": ["system/Group.rs", "b"] }), Ok("system/Group.rs b")),
        (json!({ "roles": ["Patient.All"] }), Ok("system/Patient.rs")),
        (json!({ "roles": ["patient.all"] }), Ok("patient.all")),
        (json!({ "roles": ["x", "all"] }), Ok("x system/Patient.rs system/Group.rs")),
        (json!({ "scp": "", "roles": ["all"] }), Ok("")),
        (json!({ "scp": ["system/Group.rs b"] }), Err(Unfit::Scope)),
        (json!({ "scp": [1] }), Err(Unfit::Scope)),
        (json!({ "scp": { "a": 1 } }), Err(Unfit::Scope)),
        (json!({ "scp": "a ".repeat(MOST_SCOPES + 1) }), Err(Unfit::Scope)),
    ] {
        let scope = claims(&with(change.clone())).check(&rules, Told::ByToken, NOW).map(|presented| presented.scope);
        assert_eq!(scope.as_deref(), expected.as_ref().map(|text| *text), "{change}");
    }
}

#[test]
fn an_issuer_need_not_say_who_it_is_and_a_token_has_to() {
    let without = claims(&with(json!({ "iss": null })));
    assert!(without.check(&rules(), Told::ByIssuer, NOW).is_ok());
    let other = claims(&with(json!({ "iss": "https://other.example" })));
    assert_eq!(other.check(&rules(), Told::ByIssuer, NOW), Err(Unfit::Issuer));
}

#[test]
fn a_claim_is_there_once_and_they_are_not_without_end() {
    let twice = r#"{"iss":"a","aud":"b","iss":"a"}"#;
    assert!(serde_json::from_str::<Claims>(twice).is_err());
    let escaped = r#"{"iss":"a","\u0069ss":"b"}"#;
    assert!(serde_json::from_str::<Claims>(escaped).is_err(), "written in another way");
    let many: Vec<_> = (0..=MOST_CLAIMS).map(|number| format!("\"{number}\":0")).collect();
    assert!(serde_json::from_str::<Claims>(&format!("{{{}}}", many.join(","))).is_err());
    let deep = format!("{{\"a\":{}0{}}}", "[".repeat(5_000), "]".repeat(5_000));
    assert!(serde_json::from_str::<Claims>(&deep).is_err());
    assert!(serde_json::from_str::<Claims>("[]").is_err());
}
