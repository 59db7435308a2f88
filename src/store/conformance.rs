//! What every store must do, whatever it keeps the jobs in.

mod listed;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::bulk::cohort::{CohortId, Definition, Listed};
use crate::bulk::kickoff::{ExportLevel, Kickoff};
use crate::fhir::compartment::Compartments;
use crate::fhir::datatypes::{Id, Millis};
use crate::fhir::filter::{Escapes, TypeFilter};
use crate::fhir::outcome::IssueType;
use crate::fhir::resource_type::ResourceType;
use crate::job::checkpoint::{FileContent, FileNo, FileRecord, FileState};
use crate::job::cohort::ClientCohort;
use crate::job::store::{Change, ClockMark, Lease, Restored, Store, StoreError};
use crate::job::usage::{Allowance, Day, Exhausted, Spent, Usage};
use crate::job::{Epoch, Failed, Job, JobId, JobState, Owner, Running};
use crate::plan::kept::KeptPlan;
use crate::plan::{self, Boundary, Cohort, ExportPlan, Horizon, OnShort};
use crate::profile::{Findings, Found, Profile, ProfileKey, Software};
use crate::smart::assertion::Use;
use crate::smart::client::ClientId;
use crate::smart::consent::Consent;
use crate::smart::policy::{Policy, Quotas};
use crate::smart::scope::Scopes;

/// Runs the suite, each part of it on an empty store that `make` gives.
pub(super) async fn conformance(make: impl AsyncFn() -> Arc<dyn Store>) {
    a_job_is_recorded_once(&*make().await).await;
    an_unknown_job_has_nothing_and_takes_nothing(&*make().await).await;
    whoever_claims_last_may_commit(&*make().await).await;
    a_deleted_job_takes_no_commit_and_no_claim(&*make().await).await;
    only_a_deleted_job_is_purged_and_then_nothing_is_left(&*make().await).await;
    a_fenced_change_leaves_nothing(&*make().await).await;
    a_change_records_all_it_holds(&*make().await).await;
    files_come_in_the_order_of_their_numbers(&*make().await).await;
    files_of_a_job_that_has_ended_stay_and_can_be_forgotten(&*make().await).await;
    records_of_any_size_are_read_back_and_can_shrink(&*make().await).await;
    jobs_do_not_mix(&*make().await).await;
    a_restored_job_is_there_as_it_was_found(&*make().await).await;
    the_latest_profile_of_each_upstream_is_kept_whatever_becomes_of_jobs(&*make().await).await;
    of_a_hundred_uses_of_an_assertion_one_is_the_first(make().await).await;
    an_assertion_is_forgotten_once_it_has_expired(&*make().await).await;
    the_memory_of_assertions_begins_with_the_first(&*make().await).await;
    what_is_known_of_the_clock_is_kept(&*make().await).await;
    of_a_hundred_kick_offs_at_once_as_many_are_taken_as_may_be(make().await).await;
    what_was_used_of_a_day_is_kept_whatever_becomes_of_jobs(&*make().await).await;
    listed::a_list_of_jobs_names_no_patients_and_proves_nothing(&*make().await).await;
    jobs_that_run_or_wait_are_counted_for_their_client(&*make().await).await;
    who_withdrew_consent_is_kept(&*make().await).await;
    a_cohort_is_its_clients_alone_and_of_so_many(&*make().await).await;
    of_a_hundred_cohorts_at_once_as_many_are_kept_as_may_be(make().await).await;
}

fn cohort(client: &str, number: u8, members: u32) -> ClientCohort {
    let members = (0..members).map(|id| Id::parse(&format!("member-{id}")).expect("an id")).collect();
    ClientCohort {
        id: CohortId::new(JobId::new([number; 16])),
        client: ClientId::parse(client).expect("a name"),
        created: Millis(1),
        definition: Definition {
            name: "n".into(),
            members: Some(Listed { patients: members, ..Listed::default() }),
            filters: vec![TypeFilter::parse("Patient?gender=female", Escapes::Once).expect("a filter")],
        },
    }
}

