//! Credentials that stand in files, as the clouds' builders do not read them themselves.

use std::path::{Path, PathBuf};

use object_store::azure::AzureConfigKey;

use super::{CloudError, Environment};
use crate::config::{AzureConfig, S3Config, Secret};

/// A key of a profile.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Profile {
    pub(super) id: String,
    pub(super) secret: Secret,
    pub(super) token: Option<Secret>,
}

/// The secret of the key that the configuration names.
pub(super) fn secret_access_key(options: &S3Config) -> Result<Option<Secret>, CloudError> {
    match &options.secret_access_key_file {
        Some(file) => read(file).map(Some),
        None => Ok(options.secret_access_key.clone()),
    }
}

/// The key of the profile that the configuration or, if nothing else gives a key, the environment names.
pub(super) fn profile(options: &S3Config, environment: &Environment) -> Result<Option<Profile>, CloudError> {
    let others = options.access_key_id.is_some() || environment.get("AWS_ACCESS_KEY_ID").is_some();
    let of_environment = environment.get("AWS_PROFILE").filter(|_| !others);
    let Some(name) = options.profile.as_deref().or(of_environment) else { return Ok(None) };
    let file = match environment.get("AWS_SHARED_CREDENTIALS_FILE") {
        Some(file) => PathBuf::from(file),
        None => Path::new(environment.get("HOME").unwrap_or("/")).join(".aws/credentials"),
    };
    let text = read(&file)?;
    let missing = || CloudError::Profile(name.to_owned(), file.display().to_string());
    parse_profile(text.reveal(), name).map(Some).ok_or_else(missing)
}

/// The credentials of Azure that the configuration gives; at most one kind of them.
pub(super) fn azure(options: &AzureConfig) -> Result<Vec<(AzureConfigKey, Secret)>, CloudError> {
    let mut given = Vec::new();
    if let Some(key) = &options.account_key {
        given.push((AzureConfigKey::AccessKey, key.clone()));
    }
    for (key, file) in [
        (AzureConfigKey::AccessKey, &options.account_key_file),
        (AzureConfigKey::SasKey, &options.sas_token_file),
        (AzureConfigKey::ClientSecret, &options.client_secret_file),
    ] {
        if let Some(file) = file {
            given.push((key, read(file)?));
        }
    }
    if let Some(file) = &options.federated_token_file {
        // It is renewed: the client reads it whenever it needs it.
        given.push((AzureConfigKey::FederatedTokenFile, file.to_string_lossy().into_owned().into()));
    }
    Ok(given)
}

/// What a file holds, without the line's end that editors add.
fn read(file: &Path) -> Result<Secret, CloudError> {
    let read = std::fs::read_to_string(file);
    let text = read.map_err(|source| CloudError::File { path: file.display().to_string(), source })?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned().into())
}

/// A section of a credentials file: `[name]`, and then lines of `option = value`.
fn parse_profile(text: &str, name: &str) -> Option<Profile> {
    let mut is_wanted = false;
    let (mut id, mut secret, mut token) = (None, None, None);
    for line in text.lines().map(str::trim) {
        if let Some(section) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            is_wanted = section.trim() == name;
        } else if let Some((option, value)) = line.split_once('=').filter(|_| is_wanted) {
            let value = Some(value.trim().to_owned()).filter(|value| !value.is_empty());
            match option.trim() {
                "aws_access_key_id" => id = value,
                "aws_secret_access_key" => secret = value,
                "aws_session_token" => token = value,
                _ => {}
            }
        }
    }
    Some(Profile { id: id?, secret: secret?.into(), token: token.map(Secret::from) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_is_found_by_its_name_alone() {
        let text = "# keys\n[default]\naws_access_key_id = A\naws_secret_access_key = s=1\n\n[ other ]\n\
                    aws_access_key_id=B\naws_secret_access_key=t\naws_session_token = u\nregion = x\n[half]\naws_access_key_id = C\n";
        let profile = |id: &str, secret: &str, token: Option<&str>| {
            let token = token.map(|token| token.to_owned().into());
            Some(Profile { id: id.to_owned(), secret: secret.to_owned().into(), token })
        };
        assert_eq!(parse_profile(text, "default"), profile("A", "s=1", None));
        assert_eq!(parse_profile(text, "other"), profile("B", "t", Some("u")));
        assert_eq!(parse_profile(text, "half"), None);
        assert_eq!(parse_profile(text, "none"), None);
    }
}
