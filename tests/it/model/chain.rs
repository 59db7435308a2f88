//! One run: a chain of three exports, each with `_since` = `transactionTime` of the one before, the last one at rest.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use futures_util::FutureExt as _;
use http::StatusCode;
use object_store::ObjectStore;
use object_store::memory::InMemory;
use offtake::testing::{Crash, CrashPoint, JobStore, ManualClock, When};
use offtake::{Config, Offtake};
use sample_upstream::world::{self, World};
use sample_upstream::{Running, SampleUpstream, Settings};
use serde_json::Value;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::judge::{self, Export, Wrong};
use super::scenarios::{Reading, Scenario};
use crate::client::{Client, Manifest, Poll};
use crate::crash::output::CrashOutput;
use crate::random::Random;
use crate::support::listener;

/// Between two polls, and two looks at the clock.
const PAUSE: Duration = Duration::from_millis(5);
/// Kick-offs that may be answered with 503 in a row.
const MOST_REFUSALS: usize = 20;
/// So many pauses without a request in between: everything waits for the clock.
const QUIET_PAUSES: usize = 40;
/// What the clock is moved by then.
const MOVE: Duration = Duration::from_secs(1);
/// An export that takes longer hangs.
const PATIENCE: Duration = Duration::from_mins(2);
/// Far longer than any export here, so that no search is ever late.
const LONG: Duration = Duration::from_hours(240);

/// What came of one run.
#[derive(Debug, Clone)]
pub(super) struct Ended {
    pub(super) wrong: Vec<(Wrong, String)>,
    pub(super) trace: Vec<String>,
    pub(super) transactions: usize,
    pub(super) requests: usize,
    pub(super) crashes: usize,
    pub(super) lines: usize,
}

/// A server in its world, and what an Offtake in front of it leaves from one life to the next.
struct Chain<'s> {
    scenario: &'s Scenario,
    upstream: SampleUpstream,
    server: Running,
    world: World,
    clock: Arc<ManualClock>,
    store: JobStore,
    output: Arc<dyn ObjectStore>,
    random: Random,
    client: Client,
    crashes: usize,
}

/// Why there is no manifest.
enum NoManifest {
    Crashed,
    Failed(String),
}

/// Plays one seed of a scenario, with so many transactions at most.
pub(super) async fn play(scenario: &Scenario, seed: u64, most: usize) -> anyhow::Result<Ended> {
    let mut random = Random::new(seed);
    let settings = Settings { seed, ..scenario.settings.clone() };
    let upstream = SampleUpstream::new(settings);
    let clock = Arc::new(ManualClock::new(World::begin_millis()));
    let habits = world::Habits { most_transactions: most, ..scenario.habits.clone() };
    let ticking = Arc::clone(&clock);
    let world = World::new(&upstream, habits, seed, move || ticking.advance(world::TICK));
    world.load(scenario.size.0 + random.below(scenario.size.1 - scenario.size.0 + 1));
    world.pass(5 + i64::try_from(random.below(20))? + scenario.habits.replica);
    let server = upstream.serve(listener().await).await;
    let (store, output, client) = (JobStore::memory(), Arc::new(InMemory::new()), Client::new());
    let chain = Chain { scenario, upstream, server, world, clock, store, output, random, client, crashes: 0 };
    chain.run().await
}

