//! A record as a FHIR R4 `AuditEvent`, in the shapes of IHE's Basic Audit Log Patterns. Pure.
//!
//! What leaves is an Export (DCM 110106) with the subtype `disclose`, with a source, a recipient and what was handed over;
//! what is asked is a `RESTful` operation. No profile is claimed: BALP's disclosures name a patient, and here there are many,
//! of whom the ledger keeps nothing but keyed hashes; their number stands in a detail.
//!
//! Source: <https://profiles.ihe.net/ITI/BALP/StructureDefinition-IHE.BasicAudit.PrivacyDisclosure.Source.html>

use serde_json::{Value, json};

use super::record::{
    Actor, CohortDeleted, CohortMade, Contents, Event, FileBegun, FileEnded, Hidden, KickOff, Links, ManifestRead,
    Record,
};
use crate::bulk::kickoff::ExportLevel;
use crate::job::JobId;

const DCM: &str = "http://dicom.nema.org/resources/ontology/DCM";
const LIFECYCLE: &str = "http://terminology.hl7.org/CodeSystem/iso-21089-lifecycle";
const RESTFUL: &str = "http://hl7.org/fhir/restful-interaction";

/// What kind of event it is.
struct Kind {
    coding: Value,
    subtype: Value,
    action: &'static str,
    /// Whether something leaves us; else we are asked for something, or do it ourselves.
    leaves: bool,
}

impl Kind {
    fn rest(interaction: &'static str, action: &'static str) -> Self {
        let system = "http://terminology.hl7.org/CodeSystem/audit-event-type";
        Self {
            coding: coding(system, "rest", "RESTful Operation"),
            subtype: coding(RESTFUL, interaction, interaction),
            action,
            leaves: false,
        }
    }

    fn disclosure() -> Self {
        Self {
            coding: coding(DCM, "110106", "Export"),
            subtype: coding(LIFECYCLE, "disclose", "Disclose Record Lifecycle Event"),
            action: "R",
            leaves: true,
        }
    }

    fn destruction() -> Self {
        let subtype = coding(LIFECYCLE, "destroy", "Destroy/Delete Record Lifecycle Event");
        Self { coding: coding(DCM, "110100", "Application Activity"), subtype, action: "D", leaves: false }
    }

    fn activity(code: &'static str, display: &'static str) -> Self {
        let subtype = coding(DCM, code, display);
        Self { coding: coding(DCM, "110100", "Application Activity"), subtype, action: "E", leaves: false }
    }

    fn of(event: &Event) -> Option<Self> {
        Some(match event {
            // It says nothing but where a file goes on.
            Event::Begun { .. } => return None,
            Event::Opened { .. } => Self::activity("110120", "Application Start"),
            Event::KickOff(_) | Event::Denied(_) | Event::DeniedMore(_) => Self::rest("operation", "E"),
            Event::Finished(_) | Event::Failed { .. } => Self::activity("110150", "Application"),
            Event::Manifest(_) | Event::LinkIssued(_) | Event::FileBegun(_) | Event::FileEnded(_) => Self::disclosure(),
            Event::CohortMade(_) | Event::CohortFailed { .. } => Self::rest("create", "C"),
            Event::Deleted(_) | Event::CohortDeleted(_) => Self::rest("delete", "D"),
            Event::Expired(_) | Event::Revoked(_) | Event::Purged { .. } | Event::Retired { .. } => Self::destruction(),
        })
    }
}

/// The resource; `None` for a record that is of the ledger itself alone. `server` is our base as clients write it.
pub(crate) fn audit_event(record: &Record, server: &str) -> Option<Value> {
    let Kind { coding, subtype, action, leaves } = Kind::of(&record.event)?;
    let (outcome, said) = outcome(&record.event);
    let mut entities: Vec<Value> = record.event.job().map(job).into_iter().collect();
    let details = details(&record.event);
    match entities.first_mut() {
        Some(job) if !details.is_empty() => job["detail"] = details.into(),
        Some(_) => {}
        None if details.is_empty() => {}
        None => {
            let kind = self::coding("http://terminology.hl7.org/CodeSystem/audit-entity-type", "4", "Other");
            entities.push(json!({ "type": kind, "detail": details }));
        }
    }
    let mut event = json!({
        "resourceType": "AuditEvent",
        "id": format!("offtake-ledger-{}", record.seq),
        "type": coding,
        "subtype": [subtype],
        "action": action,
        "recorded": record.at,
        "outcome": outcome,
        "outcomeDesc": said,
        "agent": agents(record.event.actor(), leaves, server),
        "source": {
            "observer": { "display": server },
            "type": [self::coding("http://terminology.hl7.org/CodeSystem/security-source-type", "4", "Application Server")],
        },
    });
    if !entities.is_empty() {
        event["entity"] = entities.into();
    }
    Some(event)
}

fn coding(system: &str, code: &str, display: &str) -> Value {
    json!({ "system": system, "code": code, "display": display })
}

fn agents(actor: Option<&Actor>, leaves: bool, server: &str) -> Vec<Value> {
    let source = json!({ "coding": [coding(DCM, "110153", "Source Role ID")] });
    let destination = json!({ "coding": [coding(DCM, "110152", "Destination Role ID")] });
    let (of_client, of_server) = if leaves { (destination, source) } else { (source, destination) };
    let mut agents = Vec::new();
    if let Some(actor) = actor {
        let who = match &actor.client {
            Some(client) => json!({ "identifier": { "value": client.as_str() }, "display": client.as_str() }),
            None => json!({ "display": "somebody who has not shown who they are" }),
        };
        let mut client = json!({ "type": of_client, "who": who, "requestor": true });
        if let Some(peer) = actor.peer {
            client["network"] = json!({ "address": peer, "type": "2" });
        }
        agents.push(client);
    }
    agents.push(json!({
        "type": of_server,
        "who": { "display": server },
        "requestor": actor.is_none(),
        "network": { "address": server, "type": "5" },
    }));
    agents
}

