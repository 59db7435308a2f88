//! The same in the text format of Prometheus (version 0.0.4). Labels hold names of states, reasons and options. Pure.

use std::fmt::Write as _;

use http::{HeaderValue, Response, header};

use super::snapshot::{PAUSES, Snapshot};
use crate::body::{self, Body};

const FORM: &str = "text/plain; version=0.0.4; charset=utf-8";

pub(super) fn answer(snapshot: &Snapshot) -> Response<Body> {
    let mut answer = Response::new(body::full(text(snapshot)));
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(FORM));
    answer
}

fn text(snapshot: &Snapshot) -> String {
    let mut out = String::new();
    let version = env!("CARGO_PKG_VERSION");
    family(&mut out, "offtake_build_info", "Which version it is.", [(Some(("version", version)), 1)]);
    let is_ready = i64::from(snapshot.reasons().is_empty());
    family(&mut out, "offtake_bulk_ready", "Whether bulk requests are answered.", [(None, is_ready)]);
    let passes = i64::from(snapshot.passes_through);
    family(&mut out, "offtake_pass_through", "Whether other requests go on to the FHIR server.", [(None, passes)]);
    let is_believed = i64::from(snapshot.clock.is_none());
    family(&mut out, "offtake_clock_believed", "Whether the clock is believed.", [(None, is_believed)]);
    let now = snapshot.pauses();
    let pauses = PAUSES.iter().enumerate();
    let pauses = pauses.map(|(number, (reason, _))| (Some(("reason", *reason)), i64::from(now.contains(&number))));
    family(&mut out, "offtake_searches_paused", "What searches of exports wait for.", pauses);
    if let Some(jobs) = snapshot.jobs {
        let jobs =
            jobs.by_state().map(|(state, count)| (Some(("state", state)), i64::try_from(count).unwrap_or(i64::MAX)));
        family(&mut out, "offtake_jobs", "Exports that are known, by how they stand.", jobs);
    }
    if let Some(expiries) = &snapshot.expiries {
        let ends = expiries.iter();
        let ends = ends.map(|expiring| (Some(("what", expiring.what.as_str())), expiring.when.0.div_euclid(1_000)));
        let help = "When a certificate, key or credential expires, in seconds since 1970.";
        family(&mut out, "offtake_expiry_timestamp_seconds", help, ends);
    }
    out
}

type Label<'a> = Option<(&'static str, &'a str)>;

/// One metric, a gauge, with what is counted apart.
fn family<'a>(out: &mut String, name: &str, help: &str, samples: impl IntoIterator<Item = (Label<'a>, i64)>) {
    let _to_a_string = write!(out, "# HELP {name} {help}\n# TYPE {name} gauge\n");
    for (label, value) in samples {
        out.push_str(name);
        if let Some((label, text)) = label {
            let _to_a_string = write!(out, "{{{label}=\"{}\"}}", escaped(text));
        }
        let _to_a_string = writeln!(out, " {value}");
    }
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::super::snapshot::Jobs;
    use super::*;
    use crate::engine::progress::Pause;
    use crate::expiry::{Expiring, Renewal};
    use crate::fhir::datatypes::Millis;
    use crate::upstream::limit::Reason;

    #[test]
    fn what_stands_in_the_metrics() {
        let what = "a \"b\\\n".to_owned();
        let snapshot = Snapshot {
            passes_through: true,
            refused: vec!["it is away"],
            pause: Some(Reason::QuietHours { until: 480 }),
            paused: vec![Pause::Storage],
            jobs: Some(Jobs { running: 2, complete: 7, ..Jobs::default() }),
            expiries: Some(vec![Expiring { what, when: Millis(1_893_456_000_999), renewal: Renewal::ByHand }]),
            ..Snapshot::default()
        };
        let text = text(&snapshot);
        let samples: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
        let version = concat!("offtake_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1");
        assert_eq!(
            samples,
            [
                version,
                "offtake_bulk_ready 0",
                "offtake_pass_through 1",
                "offtake_clock_believed 1",
                "offtake_searches_paused{reason=\"live_traffic\"} 0",
                "offtake_searches_paused{reason=\"quiet_hours\"} 1",
                "offtake_searches_paused{reason=\"away\"} 0",
                "offtake_searches_paused{reason=\"asked\"} 0",
                "offtake_searches_paused{reason=\"storage_full\"} 1",
                "offtake_searches_paused{reason=\"credentials\"} 0",
                "offtake_jobs{state=\"accepted\"} 0",
                "offtake_jobs{state=\"running\"} 2",
                "offtake_jobs{state=\"complete\"} 7",
                "offtake_jobs{state=\"failed\"} 0",
                "offtake_jobs{state=\"deleted\"} 0",
                r#"offtake_expiry_timestamp_seconds{what="a \"b\\\n"} 1893456000"#,
            ]
        );
        assert_eq!(text.matches("# TYPE").count(), 7);
        let failing = Snapshot { ledger_fails: true, ..Snapshot::default() };
        assert!(self::text(&failing).contains("offtake_bulk_ready 0\n"), "the ledger cannot be written");
        let unknown = self::text(&Snapshot::default());
        assert!(
            !unknown.contains("offtake_jobs") && !unknown.contains("offtake_expiry"),
            "what is not known is not zero"
        );
    }
}