impl Chain<'_> {
    async fn run(mut self) -> anyhow::Result<Ended> {
        let mut exports = Vec::new();
        let mut wrong = Vec::new();
        let mut since: Option<String> = None;
        let limits = Limits::draw(&mut self.random, self.scenario.searches);
        let mut life = self.begin(limits, None).await?;
        for round in 1..=3 {
            match round {
                1 => {}
                2 => self.world.pass(i64::try_from(self.random.below(30))?),
                _ => self.world.rest(),
            }
            let (began, crashes) = (self.upstream.versions().len(), self.scenario.crashes && round < 3);
            let exported;
            (life, exported) = self.export(life, limits, since.as_deref(), (began, crashes)).await?;
            let (manifest, export) = match exported {
                Ok(exported) => exported,
                Err(said) => {
                    let known = ["did not come in", "readings in succession", "no two of"];
                    let kind = if known.iter().any(|text| said.contains(text)) { Wrong::Short } else { Wrong::Failed };
                    wrong.push((kind, format!("export {round}: {said}")));
                    break;
                }
            };
            let versions = self.upstream.versions();
            let of_export =
                export.judge(since.is_none(), &versions, &self.world.reassigned(), self.world.changes_asked_for_at());
            wrong.extend(of_export.into_iter().map(|(kind, what)| (kind, format!("export {round}: {what}"))));
            let time = manifest.whole["transactionTime"].as_str().context("no transactionTime")?.to_owned();
            self.world.say(&format!("MANIFEST T {:?}, {:?}", world::ticks(&time), export.lines));
            since = Some(time);
            exports.push(export);
        }
        if exports.len() == 3 {
            wrong.extend(judge::lost(&exports, &self.upstream));
        }
        life.end().await;
        let Self { upstream, server, world, crashes, .. } = self;
        server.stop().await;
        World::leave(&upstream);
        Ok(Ended {
            wrong,
            trace: world.trace(),
            transactions: world.transactions(),
            requests: world.requests(),
            crashes,
            lines: exports.iter().map(|export| export.lines.len()).sum(),
        })
    }

    /// One export with what it brought, through one crash if there is to be one.
    async fn export(
        &mut self,
        mut life: Life,
        limits: Limits,
        since: Option<&str>,
        (began, crashes): (usize, bool),
    ) -> anyhow::Result<(Life, Result<(Manifest, Export), String>)> {
        // Probes take their time, in which the first windows would grow old: that is another story.
        self.world.hold(self.random.below(6));
        if crashes {
            life = self.arm(life, limits).await?;
        }
        let mut refused = 0;
        let status = loop {
            let error = match self.kick_off(&life, since).await? {
                Ok(status) => break status,
                Err(NoManifest::Failed(said)) => said,
                Err(NoManifest::Crashed) => String::new(),
            };
            refused += 1;
            if life.point.crashed().now_or_never().is_some() {
                self.crashes += 1;
                self.world.say("CRASH");
                life.abort().await;
                life = self.begin(limits, None).await?;
            } else if refused < MOST_REFUSALS && error.contains("503") {
                // A client comes again; by the clock that goes with the requests the server was silent for long.
                self.clock.advance(MOVE);
                tokio::time::sleep(PAUSE).await;
            } else {
                bail!(error);
            }
        };
        self.world.say(&format!("KICK-OFF since {:?}", since.and_then(world::ticks)));
        let id = status.rsplit('/').next().context("a job's id")?.to_owned();
        loop {
            match self.wait(&life, &format!("{}/$bulk-status/{id}", life.base)).await? {
                Ok(manifest) => match self.fetch(began, &manifest).await {
                    Ok(export) => return Ok((life, Ok((manifest, export)))),
                    // What is done after the last commit may be where it ends.
                    Err(_) if life.point.crashed().now_or_never().is_some() => {}
                    Err(error) => return Err(error),
                },
                Err(NoManifest::Failed(said)) => return Ok((life, Err(said))),
                Err(NoManifest::Crashed) => {}
            }
            self.crashes += 1;
            self.world.say("CRASH");
            life.abort().await;
            life = self.begin(limits, None).await?;
        }
    }

    /// Where to ask for an export that was kicked off. A life that has crashed never answers.
    async fn kick_off(&self, life: &Life, since: Option<&str>) -> anyhow::Result<Result<String, NoManifest>> {
        let url = format!("{}{}", life.base, self.path(since));
        let answered =
            async { Ok(self.client.kick_off(&url).await.map_err(|error| NoManifest::Failed(format!("{error:#}")))) };
        tokio::select! {
            biased;
            () = life.point.crashed() => Ok(Err(NoManifest::Crashed)),
            answered = answered => answered,
            stuck = self.move_on_in_quiet() => stuck,
        }
    }

    /// Moves the clock on wherever everything waits for it.
    ///
    /// # Errors
    /// If that is of no use.
    async fn move_on_in_quiet<T>(&self) -> anyhow::Result<T> {
        let began = Instant::now();
        let (mut seen, mut quiet) = (self.world.steps(), 0);
        loop {
            ensure!(began.elapsed() < PATIENCE, "an export hangs:\n{}", self.world.trace().join("\n"));
            let now = self.world.steps();
            quiet = if now == seen { quiet + 1 } else { 0 };
            seen = now;
            if quiet >= QUIET_PAUSES {
                quiet = 0;
                self.clock.advance(MOVE);
                self.world.say("(all is quiet, the clock moves on)");
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    fn path(&self, since: Option<&str>) -> String {
        let types = if self.scenario.habits.types == 2 { "Condition,Observation" } else { "Observation" };
        let since = since.map(|since| format!("&_since={}", since.replace('+', "%2B"))).unwrap_or_default();
        let level = match self.scenario.reading {
            Reading::Windows => String::new(),
            Reading::Batches => format!("/Group/{}", world::GROUP),
        };
        format!("{level}/$export?_type={types}{since}")
    }

    /// A life that ends at some request or at some effect, in place of this one.
    async fn arm(&mut self, life: Life, limits: Limits) -> anyhow::Result<Life> {
        let number = 1 + self.random.below(60);
        if self.random.percent(60) {
            let point = Arc::clone(&life.point);
            self.world.at_request(number, move || point.stop());
            return Ok(life);
        }
        life.end().await;
        let when = if self.random.percent(50) { When::Before } else { When::After };
        self.begin(limits, Some(Crash { at: 4 + number / 2, when })).await
    }

    async fn begin(&self, limits: Limits, crash: Option<Crash>) -> anyhow::Result<Life> {
        let listener = listener().await;
        let base = format!("http://{}/fhir", listener.local_addr()?);
        let mut config = Config::local(&self.server.base_url, &base, std::path::Path::new("/nowhere"))?;
        limits.set(&mut config);
        config.ledger.enabled = false;
        config.export.early_polls_per_second = u32::MAX;
        config.upstream.profile = serde_json::from_value(self.scenario.profile())?;
        let point = Arc::new(CrashPoint::new(crash));
        let output = CrashOutput::new(Arc::clone(&self.output), Arc::clone(&point));
        let world = self.world.clone();
        let output = output.telling(move |name| {
            if name == "job.checkpoint" {
                world.go_on(); // the plan is made
            }
        });
        let offtake = Offtake::builder(config)
            .clock(Arc::clone(&self.clock) as Arc<dyn offtake::Clock>)
            .store(self.store.until(&point))
            .output(Arc::new(output))
            .build()?;
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = tokio::spawn(async move { offtake.run_on(listener, async { drop(stopped.await) }).await });
        Ok(Life { base, point, stop, serving })
    }

    /// Waits for the end of an export. Time passes with requests; where everything waits for it, it is moved on.
    async fn wait(&self, life: &Life, status: &str) -> anyhow::Result<Result<Manifest, NoManifest>> {
        let ended = async {
            loop {
                match self.client.poll(status).await? {
                    Poll::Complete(manifest) => return Ok(Ok(manifest)),
                    // The store of a new life is not open yet, or that of an old one answers no more.
                    Poll::Other(StatusCode::SERVICE_UNAVAILABLE, _) | Poll::Running(_) => {}
                    Poll::Other(code, said) => return Ok(Err(NoManifest::Failed(format!("{code} {said}")))),
                }
                tokio::time::sleep(PAUSE).await;
            }
        };
        tokio::select! {
            biased;
            () = life.point.crashed() => Ok(Err(NoManifest::Crashed)),
            ended = ended => ended,
            stuck = self.move_on_in_quiet() => stuck,
        }
    }

    async fn fetch(&self, began: usize, manifest: &Manifest) -> anyhow::Result<Export> {
        let mut lines = Vec::new();
        for file in &manifest.output {
            let bytes = self.client.download(&file.url).await?;
            for line in std::str::from_utf8(&bytes)?.lines() {
                let value: Value = serde_json::from_str(line)?;
                let version = value["meta"]["versionId"].as_str().context("no version")?.parse()?;
                let id = value["id"].as_str().context("no id")?;
                lines.push((format!("{}/{id}", file.resource_type), version));
            }
        }
        let proof = manifest.whole["extension"]["https://offtake.dev/proof"].as_object().context("no proof")?;
        let counted = proof.iter().filter(|(_, proof)| proof["method"] == "counted").map(|(name, _)| name.clone());
        Ok(Export { began, lines, counted: counted.collect::<BTreeSet<_>>() })
    }
}

/// How an Offtake is set up: small pages, small files.
#[derive(Debug, Clone, Copy)]
struct Limits {
    searches: usize,
    file_resources: u64,
    file_age: Duration,
}

impl Limits {
    fn draw(random: &mut Random, searches: usize) -> Self {
        let age = 1 + u32::try_from(random.below(12)).unwrap_or(0);
        Self {
            searches: 1 + random.below(searches + 1).min(searches - 1),
            file_resources: 2 + random.below(9) as u64,
            file_age: world::TICK * age,
        }
    }

    fn set(self, config: &mut Config) {
        config.upstream.max_concurrent_searches = self.searches;
        config.upstream.page_max_resources = 4;
        config.upstream.search_timeout = LONG;
        config.upstream.give_up_after = LONG;
        config.output.file_max_resources = self.file_resources;
        config.output.file_max_age = self.file_age;
    }
}

/// One process's life, within this one.
struct Life {
    base: String,
    point: Arc<CrashPoint>,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<anyhow::Result<()>>,
}

impl Life {
    async fn end(self) {
        drop(self.stop);
        let served = tokio::time::timeout(PATIENCE, self.serving).await.expect("a stop comes to its end");
        served.expect("serving did not panic").expect("serving ended well");
    }

    /// Ends it without a word.
    async fn abort(self) {
        self.serving.abort();
        let ended = self.serving.await;
        assert!(ended.is_err_and(|error| error.is_cancelled()), "it was serving");
    }
}