/// SEC-25
async fn a_cohort_is_its_clients_alone_and_of_so_many(store: &dyn Store) {
    let [a, b] = ["a", "b"].map(|name| ClientId::parse(name).expect("a name"));
    let kept = async |cohort: ClientCohort| store.keep_cohort(cohort, 2).await.expect("the store answers");
    // Of many parts, and of one.
    let (large, small) = (cohort("a", 1, 5_000), cohort("a", 2, 1));
    assert!(kept(large.clone()).await && kept(small.clone()).await);
    assert!(!kept(cohort("a", 3, 1)).await, "there are two of them");
    assert!(kept(cohort("a", 1, 0)).await, "one that is known takes no other place");
    assert!(kept(cohort("b", 1, 1)).await, "others have their own");
    let found = async |client: &ClientId, id| store.cohort(client.clone(), id).await.expect("the store answers");
    assert_eq!(found(&a, large.id).await, Some(large.clone()));
    assert_eq!(found(&b, small.id).await, None);
    let all = async |client: &ClientId| store.cohorts(client.clone()).await.expect("the store answers");
    assert_eq!(all(&a).await, [large.clone(), small.clone()]);
    assert_eq!(all(&b).await.len(), 1);
    let forgotten =
        async |client: &ClientId, id| store.forget_cohort(client.clone(), id).await.expect("the store answers");
    assert!(!forgotten(&b, small.id).await);
    assert!(forgotten(&a, large.id).await && !forgotten(&a, large.id).await);
    assert_eq!(all(&a).await, [small]);
    assert!(kept(cohort("a", 3, 1)).await, "there is room again");
}

async fn of_a_hundred_cohorts_at_once_as_many_are_kept_as_may_be(store: Arc<dyn Store>) {
    let keeping = (0..100).map(|number| store.keep_cohort(cohort("a", number, 1), 7));
    let kept = futures_util::future::join_all(keeping).await;
    assert_eq!(kept.into_iter().filter(|kept| matches!(kept, Ok(true))).count(), 7);
    let all = store.cohorts(ClientId::parse("a").expect("a name")).await.expect("the store answers");
    assert_eq!(all.len(), 7);
}

/// What client `a` may use on the first day.
fn allowed(quotas: Quotas) -> Allowance {
    Allowance { client: ClientId::parse("a").expect("a name"), today: Day::of(Millis(0)), quotas }
}

pub(super) fn of_client(number: u8) -> Job {
    let (id, scopes) = (allowed(Quotas::default()).client, Scopes::parse("system/*.rs").expect("scopes"));
    Job { owner: Owner::Client { id, scopes, policy: Policy::default() }, ..job(number) }
}

async fn of_a_hundred_kick_offs_at_once_as_many_are_taken_as_may_be(store: Arc<dyn Store>) {
    for (quotas, first) in [
        (Quotas { running_jobs: Some(7), ..Quotas::default() }, 0),
        (Quotas { kickoffs_per_day: Some(14), ..Quotas::default() }, 100),
    ] {
        let asked = (0..100).map(|number| {
            let (store, allowed) = (Arc::clone(&store), allowed(quotas));
            tokio::spawn(async move { store.create_within(of_client(first + number), allowed).await })
        });
        let mut taken = 0;
        for answer in asked.collect::<Vec<_>>() {
            taken += usize::from(answer.await.expect("no panic").expect("the store answers").is_ok());
        }
        // Those of the first round count for the day as well.
        assert_eq!(taken, 7, "{quotas:?}");
    }
    assert_eq!(store.jobs().await.expect("they are there").len(), 14);
    let known = store.jobs().await.expect("they are there").remove(0);
    let again = store.create_within(known, allowed(Quotas { running_jobs: Some(1), ..Quotas::default() })).await;
    assert_eq!(again.expect("the store answers"), Ok(()), "a call may be repeated");
    let other = Allowance {
        client: ClientId::parse("b").expect("a name"),
        ..allowed(Quotas { running_jobs: Some(1), ..Quotas::default() })
    };
    assert_eq!(store.create_within(job(250), other).await.expect("the store answers"), Ok(()), "others have their own");
}

