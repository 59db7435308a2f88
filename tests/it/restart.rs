//! A restart in good order: what was read before SIGTERM is not asked for again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, ensure};
use chrono::{DateTime, Utc};
use sample_upstream::{Lies, RequestSeen, SampleUpstream, Settings, Stamp, Total};

use crate::client::{Client, Poll};
use crate::exact::{self, Exported, Moment};
use crate::process::{Options, Process, until};
use crate::support::listener;

/// Searches for resources that the process begins until it is told to stop.
const SEARCHES: usize = 5;
/// It is told to stop so often, if the export does not end before.
const STOPS: usize = 8;
const LEAST_STOPS: usize = 4;

type Time = DateTime<Utc>;

/// What a search asks for.
#[derive(Debug)]
enum Asked {
    /// `[from, until)` of a type.
    Window { from: Time, until: Time },
    /// Some patients or ids, by one parameter of a type.
    List { parameter: String, values: Vec<String> },
}

/// Windows that do not fit a page are cut.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_system_export_that_is_stopped_and_started_again_reads_nothing_twice() {
    let options = Options { upstream: "page_max_resources: 20, max_concurrent_searches: 3", output: "" };
    stop_again_and_again("/$export", options).await.unwrap_or_else(|error| panic!("{error:#}"));
}

/// Batches of patients, and then references by their ids, all of which fit a page.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_export_that_is_stopped_and_started_again_reads_nothing_twice() {
    let options = Options { upstream: "max_concurrent_searches: 2", output: "" };
    stop_again_and_again("/Group/all/$export", options).await.unwrap_or_else(|error| panic!("{error:#}"));
}

/// What windows cannot see is read as a whole, and then windows are counted once more: a stop among these counts finds files
/// that are open.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_export_that_is_stopped_while_it_counts_reads_nothing_twice() {
    stop_among_counts().await.unwrap_or_else(|error| panic!("{error:#}"));
}

async fn stop_among_counts() -> anyhow::Result<()> {
    let lies = Lies { unstamped_every: 5, ..Lies::default() };
    let settings = Settings { latency: Duration::from_millis(60), lies, ..Settings::default() };
    let upstream = SampleUpstream::new(settings);
    upstream.generate(3);
    let server = upstream.serve(listener().await).await;
    let mut process = Process::start(&server.base_url, Options::default()).await?;
    let client = Client::new();
    let status = process.kick_off(&client, "/$export").await?;
    let is_whole = |seen: &RequestSeen| {
        is_for_resources(seen) && !has(seen, "_lastUpdated") && !seen.path.ends_with("$everything")
    };
    let whole_types = |seen: &[RequestSeen]| {
        seen.iter().filter(|seen| is_whole(seen)).map(|seen| seen.path.clone()).collect::<BTreeSet<_>>()
    };
    it_reads(&process, &client, &status).await?;
    // Before that there are probes only.
    let first = upstream.requests().len();
    until("windows are counted once more", async || {
        let seen = upstream.requests();
        let mut later = seen[first..].iter().skip_while(|seen| !is_whole(seen));
        Ok(later.any(|seen| has(seen, "_summary=count") && has(seen, "_lastUpdated=lt")).then_some(()))
    })
    .await?;
    process.stop()?;
    let seen = upstream.requests();
    let before = whole_types(&seen[first..]);
    process.restart()?;
    process.finished(&client, &status).await?;
    let after = whole_types(&upstream.requests()[seen.len()..]);
    ensure!(before.len() > 3, "only {before:?} were read as a whole");
    ensure!(after.is_disjoint(&before), "read again: {:?}", after.intersection(&before));
    server.stop().await;
    Ok(())
}

/// Waits until an export is planned.
async fn it_reads(process: &Process, client: &Client, status: &str) -> anyhow::Result<()> {
    until("it reads", async || {
        Ok(match process.poll(client, status).await? {
            Some(Poll::Running(text)) if text.starts_with("waiting") || text.starts_with("planning") => None,
            poll => poll.map(|_| ()),
        })
    })
    .await
}

