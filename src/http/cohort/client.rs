//! The Bulk Cohort API: a client makes a Group by filters, reads and finds its own, exports and deletes them. To everybody else
//! they are not there (SEC-25).

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderValue, Response, StatusCode, header};
use serde_json::{Value, json};

use crate::body::{self, Body, BoxError};
use crate::bulk::cohort::{CohortError, CohortId, Definition};
use crate::bulk::kickoff::{Headers, KickoffError};
use crate::clock;
use crate::engine::{Engine, SearchesRefused};
use crate::fhir::capability::Capability;
use crate::fhir::compartment::Compartments;
use crate::fhir::datatypes::Id;
use crate::fhir::filter::{Filter, FilterError, TypeFilter};
use crate::fhir::resource_type::ResourceType;
use crate::http::problem::Problem;
use crate::http::{Edge, authorize, kickoff, witness};
use crate::job::JobId;
use crate::job::cohort::{ClientCohort, CohortOfJob, MemberSearch};
use crate::ledger::record::{Actor, CohortDeleted, CohortMade, Event};
use crate::smart::form::Form;
use crate::smart::policy::Level;
use crate::smart::scope::Actions;
use crate::smart::server::{Authorization, Caller};
use crate::upstream::client::SearchError;
use crate::upstream::group::{self, GroupError, When};

/// How often another id is made where the server has a Group of the first one.
const TRIES: usize = 3;

/// BD-115: 201 and the Group, or 202 and where it is told that it was made, if that is preferred.
pub(in crate::http) async fn make<B>(edge: &Edge, head: &Parts, sent: B) -> Result<Response<Body>, Problem>
where
    B: http_body::Body<Data = Bytes> + Send,
    B::Error: Into<BoxError>,
{
    let caller = authorize::caller(edge, head).await?;
    let (client, most) = client(edge, &caller)?;
    if !client.scopes().permit(ResourceType::GROUP, Actions::CREATE) {
        return Err(authorize::insufficient(edge, "system/Group.c"));
    }
    let engine = edge.engine().await?;
    let headers = Headers::of(&head.headers);
    if headers.check_content_type().is_err() {
        let text = "a Group is sent as application/fhir+json, as it is";
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "not-supported", text));
    }
    if head.headers.contains_key("if-none-exist") {
        let text = "a cohort is not made on a condition";
        return Err(Problem::new(StatusCode::BAD_REQUEST, "not-supported", text));
    }
    let definition = {
        let _place = kickoff::place(edge).await?;
        let sent = kickoff::read(edge, sent).await?;
        Definition::parse(&sent, &edge.links.base())?
    };
    permit(edge, &caller, &definition)?;
    let looked_at = async {
        let capability = edge.capability().await?;
        let compartments = capability.compartments().ok_or(KickoffError::FhirVersion)?;
        let found = of_job(edge, &caller, &definition, &capability, compartments).await?;
        engine.try_searches(&found.searches).await.map_err(|refused| match refused {
            SearchesRefused::Filter(error) => Problem::from(error),
            SearchesRefused::Unavailable => unanswered(),
        })?;
        free_id(edge).await
    };
    let id = tokio::select! {
        id = looked_at => id?,
        () = edge.clock.sleep(kickoff::UPSTREAM_PATIENCE) => return Err(unanswered()),
    };
    let actor = Actor::of(&caller.owner(), witness::peer(head));
    let made = Event::CohortMade(CohortMade::of(id, &definition, actor));
    let (created, client) = (clock::now(&*edge.clock), client.client().clone());
    let cohort = ClientCohort { id, client, created, definition };
    let group = cohort.definition.group(id);
    if !engine.make_cohort(cohort, most, made).await? {
        let text = "this client has as many cohorts as it may have: delete one";
        return Err(Problem::new(StatusCode::TOO_MANY_REQUESTS, "throttled", text));
    }
    tracing::info!("a client has made a cohort");
    if headers.prefers("respond-async", "") {
        let mut answer = Response::new(body::empty());
        *answer.status_mut() = StatusCode::ACCEPTED;
        let at = HeaderValue::try_from(edge.links.status(id.number())).expect("it is made of URL characters");
        answer.headers_mut().insert(header::CONTENT_LOCATION, at);
        answer.headers_mut().insert("preference-applied", HeaderValue::from_static("respond-async"));
        answer.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        return Ok(answer);
    }
    let mut answer = resource(&group);
    *answer.status_mut() = StatusCode::CREATED;
    let at = HeaderValue::try_from(location(edge, id)).expect("it is made of URL characters");
    answer.headers_mut().insert(header::LOCATION, at);
    Ok(answer)
}

