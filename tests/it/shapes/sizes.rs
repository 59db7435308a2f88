//! `_minimumFileSize` and `_maximumFileSize` (BD-046): of 4.0's generic pattern, heeded by all exports.

use std::collections::BTreeMap;

use offtake::config::{Compression, OnShort, Size};
use sample_upstream::{SampleUpstream, Settings, Total};

use crate::client::Client;
use crate::expected;
use crate::raw::KICKOFF;
use crate::support::App;

/// Files of one type that are the last of a part of the work: of what is old, of what is young, and of what is looked at again.
const MOST_LEFT: usize = 3;

/// No file is larger, whether its slices were read by single pages or by chains of them; and nothing is lost or doubled where
/// a slice lies in several files.
#[tokio::test]
async fn no_file_is_larger_than_it_was_asked_to_be() {
    let chained = Settings {
        no_last_updated: true,
        counts: false,
        accurate_total: false,
        total: Total::Absent,
        max_count: Some(40),
        ..Settings::default()
    };
    let most = 4_000;
    for (settings, compression) in [
        (Settings::default(), Compression::None),
        (Settings::default(), Compression::Gzip),
        (chained, Compression::None),
    ] {
        let upstream = SampleUpstream::new(settings.clone());
        upstream.generate(8);
        let app = App::before(upstream, |config| {
            config.output.least_file_max = Size::kibibytes(1);
            config.output.compression = compression;
            config.export.on_short = OnShort::Fail;
        })
        .await;
        let path = format!("/Patient/$export?_maximumFileSize={most}&_minimumFileSize=1000");
        let (manifest, received) = app.export(&path).await.unwrap_or_else(|error| panic!("{settings:?}: {error:#}"));
        let difference = expected::compare(&expected::of(&app.upstream, "/Patient/$export"), &received);
        let difference = difference.expect("lines of JSON");
        assert!(difference.is_none(), "{settings:?}:\n{difference}");
        let mut files = BTreeMap::<&str, usize>::new();
        for file in &manifest.output {
            let bytes = Client::new().download(&file.url).await.expect("a file");
            assert!(bytes.len() <= most || file.count == 1, "{} bytes of {}", bytes.len(), file.resource_type);
            *files.entry(&file.resource_type).or_default() += 1;
        }
        assert!(files["Observation"] > 1, "{files:?}");
        app.stop().await;
    }
}

/// Where there is enough for a file it is no smaller than it was asked to be, though it has more lines than files usually may;
/// but not so many more that it would never end. What is left at the end of a part of the work is smaller.
#[tokio::test]
async fn no_file_is_smaller_than_it_was_asked_to_be_where_there_is_enough() {
    let usually = 10;
    let upstream = SampleUpstream::new(Settings { max_count: Some(5), ..Settings::default() });
    upstream.generate(40);
    let app = App::before(upstream, |config| {
        config.output.least_file_max = Size::kibibytes(1);
        config.output.file_max_resources = usually as u64;
    })
    .await;
    // The bytes and lines of each file that is not the last of a part.
    let whole = async |query: &str| {
        let path = format!("/$export?_type=Observation{query}");
        let (manifest, received) = app.export(&path).await.unwrap_or_else(|error| panic!("{path}: {error:#}"));
        let mut expected = expected::of(&app.upstream, "/$export");
        expected.retain(|name, _| name.starts_with("Observation/"));
        let difference = expected::compare(&expected, &received).expect("lines of JSON");
        assert!(difference.is_none(), "{path}:\n{difference}");
        let files = manifest.whole["output"].as_array().expect("a list");
        let number = |number: &serde_json::Value| usize::try_from(number.as_u64().expect("a number")).expect("small");
        let size = |file: &serde_json::Value| number(&file["extension"]["https://offtake.dev/file"]["bytes"]);
        let mut sizes: Vec<_> = files.iter().map(|file| (size(file), number(&file["count"]))).collect();
        sizes.sort_unstable();
        sizes.split_off(MOST_LEFT.min(sizes.len()))
    };
    let unasked = whole("").await;
    assert!(
        unasked.len() > 20 && unasked.iter().all(|(_, lines)| (usually..usually + 5).contains(lines)),
        "{unasked:?}"
    );
    for (least, most) in [(20_000, None), (15_000, Some(24_000))] {
        assert!(unasked.iter().all(|(bytes, _)| *bytes < least), "{unasked:?}");
        let most_asked = most.map(|most| format!("&_maximumFileSize={most}")).unwrap_or_default();
        let asked = whole(&format!("&_minimumFileSize={least}{most_asked}")).await;
        assert!(asked.len() > 5 && asked.iter().all(|(bytes, _)| *bytes >= least), "{asked:?}");
        assert!(asked.iter().all(|(bytes, _)| most.is_none_or(|most| *bytes <= most)), "{asked:?}");
    }
    let endless = whole("&_minimumFileSize=99999999999").await;
    assert!(endless.len() > 5 && endless.iter().all(|(_, lines)| (40..45).contains(lines)), "{endless:?}");
    app.stop().await;
}

#[tokio::test]
async fn sizes_that_cannot_be_had_are_refused() {
    let app = App::with_patients(1, Settings::default()).await;
    for (query, code, place) in [
        ("_maximumFileSize=1048575", "too-costly", "_maximumFileSize"),
        ("_maximumFileSize=0", "invalid", "_maximumFileSize"),
        ("_minimumFileSize=x", "invalid", "_minimumFileSize"),
        ("_minimumFileSize=2000000&_maximumFileSize=2000000", "invalid", "_maximumFileSize"),
        ("_maximumFileSize=2000000&_maximumFileSize=2000000", "invalid", "_maximumFileSize"),
    ] {
        let query = format!("/$export?{query}");
        let answer = app.ask("GET", &query, &KICKOFF, b"").await;
        answer.assert_refused(&query, 400, code, Some(&format!("http.{place}")));
    }
    let lenient = [KICKOFF[0], ("Prefer", "respond-async, handling=lenient")];
    let answer = app.ask("GET", "/$export?_maximumFileSize=1", &lenient, b"").await;
    answer.assert_refused("leniently", 400, "too-costly", Some("http._maximumFileSize"));
    for query in ["_maximumFileSize=1048576", "_minimumFileSize=99999999999", "_maximumFileSize=99999999999"] {
        let answer = app.ask("GET", &format!("/$export?_type=Patient&{query}"), &KICKOFF, b"").await;
        assert_eq!(answer.status, 202, "{query}");
    }
    app.stop().await;
}
