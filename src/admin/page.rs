//! The page: first what is wrong or dangerous, then how all stands. No script, nothing from anywhere else. Pure.

use std::fmt::Write as _;
use std::sync::LazyLock;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::{HeaderValue, Response, header};

use super::snapshot::{PAUSES, Snapshot, WRONG};
use crate::body::{self, Body};
use crate::expiry::{Outlook, Renewal};

const PAGE: &str = include_str!("page.html");

/// Nothing may be fetched or run, and only the one style that stands there is used.
static POLICY: LazyLock<HeaderValue> = LazyLock::new(|| {
    let style = PAGE.split_once("<style>").and_then(|(_, rest)| rest.split_once("</style>"));
    let hash = BASE64_STANDARD.encode(digest(&SHA256, style.map_or("", |(style, _)| style).as_bytes()));
    let policy = format!(
        "default-src 'none'; style-src 'sha256-{hash}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    HeaderValue::try_from(policy).unwrap_or(HeaderValue::from_static("default-src 'none'"))
});

pub(super) fn answer(snapshot: &Snapshot) -> Response<Body> {
    let html =
        PAGE.replace("<!-- version -->", env!("CARGO_PKG_VERSION")).replace("<!-- content -->", &content(snapshot));
    let mut answer = Response::new(body::full(html));
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    headers.insert(header::CONTENT_SECURITY_POLICY, POLICY.clone());
    answer
}

fn content(snapshot: &Snapshot) -> String {
    let mut out = String::new();
    let warnings = warnings(snapshot);
    if warnings.is_empty() {
        out.push_str("<p class=\"good\">Nothing is known to be wrong.</p>\n");
    } else {
        out.push_str("<ul class=\"warnings\">\n");
        for warning in &warnings {
            let _to_a_string = writeln!(out, "<li>{}</li>", escaped(warning));
        }
        out.push_str("</ul>\n");
    }
    let passes = if snapshot.passes_through { "go on to the FHIR server" } else { "are answered with 404" };
    let bulk = if snapshot.reasons().is_empty() { "are answered" } else { "ARE REFUSED" };
    let pauses: Vec<_> = snapshot.pauses().into_iter().map(|number| PAUSES[number].1).collect();
    let pause = if pauses.is_empty() { "go on".to_owned() } else { pauses.join("; ") };
    let requests = [("bulk requests", bulk), ("other requests", passes), ("searches of exports", &*pause)];
    table(&mut out, "Requests", &requests);
    match snapshot.jobs {
        None => table(&mut out, "Exports", &[("the job store", "cannot be read at the moment")]),
        Some(jobs) => {
            let jobs = jobs.by_state().map(|(state, count)| (state, count.to_string()));
            table(&mut out, "Exports", &jobs.each_ref().map(|(state, count)| (*state, count.as_str())));
        }
    }
    let now = snapshot.now();
    let ends: Vec<_> = snapshot
        .expiries
        .iter()
        .flatten()
        .map(|expiring| {
            let outlook = match (expiring.outlook(now), expiring.renewal) {
                (Outlook::Good, Renewal::ByItself) => "is replaced by itself".to_owned(),
                (outlook, _) => outlook.to_string(),
            };
            (expiring.what.as_str(), format!("{} {outlook}", expiring.when))
        })
        .collect();
    if !ends.is_empty() {
        let ends: Vec<_> = ends.iter().map(|(what, end)| (*what, end.as_str())).collect();
        table(&mut out, "What expires", &ends);
    }
    if let Some(now) = snapshot.now {
        let _to_a_string = writeln!(out, "<p>As of {now}.</p>");
    }
    out
}

/// What is wrong now, what was decided that is dangerous, and what will be wrong soon.
fn warnings(snapshot: &Snapshot) -> Vec<String> {
    let now = snapshot.now();
    let reasons = snapshot.reasons();
    let refused = reasons.iter().map(|reason| format!("Bulk requests are refused: {reason}."));
    let clock = snapshot.clock.iter().map(|clock| (*clock).to_owned());
    let paused = snapshot.pauses().into_iter().filter(|number| WRONG.contains(number));
    let paused = paused.map(|number| format!("{}.", PAUSES[number].1));
    let decided = snapshot.warnings.iter().map(|warning| (*warning).to_owned());
    let ends =
        snapshot.expiries.iter().flatten().filter_map(|expiring| match (expiring.outlook(now), expiring.renewal) {
            (Outlook::Good, _) => None,
            (_, Renewal::ByItself) => {
                Some(format!("{} should have been replaced by itself, and was not", expiring.what))
            }
            (outlook, Renewal::ByHand) => Some(format!("{} {outlook}: replace it", expiring.what)),
        });
    // Where bulk requests are refused nobody looks at the store.
    let has_no_jobs = snapshot.jobs.is_none() && snapshot.refused.is_empty();
    let unknown = [
        (has_no_jobs, "the job store cannot be read at the moment"),
        (snapshot.expiries.is_none(), "when certificates, keys and credentials expire cannot be read at the moment"),
    ];
    let unknown = unknown.into_iter().filter(|(holds, _)| *holds).map(|(_, what)| what.to_owned());
    refused.chain(paused).chain(clock).chain(decided).chain(unknown).chain(ends).collect()
}

fn table(out: &mut String, title: &str, rows: &[(&str, &str)]) {
    let _to_a_string = writeln!(out, "<h2>{title}</h2>\n<table>");
    for (name, value) in rows {
        let _to_a_string =
            writeln!(out, "<tr><th scope=\"row\">{}</th><td>{}</td></tr>", escaped(name), escaped(value));
    }
    out.push_str("</table>\n");
}

/// As text, wherever it stands.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::snapshot::Jobs;
    use super::*;
    use crate::engine::progress::Pause;
    use crate::expiry::Expiring;
    use crate::fhir::datatypes::Millis;
    use crate::upstream::limit::Reason;

    #[test]
    fn warnings_come_first_and_all_is_text() {
        let now = Millis(1_800_000_000_000);
        let end = |what: &str, days: i64, renewal| Expiring {
            what: what.to_owned(),
            when: Millis(now.0 + days * 24 * 3_600_000),
            renewal,
        };
        let snapshot = Snapshot {
            now: Some(now),
            refused: vec!["the storage of the output is public"],
            ledger_fails: true,
            pause: Some(Reason::Away),
            paused: vec![Pause::Credentials],
            warnings: vec!["smart.mode is open"],
            clock: Some("the clock was set"),
            expiries: Some(vec![
                end("<script>", 3, Renewal::ByHand),
                end("fine", 300, Renewal::ByHand),
                end("link.key", -1, Renewal::ByItself),
            ]),
            ..Snapshot::default()
        };
        let html = content(&snapshot);
        let warnings: Vec<_> = html.lines().filter(|line| line.starts_with("<li>")).collect();
        assert_eq!(
            warnings,
            [
                "<li>Bulk requests are refused: the storage of the output is public.</li>",
                "<li>Bulk requests are refused: the ledger could not be written when that was tried last.</li>",
                "<li>exports are paused: the FHIR server does not accept what searches show.</li>",
                "<li>the clock was set</li>",
                "<li>smart.mode is open</li>",
                "<li>&lt;script&gt; expires in 3 days: replace it</li>",
                "<li>link.key should have been replaced by itself, and was not</li>",
            ]
        );
        assert!(html.find("<li>") < html.find("<h2>") && !html.contains("<script"), "{html}");
        assert!(html.contains("<th scope=\"row\">the job store</th><td>cannot be read"), "{html}");
        let good = Snapshot { jobs: Some(Jobs::default()), expiries: Some(Vec::new()), ..Snapshot::default() };
        assert!(content(&good).contains("Nothing is known to be wrong"));
        let unknown = content(&Snapshot::default());
        assert_eq!(unknown.matches("cannot be read at the moment</li>").count(), 2, "{unknown}");
    }

    #[test]
    fn the_page_runs_and_fetches_nothing() {
        for part in ["<script", "src=", "href=", "url(", "@import", " style=", "on="] {
            assert!(!PAGE.contains(part), "{part}");
        }
        let policy = POLICY.to_str().expect("text");
        assert!(policy.starts_with("default-src 'none'; style-src 'sha256-") && !policy.contains("unsafe"), "{policy}");
        assert_eq!(PAGE.matches("<style>").count() + PAGE.matches("<!-- content -->").count(), 2);
    }
}
