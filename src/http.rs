//! The edge: our routes.

mod authorize;
mod carried;
mod coding;
mod cohort;
mod delete;
pub(crate) mod desk;
pub(crate) mod door;
mod file;
pub(crate) mod guard;
pub(crate) mod heads;
pub(crate) mod key_files;
mod kickoff;
pub(crate) mod links;
mod manifest;
pub(crate) mod places;
pub(crate) mod polls;
pub(crate) mod problem;
mod pump;
mod range;
pub(crate) mod seats;
pub(crate) mod stack;
mod stalls;
mod statement;
mod status;
mod token;
mod witness;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{Request, Response};
use tokio::sync::{Semaphore, watch};
use tokio_util::task::TaskTracker;

use crate::body::{self, Body, BoxError};
use crate::bulk::kickoff::Presets;
use crate::bulk::route::BulkRoute;
use crate::clock::Clock;
use crate::clock::watch::ClockWatch;
use crate::config::LinkMode;
use crate::engine::{Engine, Standing};
use crate::fhir::capability::Capability;
use crate::fhir::datatypes::Millis;
use crate::job::{Job, JobId};
use crate::ledger::Ledger;
use crate::output::Output;
use crate::proxy::metadata::offer::Terms;
use crate::smart::client::Owner;
use crate::smart::external::{ExternalIssuer, Purpose};
use crate::smart::server::{AuthorizationServer, Caller, Registry};
use crate::upstream::capabilities::Capabilities;
use crate::upstream::client::Upstream;
use crate::upstream::cohorts::Cohorts;
use guard::Exposure;
use key_files::KeyFiles;
use links::Links;
use places::Places;
use polls::Polls;
use problem::Problem;
use seats::Seats;

/// How long a request waits for a job store that is being opened.
const STORE_PATIENCE: Duration = Duration::from_secs(2);

/// What the handlers of bulk requests work with.
#[derive(Debug)]
pub(crate) struct Edge {
    /// There is none as long as the job store cannot be used: ordinary traffic does not wait for it.
    pub(crate) engine: watch::Receiver<Standing>,
    pub(crate) upstream: Upstream,
    pub(crate) output: Output,
    pub(crate) clock: Arc<dyn Clock>,
    /// Whether that can be believed.
    pub(crate) watch: ClockWatch,
    pub(crate) ledger: Ledger,
    pub(crate) links: Links,
    /// The files of the keys that links and tokens are signed with.
    pub(crate) key_files: KeyFiles,
    /// What manifests list, unless their client wants something else.
    pub(crate) link_mode: LinkMode,
    /// How it is known who may ask.
    pub(crate) access: Access,
    /// Who is being answered.
    pub(crate) seats: Seats,
    /// Places for forms of token requests while they come.
    pub(crate) coming: Places,
    /// Places for those whose tokens are looked at, or whose issuer is asked about them.
    pub(crate) asking: Places,
    /// Places for such forms once they have come.
    pub(crate) forms: Arc<Semaphore>,
    pub(crate) most_members: usize,
    /// Groups that are ours.
    pub(crate) cohorts: Cohorts,
    /// Cohorts that one client may have, where clients make some.
    pub(crate) most_cohorts: Option<usize>,
    /// What clients may call some types by.
    pub(crate) presets: Presets,
    /// Whether Provenance is searched by what it is about.
    pub(crate) finds_provenance: bool,
    /// Whether lines may stand in blocks, one for each patient.
    pub(crate) organizes: bool,
    /// The least that a client may ask for as the largest size of its files.
    pub(crate) least_file_max: u64,
    pub(crate) capabilities: Capabilities,
    /// What statements say of exports.
    pub(crate) terms: Terms,
    /// Places for bodies of kick-off requests.
    pub(crate) bodies: Semaphore,
    /// How often exports are asked about.
    pub(crate) polls: Polls,
    /// What files are sent on: not the runtime that serves ordinary traffic.
    pub(crate) runtime: tokio::runtime::Handle,
    /// Files on their way: what became of them is recorded before the ledger is closed.
    pub(crate) sending: TaskTracker,
    /// Places for files that are packed on the way.
    pub(crate) packing: Arc<Semaphore>,
}

/// How it is known who may ask.
#[derive(Debug)]
pub(crate) enum Access {
    /// It is not: whoever reaches us may, from this machine or from anywhere.
    Open { exposure: Exposure },
    /// By the tokens that this server issues.
    Server(Arc<AuthorizationServer>),
    /// By the tokens that another one issues.
    External(Arc<ExternalIssuer>),
}

impl Access {
    /// Who is registered, where there are clients.
    pub(crate) fn registry(&self) -> Option<&Arc<Registry>> {
        match self {
            Self::Open { .. } => None,
            Self::Server(server) => Some(server.registry()),
            Self::External(issuer) => Some(issuer.registry()),
        }
    }

    /// What tokens are for: the FHIR base. There is none where there are no tokens.
    fn realm(&self) -> &str {
        match self {
            Self::Open { .. } => "",
            Self::Server(server) => &server.endpoints().base,
            Self::External(issuer) => issuer.base(),
        }
    }
}

impl Edge {
    /// Where requests may come from.
    fn exposure(&self) -> Exposure {
        match &self.access {
            Access::Open { exposure } => *exposure,
            Access::Server(_) | Access::External(_) => Exposure::Anywhere,
        }
    }

    /// SEC-44: whether what was signed until some time can be told from what has expired.
    fn check_clock(&self) -> Result<(), Problem> {
        if self.watch.is_behind() {
            return Err(Problem::unavailable(
                "the clock of this server went back: nothing that was signed is accepted until it is right",
            ));
        }
        Ok(())
    }

