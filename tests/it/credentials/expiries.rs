//! SEC-44: of what expires an operator is told in time, by the program that serves and by doctor.

use chrono::Datelike;
use offtake::{Clock, SystemClock};
use sample_upstream::Settings;

use super::process::smart;
use super::{Secrets, upstream};
use crate::process::{Options, Process, until};

/// A certificate that ends so many days from now, and its key.
fn ends_in(secrets: &Secrets, days: i64) -> (std::path::PathBuf, std::path::PathBuf) {
    let end = chrono::DateTime::from_timestamp_millis(SystemClock.unix_millis() + days * 24 * 3_600_000);
    let end = end.expect("an instant");
    let mut params = rcgen::CertificateParams::new(vec!["offtake.example".to_owned()]).expect("a name");
    let (month, day) = (u8::try_from(end.month()).expect("a month"), u8::try_from(end.day()).expect("a day"));
    params.not_after = rcgen::date_time_ymd(end.year(), month, day);
    let key = rcgen::KeyPair::generate().expect("a key");
    let certificate = params.self_signed(&key).expect("it signs itself");
    (secrets.file("own.pem", &certificate.pem()), secrets.file("own.key", &key.serialize_pem()))
}

#[tokio::test]
async fn what_expires_soon_is_told_at_the_start_when_it_is_replaced_and_by_doctor() {
    let secrets = Secrets::new();
    let (_upstream, server) = upstream(Settings::default()).await;
    let (certificate, key) = ends_in(&secrets, 11);
    let base = format!(
        "{}, tls: {{ client_cert_file: {}, client_key_file: {} }}",
        server.base_url,
        certificate.display(),
        key.display()
    );
    let process = Process::start_for(&base, Options::default(), &smart()).await.expect("it starts");
    let told = |days: &str| {
        let log = process.log();
        let line = log.lines().find(|line| line.contains(&format!("this expires in {days} days")))?;
        assert!(line.contains("WARN") && line.contains("upstream.tls.client_cert_file"), "{line}");
        Some(())
    };
    until("it is told at the start", async || Ok(told("10"))).await.expect("it is told");
    ends_in(&secrets, 6);
    process.reload(|yaml| yaml).expect("it is told");
    until("it is told of the other", async || Ok(told("5"))).await.expect("it is told");
    assert_eq!(process.log().matches("this expires in").count(), 2, "each once: {}", process.log());
    let examined = move || {
        let output = process.run(&["doctor"]).expect("it runs");
        (process, output)
    };
    // What it asks is answered by this thread.
    let (mut process, output) = tokio::task::spawn_blocking(examined).await.expect("it does not panic");
    let report = String::from_utf8(output.stdout).expect("text");
    let line = report.lines().find(|line| line.contains("upstream.tls.client_cert_file"));
    assert!(line.is_some_and(|line| line.ends_with("expires in 5 days: replace it")), "{report}");
    assert!(report.contains(" link.key is replaced by itself before that"), "{report}");
    process.stop().expect("it stops");
    server.stop().await;
}