async fn what_was_used_of_a_day_is_kept_whatever_becomes_of_jobs(store: &dyn Store) {
    let quotas = Quotas { kickoffs_per_day: Some(1), bytes_per_day: Some(10), ..Quotas::default() };
    let client = allowed(quotas).client;
    assert_eq!(store.usage(client.clone()).await.expect("an empty store"), None);
    let created = store.create_within(of_client(1), allowed(quotas)).await.expect("it is kept");
    assert_eq!(created, Ok(()));
    let lease = store.claim(of_client(1).id).await.expect("it is there");
    let spent = Spent { client: client.clone(), today: Day::of(Millis(0)), bytes: 6 };
    for _ in 0..2 {
        store
            .commit(lease, Change { spent: Some(spent.clone()), ..Change::default() })
            .await
            .expect("the lease is good");
    }
    store.delete(of_client(1).id).await.expect("it is there");
    assert_fenced(store.commit(lease, Change { spent: Some(spent.clone()), ..Change::default() }).await);
    store.purge(of_client(1).id).await.expect("it is deleted");
    let used = store.usage(client).await.expect("the store answers").expect("it was used");
    let expected = Usage::with_kickoff(None, 0, &allowed(Quotas::default())).expect("no quota");
    let expected = [(); 2].iter().fold(expected, |usage, ()| Usage::with_bytes(Some(usage), &spent));
    assert_eq!(used, expected);
    let again = store.create_within(of_client(2), allowed(quotas)).await.expect("the store answers");
    assert_eq!(again, Err(Exhausted::Kickoffs));
    assert_eq!(job_of(store, 2).await, None, "nothing is left of it");
}

async fn jobs_that_run_or_wait_are_counted_for_their_client(store: &dyn Store) {
    let client = |name| ClientId::parse(name).expect("a name");
    let active = async || store.active(client("a")).await.expect("the store answers");
    assert_eq!(active().await, 0);
    for number in 1..=5 {
        store.create(of_client(number)).await.expect("a new job");
        store.create(of_client(number)).await.expect("a call may be repeated");
    }
    store.create(job(6)).await.expect("nobody's");
    assert_eq!((active().await, store.active(client("b")).await.expect("the store answers")), (5, 0));
    let lease = store.claim(of_client(1).id).await.expect("it is there");
    store.commit(lease, running(1)).await.expect("the lease is good");
    assert_eq!(active().await, 5, "it runs");
    let expires = Millis(1);
    let failed = JobState::Failed(Failed { code: IssueType::Processing, text: String::new(), expires });
    store.commit(lease, Change { state: Some(failed), ..Change::default() }).await.expect("the lease is good");
    assert_eq!(active().await, 4);
    store.delete(of_client(2).id).await.expect("it is there");
    assert_eq!(active().await, 3);
    for number in 1..=2 {
        store.delete(of_client(number).id).await.expect("the store answers");
        store.purge(of_client(number).id).await.expect("the store answers");
    }
    assert_eq!(active().await, 3);
    let (epoch, plan, files) = (Epoch(4), None, Vec::new());
    store.restore(Restored { job: of_client(7), epoch, plan, files }).await.expect("it is kept");
    assert_eq!(active().await, 4);
}