fn has(seen: &RequestSeen, text: &str) -> bool {
    seen.query.contains(text)
}

async fn stop_again_and_again(path: &str, options: Options) -> anyhow::Result<()> {
    let upstream = SampleUpstream::new(Settings { latency: Duration::from_millis(25), ..Settings::default() });
    upstream.generate(12);
    let server = upstream.serve(listener().await).await;
    let mut process = Process::start(&server.base_url, options).await?;
    let (client, began) = (Client::new(), Moment::of(&upstream));
    let status = process.kick_off(&client, path).await?;
    it_reads(&process, &client, &status).await?;
    // Before that there are probes only. From here on: where each life's requests begin.
    let mut lives = vec![upstream.requests().len()];
    while lives.len() <= STOPS {
        let began = lives.last().copied().unwrap_or_default();
        let ended = until("some searches, or the end", async || {
            let searches = upstream.requests()[began..].iter().filter(|seen| is_for_resources(seen)).count();
            let poll = process.poll(&client, &status).await?;
            let ended = matches!(poll, Some(Poll::Complete(_)));
            Ok((ended || searches >= SEARCHES).then_some(ended))
        })
        .await?;
        if ended {
            break;
        }
        process.stop()?;
        lives.push(upstream.requests().len());
        process.restart()?;
    }
    ensure!(lives.len() > LEAST_STOPS, "only {} stops", lives.len() - 1);
    let manifest = process.finished(&client, &status).await?;
    let exported = Exported::fetch(&client, manifest).await?;
    exported.judge(path, began, &upstream.versions()).with_context(|| process.log())?;
    exact::check_folder(&process.output(), &exported.manifest)?;

    let sweeps_from: Time = exported.manifest.whole["transactionTime"].as_str().context("a time")?.parse()?;
    let mut read = Read::default();
    for (at, seen) in upstream.requests().iter().enumerate().skip(lives[0]) {
        let life = lives.iter().filter(|began| **began <= at).count();
        if is_for_resources(seen) {
            read.note(life, seen, sweeps_from, &upstream)?;
        }
    }
    ensure!(read.again.is_empty(), "asked for again:\n{}", read.again.join("\n"));
    ensure!(read.searches > LEAST_STOPS * SEARCHES, "only {} searches prove anything", read.searches);
    println!("{path}: {} searches in {} lives", read.searches, lives.len());
    server.stop().await;
    Ok(())
}

/// Neither a count nor a probe.
fn is_for_resources(seen: &RequestSeen) -> bool {
    has(seen, "_count=") && !["_summary=", "_elements=", "_sort=", "_getpages="].iter().any(|text| has(seen, text))
}

/// What was asked for, in which life of the process.
#[derive(Default)]
struct Read {
    windows: Vec<(String, Time, Time, usize)>,
    listed: BTreeMap<(String, String, String), usize>,
    again: Vec<String>,
    searches: usize,
}

impl Read {
    /// Notes a search, unless it belongs to the sweep, which looks anew in each life for what has changed, or asked for
    /// more than a page holds: that is cut.
    fn note(
        &mut self,
        life: usize,
        seen: &RequestSeen,
        sweeps_from: Time,
        upstream: &SampleUpstream,
    ) -> anyhow::Result<()> {
        let resource_type = seen.path.rsplit('/').next().unwrap_or_default().to_owned();
        let Some(asked) = Asked::of(seen)? else { return Ok(()) };
        match asked {
            Asked::Window { from, .. } if from >= sweeps_from => {}
            Asked::Window { from, until } => {
                let inside = |stamp: Time| from <= stamp && stamp < until;
                let resources = upstream.versions().into_iter().filter(|version| {
                    version.resource_type == resource_type && version.last_updated.is_some_and(inside)
                });
                if resources.count() > page(seen)? {
                    return Ok(());
                }
                let overlaps = |window: &&(String, Time, Time, usize)| {
                    window.0 == resource_type && window.3 < life && window.1 < until && from < window.2
                };
                self.again.extend(self.windows.iter().find(overlaps).map(|window| {
                    format!("{resource_type} from {from} until {until} in life {life}, in part after {window:?}")
                }));
                self.windows.push((resource_type, from, until, life));
                self.searches += 1;
            }
            Asked::List { parameter, values } => {
                for value in values {
                    let unit = (resource_type.clone(), parameter.clone(), value);
                    if let Some(before) = self.listed.insert(unit.clone(), life).filter(|before| *before < life) {
                        self.again.push(format!("{unit:?} in life {life} after life {before}"));
                    }
                }
                self.searches += 1;
            }
        }
        Ok(())
    }
}

