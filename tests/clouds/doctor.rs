//! What `offtake doctor` says of a real storage, and of one that is made public.

use anyhow::{Context, ensure};

use crate::storage::Storage;
use crate::support::World;

const LINK: &str = "link          good            ";

/// What doctor prints of a storage: with what is its own taken out of it.
fn normal(storage: &Storage, world: &World<'_>, text: &str) -> anyhow::Result<String> {
    let (_, text) = text.split_once("storage  ").context("no report on the storage")?;
    let line = |line: &str| {
        let line = line.trim_end();
        // What a refusal is, is the storage's own.
        let line = line.strip_suffix(')').and_then(|line| line.rsplit_once(" (4")).map_or(line, |(line, _)| line);
        // Addresses too.
        let host = line.strip_prefix(LINK).and_then(|rest| rest.split(' ').next()).unwrap_or("HOST");
        let line = line.replace(host, "HOST");
        line.replace(&world.folder, "FOLDER") + "\n"
    };
    let text: String = format!("storage  {text}").lines().map(line).collect();
    ensure!(!text.contains("sig=") && !text.contains("Signature="), "{}: {text}", storage.name);
    Ok(text)
}

/// Everything is as it should be, and nothing is left.
pub(crate) async fn reports_a_good_storage(storage: &Storage) -> anyhow::Result<()> {
    let world = World::with_patients(storage, 1).await?;
    let before = storage.left().await?;
    let (is_fit, said) = world.doctor("", &[]).await?;
    let uploads = match storage.name.as_str() {
        "versitygw" | "gcs" => "listed          what a crash leaves of uploads is found and ended",
        "minio" => {
            "by key          what a crash leaves of uploads is ended where the job store knows the file; let the bucket \
             remove unfinished uploads after a day or two"
        }
        _ => "blocks          what a crash leaves of uploads is written over, and dropped by Azure after a week",
    };
    let place = match storage.name.as_str() {
        "versitygw" | "minio" => "s3",
        "gcs" => "gs",
        _ => "az",
    };
    let expected = GOOD.replace("PLACE", place).replace("UPLOADS", uploads);
    let text = normal(storage, &world, &said)?;
    ensure!(is_fit && text == expected, "{text}\nis not\n{expected}\n{said}");
    ensure!(storage.left().await? == before, "something is left");

    let proxied = world.doctor("links: proxy", &[]).await?;
    ensure!(proxied.0 && proxied.1.contains("links         ours "), "{}", proxied.1);
    if storage.name == "azurite-https" {
        let mut world = world;
        let key = world.output.find(", account_key:").context("a key")?;
        world.output.replace_range(key.., " }");
        let token = storage.ask(&["token"]).await?;
        let (is_fit, said) = world.doctor("", &[("AZURE_STORAGE_TOKEN", token.trim())]).await?;
        ensure!(is_fit && said.contains("signed by a key that Azure lends to an identity"), "{said}");
        world.end().await;
    } else {
        if let Some(public) = storage.public_endpoint() {
            let (is_fit, said) = world.doctor(&format!("public_endpoint: '{public}'"), &[]).await?;
            ensure!(is_fit && said.contains("localhost:"), "{said}");
        }
        world.end().await;
    }
    Ok(())
}

const GOOD: &str = concat!(
    "storage       PLACE://offtake-export/FOLDER\n",
    "output        nobody's        serve makes it its own when it starts\n",
    "bare URL      refused         without a signature nobody gets a file\n",
    "list          refused         without a signature nobody sees what there is\n",
    "write         works           a small object was written and read back\n",
    "parts         works           an upload in two parts was put together and read across them\n",
    "uploads       UPLOADS\n",
    "links         3600 s          is how long they are good; signed by a key that stays: 604800 s at most\n",
    "link          good            HOST gave what was written\n",
    "content type  kept            application/fhir+ndjson\n",
    "Cache-Control kept            nobody on the way keeps or repacks files\n",
    "Range         works           a download that was cut goes on where it was\n",
    "signature     refused         with one character changed it opens nothing\n",
    "other object  refused         a signature opens one file only\n",
    "delete        works           what was written is gone\n",
    "              works           removing what is not there is no error\n",
    "removed file  refused         a link ends with its file\n",
    "clock         agrees          with ours\n",
);

/// A bucket that anybody may read is found before all else is said, and `serve` exports nothing to it.
pub(crate) async fn finds_a_public_bucket(storage: &Storage) -> anyhow::Result<()> {
    const PUBLIC: &str = "offtake-public";
    storage.ask(&["publish", PUBLIC]).await?;
    let mut world = World::with_patients(storage, 1).await?;
    world.output = world.output.replacen("//offtake-export/", &format!("//{PUBLIC}/"), 1);
    let (is_fit, said) = world.doctor("", &[]).await?;
    ensure!(!is_fit, "{said}");
    // After what is first of all: whether the server behind us is open itself.
    ensure!(
        said.starts_with("anonymous ")
            && said.contains(
                "\nthe bucket is public: anybody can list what is in it and read it without a signature. Make it"
            ),
        "{said}"
    );
    for line in ["\nbare URL      OPEN ", "\nlist          OPEN ", "\nlink          good ", "\ndelete        works "] {
        ensure!(said.contains(line), "no {line:?} in {said}");
    }
    let life = world.begin("").await?;
    let target = format!("{}/$export", life.base);
    let headers = ["--header", "accept: application/fhir+json", "--header", "prefer: respond-async"];
    let refused = crate::support::until("bulk is refused by name", crate::support::PATIENCE, async || {
        let answer = storage.fetch_as(&target, &headers).await?;
        let body = String::from_utf8_lossy(&answer.body).into_owned();
        ensure!(
            answer.status == 503 && body.contains("the storage of the output is public"),
            "{}: {body}",
            answer.status
        );
        Ok(())
    });
    refused.await?;
    life.end().await?;

    let life = world.begin("public_bucket: acknowledged").await?;
    let (status, manifest) = life.export("/$export").await?;
    world.compare("/$export", &manifest).await?;
    crate::client::Client::new().delete(&status).await?;
    life.end().await?;
    world.end().await;
    Ok(())
}