async fn who_withdrew_consent_is_kept(store: &dyn Store) {
    assert_eq!(store.consent().await.expect("an empty store"), None);
    let patients = |most: u32| (0..most).map(|number| Id::parse(&number.to_string()).expect("an id")).collect();
    let mut consent = Consent::default();
    for most in [3, 5_000, 0] {
        consent = consent.with(patients(most), Millis(5));
        store.keep_consent(consent.clone()).await.expect("it is kept");
        assert_eq!(store.consent().await.expect("it is there").as_ref(), Some(&consent), "{most}");
    }
}

async fn a_job_is_recorded_once(store: &dyn Store) {
    store.create(job(1)).await.expect("a new job");
    assert_eq!(job_of(store, 1).await, Some(job(1)));
    let lease = store.claim(job(1).id).await.expect("it is there");
    store.commit(lease, running(3)).await.expect("the lease is good");
    store.create(job(1)).await.expect("a call may be repeated");
    let after = job_of(store, 1).await.expect("it is still there");
    assert_ne!(after.state, JobState::Accepted, "a repeated create must not undo what came later");
    store.commit(lease, running(4)).await.expect("nor end the lease");
}

async fn an_unknown_job_has_nothing_and_takes_nothing(store: &dyn Store) {
    let id = job(1).id;
    assert_eq!(store.jobs().await.expect("an empty store"), vec![]);
    assert_eq!(job_of(store, 1).await, None);
    assert_eq!(store.files(id).await.expect("no files"), vec![]);
    assert_eq!(store.plan(id).await.expect("no plan"), None);
    assert_fenced(store.claim(id).await);
    assert_fenced(store.commit(Lease { job: id, epoch: Epoch(1) }, running(1)).await);
    assert!(!store.delete(id).await.expect("there is nothing to delete"));
    store.purge(id).await.expect("there is nothing to purge");
    assert_eq!(store.jobs().await.expect("an empty store"), vec![]);
}

async fn whoever_claims_last_may_commit(store: &dyn Store) {
    let id = job(1).id;
    store.create(job(1)).await.expect("a new job");
    assert_fenced(store.commit(Lease { job: id, epoch: Epoch::default() }, running(1)).await);
    let first = store.claim(id).await.expect("it is there");
    store.commit(first, running(1)).await.expect("the only lease");
    let second = store.claim(id).await.expect("anybody may claim");
    assert_ne!(first, second);
    assert_fenced(store.commit(first, running(2)).await);
    store.commit(second, running(3)).await.expect("the later lease");
    store.commit(second, running(3)).await.expect("a call may be repeated");
    assert_eq!(job_of(store, 1).await.map(|job| job.state), running(3).state);
}

async fn a_deleted_job_takes_no_commit_and_no_claim(store: &dyn Store) {
    let id = job(1).id;
    store.create(job(1)).await.expect("a new job");
    let lease = store.claim(id).await.expect("it is there");
    assert!(store.delete(id).await.expect("it is there"));
    assert!(!store.delete(id).await.expect("it is deleted already"));
    assert_fenced(store.commit(lease, running(1)).await);
    assert_fenced(store.claim(id).await);
    store.create(job(1)).await.expect("a call may be repeated");
    assert_eq!(job_of(store, 1).await, Some(Job { state: JobState::Deleted, ..job(1) }));
}

async fn only_a_deleted_job_is_purged_and_then_nothing_is_left(store: &dyn Store) {
    let id = job(1).id;
    store.create(job(1)).await.expect("a new job");
    let lease = store.claim(id).await.expect("it is there");
    let change = Change { plan: Some(plan(3_000)), files: (0..300).map(file).collect(), ..Change::default() };
    store.commit(lease, change).await.expect("the lease is good");
    store.purge(id).await.expect("it is left alone");
    assert_eq!(store.files(id).await.expect("it is left alone").len(), 300);
    assert!(store.delete(id).await.expect("it is there"));
    assert_eq!(store.files(id).await.expect("the reaper needs them").len(), 300);
    assert!(store.plan(id).await.expect("it is not purged yet").is_some());
    for _ in 0..2 {
        store.purge(id).await.expect("it is deleted, then unknown");
        assert_eq!(job_of(store, 1).await, None);
        assert_eq!(store.files(id).await.expect("they are purged"), vec![]);
        assert_eq!(store.plan(id).await.expect("it is purged"), None);
        assert_eq!(store.jobs().await.expect("it is purged"), vec![]);
    }
}

