use super::*;
use crate::smart::generate::pkcs8_es384;

const NOW: Millis = Millis(1_800_000_000_500);
const LIFETIME: i64 = 300_000;
const BASE: &str = "https://fhir.example/r4";

fn keys(before: Option<&TokenKeys>, now: Millis) -> Made {
    TokenKeys::made(&pkcs8_es384().expect("a key"), before, now, LIFETIME).expect("a good key")
}

fn token() -> AccessToken {
    AccessToken {
        client: ClientId::parse("a").expect("a name"),
        scopes: Scopes::parse("system/Patient.rs system/*.r").expect("scopes"),
        issued: NOW.0 / 1_000,
        expires: NOW.0 / 1_000 + 300,
    }
}

fn later(millis: i64) -> Millis {
    Millis(NOW.0 + millis)
}

#[test]
fn a_token_is_good_until_the_second_it_names_and_for_its_own_server() {
    let keys = keys(None, NOW).keys;
    let signed = token().sign(&keys, BASE, [7; 16]).expect("a token");
    assert!(signed.len() < 1_000, "it travels in a header");
    for (base, now, expected) in [
        (BASE, NOW, Ok(token())),
        (BASE, later(299_400), Ok(token())),
        (BASE, later(299_500), Err(TokenError::Expired)),
        (BASE, later(-62_000), Err(TokenError::Expired)),
        ("https://fhir.example", NOW, Err(TokenError::Audience)),
        ("https://fhir.example/r4/", NOW, Err(TokenError::Audience)),
    ] {
        assert_eq!(AccessToken::verify(&signed, &keys, base, now), expected, "{base} {now:?}");
    }
}

#[test]
fn every_character_of_a_token_counts() {
    let keys = keys(None, NOW).keys;
    let signed = token().sign(&keys, BASE, [7; 16]).expect("a token");
    for index in (0..signed.len()).step_by(7) {
        let mut changed = signed.clone().into_bytes();
        changed[index] = if changed[index] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(changed).expect("ASCII");
        assert!(AccessToken::verify(&changed, &keys, BASE, NOW).is_err(), "character {index}");
    }
}

/// SEC-16
#[test]
fn keys_overlap_and_what_an_old_one_signed_is_refused_after_that() {
    let first = keys(None, NOW).keys;
    let signed = token().sign(&first, BASE, [7; 16]).expect("a token");
    let Made { keys: second, text } = keys(Some(&first), later(1_000));
    let published = |keys: &TokenKeys, now| keys.jwks(now).matches("\"kid\"").count();
    assert!(!text.contains(&URL_SAFE_NO_PAD.encode(b"PRIVATE")) && text.contains("previous"));
    let kept = TokenKeys::read(text.as_bytes()).expect("what was kept");
    let over = later(1_000 + LIFETIME + GRACE_MILLIS);
    for keys in [&second, &kept] {
        assert_eq!(AccessToken::verify(&signed, keys, BASE, later(2_000)), Ok(token()));
        assert_eq!(published(keys, later(2_000)), 2);
        assert_eq!(AccessToken::verify(&signed, keys, BASE, over), Err(TokenError::UnknownKey));
        assert_eq!(published(keys, over), 1);
    }
    let third = keys(Some(&kept), over).keys;
    assert_eq!(published(&third, over), 2, "only what can still be good is kept");
    assert!(!first.is_due(later(999), 1_000) && first.is_due(later(1_000), 1_000));
}

#[test]
fn a_token_of_ours_is_known_by_its_looks_whatever_it_is_worth() {
    let own = keys(None, NOW).keys;
    let signed = token().sign(&own, BASE, [7; 16]).expect("a token");
    assert!(is_ours(&signed, BASE));
    assert!(is_ours(&format!("{}AA", &signed[..signed.len() - 2]), BASE), "its signature is not looked at");
    for around in [format!("{signed}."), format!(".{signed}"), format!("a..{signed}.json"), format!("x.{signed}.y.z")] {
        assert!(is_ours(&around, BASE), "{around}");
    }
    assert!(!is_ours(&signed, "https://fhir.example/other"), "of another server");
    for other in ["", "abc", "a.b.c", "e30.e30.AAAA", "..", &signed[..signed.rfind('.').expect("a dot")]] {
        assert!(!is_ours(other, BASE), "{other}");
    }
    let pair = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).expect("a key");
    let foreign = SigningKey::es384(pair);
    assert_eq!(format!("{foreign:?}"), "SigningKey(ES384)", "nothing of the key");
    let foreign =
        foreign.sign(r#"{"alg":"ES384","kid":"theirs"}"#, &format!(r#"{{"iss":"{BASE}"}}"#)).expect("a token");
    assert!(!is_ours(&foreign, BASE), "the upstream's own, though it knows itself by our address");
}

#[test]
fn what_is_no_key_file_is_refused() {
    for text in [
        "",
        "{}",
        r#"{"version":2,"current":"","created":0,"previous":[]}"#,
        r#"{"version":1,"current":"AAAA","created":0,"previous":[]}"#,
    ] {
        assert_eq!(TokenKeys::read(text.as_bytes()).err(), Some(BadKeys), "{text}");
    }
}
