//! What belongs to somebody else: jobs, manifests, files and links (SEC-15, SEC-30).

use offtake::config::LinkMode;

use super::{Sent, assert_refused, cast};
use crate::raw::KICKOFF;
use crate::smart::Rig;

fn request(method: &str, below: &str, token: &str) -> Sent {
    Sent::new(method, below, &KICKOFF, b"").and("Authorization", &format!("Bearer {token}"))
}

#[tokio::test]
async fn jobs_and_files_of_somebody_else() {
    let [own, other, rsa] = cast();
    let rig = Rig::configured(&[own.clone(), other.clone(), rsa.clone()], |config| {
        config.output.links = LinkMode::Proxy;
    })
    .await;
    let token = rig.token(&own, "system/*.rs").await;
    let foreign = rig.token(&rsa, "system/*.rs").await;
    let status = rig.exported("/$export?_type=Patient,Condition", &token).await;
    let other_status = rig.exported("/$export?_type=Patient", &foreign).await;
    let (_, links) = rig.listed(&status, &token).await;
    let patients = links["Patient"].clone();
    let conditions = links["Condition"].clone();
    let narrow = rig.token(&own, "system/Patient.rs").await;
    let own_read = request("GET", &patients, &token);
    let scope: super::Refusal = (403, "insufficient_scope");
    let job = status.rsplit('/').next().expect("an id");
    for (what, attack, refusal) in [
        ("a foreign manifest", request("GET", &status, &foreign), (404, "not-found")),
        ("a foreign delete", request("DELETE", &status, &foreign), (404, "not-found")),
        ("a foreign file", request("GET", &patients, &foreign), (404, "")),
        ("a foreign file's head", request("HEAD", &patients, &foreign), (404, "")),
        ("a wide manifest by a narrow token", request("GET", &status, &narrow), scope),
        ("a file of another type by a narrow token", request("GET", &conditions, &narrow), scope),
        ("the outcomes by a narrow token", request("GET", &links["OperationOutcome"], &narrow), scope),
        ("a file without a token", Sent::new("GET", &patients, &[], b""), (401, "login")),
        ("a manifest without a token", Sent::new("GET", &status, &[], b""), (401, "login")),
        ("a delete without a token", Sent::new("DELETE", &status, &[], b""), (401, "login")),
        (
            "a file with a signature that is none",
            Sent::new("GET", &format!("{patients}?expires=9999999999&key=1&signature=AAAA"), &[], b""),
            (401, "login"),
        ),
        (
            "a file of another number",
            request("GET", &format!("/$bulk-file/{job}/Patient-00777.ndjson"), &token),
            (404, ""),
        ),
        ("a file of another name", request("GET", &patients.replace("Patient-", "Group-"), &token), (404, "")),
        ("what lies beside the files", request("GET", &format!("/$bulk-file/{job}/job.checkpoint"), &token), (404, "")),
        ("a sidecar", request("GET", &patients.replace(".ndjson", ".ids"), &token), (404, "")),
        (
            "a file by way of another job",
            request("GET", &patients.replace(job, other_status.rsplit('/').next().expect("an id")), &token),
            (404, ""),
        ),
        ("a way up", request("GET", &format!("/$bulk-file/{job}/../{job}/x"), &token), (400, "invalid")),
        (
            "a job's id in upper case",
            request("GET", &status.to_uppercase().replace("$BULK-STATUS", "$bulk-status"), &token),
            (404, "not-found"),
        ),
        ("another method", request("POST", &status, &token), (405, "not-supported")),
    ] {
        // Ids without a letter are the same in upper case.
        if what.contains("upper case") && attack.below == status {
            continue;
        }
        assert_refused(&rig, what, &attack, refusal, &own_read).await;
    }
    assert_eq!(request("GET", &status, &token).send(&rig).await.status, 200, "nothing became of it");
    rig.stop().await;
}

#[tokio::test]
async fn links_that_were_tampered_with() {
    let [own, other, rsa] = cast();
    let rig = Rig::with(&[own.clone(), other.clone(), rsa.clone()]).await;
    let token = rig.token(&own, "system/*.rs").await;
    let status = rig.exported("/$export?_type=Patient,Condition", &token).await;
    let (_, links) = rig.listed(&status, &token).await;
    let (patients, conditions) = (&links["Patient"], &links["Condition"]);
    let get = |below: &str| Sent::new("GET", below, &[], b"");
    let (bare, query) = patients.split_once('?').expect("it is signed");
    let (other_bare, _) = conditions.split_once('?').expect("it is signed");
    for (what, below) in [
        ("the signature of another file", format!("{other_bare}?{query}")),
        ("no signature", bare.to_owned()),
        ("a later end", format!("{bare}?{}", query.replace("expires=1", "expires=2"))),
        ("another key", format!("{bare}?{}", query.replace("key=1", "key=2"))),
        ("a parameter more", format!("{patients}&x=1")),
        ("a parameter twice", format!("{patients}&{query}")),
        ("parameters in another order", format!("{bare}?{}", query.split('&').rev().collect::<Vec<_>>().join("&"))),
        ("a signature cut short", patients[..patients.len() - 1].to_owned()),
    ] {
        if what.contains("another order") {
            // It is the same link.
            assert_eq!(get(&below).send(&rig).await.status, 200);
            continue;
        }
        assert_refused(&rig, what, &get(&below), (403, ""), &get(patients)).await;
    }
    let at = patients.find("signature=").expect("it is signed") + "signature=".len();
    for index in (at..patients.len()).step_by(5) {
        let mut bytes = patients.clone().into_bytes();
        bytes[index] = if bytes[index] == b'A' { b'B' } else { b'A' };
        let below = String::from_utf8(bytes).expect("ASCII");
        assert_refused(&rig, &format!("byte {index}"), &get(&below), (403, ""), &get(patients)).await;
    }
    rig.stop().await;
}

/// A job of `open` mode is of no client, and one of a client is nobody's in `open` mode.
#[tokio::test]
async fn jobs_of_another_mode_are_none() {
    let [own, other, rsa] = cast();
    let mut rig = Rig::with(&[own.clone(), other, rsa]).await;
    let token = rig.token(&own, "system/*.rs").await;
    let status = rig.exported("/$export?_type=Patient", &token).await;
    rig.restart(|config| config.smart = offtake::config::SmartConfig::default()).await;
    for method in ["GET", "DELETE"] {
        let answer = Sent::new(method, &status, &[], b"").send(&rig).await;
        answer.assert_refused("a client's job in open mode", 404, "not-found", None);
    }
    let kickoff = Sent::new("GET", "/$export?_type=Patient", &KICKOFF, b"").send(&rig).await;
    let open = kickoff.header("content-location").strip_prefix(&rig.base).expect("below the base").to_owned();
    rig.restart(|config| {
        config.smart.mode = offtake::config::SmartMode::AuthorizationServer;
        config.smart.clients = vec![own.config()];
    })
    .await;
    let token = rig.token(&own, "system/*.rs").await;
    request("GET", &open, &token).send(&rig).await.assert_refused("an open job", 404, "not-found", None);
    // The first poll of a young export after a start says that it is about to end.
    let polls = [request("GET", &status, &token).send(&rig).await, request("GET", &status, &token).send(&rig).await];
    assert_eq!(polls.map(|answer| answer.status), [202, 200], "it is still its client's");
    rig.stop().await;
}