/// That a cohort of the caller's was made, where it is asked for as an export is; `None` if there is none.
pub(in crate::http) async fn made(
    edge: &Edge,
    engine: &Engine,
    caller: &Caller,
    number: JobId,
) -> Result<Option<Response<Body>>, Problem> {
    let Some(cohort) = known(edge, engine, caller, &CohortId::new(number).group()).await? else { return Ok(None) };
    let response = json!({ "status": "201 Created", "location": location(edge, cohort.id) });
    let entry = json!({ "resource": cohort.definition.group(cohort.id), "response": response });
    Ok(Some(resource(&json!({ "resourceType": "Bundle", "type": "batch-response", "entry": [entry] }))))
}

/// The caller's own cohorts, all of them or those of a name or an id.
pub(in crate::http) async fn find(edge: &Edge, head: &Parts) -> Result<Response<Body>, Problem> {
    let caller = authorize::caller(edge, head).await?;
    let (client, _) = client(edge, &caller)?;
    authorize::require_groups(edge, &caller)?;
    let unsupported = || {
        let text = "cohorts are found by `name` and by `_id`";
        Problem::new(StatusCode::BAD_REQUEST, "not-supported", text)
    };
    let form = Form::parse(head.uri.query().unwrap_or_default().as_bytes()).map_err(|_| unsupported())?;
    if form.names().any(|name| !matches!(name, "name" | "_id")) {
        return Err(unsupported());
    }
    let (name, id) = (form.get("name").map(str::to_lowercase), form.get("_id"));
    let engine = edge.engine().await?;
    let is_asked = |cohort: &ClientCohort| {
        name.as_ref().is_none_or(|name| cohort.definition.name.to_lowercase().starts_with(name.as_str()))
            && id.is_none_or(|id| cohort.id.group().as_str() == id)
    };
    let entry = |cohort: &ClientCohort| {
        let group = cohort.definition.group(cohort.id);
        json!({ "fullUrl": location(edge, cohort.id), "resource": group, "search": { "mode": "match" } })
    };
    let cohorts = engine.cohorts(client.client()).await?;
    let entries: Vec<_> = cohorts.iter().filter(|cohort| is_asked(cohort)).map(entry).collect();
    let mut bundle = json!({ "resourceType": "Bundle", "type": "searchset", "total": entries.len() });
    if !entries.is_empty() {
        bundle["entry"] = entries.into();
    }
    Ok(resource(&bundle))
}

/// Deletes a cohort of the caller's. Its exports go on, and are deleted by themselves.
pub(in crate::http) async fn delete(edge: &Edge, id: &Id, head: &Parts) -> Result<Response<Body>, Problem> {
    let caller = authorize::caller(edge, head).await?;
    let (client, _) = client(edge, &caller)?;
    if !client.scopes().permit(ResourceType::GROUP, Actions::DELETE) {
        return Err(authorize::insufficient(edge, "system/Group.d"));
    }
    let engine = edge.engine_in_any_case().await?;
    let cohort = CohortId::of(id).ok_or(GroupError::Unknown)?;
    let gone = CohortDeleted { cohort, actor: Actor::of(&caller.owner(), witness::peer(head)) };
    if !engine.forget_cohort(client.client().clone(), cohort, Event::CohortDeleted(gone)).await? {
        return Err(GroupError::Unknown.into());
    }
    tracing::info!("a client has deleted a cohort");
    let mut answer = Response::new(body::empty());
    *answer.status_mut() = StatusCode::NO_CONTENT;
    Ok(answer)
}

/// The cohort of the caller's own that a Group of this id is. One of somebody else is none, and so is any where clients make
/// none.
pub(in crate::http) async fn known(
    edge: &Edge,
    engine: &Engine,
    caller: &Caller,
    id: &Id,
) -> Result<Option<ClientCohort>, Problem> {
    match (caller, CohortId::of(id), edge.most_cohorts) {
        (Caller::Client(client), Some(id), Some(_)) => Ok(engine.cohort(client.client(), id).await?),
        (Caller::Client(_) | Caller::Anybody, _, _) => Ok(None),
    }
}

/// A Group of ours as it is told.
pub(super) fn resource(value: &Value) -> Response<Body> {
    let mut answer = Response::new(body::full(value.to_string()));
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/fhir+json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, no-store"));
    answer
}

fn location(edge: &Edge, id: CohortId) -> String {
    format!("{}/Group/{}", edge.links.base(), id.group())
}

fn unanswered() -> Problem {
    Problem::unavailable("the FHIR server behind this one does not answer at the moment")
}

/// Whoever may have cohorts, and how many.
fn client<'a>(edge: &Edge, caller: &'a Caller) -> Result<(&'a Authorization, usize), Problem> {
    match (caller, edge.most_cohorts) {
        (Caller::Client(client), Some(most)) => Ok((client, most)),
        (Caller::Client(_) | Caller::Anybody, _) => Err(Problem::nothing_here()),
    }
}

