//! The shapes of kick-off, status and manifest over all versions of the guide.

mod fourth;
mod partial;
mod separate;
mod sizes;
mod snapshots;

use std::time::Duration;

use sample_upstream::{Lies, SampleUpstream, Settings};

use crate::raw::Answer;
use crate::support::App;

/// In front of an upstream that counts an Observation and never sends it: whoever exports those fails.
async fn before_a_failing_upstream() -> App {
    let upstream = SampleUpstream::new(Settings::default());
    upstream.generate(2);
    let hidden = upstream.resources(Some("Observation"))[0].id.clone();
    upstream.update_settings(|settings| {
        settings.lies = Lies { dropped: [format!("Observation/{hidden}")].into(), ..Lies::default() };
    });
    App::before(upstream, |_| {}).await
}

/// The address that a kick-off gave, below the base.
fn status_of(app: &App, kickoff: &Answer) -> String {
    assert_eq!(kickoff.status, 202, "{}", String::from_utf8_lossy(&kickoff.body));
    kickoff.header("content-location")[app.base.len()..].to_owned()
}

/// Polls until an answer is none of those of an export that runs.
async fn ended(app: &App, status: &str, is_running: impl Fn(&Answer) -> bool) -> Answer {
    loop {
        let answer = app.ask("GET", status, &[], b"").await;
        if !is_running(&answer) {
            return answer;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