async fn a_fenced_change_leaves_nothing(store: &dyn Store) {
    let id = job(1).id;
    store.create(job(1)).await.expect("a new job");
    let old = store.claim(id).await.expect("it is there");
    let lease = store.claim(id).await.expect("it is there");
    store.commit(lease, Change { files: vec![file(1)], ..Change::default() }).await.expect("the lease is good");
    let files = vec![file(2), file(3)];
    assert_fenced(
        store.commit(old, Change { plan: Some(plan(2)), files, forgotten: vec![FileNo(1)], ..running(9) }).await,
    );
    assert_eq!(job_of(store, 1).await, Some(job(1)));
    assert_eq!(store.plan(id).await.expect("there is none"), None);
    assert_eq!(store.files(id).await.expect("there is one"), vec![file(1)]);
}

async fn a_change_records_all_it_holds(store: &dyn Store) {
    let id = job(1).id;
    store.create(job(1)).await.expect("a new job");
    let lease = store.claim(id).await.expect("it is there");
    let change = Change { plan: Some(plan(2)), files: vec![file(1), file(2)], ..running(5) };
    store.commit(lease, change).await.expect("the lease is good");
    assert_eq!(store.plan(id).await.expect("it is there"), Some(plan(2)));
    assert_eq!(job_of(store, 1).await.map(|job| job.state), running(5).state);
    let later = FileRecord { state: open("another key"), ..file(2) };
    let change = Change { files: vec![later.clone()], forgotten: vec![FileNo(1), FileNo(8)], ..Change::default() };
    store.commit(lease, change).await.expect("the lease is good");
    assert_eq!(store.files(id).await.expect("they are there"), vec![later]);
    assert_eq!(store.plan(id).await.expect("no new one was given"), Some(plan(2)));
    assert_eq!(job_of(store, 1).await.map(|job| job.state), running(5).state, "no new one was given");
}

async fn files_come_in_the_order_of_their_numbers(store: &dyn Store) {
    let id = job(1).id;
    store.create(job(1)).await.expect("a new job");
    let lease = store.claim(id).await.expect("it is there");
    for no in [256, 1, u32::MAX, 0, 65_536, 255] {
        store.commit(lease, Change { files: vec![file(no)], ..Change::default() }).await.expect("the lease is good");
    }
    let numbers: Vec<_> = store.files(id).await.expect("they are there").iter().map(|file| file.no.0).collect();
    assert_eq!(numbers, [0, 1, 255, 256, 65_536, u32::MAX]);
}

/// The change that ends a job.
pub(super) fn failed() -> Change {
    let state = JobState::Failed(Failed { code: IssueType::Processing, text: String::new(), expires: Millis(9) });
    Change { state: Some(state), ..Change::default() }
}

async fn files_of_a_job_that_has_ended_stay_and_can_be_forgotten(store: &dyn Store) {
    let id = job(1).id;
    store.create(job(1)).await.expect("a new job");
    let lease = store.claim(id).await.expect("it is there");
    let numbers = async || {
        let files = store.files(id).await.expect("the store answers");
        files.iter().map(|file| file.no.0).collect::<Vec<_>>()
    };
    let commit = async |change| store.commit(lease, change).await.expect("the lease is good");
    commit(Change { files: (0..20).map(file).collect(), ..running(1) }).await;
    commit(Change { files: vec![file(30), file(5)], forgotten: vec![FileNo(1), FileNo(30)], ..failed() }).await;
    let left: Vec<_> = (0..20).filter(|no| *no != 1).collect();
    assert_eq!(numbers().await, left);
    commit(Change { forgotten: vec![FileNo(3)], files: vec![file(40)], ..Change::default() }).await;
    let left: Vec<_> = left.into_iter().filter(|no| *no != 3).chain([40]).collect();
    assert_eq!(numbers().await, left);
    assert!(store.delete(id).await.expect("it is there"));
    assert_eq!(numbers().await, left, "until its files are gone");
    store.purge(id).await.expect("it is deleted");
    assert_eq!(numbers().await, [0; 0]);
}

