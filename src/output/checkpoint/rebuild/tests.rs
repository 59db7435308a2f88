use super::*;
use crate::bulk::kickoff::{ExportLevel, Kickoff};
use crate::fhir::compartment::Compartments;
use crate::fhir::datatypes::Instant;
use crate::fhir::resource_type::ResourceType;
use crate::job::checkpoint::{CompleteFile, StoredObject};
use crate::job::{Complete, Job, JobId, Owner, Running};
use crate::plan::kept::KeptPlan;
use crate::plan::{Boundary, Cohort, ExportPlan, Horizon, Listed, OnShort};
use crate::profile::Profile;

const FOLDER: &str = "0a/01010101010101010101010101010101";
const EXPIRES: Millis = Millis(1_764_000_100_000);

fn sheet(state: JobState) -> JobSheet {
    let horizon = Horizon {
        windows_until: Millis(0),
        lag_millis: 0,
        since: None,
        until: None,
        settled: Millis(0),
        step_millis: 1,
    };
    let plan = ExportPlan {
        horizon,
        profile: Profile::default(),
        types: BTreeMap::new(),
        filters: BTreeMap::new(),
        listed: Listed::default(),
        cohort: Cohort::Everything,
        compartments: Compartments::R4,
        newcomers: Listed::default(),
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
    };
    let job = Job {
        id: JobId::new([1; 16]),
        kickoff: Kickoff::of(ExportLevel::System),
        cohort: None,
        owner: Owner::Open,
        delivery: crate::job::Delivery::default(),
        consent: Millis(0),
        types: vec![ResourceType::PATIENT],
        compartments: Compartments::R4,
        request: String::new(),
        advertised_base: None,
        filters: BTreeMap::new(),
        software: String::new(),
        created: Millis(0),
        state,
    };
    JobSheet { epoch: Epoch(1), job, plan: Some(KeptPlan::Clear(Box::new(plan))) }
}

fn running(sweep: u32) -> JobState {
    JobState::Running(Running { sweep, ..Running::default() })
}

fn complete() -> JobState {
    let transaction_time = Instant::from(Millis(0));
    JobState::Complete(Complete {
        transaction_time,
        proof: BTreeMap::new(),
        severities: BTreeMap::new(),
        pages: Vec::new(),
        expires: EXPIRES,
    })
}

fn name(no: u32, epoch: u32) -> String {
    format!("Patient-{no:05}.{epoch}.ndjson")
}

fn file(no: u32, epoch: u32, commit: u32) -> FileRecord {
    let key = format!("{FOLDER}/{}", name(no, epoch));
    let sidecar = Some(layout::sidecar(&key));
    let object = Some(StoredObject { key, lines: 1, bytes: 10, sha256: String::new(), plain: None });
    let state =
        FileState::Complete(CompleteFile { object, sidecar, slices: Vec::new(), commit, ..CompleteFile::default() });
    FileRecord { no: FileNo(no), content: FileContent::Resources(ResourceType::PATIENT), state }
}

/// Commits that completed a file each: number, epoch and state, and a folder that holds all that they name.
fn commits(of: &[(u32, u32, JobState)]) -> (Folder, BTreeMap<u32, Commit>) {
    let mut folder = Folder::default();
    folder.objects.insert(layout::JOB_CHECKPOINT.to_owned(), 1);
    let mut commits = BTreeMap::new();
    for (number, epoch, state) in of {
        let files = vec![file(*number, *epoch, *number)];
        for key in files.iter().flat_map(FileRecord::keys) {
            folder.objects.insert(key.rsplit('/').next().expect("a name").to_owned(), 10);
        }
        folder.objects.insert(layout::commit_checkpoint(*number), 1);
        commits.insert(*number, Commit { epoch: Epoch(*epoch), files, state: state.clone() });
    }
    (folder, commits)
}

fn rebuilt(folder: &Folder, commits: BTreeMap<u32, Commit>) -> Rebuilt {
    rebuild(FOLDER, folder, sheet(running(0)), commits).expect("a job under way has a plan")
}

