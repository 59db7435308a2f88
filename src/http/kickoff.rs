//! The kick-off request: parse, hold against what the upstream has, record, answer where to ask.

mod narrow;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{Response, StatusCode, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use tokio::sync::SemaphorePermit;

use super::body::{self, Body, BoxError};
use super::problem::Problem;
use super::{Edge, authorize, cohort, witness};
use crate::bulk::kickoff::{ExportLevel, Headers, Kickoff, KickoffError, Operation, Places};
use crate::clock;
use crate::engine::SubmitError;
use crate::fhir::capability::Capability;
use crate::fhir::compartment::Compartments;
use crate::fhir::datatypes::{Id, Millis};
use crate::fhir::resource_type::ResourceType;
use crate::job::cohort::{ClientCohort, CohortOfJob};
use crate::job::{Job, JobId, JobState};
use crate::smart::server::Caller;
use crate::upstream::group::{self, GroupError, When};

/// A `Parameters` body of every type and of some thousand patients is smaller.
const MOST_BODY_BYTES: usize = 1024 * 1024;
/// How long a body may take to come.
const BODY_PATIENCE: Duration = Duration::from_secs(30);
/// How long a kick-off waits for what it has to ask of the upstream; clients wait for an answer.
pub(super) const UPSTREAM_PATIENCE: Duration = Duration::from_secs(10);

/// BD-047: 202 and where to ask.
pub(super) async fn kick_off<B>(
    edge: &Edge,
    caller: &Caller,
    operation: Operation,
    head: &Parts,
    sent: B,
) -> Result<Response<Body>, Problem>
where
    B: http_body::Body<Data = Bytes> + Send,
    B::Error: Into<BoxError>,
{
    let engine = edge.engine().await?;
    if let Some(release) = edge.access.registry().and_then(|registry| registry.release(caller))
        && release != operation.release
    {
        return Err(Problem::not_by_policy(format!("this client exports by `{}` only", release.operation())));
    }
    let (mut kickoff, places) = {
        if sent.size_hint().lower() > MOST_BODY_BYTES as u64 {
            return Err(KickoffError::TooLarge.into());
        }
        let has_body = !sent.is_end_stream();
        // Held while the body is in memory: together the places bound what bodies take.
        let _place = if has_body { Some(place(edge).await?) } else { None };
        let sent = read(edge, sent).await?;
        let headers = Headers::of(&head.headers);
        let now = edge.upstream.now();
        Kickoff::parse(operation, &head.method, head.uri.query(), &headers, &sent, &edge.links.base(), now.into())?
    };
    if !edge.organizes {
        kickoff.do_not_organize(&places)?;
    }
    kickoff.check_sizes(&places, edge.least_file_max)?;
    kickoff.associate(&places, &edge.presets, edge.finds_provenance, |name| !caller.lacks([name]).is_empty())?;
    let own = match &kickoff.level {
        ExportLevel::Group(id) => cohort::client::known(edge, &engine, caller, id).await?,
        ExportLevel::System | ExportLevel::Patient => None,
    };
    permit(edge, caller, &kickoff, own.as_ref())?;
    engine.has_room_for(&caller.owner()).await?;
    let Resolved { types, compartments, capability, cohort } = tokio::select! {
        resolved = resolve(edge, caller, &mut kickoff, &places, own.as_ref()) => resolved?,
        () = edge.clock.sleep(UPSTREAM_PATIENCE) => {
            return Err(Problem::unavailable("the FHIR server behind this one does not answer at the moment"));
        }
    };
    let types = narrow(edge, caller, &kickoff, types)?;
    narrow::organized(caller, &kickoff, &types, compartments)?;
    let filters = narrow::filters(caller, &kickoff, &places, &types, &capability, compartments)?;
    let now = clock::now(&*edge.clock);
    let path = head.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    let id = JobId::new(clock::random().map_err(|_| Problem::unavailable("the system has no randomness to give"))?);
    let request = edge.links.public_url(path);
    let state = JobState::Accepted;
    let owner = caller.owner();
    let delivery = edge.access.registry().map(|registry| registry.delivery(caller)).unwrap_or_default();
    let job = Job {
        id,
        kickoff,
        cohort,
        owner,
        // The engine says what of the list of excluded patients it heeds.
        consent: Millis(i64::MIN),
        delivery,
        types,
        filters,
        compartments,
        request,
        advertised_base: capability.base.clone(),
        software: capability.software.clone(),
        created: now,
        state,
    };
    let preference_applied = job.kickoff.shape.status.preference_applied();
    let id = engine.submit(job, witness::peer(head)).await.map_err(|error| refused(error, &places))?;
    tracing::info!(export.job_id = %id, "an export was accepted");
    let mut answer = Response::builder()
        .status(StatusCode::ACCEPTED)
        .header(header::CONTENT_LOCATION, edge.links.status(id))
        .header(header::CACHE_CONTROL, "no-store");
    if let Some(applied) = preference_applied {
        answer = answer.header("preference-applied", applied);
    }
    Ok(answer.body(body::empty()).expect("the status URL is made of URL characters"))
}

/// Why an export is not taken up, with the parameter that is to blame.
fn refused(error: SubmitError, places: &Places) -> Problem {
    let location = match &error {
        SubmitError::Filter(error) => places.of_filter(error.resource_type()).map(str::to_owned),
        SubmitError::Full
        | SubmitError::Quota { .. }
        | SubmitError::Undated(_)
        | SubmitError::Store(_)
        | SubmitError::Ledger(_) => None,
    };
    Problem::from(error).located(location)
}

/// SM-033: what was asked for by name and may not be had is refused before anything is asked of the upstream.
fn permit(edge: &Edge, caller: &Caller, kickoff: &Kickoff, own: Option<&ClientCohort>) -> Result<(), Problem> {
    if kickoff.level.group().is_some() {
        authorize::require_groups(edge, caller)?;
    }
    if let Caller::Client(client) = caller {
        if !client.policy().permits_level(kickoff.level.level()) {
            return Err(Problem::not_by_policy("this client may not export at this level"));
        }
        if let Some(own) = own {
            cohort::client::permit(edge, caller, &own.definition)?;
        }
        // SEC-15: to whoever may not have it there is no such Group.
        if own.is_none() && kickoff.level.group().is_some_and(|group| !client.policy().permits_group(group)) {
            return Err(GroupError::Unknown.into());
        }
    }
    let named = kickoff.types.iter().flatten().copied().chain(kickoff.filtered_types());
    authorize::require(edge, caller, named.chain(kickoff.associated.all_types()))
}

/// What the caller may have of all that there is, where nothing was asked for by name.
fn narrow(
    edge: &Edge,
    caller: &Caller,
    kickoff: &Kickoff,
    types: Vec<ResourceType>,
) -> Result<Vec<ResourceType>, Problem> {
    let lacks = caller.lacks(types.iter().copied());
    let mut may: Vec<_> = types.into_iter().filter(|name| !lacks.contains(name)).collect();
    if kickoff.types.is_none() && may.is_empty() && !lacks.is_empty() {
        return Err(authorize::insufficient(edge, "system/*.rs"));
    }
    if let Caller::Client(client) = caller
        && !may.is_empty()
    {
        // SM-034: silently, and the file of outcomes says so.
        may.retain(|name| client.policy().permits_type(*name));
        if may.is_empty() {
            return Err(Problem::not_by_policy("this client may export none of these types"));
        }
    }
    Ok(may)
}

/// What the upstream has to say of a request.
struct Resolved {
    /// The types that there are to export.
    types: Vec<ResourceType>,
    /// What belongs to patients in the version of FHIR that it speaks.
    compartments: Compartments,
    /// What it says of itself.
    capability: Arc<Capability>,
    /// The caller's cohort, if it is for one.
    cohort: Option<CohortOfJob>,
}

/// Asks for it, and whether there is the Group.
async fn resolve(
    edge: &Edge,
    caller: &Caller,
    kickoff: &mut Kickoff,
    places: &Places,
    own: Option<&ClientCohort>,
) -> Result<Resolved, Problem> {
    let capability = edge.capability().await?;
    if let Some(base) = &capability.base {
        edge.upstream.advertise(base);
    }
    let compartments = match (capability.compartments(), &kickoff.level) {
        (Some(compartments), _) => compartments,
        (None, _) if kickoff.elements.is_some() => return Err(KickoffError::ElementsOfVersion.into()),
        (None, _) if kickoff.shape.organized_by.is_some() => return Err(KickoffError::FhirVersion.into()),
        // Only how types are searched that are refused without a patient hangs on it, and is tried out.
        (None, ExportLevel::System) => Compartments::default(),
        (None, ExportLevel::Patient | ExportLevel::Group(_)) => return Err(KickoffError::FhirVersion.into()),
    };
    kickoff.check_associated(places, &capability)?;
    let searchable = capability.searchable();
    let of_patients = |_: ResourceType| false;
    // What no Group can hold is refused before any is read.
    // Who is no patient has no block.
    let only_patients = kickoff.patients.is_some() || kickoff.shape.organized_by.is_some();
    let may_be_member = |name: ResourceType| name.is_member_by_itself() && !only_patients;
    kickoff.resolve(places, &searchable, compartments, &may_be_member)?;
    kickoff.check_filters(places, &capability, compartments)?;
    let types = match &kickoff.level {
        ExportLevel::Group(id) if own.is_none() && edge.cohorts.get(id).is_none() => {
            // Read again when the plan is made; here so that a Group that is not there is refused at once, and for the types of
            // its members.
            let expands = |id: &Id| caller.permits_group(id);
            let when = When { now: clock::now(&*edge.clock), since: None };
            let members = group::members(&edge.upstream, id, edge.most_members, when, &expands).await?;
            let is_member = |name: ResourceType| may_be_member(name) && members.others.contains_key(&name);
            kickoff.resolve(places, &searchable, compartments, &is_member)?
        }
        ExportLevel::System | ExportLevel::Patient | ExportLevel::Group(_) => {
            kickoff.resolve(places, &searchable, compartments, &of_patients)?
        }
    };
    let cohort = match own {
        Some(own) => Some(cohort::client::of_job(edge, caller, &own.definition, &capability, compartments).await?),
        None => None,
    };
    Ok(Resolved { types, compartments, capability, cohort })
}

pub(super) async fn place(edge: &Edge) -> Result<SemaphorePermit<'_>, Problem> {
    tokio::select! {
        place = edge.bodies.acquire() => Ok(place.expect("the semaphore is never closed")),
        () = edge.clock.sleep(BODY_PATIENCE) => Err(Problem::unavailable("too many requests are being sent at once")),
    }
}

pub(super) async fn read<B>(edge: &Edge, sent: B) -> Result<Bytes, KickoffError>
where
    B: http_body::Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    tokio::select! {
        read = Limited::new(sent, MOST_BODY_BYTES).collect() => match read {
            Ok(read) => Ok(read.to_bytes()),
            Err(error) if error.is::<LengthLimitError>() => Err(KickoffError::TooLarge),
            Err(_) => Err(KickoffError::CutShort),
        },
        () = edge.clock.sleep(BODY_PATIENCE) => Err(KickoffError::Slow),
    }
}