async fn records_of_any_size_are_read_back_and_can_shrink(store: &dyn Store) {
    let id = job(1).id;
    let large = Job { request: "r".repeat(100_000), ..job(1) };
    store.create(large.clone()).await.expect("a new job");
    store.create(job(2)).await.expect("a neighbour");
    let lease = store.claim(id).await.expect("it is there");
    for members in [50_000, 3, 700, 0] {
        store
            .commit(lease, Change { plan: Some(plan(members)), ..Change::default() })
            .await
            .expect("the lease is good");
        assert!(store.plan(id).await.expect("it is whole") == Some(plan(members)), "{members} members");
    }
    for length in [70_000, 2, 40_000] {
        let record = FileRecord { state: open(&"k".repeat(length)), ..file(7) };
        let change = Change { files: vec![file(6), record.clone(), file(8)], ..Change::default() };
        store.commit(lease, change).await.expect("the lease is good");
        let files = store.files(id).await.expect("they are whole");
        assert!(files == vec![file(6), record, file(8)], "a key of {length} bytes");
    }
    assert!(job_of(store, 1).await == Some(large));
    assert_eq!(store.jobs().await.expect("they are whole").len(), 2);
}

async fn jobs_do_not_mix(store: &dyn Store) {
    for number in [1, 2] {
        store.create(job(number)).await.expect("a new job");
        let lease = store.claim(job(number).id).await.expect("it is there");
        let files = (0..=u32::from(number)).map(file).collect();
        let change = Change { plan: Some(plan(number.into())), files, ..running(number.into()) };
        store.commit(lease, change).await.expect("the lease is good");
    }
    assert!(store.delete(job(1).id).await.expect("it is there"));
    store.purge(job(1).id).await.expect("it is deleted");
    let left = Job { state: running(2).state.expect("it was given"), ..job(2) };
    assert_eq!(store.jobs().await.expect("one is left"), vec![left]);
    assert_eq!(store.files(job(2).id).await.expect("it is left").len(), 3);
    assert_eq!(store.plan(job(2).id).await.expect("it is left"), Some(plan(2)));
}

async fn a_restored_job_is_there_as_it_was_found(store: &dyn Store) {
    let id = job(1).id;
    let state = running(7).state.expect("it was given");
    let found_outside = Restored {
        job: Job { state, ..job(1) },
        epoch: Epoch(41),
        plan: Some(plan(3_000)),
        files: (0..300).map(file).collect(),
    };
    store.restore(found_outside.clone()).await.expect("a job that is not known");
    let other = Restored { epoch: Epoch(3), plan: None, files: Vec::new(), ..found_outside.clone() };
    store.restore(other).await.expect("it is left alone");
    assert_eq!(job_of(store, 1).await, Some(found_outside.job));
    assert!(store.plan(id).await.expect("it is there") == found_outside.plan);
    assert_eq!(store.files(id).await.expect("they are there"), found_outside.files);
    assert_eq!(store.claim(id).await.expect("it is there"), Lease { job: id, epoch: Epoch(42) });
}