/// The numbers of complete files, and what is left to be cleared away.
fn told(rebuilt: &Rebuilt) -> (Vec<u32>, Vec<&str>) {
    let files = &rebuilt.restored.files;
    let complete = files.iter().filter(|file| file.commit() > 0).map(|file| file.no.0).collect();
    let open = files.iter().filter_map(|file| match &file.state {
        FileState::Open { key, .. } => key.rsplit('/').next(),
        FileState::Complete(_) => None,
    });
    (complete, open.collect())
}

#[test]
fn a_job_is_where_its_last_commit_left_it() {
    let (folder, commits) = commits(&[(1, 1, running(1)), (2, 3, running(2))]);
    let rebuilt = rebuilt(&folder, commits);
    assert_eq!(told(&rebuilt), (vec![1, 2], vec![]));
    assert_eq!(rebuilt.restored.job.state, running(2));
    assert_eq!(rebuilt.restored.epoch, Epoch(3 + EPOCHS));
    assert!(rebuilt.restored.plan.is_some() && rebuilt.refused.is_empty() && rebuilt.foreign.is_empty());
}

#[test]
fn a_complete_job_is_complete() {
    let (folder, commits) = commits(&[(1, 1, running(1)), (2, 1, complete())]);
    let rebuilt = rebuilt(&folder, commits);
    assert_eq!(told(&rebuilt), (vec![1, 2], vec![]));
    assert_eq!(rebuilt.restored.job.state, complete());
}

/// BD-086: a page that a client may have read never lists other files.
#[test]
fn a_job_whose_listed_pages_cannot_all_be_had_again_is_given_up() {
    let listed = |ends: &[u32]| JobState::Running(Running { pages: ends.to_vec(), ..Running::default() });
    let all = [(1, 1, listed(&[1])), (2, 1, listed(&[1, 2])), (3, 1, listed(&[1, 2]))];
    for (lost, is_given_up) in [(1, true), (2, true), (3, false), (4, false)] {
        let (folder, mut commits) = commits(&all);
        commits.remove(&lost);
        let rebuilt = rebuilt(&folder, commits);
        let state = &rebuilt.restored.job.state;
        match state {
            JobState::Failed(failed) => assert!(is_given_up && failed.expires == Millis(TOLD_MILLIS), "{lost}"),
            _ => assert!(!is_given_up && *state == listed(&[1, 2]), "{lost}: {state:?}"),
        }
        assert_eq!(rebuilt.restored.files.iter().any(|file| file.commit() > 0), !is_given_up, "{lost}");
    }
}

/// What comes later may rest on what is missing: ids looked up, references counted.
#[test]
fn nothing_is_taken_that_follows_on_a_gap_and_what_is_not_taken_is_cleared_away() {
    let all = [(1, 1, running(1)), (2, 1, running(2)), (3, 1, running(3))];
    let (folder, mut commits) = commits(&all);
    commits.remove(&2);
    let rebuilt = rebuilt(&folder, commits);
    let left = vec!["00002.checkpoint", "00003.checkpoint", "Patient-00002.1.ndjson", "Patient-00003.1.ndjson"];
    assert_eq!(told(&rebuilt), (vec![1], left));
    assert_eq!(rebuilt.restored.job.state, running(1));
    assert_eq!(rebuilt.refused, BTreeMap::from([(3, Refused::Unconnected)]));
}

/// A commit was written and not recorded, and the next life has begun to clear up.
#[test]
fn a_commit_whose_files_are_gone_is_not_taken() {
    for gone in ["Patient-00002.1.ndjson", "Patient-00002.1.ids"] {
        for state in [running(2), complete()] {
            let (mut folder, commits) = commits(&[(1, 1, running(1)), (2, 1, state)]);
            folder.objects.remove(gone);
            let rebuilt = rebuilt(&folder, commits);
            assert_eq!(told(&rebuilt).0, [1], "{gone}");
            assert_eq!(rebuilt.restored.job.state, running(1), "{gone}");
            assert_eq!(rebuilt.refused, BTreeMap::from([(2, Refused::Missing)]), "{gone}");
        }
    }
    let (mut folder, commits) = commits(&[(1, 1, running(1))]);
    folder.objects.insert(name(1, 1), 9);
    assert_eq!(told(&rebuilt(&folder, commits)).0, [] as [u32; 0], "another size");
}

