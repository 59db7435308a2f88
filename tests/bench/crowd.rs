//! Small reads beside all at once: exports at full speed, a thousand slow downloads and a flood of bad assertions.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::{Stand, median, percentile, post};

const DOWNLOADS: usize = 1_000;
/// What each of them takes, and how often: 4 kB in a second.
const BITE: usize = 1_024;
const BITE_EVERY: Duration = Duration::from_millis(250);
/// Little of a file waits in the kernel for who takes so little.
const RECEIVED_AHEAD: u32 = 4 * 1_024;
const DOCUMENTS: usize = 400;
const DOCUMENT_BYTES: usize = 64 << 10;

/// The 99th percentile of small reads beside all of it is at most 1.3 times that at rest, and nothing fails.
pub(crate) async fn crowd(stand: &Arc<Stand>, rounds: usize, lasts: Duration) -> anyhow::Result<bool> {
    stand.replica.generate_big(DOCUMENTS, DOCUMENT_BYTES);
    stand.replica.generate(300);
    let (status, file) = export(stand).await?;
    let (mut ratios, mut to_direct, broken) = (Vec::new(), Vec::new(), Arc::new(AtomicUsize::new(0)));
    let token_endpoint = format!("{}/$bulk-token", stand.base);
    for _ in 0..rounds {
        let idle = percentile(stand.reads(lasts).await?);
        let (mut downloads, begun) = (JoinSet::new(), Arc::new(Semaphore::new(0)));
        for _ in 0..DOWNLOADS {
            let (file, broken, begun) = (file.clone(), Arc::clone(&broken), Arc::clone(&begun));
            let download = async move {
                if slowly(&file, &begun).await.is_err() {
                    broken.fetch_add(1, Ordering::Relaxed);
                    begun.add_permits(1);
                }
            };
            downloads.spawn_on(download, &stand.others);
        }
        let all_begun = begun.acquire_many(u32::try_from(DOWNLOADS)?).await?;
        let beside = stand.others.spawn({
            let stand = Arc::clone(stand);
            async move {
                let (began, mut exports) = (Instant::now(), 0_u32);
                while began.elapsed() < lasts {
                    let (status, _) = export(&stand).await?;
                    delete(&stand, &status).await?;
                    exports += 1;
                }
                Ok::<_, anyhow::Error>(exports)
            }
        });
        let beside = async { beside.await? };
        let (reads, direct) = (stand.reads(lasts), stand.reads_of(&stand.upstream_base, lasts));
        let all = tokio::try_join!(reads, direct, stand.flood(&token_endpoint, lasts, &stand.others), beside);
        let (reads, direct, refused, exports) = all?;
        broken.fetch_add(refused.busy, Ordering::Relaxed);
        drop(all_begun);
        downloads.shutdown().await;
        let (beside, direct) = (percentile(reads), percentile(direct));
        println!(
            "99th percentile of reads: {idle:.2?} at rest, {beside:.2?} beside {exports} exports, {DOWNLOADS} downloads and \
             {refused:?}; {direct:.2?} of reads that do not pass through"
        );
        ratios.push(beside.as_secs_f64() / idle.as_secs_f64());
        to_direct.push(beside.as_secs_f64() / direct.as_secs_f64());
    }
    delete(stand, &status).await?;
    let (ratio, broken) = (median(ratios), broken.load(Ordering::Relaxed));
    println!("{:<58} {:>8.3}", "99th percentile, times that of reads that do not pass through", median(to_direct));
    #[expect(clippy::cast_precision_loss, reason = "a small number")]
    let mut held =
        super::holds("downloads that broke off, and bad tokens not refused", broken as f64, broken == 0, "none");
    held &= super::holds("99th percentile beside all of it, times that at rest", ratio, ratio <= 1.3, "at most 1.3");
    Ok(held)
}

/// Exports everything, and gives where to ask about it, and where its largest file is.
async fn export(stand: &Stand) -> anyhow::Result<(String, String)> {
    let token = token(stand).await?;
    let ask = async |uri: &str| {
        let request = Request::get(uri)
            .header(header::AUTHORIZATION, format!("Bearer {token}"))
            .header(header::ACCEPT, "application/fhir+json")
            .header("Prefer", "respond-async");
        let answer = stand.http_of_others.request(request.body(Full::default())?).await?;
        let (head, body) = answer.into_parts();
        Ok::<_, anyhow::Error>((head, body.collect().await?.to_bytes()))
    };
    let (head, body) = ask(&format!("{}/$export", stand.base)).await?;
    ensure!(head.status == StatusCode::ACCEPTED, "{}: {}", head.status, String::from_utf8_lossy(&body));
    let status = head.headers.get(header::CONTENT_LOCATION).context("a status")?.to_str()?.to_owned();
    loop {
        let (head, body) = ask(&status).await?;
        match head.status {
            StatusCode::ACCEPTED => tokio::time::sleep(Duration::from_millis(50)).await,
            StatusCode::OK => {
                let manifest: Value = serde_json::from_slice(&body)?;
                let files = manifest["output"].as_array().context("an output")?;
                let file = files.iter().find(|file| file["type"] == "DocumentReference").context("documents")?;
                return Ok((status, file["url"].as_str().context("a URL")?.to_owned()));
            }
            other => bail!("{other}: {}", String::from_utf8_lossy(&body)),
        }
    }
}

async fn delete(stand: &Stand, status: &str) -> anyhow::Result<()> {
    let request = Request::delete(status).header(header::AUTHORIZATION, format!("Bearer {}", token(stand).await?));
    let answer = stand.http_of_others.request(request.body(Full::default())?).await?;
    ensure!(answer.status() == StatusCode::ACCEPTED, "a delete was answered with {}", answer.status());
    Ok(())
}

async fn token(stand: &Stand) -> anyhow::Result<String> {
    let (status, body) = post(&stand.http_of_others, &format!("{}/$bulk-token", stand.base), stand.good()?).await?;
    ensure!(status == StatusCode::OK, "{status}: {}", String::from_utf8_lossy(&body));
    let token: Value = serde_json::from_slice(&body)?;
    Ok(token["access_token"].as_str().context("a token")?.to_owned())
}

/// Takes a file as slowly as it may, until it is told to stop.
async fn slowly(url: &str, begun: &Semaphore) -> anyhow::Result<()> {
    let url: url::Url = url.parse()?;
    let address = url.socket_addrs(|| None)?.into_iter().next().context("an address")?;
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(RECEIVED_AHEAD)?;
    let mut stream = socket.connect(address).await?;
    let target = &url[url::Position::BeforePath..];
    stream.write_all(format!("GET {target} HTTP/1.1\r\nHost: {address}\r\n\r\n").as_bytes()).await?;
    let mut bite = [0; BITE];
    stream.read_exact(&mut bite).await?;
    ensure!(bite.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&bite[..40]));
    begun.add_permits(1);
    loop {
        tokio::time::sleep(BITE_EVERY).await;
        stream.read_exact(&mut bite).await?;
    }
}
