//! Exports of a server that others write to meanwhile, judged by the rules of `tests/it`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use chrono::{DateTime, Utc};
use sample_upstream::Version;
use serde_json::{Value, json};

use crate::client::{Client, Manifest};
use crate::data::text;
use crate::expected::compact;
use crate::export::{LEVELS, proven};
use crate::http::Http;
use crate::judge::{Exported, Level, Moment, gone, histories};
use crate::server::{Server, Setup};
use crate::sidecar::{SEARCHES, Sidecar};
use crate::stored::{self, read_each};
use crate::table::{Row, say};
use crate::walk::{By, Walk};
use crate::writer::{self, PER_SECOND, Writer};

/// How long after its stamp a change is seen, as it is set here: what went before that is told by the next export.
const LAG: Duration = Duration::from_secs(5);
/// Writes before an export begins.
const BEFORE: usize = 100;
/// So many resources at least have to come: the others are of patients who were deleted meanwhile.
const AT_LEAST: usize = 5_000;
/// The part of the writes that it has to have come to, in percent.
const CAME_TO: usize = 90;

/// A server, and every version that it ever showed.
struct Changing<'s> {
    name: &'s str,
    server: &'s Server,
    http: Http,
    versions: Vec<Version>,
    rounds: usize,
}

/// Exports while others write, at every level.
pub(crate) async fn are_whole(setup: &Setup) -> anyhow::Result<()> {
    let server = setup.server().await?;
    let versions = server.stored.versions()?;
    let mut changing = Changing { name: &setup.name, server, http: Http::new(), versions, rounds: 0 };
    let sidecar = Sidecar::before(&server.relay.base, &format!(", settling_lag_seconds: {}", LAG.as_secs())).await?;
    for (level, path) in &LEVELS {
        let export = changing.exported(&sidecar.base, level, path).await;
        export.with_context(|| format!("{path}; Offtake said {}", sidecar.said()))?;
    }
    if setup.name == "hapi-written" {
        for by in [By::Next, By::Offset] {
            changing.walked(by).await?;
        }
    }
    Ok(())
}