fn job(job: JobId) -> Value {
    json!({
        "what": { "identifier": { "value": job } },
        "type": coding("http://terminology.hl7.org/CodeSystem/audit-entity-type", "2", "System Object"),
        "role": coding("http://terminology.hl7.org/CodeSystem/object-role", "20", "Job"),
    })
}

/// The outcome, and what has happened in words.
fn outcome(event: &Event) -> (&'static str, String) {
    let said = match event {
        Event::Begun { .. } => "a file of the ledger begins",
        Event::Opened { .. } => "the server was started",
        Event::KickOff(_) => "an export was kicked off",
        Event::Denied(denied) => {
            return ("4", format!("a request was refused with {}: {}", denied.status, denied.code));
        }
        Event::DeniedMore(more) => return ("4", format!("{} more requests were refused", more.count)),
        Event::Finished(_) => "an export was completed",
        Event::Failed { code, .. } => return ("8", format!("an export failed: {}", code.as_str())),
        Event::Manifest(ManifestRead { links: Links::Storage, .. }) => {
            "a manifest with links to the storage was issued"
        }
        Event::Manifest(_) => "a manifest was read",
        Event::LinkIssued(_) => "a link to a file in the storage was issued",
        Event::FileBegun(_) => "a file is being sent",
        Event::FileEnded(FileEnded { whole: true, .. }) => "a file was sent",
        Event::FileEnded(FileEnded { whole: false, .. }) => return ("4", "a file was sent in part".to_owned()),
        Event::Deleted(_) => "an export was deleted by its client",
        Event::CohortMade(_) => "a cohort was made by a client",
        Event::CohortFailed { code, .. } => return ("8", format!("a cohort was not made: {}", code.as_str())),
        Event::CohortDeleted(_) => "a cohort was deleted by its client",
        Event::Expired(_) => "an export has expired",
        Event::Revoked(_) => "an export was revoked",
        Event::Purged { .. } => "all of an export is removed",
        Event::Retired { .. } => "old records of the ledger were removed",
    };
    ("0", said.to_owned())
}

fn details(event: &Event) -> Vec<Value> {
    let mut details = Vec::new();
    let mut add = |name: &str, value: String| details.push(json!({ "type": name, "valueString": value }));
    let contents = |add: &mut dyn FnMut(&str, String), contents: &Contents| {
        for (name, count) in &contents.counts {
            add(name.as_str(), count.to_string());
        }
        add("deletions", contents.deletions.to_string());
        add("files", contents.files.to_string());
        add("bytes", contents.bytes.to_string());
        add("files-sha256", contents.digest.to_string());
    };
    if let Some(scopes) = event.actor().and_then(|actor| actor.scopes.as_ref()) {
        add("scopes", scopes.to_string());
    }
    match event {
        Event::Opened { version, .. } => add("version", version.to_string()),
        Event::KickOff(KickOff { level, types, since, until, request, patients, .. }) => {
            match level {
                ExportLevel::System => add("level", "system".to_owned()),
                ExportLevel::Patient => add("level", "patient".to_owned()),
                ExportLevel::Group(group) => {
                    add("level", "group".to_owned());
                    add("group", group.to_string());
                }
            }
            let types: Vec<_> = types.iter().map(|name| name.as_str()).collect();
            add("types", types.join(","));
            for (name, instant) in [("since", since), ("until", until)] {
                if let Some(instant) = instant {
                    add(name, instant.to_string());
                }
            }
            if let Hidden::Hash(hash) = request {
                add("request-hash", hash.to_string());
            }
            if let Some(Hidden::Hash(hash)) = patients {
                add("patients-hash", hash.to_string());
            }
        }
        Event::CohortMade(CohortMade { cohort, .. })
        | Event::CohortDeleted(CohortDeleted { cohort, .. })
        | Event::CohortFailed { cohort, .. } => add("group", cohort.group().to_string()),
        Event::Denied(denied) => {
            add("route", format!("{:?}", denied.route));
            add("status", denied.status.to_string());
        }
        Event::DeniedMore(more) => {
            more.by_status.iter().for_each(|(status, count)| add(status, count.to_string()));
            more.by_peer.iter().for_each(|(peer, count)| add(&peer.to_string(), count.to_string()));
            add("other-peers", more.other_peers.to_string());
        }
        Event::Finished(finished) => {
            contents(&mut add, &finished.contents);
            add("patients", finished.patients.listed.to_string());
            add("transaction-time", finished.transaction_time.to_string());
        }
        Event::Manifest(read) => {
            contents(&mut add, &read.contents);
            add("links-issued", read.issued.to_string());
            add("links-until", read.until.to_string());
        }
        Event::LinkIssued(issued) => {
            add("file", issued.file.to_string());
            add("link-until", issued.until.to_string());
        }
        Event::FileBegun(FileBegun { file, from, to, .. }) => {
            add("file", file.to_string());
            add("bytes-from", from.to_string());
            add("bytes-to", to.to_string());
        }
        Event::FileEnded(FileEnded { file, begun, bytes, .. }) => {
            add("file", file.to_string());
            add("begun-by-record", begun.to_string());
            add("bytes-sent", bytes.to_string());
        }
        Event::Begun { .. }
        | Event::Failed { .. }
        | Event::Deleted(_)
        | Event::Expired(_)
        | Event::Revoked(_)
        | Event::Purged { .. }
        | Event::Retired { .. } => {}
    }
    details
}