/// Whether the caller may have what a cohort asks for, before anything is asked of the upstream.
pub(in crate::http) fn permit(edge: &Edge, caller: &Caller, definition: &Definition) -> Result<(), Problem> {
    let Caller::Client(client) = caller else { return Err(Problem::nothing_here()) };
    let policy = client.policy();
    if policy.required(ResourceType::GROUP).next().is_some() || !policy.permits_level(Level::Group) {
        return Err(Problem::not_by_policy("this client may not export Groups, nor cohorts"));
    }
    let is_of_groups = definition.members.as_ref().is_some_and(|listed| listed.patients.is_empty());
    if !is_of_groups && (policy.groups.is_some() || !policy.permits_level(Level::Patient)) {
        let text = "this client may have the members of Groups only: its cohorts are made of Groups that it may have";
        return Err(Problem::not_by_policy(text));
    }
    let mut groups = definition.members.iter().flat_map(|listed| &listed.groups);
    if !groups.all(|group| policy.permits_group(group)) {
        return Err(no_such_member());
    }
    authorize::require(edge, caller, definition.filters.iter().map(|filter| filter.resource_type))?;
    for TypeFilter { resource_type: name, filter } in &definition.filters {
        if !policy.permits_type(*name) {
            return Err(Problem::not_by_policy(format!("this client may not have {name}, nor search it for a cohort")));
        }
        // A scope with a query is asked for like any wish.
        let asked = std::iter::once(filter.clone()).chain(caller.scoped(*name)).collect::<Vec<_>>();
        let barred = asked.iter().flat_map(Filter::names).find(|parameter| !caller.may_filter_by(*name, parameter));
        if let Some(parameter) = barred {
            let text = format!("what this client may have does not permit it to filter {name} by `{parameter}`");
            return Err(Problem::not_by_policy(text));
        }
    }
    Ok(())
}

/// What of a cohort an export is for: its filters within what the caller may have now, and its Groups, if they can be read.
pub(in crate::http) async fn of_job(
    edge: &Edge,
    caller: &Caller,
    definition: &Definition,
    capability: &Capability,
    compartments: Compartments,
) -> Result<CohortOfJob, Problem> {
    definition.check(capability, compartments)?;
    let mut searches = Vec::new();
    for TypeFilter { resource_type, filter } in &definition.filters {
        let filters = caller.filters(*resource_type, std::slice::from_ref(filter)).map_err(too_long)?;
        searches.push(MemberSearch { resource_type: *resource_type, filters });
    }
    let patients = caller.patients().map_err(too_long)?;
    if !patients.iter().any(Filter::is_all) {
        searches.push(MemberSearch { resource_type: ResourceType::PATIENT, filters: patients });
    }
    let when = When { now: clock::now(&*edge.clock), since: None };
    let expands = |id: &Id| caller.permits_group(id);
    for id in definition.members.iter().flat_map(|listed| &listed.groups) {
        if edge.cohorts.get(id).is_some() {
            continue;
        }
        match group::members(&edge.upstream, id, edge.most_members, when, &expands).await {
            Ok(_) => {}
            Err(GroupError::Unknown) => return Err(no_such_member()),
            Err(error) => return Err(error.into()),
        }
    }
    let names_patients = definition.members.as_ref().is_some_and(|listed| !listed.patients.is_empty());
    Ok(CohortOfJob { members: definition.members.clone(), names_patients, searches })
}

fn too_long(_: FilterError) -> Problem {
    let text = "the filters of the cohort and what this client may have are too many or too long together";
    Problem::new(StatusCode::BAD_REQUEST, "too-long", text)
}

/// The same whether it is not there or not permitted.
fn no_such_member() -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, "not-found", "there is no such Group as a member of the cohort is")
}

/// An id that no Group of the server has.
async fn free_id(edge: &Edge) -> Result<CohortId, Problem> {
    for _ in 0..TRIES {
        let random = clock::random().map_err(|_| Problem::unavailable("the system has no randomness to give"))?;
        let id = CohortId::new(JobId::new(random));
        match edge.upstream.read(ResourceType::GROUP, &id.group()).await {
            Ok(Some(_)) => {}
            // What it refuses to be read for is none that anybody could have.
            Ok(None) => return Ok(id),
            Err(SearchError::Refused { .. }) => return Ok(id),
            Err(_) => return Err(unanswered()),
        }
    }
    Err(Problem::unavailable("the FHIR server has a Group of every id that is tried"))
}

impl From<CohortError> for Problem {
    fn from(error: CohortError) -> Self {
        let code = if error.is_unsupported() { "not-supported" } else { "invalid" };
        Self::new(StatusCode::BAD_REQUEST, code, error)
    }
}
