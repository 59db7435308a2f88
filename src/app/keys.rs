//! Keys and names in files of the state folder: made once, and readable by nobody else.

use std::path::Path;

use anyhow::Context;

use crate::clock;
pub(super) use crate::disk::{keep, sync_folder_of};
use crate::output::signing::{LinkKey, LinkKeys};
use crate::smart::generate::Pair;
use crate::smart::jws::Alg;

/// The file in the state folder that the key is kept in which signs links.
pub(super) const LINK_KEY: &str = "link.key";

/// The key that links are signed with: a file of its own, readable by nobody else (SEC-16).
pub(super) fn link_keys(state: &Path) -> anyhow::Result<LinkKeys> {
    let secret: [u8; 32] = kept(&state.join(LINK_KEY))?;
    Ok(LinkKeys::new(LinkKey::new("1", &secret)?, None))
}

pub(super) fn new_key() -> anyhow::Result<LinkKey> {
    Ok(LinkKey::new("1", &clock::random()?)?)
}

/// Random bytes that stay the same from start to start: read from a file, or made and written to it.
pub(super) fn kept<const N: usize>(path: &Path) -> anyhow::Result<[u8; N]> {
    if let Some(bytes) = already_kept(path)? {
        return Ok(bytes);
    }
    let bytes = clock::random()?;
    keep(path, &bytes).with_context(|| format!("could not make {}", path.display()))?;
    Ok(bytes)
}

/// The same where nothing is made.
pub(super) fn already_kept<const N: usize>(path: &Path) -> anyhow::Result<Option<[u8; N]>> {
    match std::fs::read(path) {
        Ok(bytes) => match bytes.try_into() {
            Ok(bytes) => Ok(Some(bytes)),
            Err(_) => anyhow::bail!("{} is not {N} bytes long", path.display()),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("could not read {}", path.display())),
    }
}

/// Makes a key pair for a client. The private JWK goes into a new file; the public JWK Set is given back.
///
/// # Errors
/// If there is such a file already, or it cannot be written.
pub(crate) fn generate(alg: &str, file: &Path) -> anyhow::Result<String> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let alg = Alg::parse(alg, &Alg::SMART).context("the algorithm is ES384 or RS384")?;
    let pair = Pair::generate(alg)?;
    let mut options = std::fs::OpenOptions::new();
    let mut opened = options.write(true).create_new(true).mode(0o600).open(file);
    let written = opened.as_mut().map_err(|error| std::io::Error::from(error.kind())).and_then(|opened| {
        writeln!(opened, "{:#}", pair.private)?;
        opened.sync_all()
    });
    written.with_context(|| format!("could not make the file {}", file.display()))?;
    Ok(format!("{:#}", serde_json::json!({ "keys": [pair.public] })))
}