async fn the_latest_profile_of_each_upstream_is_kept_whatever_becomes_of_jobs(store: &dyn Store) {
    let ((key, first), (other, second)) = (found("1"), found("2"));
    assert_eq!(store.profile(key).await.expect("an empty store"), None);
    store.keep_profile(key, first.clone()).await.expect("it is kept");
    store.keep_profile(other, second.clone()).await.expect("it is kept");
    store.create(job(1)).await.expect("a new job");
    assert!(store.delete(job(1).id).await.expect("it is there"));
    store.purge(job(1).id).await.expect("it is deleted");
    assert_eq!(store.profile(key).await.expect("it is there"), Some(first.clone()));
    let mut later = first;
    later.at.0 += 1;
    store.keep_profile(key, later.clone()).await.expect("it is kept");
    assert_eq!(store.profile(key).await.expect("it is there"), Some(later));
    assert_eq!(store.profile(other).await.expect("it is there"), Some(second));
    assert_eq!(store.jobs().await.expect("none is left"), vec![]);
}

/// SM-017, SEC-13
async fn of_a_hundred_uses_of_an_assertion_one_is_the_first(store: Arc<dyn Store>) {
    let assertion = Use { hash: [7; 32], until: Millis(1_000) };
    let uses: Vec<_> = (0..100)
        .map(|_| {
            let store = Arc::clone(&store);
            tokio::spawn(async move { store.use_once(assertion, Millis(5)).await.expect("it is kept") })
        })
        .collect();
    let mut first = 0;
    for used in uses {
        first += usize::from(used.await.expect("it did not panic"));
    }
    assert_eq!(first, 1);
    assert!(store.was_used(assertion.hash).await.expect("it is there"));
    assert!(!store.use_once(assertion, Millis(5)).await.expect("it is there"), "nor ever after");
    assert!(store.use_once(Use { hash: [8; 32], ..assertion }, Millis(5)).await.expect("it is kept"), "another one");
}

async fn an_assertion_is_forgotten_once_it_has_expired(store: &dyn Store) {
    let used = |number: u8| Use { hash: [number; 32], until: Millis(i64::from(number) * 1_000) };
    for number in 1..=3 {
        assert!(store.use_once(used(number), Millis(5)).await.expect("it is kept"));
    }
    store.forget_used(Millis(2_000)).await.expect("some have expired");
    for (number, expected) in [(1, false), (2, false), (3, true)] {
        assert_eq!(store.was_used([number; 32]).await.expect("the store answers"), expected, "{number}");
    }
    store.forget_used(Millis(2_000)).await.expect("a call may be repeated");
    assert!(store.was_used([3; 32]).await.expect("the store answers"));
}

async fn what_is_known_of_the_clock_is_kept(store: &dyn Store) {
    assert_eq!(store.clock_mark().await.expect("an empty store"), None);
    for mark in [ClockMark { at: Millis(9), confirmed: None }, ClockMark { at: Millis(5), confirmed: Some(Millis(5)) }]
    {
        store.keep_clock_mark(mark).await.expect("it is kept");
        assert_eq!(store.clock_mark().await.expect("it is kept"), Some(mark));
    }
}

async fn the_memory_of_assertions_begins_with_the_first(store: &dyn Store) {
    assert_eq!(store.remembered_since().await.expect("an empty store"), None);
    for (number, began) in [(1, 5), (2, 9), (3, 1)] {
        let assertion = Use { hash: [number; 32], until: Millis(1_000) };
        assert!(store.use_once(assertion, Millis(began)).await.expect("it is kept"));
        assert_eq!(store.remembered_since().await.expect("it is kept"), Some(Millis(5)));
    }
}

/// What was found out about an upstream of its own for every number.
pub(super) fn found(number: &str) -> (ProfileKey, Found) {
    let base = format!("https://fhir.example/{number}");
    let found = Found::new(&base, Software::default(), Millis(1_764_000_000_000), Findings::default());
    (ProfileKey::of(&base), found)
}