#[test]
fn a_commit_of_an_earlier_life_does_not_follow_on_one_of_a_later() {
    let (folder, commits) = commits(&[(1, 2, running(1)), (2, 1, complete())]);
    let rebuilt = rebuilt(&folder, commits);
    assert_eq!(told(&rebuilt).0, [1]);
    assert_eq!(rebuilt.refused, BTreeMap::from([(2, Refused::Stale)]));
    assert_eq!(rebuilt.restored.job.state, running(1));
}

/// What was listed stays as it was, or the export is given up by name.
#[test]
fn a_complete_job_that_lacks_a_commit_has_failed() {
    let (folder, mut commits) = commits(&[(1, 1, running(1)), (2, 1, running(2)), (3, 1, complete())]);
    commits.remove(&2);
    let rebuilt = rebuilt(&folder, commits);
    let JobState::Failed(failed) = &rebuilt.restored.job.state else { panic!("{:?}", rebuilt.restored.job.state) };
    assert!(failed.expires == EXPIRES && failed.text.contains("start a new export"), "{failed:?}");
    let (kept, left) = told(&rebuilt);
    assert_eq!((kept, left.len()), (vec![], 6));
    assert_eq!(rebuilt.restored.plan, None);
}

/// SEC-32: a deleted job leaves a tombstone.
#[test]
fn a_deleted_job_and_a_failed_one_stay_so_and_all_else_is_cleared_away() {
    let failed = Failed { code: IssueType::Processing, text: "why".to_owned(), expires: EXPIRES };
    for state in [JobState::Deleted, JobState::Failed(failed)] {
        let (folder, commits) = commits(&[(1, 1, running(1)), (2, 1, complete())]);
        let rebuilt = rebuild(FOLDER, &folder, sheet(state.clone()), commits).expect("no plan is needed");
        assert_eq!(rebuilt.restored.job.state, state);
        let left = vec!["00001.checkpoint", "00002.checkpoint", "Patient-00001.1.ndjson", "Patient-00002.1.ndjson"];
        assert_eq!(told(&rebuilt), (vec![], left));
    }
    let (folder, _) = commits(&[]);
    let without = JobSheet { plan: None, ..sheet(running(0)) };
    assert_eq!(rebuild(FOLDER, &folder, without, BTreeMap::new()).err(), Some(Refused::Content));
}

#[test]
fn what_a_crash_left_is_cleared_away_and_what_is_not_ours_stays() {
    let (mut folder, commits) = commits(&[(1, 1, running(1))]);
    for name in ["Patient-00007.2.ids", "Patient-00008.2.ndjson", "notes.txt", "Patient-00001.1.csv"] {
        folder.objects.insert(name.to_owned(), 3);
    }
    folder.unfinished.extend(["Patient-00009.2.ndjson", "00002.checkpoint", "job.checkpoint"].map(str::to_owned));
    let rebuilt = rebuilt(&folder, commits);
    let left = ["00002.checkpoint", "Patient-00007.2.ndjson", "Patient-00008.2.ndjson", "Patient-00009.2.ndjson"];
    assert_eq!(told(&rebuilt), (vec![1], left.to_vec()));
    assert_eq!(rebuilt.foreign, ["Patient-00001.1.csv", "notes.txt"]);
    let numbers: BTreeSet<_> = rebuilt.restored.files.iter().map(|file| file.no).collect();
    assert_eq!(numbers.len(), rebuilt.restored.files.len(), "every record has a number of its own");
}

/// To clear away an object takes its sidecar along: a planted one must not cost a listed file.
#[test]
fn nothing_is_cleared_away_beside_a_file_that_is_listed() {
    let (mut folder, mut commits) = commits(&[(1, 1, running(1))]);
    let Some(Commit { files, .. }) = commits.get_mut(&1) else { panic!("there is one") };
    let FileState::Complete(only_object) = &mut files[0].state else { panic!("it is complete") };
    only_object.sidecar = None;
    folder.unfinished.insert(name(1, 1));
    let rebuilt = rebuilt(&folder, commits);
    assert_eq!(told(&rebuilt), (vec![1], vec![]));
    assert_eq!(rebuilt.foreign, ["Patient-00001.1.ids"]);
}
