//! What lists of jobs leave out.

use std::collections::BTreeMap;

use super::{job, job_of};
use crate::bulk::kickoff::NamedPatients;
use crate::bulk::manifest::{Method, TypeProof};
use crate::bulk::sealed::Sealed;
use crate::fhir::datatypes::{Id, Instant, Millis};
use crate::fhir::outcome::IssueSeverity;
use crate::fhir::resource_type::ResourceType;
use crate::job::store::{Restored, Store};
use crate::job::{Complete, Epoch, Job, JobState};

pub(super) async fn a_list_of_jobs_names_no_patients_and_proves_nothing(store: &dyn Store) {
    let mut named = job(251);
    let ids = ["a", "b"].into_iter().filter_map(|id| Id::parse(id).ok()).collect();
    named.kickoff.patients = Some(NamedPatients::Clear(ids));
    store.create(named.clone()).await.expect("it is kept");
    assert_eq!(store.job(named.id).await.expect("it is there"), Some(named.clone()));
    let listed = store.jobs().await.expect("it is there").into_iter().find(|job| job.id == named.id);
    let patients = listed.and_then(|job| job.kickoff.patients);
    assert_eq!(patients, Some(NamedPatients::Sealed(Sealed::left_out())), "they are named, and not told");

    let complete = |proof| Complete {
        transaction_time: Instant::from(Millis(0)),
        proof,
        severities: BTreeMap::new(),
        pages: Vec::new(),
        expires: Millis(9),
    };
    let proof = TypeProof {
        method: Method::Counted,
        expected: 1,
        received: 1,
        written: 1,
        repeated: 0,
        withheld: 0,
        reread: 0,
        short: 0,
    };
    let severities = BTreeMap::from([(IssueSeverity::Error, 1)]);
    let state =
        JobState::Complete(Complete { severities, ..complete(BTreeMap::from([(ResourceType::PATIENT, proof)])) });
    let proven = Job { state, ..job(252) };
    let restored = Restored { job: proven.clone(), epoch: Epoch(1), plan: None, files: Vec::new() };
    store.restore(restored).await.expect("it is kept");
    assert_eq!(job_of(store, 252).await, Some(proven.clone()));
    let listed = store.jobs().await.expect("it is there").into_iter().find(|job| job.id == proven.id);
    assert_eq!(listed.map(|job| job.state), Some(JobState::Complete(complete(BTreeMap::new()))));
}