impl Asked {
    /// `None` for what only the sweep asks for.
    fn of(seen: &RequestSeen) -> anyhow::Result<Option<Self>> {
        let (mut from, mut until, mut list) = (None, None, None);
        for pair in seen.query.split('&') {
            let (name, value) = pair.split_once('=').context("a parameter has a value")?;
            match (name, value.split_at_checked(2)) {
                ("_lastUpdated", Some(("ge", time))) => from = Some(time.parse()?),
                ("_lastUpdated", Some(("lt", time))) => until = Some(time.parse()?),
                ("_count" | "_total", _) => {}
                (name, _) => list = Some((name, value)),
            }
        }
        Ok(match (list, from, until) {
            (Some((parameter, values)), None, None) => Some(Self::List {
                parameter: parameter.to_owned(),
                values: values.split(',').map(str::to_owned).collect(),
            }),
            (None, from, Some(until)) => Some(Self::Window { from: from.unwrap_or(Time::MIN_UTC), until }),
            (_, Some(_), None) => None,
            other => anyhow::bail!("what is {other:?} in {}", seen.query),
        })
    }
}

fn page(seen: &RequestSeen) -> anyhow::Result<usize> {
    let count = seen.query.split('&').find_map(|pair| pair.strip_prefix("_count="));
    Ok(count.context("a count")?.parse()?)
}

/// Pages that cannot be cut apart and take long have to be read anew; the process does not wait for their end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_does_not_wait_for_a_chain_of_many_pages() {
    stop_amid_a_chain().await.unwrap_or_else(|error| panic!("{error:#}"));
}

async fn stop_amid_a_chain() -> anyhow::Result<()> {
    let settings = Settings { stamp: Stamp::Single, max_count: Some(2), total: Total::Exact, ..Settings::default() };
    let upstream = SampleUpstream::new(settings);
    upstream.generate(24);
    let server = upstream.serve(listener().await).await;
    let options = Options { upstream: "page_target_bytes: 64KiB, max_concurrent_searches: 1", output: "" };
    let mut process = Process::start(&server.base_url, options).await?;
    let client = Client::new();
    // Once it streams, each page takes so long that all of them outlast any patience with a stop.
    let (slowed, read) = (upstream.clone(), AtomicUsize::new(0));
    let is_forty_first =
        move |seen: &RequestSeen| has(seen, "_getpages=") && read.fetch_add(1, Ordering::Relaxed) == 40;
    upstream.first_when(is_forty_first, move || {
        slowed.update_settings(|settings| settings.latency = Duration::from_millis(400));
    });
    let status = process.kick_off(&client, "/$export?_type=Observation").await?;
    let pages = |seen: &[RequestSeen]| seen.iter().filter(|seen| has(seen, "_getpages=")).count();
    until("it streams", async || Ok((pages(&upstream.requests()) > 40).then_some(()))).await?;
    let all = upstream.resources(Some("Observation")).len() / 2;
    process.stop()?;
    let read = pages(&upstream.requests());
    ensure!(read < all, "{read} pages of {all}: it waited for the end");
    upstream.update_settings(|settings| settings.latency = Duration::ZERO);
    process.restart()?;
    let exported = Exported::fetch(&client, process.finished(&client, &status).await?).await?;
    exact::check_folder(&process.output(), &exported.manifest)?;
    let lines: u64 = exported.manifest.output.iter().map(|file| file.count as u64).sum();
    ensure!(lines == upstream.resources(Some("Observation")).len() as u64, "{lines} lines");
    server.stop().await;
    Ok(())
}