    /// What the manifests of an export list: what its client has asked for, or what all have.
    fn link_mode(&self, owner: &Owner) -> LinkMode {
        self.access.registry().and_then(|registry| registry.links(owner)).unwrap_or(self.link_mode)
    }

    /// Whether files of an export are had by whoever shows a token, and not by whoever has their link.
    fn files_need_token(&self, owner: &Owner) -> bool {
        match (&self.access, self.link_mode(owner)) {
            (Access::Open { .. }, _) | (Access::Server(_) | Access::External(_), LinkMode::Signed) => false,
            (Access::Server(_) | Access::External(_), LinkMode::Proxy | LinkMode::Redirect) => true,
        }
    }

    /// Whether there can be files that are had by a token.
    fn some_files_need_token(&self) -> bool {
        let Some(registry) = self.access.registry() else { return false };
        let is_set = |mode| self.link_mode == mode || registry.anybody_has(mode);
        is_set(LinkMode::Proxy) || is_set(LinkMode::Redirect)
    }

    /// A job of the caller's own. One of somebody else is as good as none (SEC-15).
    async fn own_job(&self, engine: &Engine, caller: &Caller, id: JobId) -> Result<Job, Problem> {
        let job = engine.job(id).await?.filter(|job| caller.owns(&job.owner));
        let job = job.ok_or_else(Problem::no_such_job)?;
        // SEC-14: what was revoked is about to go, and counts as gone.
        if engine.is_revoked(&job).await? { Err(Problem::no_such_job()) } else { Ok(job) }
    }

    /// Answers a request to one of our routes.
    pub(crate) async fn answer<B>(&self, route: BulkRoute, request: Request<B>) -> Response<Body>
    where
        B: http_body::Body<Data = Bytes> + Send,
        B::Error: Into<BoxError>,
    {
        let (head, sent) = request.into_parts();
        self.handle(route, &head, sent).await.unwrap_or_else(Problem::into_response)
    }

    async fn handle<B>(&self, route: BulkRoute, head: &Parts, sent: B) -> Result<Response<Body>, Problem>
    where
        B: http_body::Body<Data = Bytes> + Send,
        B::Error: Into<BoxError>,
    {
        match route {
            BulkRoute::MethodNotAllowed { allow } => Err(Problem::method_not_allowed(allow)),
            // What opens a file is for it to say: a token or the link itself.
            BulkRoute::File { job, file } => file::file(self, job, &file, head).await,
            BulkRoute::Cohort(id) => cohort::cohort(self, &id, head).await,
            BulkRoute::MakeCohort => cohort::client::make(self, head, sent).await,
            BulkRoute::FindCohorts => cohort::client::find(self, head).await,
            BulkRoute::DeleteCohort(id) => cohort::client::delete(self, &id, head).await,
            BulkRoute::NoSuchJob => {
                authorize::caller(self, head).await?;
                Err(Problem::no_such_job())
            }
            BulkRoute::Kickoff(operation) => {
                let caller = authorize::caller_for(self, head, Purpose::Kickoff).await?;
                kickoff::kick_off(self, &caller, operation, head, sent).await
            }
            BulkRoute::Status(job) => status::status(self, &authorize::caller(self, head).await?, job, head).await,
            BulkRoute::Page { job, number } => {
                status::page(self, &authorize::caller(self, head).await?, job, number, head).await
            }
            BulkRoute::Delete(job) => delete::delete(self, &authorize::caller(self, head).await?, job, head).await,
        }
    }

    /// The engine, for which a request made right after the start waits a little.
    async fn engine(&self) -> Result<Engine, Problem> {
        match self.standing().await {
            Standing::Ready(engine) => self.with_clock(engine),
            other => Err(unfit(&other)),
        }
    }

    /// The same for what hands out nothing that was exported: tokens, and removals.
    async fn engine_in_any_case(&self) -> Result<Engine, Problem> {
        let standing = self.standing().await;
        self.with_clock(standing.engine().ok_or_else(|| unfit(&standing))?)
    }

    /// What was seen of the clock before this process is known once the store is open: whoever came before that was let in by
    /// a clock that may have gone back.
    fn with_clock(&self, engine: Engine) -> Result<Engine, Problem> {
        if self.access.registry().is_some() {
            self.check_clock()?;
        }
        Ok(engine)
    }

    async fn standing(&self) -> Standing {
        let mut opened = self.engine.clone();
        let standing = tokio::select! {
            standing = opened.wait_for(|standing| !matches!(standing, Standing::Opening)) => standing.ok().map(|s| s.clone()),
            () = self.clock.sleep(STORE_PATIENCE) => None,
        };
        standing.unwrap_or(Standing::Opening)
    }

    async fn capability(&self) -> Result<Arc<Capability>, Problem> {
        self.capabilities.at_once().await.map_err(|_unavailable| Problem::without_statement())
    }
}

/// The form of dates in HTTP headers.
fn http_date(time: Millis) -> String {
    let time = chrono::DateTime::from_timestamp_millis(time.0).unwrap_or_default();
    time.format("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

/// Why nothing can be exported at the moment.
fn unfit(standing: &Standing) -> Problem {
    Problem::unavailable(match standing {
        Standing::Foreign => "the output belongs to another instance or another job store",
        Standing::Public(_) => "the storage of the output is public",
        Standing::Unlisted => "the list of patients who are not exported cannot be read",
        Standing::Opening | Standing::Ready(_) => "the job store cannot be used at the moment",
    })
}