impl Changing<'_> {
    async fn exported(&mut self, base: &str, level: &str, path: &str) -> anyhow::Result<()> {
        let client = Client::new();
        let writer = self.writer();
        writer.writes(BEFORE).await?;
        self.server.relay.take();
        let began = Instant::now();
        let status = client.kick_off(&format!("{base}{path}")).await?;
        let manifest = client.wait(&status, |_| {}).await?;
        let mut first = Exported::fetch(&client, manifest).await?;
        first.is_of_who_hides_deleted = true;
        let (took, requests) = (began.elapsed(), self.server.relay.take());
        let moment = self.note(writer, began).await?;

        let applied = first.judge(path, moment, &self.versions)?;
        say(format!("{}, {level}: {applied:?}", self.name));
        ensure!(applied.modified > 0 && applied.deleted_since > 0 && applied.deleted_before > 0, "too little happened");
        ensure!(applied.had_to_come >= AT_LEAST, "only {} had to come: that shows little", applied.had_to_come);
        only_informed(&first)?;
        let row = Row {
            server: self.name.to_owned(),
            level: level.to_owned(),
            strategy: format!(
                "offtake, {}, {PER_SECOND} writes/s; {} of deleted patients need not come",
                proven(&first.manifest)?,
                applied.excused
            ),
            expected: applied.had_to_come,
            exported: applied.came,
            requests,
            took,
        };
        row.note();
        client.delete(&status).await?;
        self.next_brings_the_rest(&client, base, path, &first, moment).await
    }

    /// With the next one by `_since` a client has what is there as it is, is told what is gone, and of nothing there that it is.
    async fn next_brings_the_rest(
        &mut self,
        client: &Client,
        base: &str,
        path: &str,
        first: &Exported,
        moment: Moment,
    ) -> anyhow::Result<()> {
        self.settle().await?;
        let since = text(&first.manifest.whole["transactionTime"]);
        let status = client.kick_off(&format!("{base}{path}?_since={since}")).await?;
        let next = Exported::fetch(client, client.wait(&status, |_| {}).await?).await?;
        let deleted = deleted(client, &next.manifest).await?;
        let histories = histories(moment, &self.versions);
        let level = Level::of(path, &histories)?;
        let gone = gone(&histories);
        let until = text(&next.manifest.whole["transactionTime"]);
        let ends = DateTime::parse_from_rfc3339(until)?;
        let (mut wrong, mut told, mut later, mut excused) = (Vec::new(), 0, 0, 0);
        for (name, history) in histories.iter().filter(|(name, _)| !level.is_context(name)) {
            let last = history.last().context("a version")?;
            let (came, comes) = (first.lines.get(name), next.lines.get(name));
            match last.body.as_deref().map(compact) {
                Some(_) if comes.is_none() && level.may_lack(name, last, &gone) => excused += 1,
                Some(line) if level.holds(name, last) => {
                    let has = |lines: Option<&Vec<String>>| lines.is_some_and(|lines| lines.contains(&line));
                    if !has(came) && !has(comes) || comes.is_some() && !has(comes) {
                        wrong.push(format!("{name}: not as it is, version {}", last.version));
                    }
                }
                Some(_) => {}
                None if comes.is_some() => wrong.push(format!("{name}: is gone")),
                None if came.is_some() && deleted.contains(name) => told += 1,
                None if came.is_none() => {}
                // The export after the next one tells of them.
                None if last.last_updated.is_some_and(|at| at >= ends) => later += 1,
                None => wrong.push(format!("{name}: nothing tells that it is gone since {:?}", last.last_updated)),
            }
            if last.body.is_some() && deleted.contains(name) {
                wrong.push(format!("{name}: is there and told to be gone"));
            }
        }
        ensure!(wrong.is_empty(), "with the next export {}:\n{}", wrong.len(), wrong[..wrong.len().min(30)].join("\n"));
        ensure!(told > 0 || !matches!(level, Level::System), "the next export tells of no deletion");
        say(format!(
            "{}: the next export has {} and tells up to {until} of {told} deletions of what came, {later} are later, and \
             {excused} are not owed",
            self.name,
            next.lines.len()
        ));
        client.delete(&status).await
    }

    /// A walk meanwhile: of those that were there all the time, how many came?
    async fn walked(&mut self, by: By) -> anyhow::Result<()> {
        let writer = self.writer();
        writer.writes(BEFORE).await?;
        self.server.relay.take();
        let began = Instant::now();
        let walk = Walk::through(&self.server.relay.base, self.server.stored.types(), SEARCHES, by).await?;
        let requests = self.server.relay.take();
        let moment = self.note(writer, began).await?;
        let names = walk.names()?;
        let all = histories(moment, &self.versions);
        let all: Vec<_> = all.iter().filter(|(_, history)| history.had_to_come()).map(|(name, _)| name).collect();
        let row = Row {
            server: self.name.to_owned(),
            level: LEVELS[0].0.to_owned(),
            strategy: format!("{}, {PER_SECOND} writes/s", by.name()),
            expected: all.len(),
            exported: all.iter().filter(|name| names.contains(**name)).count(),
            requests,
            took: walk.took,
        };
        row.note();
        Ok(())
    }

    fn writer(&mut self) -> Writer {
        self.rounds += 1;
        Writer::start(&self.server.base, &self.versions, self.rounds)
    }

    /// Ends the writer and notes what it wrote; gives how far it was when something `began`.
    async fn note(&mut self, writer: Writer, began: Instant) -> anyhow::Result<Moment> {
        let (writes, per_second) = writer.stop().await?;
        let before = writes.iter().filter(|write| write.answered < began).count();
        let moment = Moment(self.versions.len() + before);
        self.versions.extend(writer::versions(&self.http, &self.server.base, &writes).await?);
        say(format!("{}: {} writes, {per_second:.1} in a second", self.name, writes.len()));
        #[expect(clippy::cast_precision_loss, reason = "small numbers")]
        let least = (PER_SECOND * CAME_TO) as f64 / 100.0;
        ensure!(per_second >= least, "only {per_second:.1} writes in a second");
        Ok(moment)
    }

    /// Writes until the latest change lies so long after all others that these are seen for certain.
    async fn settle(&mut self) -> anyhow::Result<()> {
        let stamp = |version: &Version| version.last_updated;
        let last = self.versions.iter().filter_map(stamp).max().context("nothing was written")?;
        for number in 0.. {
            let touched = json!({ "resourceType": "Practitioner", "id": "settled", "language": format!("x-{number}") });
            let version = writer::put(&self.http, &self.server.base, &touched).await?;
            let place = format!("Practitioner/settled/_history/{version}");
            let line = read_each(&self.http, &self.server.base, &[place]).await?.pop().context("a version")?;
            let version = stored::version(&line)?;
            let is_late = version.last_updated.is_some_and(|stamp| is_settled(last, stamp));
            self.versions.push(version);
            if is_late {
                break;
            }
            tokio::time::sleep(LAG / 10).await;
        }
        Ok(())
    }
}

fn is_settled(last: DateTime<Utc>, stamp: DateTime<Utc>) -> bool {
    (stamp - last).to_std().is_ok_and(|between| between > LAG)
}

/// `Type/id` of what a manifest lists as deleted.
async fn deleted(client: &Client, manifest: &Manifest) -> anyhow::Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for file in manifest.whole["deleted"].as_array().context("nothing is told of deletions")? {
        for line in std::str::from_utf8(&client.download(text(&file["url"])).await?)?.lines() {
            let bundle: Value = serde_json::from_str(line)?;
            for entry in bundle["entry"].as_array().context("no entry")? {
                names.insert(text(&entry["request"]["url"]).to_owned());
            }
        }
    }
    Ok(names)
}

/// Fails if the file of errors has more than information.
fn only_informed(exported: &Exported) -> anyhow::Result<()> {
    let mut severities: BTreeMap<String, usize> = BTreeMap::new();
    for line in &exported.errors {
        let outcome: Value = serde_json::from_str(line)?;
        for issue in outcome["issue"].as_array().context("an error without an issue")? {
            *severities.entry(text(&issue["severity"]).to_owned()).or_default() += 1;
        }
    }
    ensure!(severities.keys().all(|severity| severity == "information"), "{severities:?}: {:?}", exported.errors);
    Ok(())
}