/// A job of its own for every number.
pub(super) fn job(number: u8) -> Job {
    Job {
        id: JobId::new([number; 16]),
        kickoff: Kickoff::of(ExportLevel::System),
        cohort: None,
        owner: Owner::Open,
        delivery: crate::job::Delivery::default(),
        consent: Millis(0),
        types: vec![ResourceType::PATIENT],
        compartments: Compartments::R5,
        request: format!("https://fhir.example/$export?number={number}"),
        advertised_base: None,
        filters: BTreeMap::new(),
        software: String::new(),
        created: Millis(1_764_000_000_000),
        state: JobState::Accepted,
    }
}

/// A change to a state that differs by `sweep`.
pub(super) fn running(sweep: u32) -> Change {
    let state = JobState::Running(Running { sweep, ..Running::default() });
    Change { state: Some(state), ..Change::default() }
}

/// A plan for so many members.
pub(super) fn plan(members: u32) -> KeptPlan {
    KeptPlan::Clear(Box::new(of_members(members)))
}

fn of_members(members: u32) -> ExportPlan {
    let member = |number| Id::parse(&format!("patient-{number:028}")).expect("an id of the length of a UUID");
    ExportPlan {
        horizon: Horizon {
            windows_until: Millis(1_764_000_000_000),
            lag_millis: 60_000,
            since: None,
            until: None,
            settled: Millis(0),
            step_millis: 1,
        },
        profile: Profile::default(),
        types: BTreeMap::new(),
        filters: BTreeMap::new(),
        cohort: Cohort::Members((0..members).map(member).collect()),
        compartments: Compartments::R5,
        listed: plan::Listed::default(),
        newcomers: plan::Listed::default(),
        others: BTreeMap::new(),
        context: Vec::new(),
        by_target: None,
        provenance_of_records: false,
        is_organized: false,
        on_short: OnShort::Fail,
        boundary: Boundary::NoLoss,
        tells_deletions_by_difference: false,
        inlines: None,
        bases: Vec::new(),
    }
}

/// An open file.
pub(super) fn file(no: u32) -> FileRecord {
    FileRecord { no: FileNo(no), content: FileContent::Resources(ResourceType::PATIENT), state: open("a key") }
}

fn open(key: &str) -> FileState {
    FileState::Open { key: key.to_owned(), epoch: Epoch(1), upload: None }
}

async fn job_of(store: &dyn Store, number: u8) -> Option<Job> {
    store.job(job(number).id).await.expect("the store answers")
}

#[track_caller]
fn assert_fenced<T: std::fmt::Debug>(answer: Result<T, StoreError>) {
    assert!(matches!(answer, Err(StoreError::Fenced)), "{answer:?}");
}

#[test]
fn what_was_stored_without_a_version_is_of_r4() {
    fn without<T: serde::Serialize + serde::de::DeserializeOwned>(record: &T) -> T {
        let mut record = serde_json::to_value(record).expect("a record");
        let members = record.as_object_mut().expect("an object");
        assert_eq!(members.remove("compartments"), Some("r5".into()));
        serde_json::from_value(record).expect("what was stored stays readable")
    }
    assert_eq!(without(&job(1)).compartments, Compartments::R4);
    let mut record = serde_json::to_value(job(1)).expect("a record");
    assert_eq!(record.as_object_mut().expect("an object").remove("owner"), Some("open".into()));
    let record: Job = serde_json::from_value(record).expect("what was stored stays readable");
    assert_eq!(record.owner, Owner::Open, "there were no clients then");
    let mut record = serde_json::to_value(of_client(1)).expect("a record");
    let members = record.as_object_mut().expect("an object");
    assert!(members["owner"]["client"].get("policy").is_none(), "one that restricts nothing is not written");
    members.remove("consent").expect("it was written");
    let record: Job = serde_json::from_value(record).expect("what was stored stays readable");
    assert_eq!(record.owner, of_client(1).owner, "there were no policies then");
    let list = Consent::default().with([Id::parse("a").expect("an id")].into(), Millis(0));
    assert!(list.has_grown_since(record.consent), "nor lists");
    assert_eq!(without(&of_members(1)).compartments, Compartments::R4);
}
