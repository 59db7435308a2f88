//! What a client gets: a refusal, or all pages of a manifest with their files.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use serde_json::Value;

use super::question::{How, Question, Request};
use crate::client::{Client, Manifest};
use crate::organized::{self, Blocks};
use crate::raw::Answer;
use crate::support::App;

/// Longer than any of these exports takes.
const PATIENCE: Duration = Duration::from_mins(5);
const PAUSE: Duration = Duration::from_millis(10);

pub(super) enum Got {
    /// With the code of its issue, and the parameter that is to blame.
    Refused {
        code: String,
        parameter: String,
    },
    Exported(Box<Export>),
}

#[derive(Default)]
pub(super) struct Export {
    /// By `Type/id`, where it is not organized.
    pub(super) lines: BTreeMap<String, String>,
    pub(super) blocks: Blocks,
    pub(super) errors: String,
    pub(super) pages: usize,
    /// The last page, or the only one.
    pub(super) manifest: Value,
}

/// Asks, and takes whatever comes.
pub(super) async fn got(app: &App, question: &Question) -> anyhow::Result<Got> {
    let request = question.request();
    let headers = [
        ("Accept", "application/fhir+json"),
        ("Prefer", request.prefer.as_str()),
        ("Content-Type", "application/fhir+json"),
    ];
    let kickoff = app.ask(request.method, &request.below, &headers, request.body.as_bytes()).await;
    if kickoff.status != 202 {
        return refused(&request, &kickoff);
    }
    let applied = if question.is_separate { "respond-async, separate-export-status" } else { "" };
    ensure!(kickoff.header("preference-applied") == applied, "{:?}", kickoff.headers);
    let status = kickoff.header("content-location").strip_prefix(&app.base).context("no address of ours")?;
    let mut page = complete(app, question, status).await?;
    let mut export = Export::default();
    loop {
        export.take(app, question, &page).await.with_context(|| page.to_string())?;
        let next = page["link"][0]["url"].as_str();
        ensure!(next.is_none() || question.partial == Some(true), "pages that nobody asked for: {page}");
        let Some(next) = next else { break };
        let below = next.strip_prefix(&app.base).context("no address of ours")?;
        let answer = app.ask("GET", below, &[], b"").await;
        ensure!(answer.status == 200, "a page is {}: {}", answer.status, text(&answer));
        page = answer.json();
    }
    let deleted = app.ask("DELETE", status, &[], b"").await;
    ensure!(deleted.status == 202, "DELETE is {}: {}", deleted.status, text(&deleted));
    export.manifest = page;
    Ok(Got::Exported(Box::new(export)))
}

fn text(answer: &Answer) -> String {
    String::from_utf8_lossy(&answer.body).into_owned()
}

fn refused(request: &Request, answer: &Answer) -> anyhow::Result<Got> {
    let said = text(answer);
    ensure!(answer.status == 400, "{}: {said}", answer.status);
    let outcome = answer.json();
    ensure!(outcome["resourceType"] == "OperationOutcome" && outcome["issue"][1].is_null(), "{said}");
    let code = outcome["issue"][0]["code"].as_str().with_context(|| said.clone())?.to_owned();
    let location = outcome["issue"][0]["location"][0].as_str().with_context(|| said.clone())?;
    let parameter = request.named(location).filter(|name| request.has(name)).with_context(|| said.clone())?;
    Ok(Got::Refused { code, parameter: parameter.to_owned() })
}

/// Polls until it is; what is said early is heard and not kept, as the last manifest leads to all of it.
async fn complete(app: &App, question: &Question, status: &str) -> anyhow::Result<Value> {
    let began = Instant::now();
    loop {
        let answer = app.ask("GET", status, &[], b"").await;
        let stands = if question.is_separate {
            ensure!(answer.status == 200, "{}: {}", answer.status, text(&answer));
            answer.header("x-export-status").split(' ').next().unwrap_or_default().to_owned()
        } else {
            answer.status.to_string()
        };
        match &*stands {
            "200" => return Ok(answer.json()),
            "202" => {
                let is_early = !answer.body.is_empty();
                ensure!(
                    !is_early || question.partial == Some(true),
                    "early, and nobody asked for it: {}",
                    text(&answer)
                );
            }
            other => bail!("the export ended with {other}: {}", text(&answer)),
        }
        ensure!(began.elapsed() < PATIENCE, "it does not end: {}", answer.header("x-progress"));
        tokio::time::sleep(PAUSE).await;
    }
}

impl Export {
    /// Takes what a page lists.
    async fn take(&mut self, app: &App, question: &Question, page: &Value) -> anyhow::Result<()> {
        self.pages += 1;
        let (errors, other) = if question.how == How::Fourth { ("outcome", "error") } else { ("error", "outcome") };
        ensure!(page.get(other).is_none(), "another release's shape");
        let by = question.is_organized().then_some("Patient");
        ensure!(page.get("outputOrganizedBy").and_then(Value::as_str) == by, "it is organized otherwise");
        let output = page["output"].as_array().context("no output")?;
        for file in output {
            check_size(question, file)?;
            if !question.is_organized() {
                let bytes = download(app, file).await?;
                self.take_lines(file, &bytes)?;
            }
        }
        if question.is_organized() {
            let manifest = Manifest { output: Vec::new(), whole: page.clone() };
            let (blocks, _) = organized::received(&Client::new(), &manifest).await?;
            for (patient, block) in blocks {
                ensure!(self.blocks.insert(patient.clone(), block).is_none(), "{patient} has blocks on two pages");
            }
        }
        for file in page[errors].as_array().context("no list of errors")? {
            self.errors.push_str(&download(app, file).await?);
        }
        Ok(())
    }

    fn take_lines(&mut self, file: &Value, text: &str) -> anyhow::Result<()> {
        ensure!(file["count"] == text.lines().count(), "{file} has {} lines", text.lines().count());
        for line in text.lines() {
            let resource: Value = serde_json::from_str(line)?;
            ensure!(resource["resourceType"] == file["type"], "{file} holds {line}");
            let [of, id] = [&resource["resourceType"], &resource["id"]].map(|part| part.as_str().unwrap_or("?"));
            let name = format!("{of}/{id}");
            ensure!(self.lines.insert(name.clone(), line.to_owned()).is_none(), "{name} has two lines");
        }
        Ok(())
    }
}

/// The bytes of a file's lines, as its manifest says them.
fn size(file: &Value) -> Option<u64> {
    file["fileSize"].as_u64().or_else(|| file["extension"]["https://offtake.dev/file"]["bytes"].as_u64())
}

/// No file is larger than it was asked to be, but for one line that is, and a header before it.
fn check_size(question: &Question, file: &Value) -> anyhow::Result<()> {
    let bytes = size(file).context("no size")?;
    let least = if question.is_organized() { 2 } else { 1 };
    let is_small = question.largest.is_none_or(|largest| bytes <= largest);
    ensure!(is_small || file["count"].as_u64().is_some_and(|count| count <= least), "{bytes} bytes: {file}");
    Ok(())
}

async fn download(app: &App, file: &Value) -> anyhow::Result<String> {
    let url = file["url"].as_str().and_then(|url| url.strip_prefix(&app.base)).context("no link of ours")?;
    let answer = app.ask("GET", url, &[], b"").await;
    ensure!(answer.status == 200, "a file is {}: {}", answer.status, text(&answer));
    ensure!(size(file).is_none_or(|bytes| bytes == answer.body.len() as u64), "{file} has {} bytes", answer.body.len());
    Ok(String::from_utf8(answer.body)?)
}
